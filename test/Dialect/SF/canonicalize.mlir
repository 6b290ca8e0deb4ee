// RUN: sparseflow-opt %s --canonicalize | FileCheck %s

// CHECK-LABEL: @compress_of_decompress
func.func @compress_of_decompress(%w: tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<64x128xf16, #sf.weight<sp24>> {
  // CHECK-NEXT: return %arg0
  %0 = sf.decompress %w : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16>
  %1 = sf.compress %0 {mode = "prune"} : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  return %1 : tensor<64x128xf16, #sf.weight<sp24>>
}

// CHECK-LABEL: @decompress_of_verified
func.func @decompress_of_verified(%w: tensor<64x128xf16>) -> tensor<64x128xf16> {
  // CHECK-NEXT: return %arg0
  %0 = sf.compress %w : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  %1 = sf.decompress %0 : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16>
  return %1 : tensor<64x128xf16>
}

// Pruning changes the weight.
// CHECK-LABEL: @decompress_of_pruned
func.func @decompress_of_pruned(%w: tensor<64x128xf16>) -> tensor<64x128xf16> {
  // CHECK: sf.compress
  // CHECK: sf.decompress
  %0 = sf.compress %w {mode = "prune"} : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  %1 = sf.decompress %0 : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16>
  return %1 : tensor<64x128xf16>
}

// CHECK-LABEL: @quantize_of_dequantize
func.func @quantize_of_dequantize(%q: tensor<?x128xi8>, %s: tensor<?x1xf32>) -> tensor<?x128xi8> {
  // CHECK-NEXT: return %arg0
  %0 = sf.dequantize %q, %s : tensor<?x128xi8>, tensor<?x1xf32> -> tensor<?x128xbf16>
  %1 = sf.quantize %0, %s : tensor<?x128xbf16>, tensor<?x1xf32> -> tensor<?x128xi8>
  return %1 : tensor<?x128xi8>
}

// The product may overflow in f16.
// CHECK-LABEL: @quantize_of_dequantize_f16
func.func @quantize_of_dequantize_f16(%q: tensor<?x128xi8>, %s: tensor<?x1xf32>) -> tensor<?x128xi8> {
  // CHECK: sf.dequantize
  // CHECK: sf.quantize
  %0 = sf.dequantize %q, %s : tensor<?x128xi8>, tensor<?x1xf32> -> tensor<?x128xf16>
  %1 = sf.quantize %0, %s : tensor<?x128xf16>, tensor<?x1xf32> -> tensor<?x128xi8>
  return %1 : tensor<?x128xi8>
}

// CHECK-LABEL: @identity_epilogue
func.func @identity_epilogue(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) -> tensor<?x64xf16> {
  // CHECK-NEXT: sf.matmul %arg0, %arg1 {layer = "q"} : (
  %0 = sf.matmul %x, %w {layer = "q"} epilogue {
  ^bb0(%acc: f32):
    %1 = arith.truncf %acc : f32 to f16
    sf.yield %1 : f16
  } : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return %0 : tensor<?x64xf16>
}

// Without an epilogue i8 would saturate.
// CHECK-LABEL: @wrapping_epilogue
func.func @wrapping_epilogue(%x: tensor<?x128xi8>, %w: tensor<64x128xi8>) -> tensor<?x64xi8> {
  // CHECK: epilogue
  %0 = sf.matmul %x, %w epilogue {
  ^bb0(%acc: i32):
    %1 = arith.trunci %acc : i32 to i8
    sf.yield %1 : i8
  } : (tensor<?x128xi8>, tensor<64x128xi8>) -> tensor<?x64xi8>
  return %0 : tensor<?x64xi8>
}

// CHECK-LABEL: @unused_and_repeated_operands
// CHECK-SAME: (%[[X:.*]]: tensor<?x128xf16>, %[[W:.*]]: tensor<64x128xf16>, %[[V:.*]]: tensor<64x128xf16>, %[[B:.*]]: tensor<64xf32>, %[[S:.*]]: tensor<f32>)
func.func @unused_and_repeated_operands(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>, %v: tensor<64x128xf16>,
                                        %b: tensor<64xf32>, %s: tensor<f32>) -> tensor<?x64xf32> {
  // CHECK: sf.matmul %[[X]], %[[V]] epilogue(%[[B]] : tensor<64xf32>) {
  // CHECK-NEXT: ^bb0(%[[ACC:.*]]: f32, %[[E:.*]]: f32):
  // CHECK-NEXT: arith.addf %[[ACC]], %[[E]]
  // CHECK-NEXT: arith.mulf %{{.*}}, %[[E]]
  %0 = sf.matmul %x, %w, %v epilogue(%b, %s, %b : tensor<64xf32>, tensor<f32>, tensor<64xf32>) {
  ^bb0(%a0: f32, %a1: f32, %b0: f32, %s0: f32, %b1: f32):
    %1 = arith.addf %a1, %b0 : f32
    %2 = arith.mulf %1, %b1 : f32
    sf.yield %2 : f32
  } : (tensor<?x128xf16>, tensor<64x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// CHECK-LABEL: @no_weight_is_used
func.func @no_weight_is_used(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>, %b: tensor<64xf32>) -> tensor<?x64xf32> {
  // CHECK: sf.matmul %{{.*}}, %{{.*}} epilogue(%{{.*}} : tensor<64xf32>) {
  // CHECK-NEXT: ^bb0(%{{.*}}: f32, %[[E:.*]]: f32):
  // CHECK-NEXT: sf.yield %[[E]]
  %0 = sf.matmul %x, %w, %w epilogue(%b : tensor<64xf32>) {
  ^bb0(%a0: f32, %a1: f32, %b0: f32):
    sf.yield %b0 : f32
  } : (tensor<?x128xf16>, tensor<64x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}
