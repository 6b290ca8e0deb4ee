// RUN: sparseflow-opt %s --sf-fuse-epilogue --cse --split-input-file | FileCheck %s

#full = affine_map<(m, n) -> (m, n)>
#feature = affine_map<(m, n) -> (n)>
#token = affine_map<(m, n) -> (m, 0)>
#token_vector = affine_map<(m, n) -> (m)>
#row = affine_map<(m, n) -> (0, n)>
#scalar = affine_map<(m, n) -> ()>
!x = tensor<?x128xf16>
!w = tensor<64x128xf16, #sf.weight<sp24>>
!y = tensor<?x64xf16>

// Every form of broadcast. The arithmetic is done in f32, whatever it was before.
// CHECK-LABEL: @broadcasts
// CHECK-SAME: (%[[X:[a-z0-9]*]]: {{.*}}, %[[W:[a-z0-9]*]]: {{.*}}, %[[B:[a-z0-9]*]]: {{.*}}, %[[T:[a-z0-9]*]]: {{.*}}, %[[R:[a-z0-9]*]]: {{.*}}, %[[S:[a-z0-9]*]]: {{.*}}, %{{.*}})
// CHECK-NEXT: %[[Y:.*]] = sf.matmul %[[X]], %[[W]] epilogue(%[[B]], %[[T]], %[[R]], %[[S]] : tensor<64xf16>, tensor<?x1xf32>, tensor<?x64xf16>, tensor<f32>) {
// CHECK-NEXT: ^bb0(%[[ACC:.*]]: f32, %[[B0:.*]]: f16, %[[T0:.*]]: f32, %[[R0:.*]]: f16, %[[S0:.*]]: f32):
// CHECK-DAG: %[[B1:.*]] = arith.extf %[[B0]]
// CHECK-DAG: %[[R1:.*]] = arith.extf %[[R0]]
// CHECK: %[[A0:.*]] = arith.addf %[[ACC]], %[[B1]] : f32
// CHECK: %[[A1:.*]] = arith.mulf %[[A0]], %[[T0]] : f32
// CHECK: %[[A2:.*]] = arith.addf %[[A1]], %[[R1]] : f32
// CHECK: %[[A3:.*]] = arith.mulf %[[A2]], %[[S0]] : f32
// CHECK: sf.yield %[[A3]] : f32
// CHECK: return %[[Y]]
func.func @broadcasts(%x: !x, %w: !w, %bias: tensor<64xf16>, %token: tensor<?x1xf32>, %residual: !y, %scale: tensor<f32>,
                      %init: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %y = sf.matmul %x, %w : (!x, !w) -> !y
  %z = linalg.generic {indexing_maps = [#full, #feature, #token, #full, #scalar, #full], iterator_types = ["parallel", "parallel"]}
    ins(%y, %bias, %token, %residual, %scale : !y, tensor<64xf16>, tensor<?x1xf32>, !y, tensor<f32>) outs(%init : tensor<?x64xf32>) {
  ^bb0(%a: f16, %b: f16, %t: f32, %r: f16, %s: f32, %o: f32):
    %0 = arith.addf %a, %b : f16
    %1 = arith.extf %0 : f16 to f32
    %2 = arith.mulf %1, %t : f32
    %3 = arith.truncf %2 : f32 to f16
    %4 = arith.addf %3, %r : f16
    %5 = arith.extf %4 : f16 to f32
    %6 = arith.mulf %5, %s : f32
    linalg.yield %6 : f32
  } -> tensor<?x64xf32>
  return %z : tensor<?x64xf32>
}

// Operands of the same meaning and another shape are reshaped.
// CHECK-LABEL: @reshaped_operands
// CHECK-DAG: %[[B:.*]] = tensor.collapse_shape %{{.*}} {{\[}}[0, 1]] : tensor<1x64xf32> into tensor<64xf32>
// CHECK-DAG: %[[T:.*]] = tensor.expand_shape %{{.*}} {{\[}}[0, 1]] output_shape [%{{.*}}, 1] : tensor<?xf32> into tensor<?x1xf32>
// CHECK: sf.matmul %{{.*}}, %{{.*}} epilogue(%[[B]], %[[T]] : tensor<64xf32>, tensor<?x1xf32>)
func.func @reshaped_operands(%x: !x, %w: !w, %bias: tensor<1x64xf32>, %token: tensor<?xf32>, %init: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %y = sf.matmul %x, %w : (!x, !w) -> tensor<?x64xf32>
  %z = linalg.generic {indexing_maps = [#full, #row, #token_vector, #full], iterator_types = ["parallel", "parallel"]}
    ins(%y, %bias, %token : tensor<?x64xf32>, tensor<1x64xf32>, tensor<?xf32>) outs(%init : tensor<?x64xf32>) {
  ^bb0(%a: f32, %b: f32, %t: f32, %o: f32):
    %0 = arith.mulf %a, %t : f32
    %1 = arith.addf %0, %b : f32
    linalg.yield %1 : f32
  } -> tensor<?x64xf32>
  return %z : tensor<?x64xf32>
}

// CHECK-LABEL: @reshaped_constant
// CHECK: %[[B:.*]] = arith.constant dense<{{.*}}> : tensor<2xf32>
// CHECK: sf.matmul %{{.*}}, %{{.*}} epilogue(%[[B]] : tensor<2xf32>)
func.func @reshaped_constant(%x: !x, %w: tensor<2x128xf16>, %init: tensor<?x2xf32>) -> tensor<?x2xf32> {
  %bias = arith.constant dense<[[1.0, 2.0]]> : tensor<1x2xf32>
  %y = sf.matmul %x, %w : (!x, tensor<2x128xf16>) -> tensor<?x2xf32>
  %z = linalg.generic {indexing_maps = [#full, #row, #full], iterator_types = ["parallel", "parallel"]}
    ins(%y, %bias : tensor<?x2xf32>, tensor<1x2xf32>) outs(%init : tensor<?x2xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %0 = arith.addf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<?x2xf32>
  return %z : tensor<?x2xf32>
}

// Operations on whole tensors, a splat constant, a broadcast bias, and a residual that was converted for this purpose.
// CHECK-LABEL: @tensor_operations
// CHECK: %[[Y:.*]] = sf.matmul %arg0, %arg1 epilogue(%arg2, %arg3 : tensor<64xf16>, tensor<?x64xf16>) {
// CHECK-DAG: arith.constant 2.000000e+00 : f32
// CHECK-DAG: math.tanh %{{.*}} : f32
// CHECK: arith.truncf %{{.*}} : f32 to bf16
// CHECK: return %[[Y]]
func.func @tensor_operations(%x: !x, %w: !w, %bias: tensor<64xf16>, %residual: !y, %init: tensor<?x64xf16>) -> tensor<?x64xbf16> {
  %c2 = arith.constant 2.0 : f32
  %c0 = arith.constant 0 : index
  %m = tensor.dim %x, %c0 : !x
  %e = tensor.empty(%m) : tensor<?x64xf32>
  %two = linalg.fill ins(%c2 : f32) outs(%e : tensor<?x64xf32>) -> tensor<?x64xf32>
  %y = sf.matmul %x, %w : (!x, !w) -> !y
  %b = linalg.broadcast ins(%bias : tensor<64xf16>) outs(%init : tensor<?x64xf16>) dimensions = [0]
  %0 = arith.addf %y, %b : !y
  %1 = math.tanh %0 : !y
  %2 = arith.extf %1 : !y to tensor<?x64xf32>
  %3 = arith.mulf %2, %two : tensor<?x64xf32>
  %r = arith.extf %residual : !y to tensor<?x64xf32>
  %4 = linalg.add ins(%3, %r : tensor<?x64xf32>, tensor<?x64xf32>) outs(%e : tensor<?x64xf32>) -> tensor<?x64xf32>
  %5 = arith.truncf %4 : tensor<?x64xf32> to tensor<?x64xbf16>
  return %5 : tensor<?x64xbf16>
}

// A diamond: x * sigmoid(x) uses the product twice.
// CHECK-LABEL: @silu
// CHECK-NEXT: %[[Y:.*]] = sf.matmul %arg0, %arg1 epilogue {
// CHECK-NEXT: ^bb0(%[[A:.*]]: f32):
// CHECK: %[[N:.*]] = arith.negf %[[A]]
// CHECK: %[[E:.*]] = math.exp %[[N]]
// CHECK: %[[D:.*]] = arith.addf %{{.*}}, %[[E]]
// CHECK: arith.divf %[[A]], %[[D]]
// CHECK: return %[[Y]]
func.func @silu(%x: !x, %w: !w) -> !y {
  %one = arith.constant dense<1.0> : tensor<64xf16>
  %y = sf.matmul %x, %w : (!x, !w) -> !y
  %n = arith.negf %y : !y
  %e = math.exp %n : !y
  %i = tensor.empty() : tensor<f16>
  %c0 = arith.constant 0 : index
  %m = tensor.dim %y, %c0 : !y
  %init = tensor.empty(%m) : !y
  %ones = linalg.broadcast ins(%one : tensor<64xf16>) outs(%init : !y) dimensions = [0]
  %d = arith.addf %ones, %e : !y
  %s = arith.divf %y, %d : !y
  return %s : !y
}

// silu(x W0) * (x W1) is one product with two weights.
// CHECK-LABEL: @gated
// CHECK-NEXT: %[[Y:.*]] = sf.matmul %arg0, %arg1, %arg2 epilogue(%arg3 : tensor<64xf32>) {
// CHECK-NEXT: ^bb0(%[[GATE:.*]]: f32, %[[UP:.*]]: f32, %[[B:.*]]: f32):
// CHECK-DAG: %[[S:.*]] = arith.divf %[[GATE]]
// CHECK-DAG: %[[U:.*]] = arith.addf %[[UP]], %[[B]]
// CHECK: arith.mulf %[[S]], %[[U]]
// CHECK-NOT: sf.matmul
// CHECK: return %[[Y]]
func.func @gated(%x: !x, %gate: !w, %up: !w, %bias: tensor<64xf32>, %init: !y) -> !y {
  %g = sf.matmul %x, %gate : (!x, !w) -> tensor<?x64xf32>
  %u = sf.matmul %x, %up epilogue(%bias : tensor<64xf32>) {
  ^bb0(%acc: f32, %b: f32):
    %0 = arith.addf %acc, %b : f32
    sf.yield %0 : f32
  } : (!x, !w) -> tensor<?x64xf32>
  %z = linalg.generic {indexing_maps = [#full, #full, #full], iterator_types = ["parallel", "parallel"]}
    ins(%g, %u : tensor<?x64xf32>, tensor<?x64xf32>) outs(%init : !y) {
  ^bb0(%a: f32, %b: f32, %o: f16):
    %one = arith.constant 1.0 : f32
    %0 = arith.negf %a : f32
    %1 = math.exp %0 : f32
    %2 = arith.addf %1, %one : f32
    %3 = arith.divf %a, %2 : f32
    %4 = arith.mulf %3, %b : f32
    %5 = arith.truncf %4 : f32 to f16
    linalg.yield %5 : f16
  } -> !y
  return %z : !y
}

// Two products of different inputs stay two kernels.
// CHECK-LABEL: @different_inputs
// CHECK-COUNT-2: sf.matmul
func.func @different_inputs(%x0: !x, %x1: !x, %w0: !w, %w1: !w) -> !y {
  %0 = sf.matmul %x0, %w0 : (!x, !w) -> !y
  %1 = sf.matmul %x1, %w1 : (!x, !w) -> !y
  %2 = arith.mulf %0, %1 : !y
  return %2 : !y
}

// The product itself is needed too, so nothing is fused.
// CHECK-LABEL: @two_uses
// CHECK: %[[Y:.*]] = sf.matmul %arg0, %arg1 :
// CHECK: %[[Z:.*]] = math.tanh %[[Y]]
// CHECK: return %[[Y]], %[[Z]]
func.func @two_uses(%x: !x, %w: !w) -> (!y, !y) {
  %y = sf.matmul %x, %w : (!x, !w) -> !y
  %z = math.tanh %y : !y
  return %y, %z : !y, !y
}

// Only the first of the two operations is used up.
// CHECK-LABEL: @partly
// CHECK: %[[Y:.*]] = sf.matmul %arg0, %arg1 epilogue {
// CHECK: math.absf
// CHECK: %[[Z:.*]] = math.tanh %[[Y]]
// CHECK: return %[[Y]], %[[Z]]
func.func @partly(%x: !x, %w: !w) -> (!y, !y) {
  %y = sf.matmul %x, %w : (!x, !w) -> !y
  %a = math.absf %y : !y
  %z = math.tanh %a : !y
  return %a, %z : !y, !y
}

// A transposed use is no epilogue.
// CHECK-LABEL: @transposed_use
// CHECK: sf.matmul %arg0, %arg1 :
// CHECK: linalg.generic
func.func @transposed_use(%x: tensor<64x128xf16>, %w: !w, %init: tensor<64x64xf16>) -> tensor<64x64xf16> {
  %y = sf.matmul %x, %w : (tensor<64x128xf16>, !w) -> tensor<64x64xf16>
  %z = linalg.generic {indexing_maps = [affine_map<(m, n) -> (n, m)>, #full], iterator_types = ["parallel", "parallel"]}
    ins(%y : tensor<64x64xf16>) outs(%init : tensor<64x64xf16>) {
  ^bb0(%a: f16, %o: f16):
    %0 = arith.negf %a : f16
    linalg.yield %0 : f16
  } -> tensor<64x64xf16>
  return %z : tensor<64x64xf16>
}

// A reduction is no epilogue; what precedes it is.
// CHECK-LABEL: @reduction
// CHECK: sf.matmul %arg0, %arg1 epilogue
// CHECK: linalg.generic
// CHECK-SAME: reduction
func.func @reduction(%x: !x, %w: !w, %init: tensor<?xf16>) -> tensor<?xf16> {
  %y = sf.matmul %x, %w : (!x, !w) -> !y
  %a = math.absf %y : !y
  %z = linalg.generic {indexing_maps = [#full, affine_map<(m, n) -> (m)>], iterator_types = ["parallel", "reduction"]}
    ins(%a : !y) outs(%init : tensor<?xf16>) {
  ^bb0(%e: f16, %o: f16):
    %0 = arith.maximumf %e, %o : f16
    linalg.yield %0 : f16
  } -> tensor<?xf16>
  return %z : tensor<?xf16>
}

// -----

!x = tensor<?x128xf16>
!w = tensor<64x128xf16, #sf.weight<sp24>>

// Requantization: the static scale is applied, rounded and saturated in the epilogue.
// CHECK-LABEL: @requantize
// CHECK-NEXT: %[[Q:.*]] = sf.matmul %arg0, %arg1 epilogue(%arg2 : tensor<64xf32>) {
// CHECK-NEXT: ^bb0(%[[A:.*]]: f32, %[[S:.*]]: f32):
// CHECK: %[[D:.*]] = arith.divf %[[A]], %[[S]]
// CHECK: %[[R:.*]] = math.roundeven %[[D]]
// CHECK: arith.maximumf %[[R]]
// CHECK: arith.minimumf
// CHECK: %[[I:.*]] = arith.fptosi %{{.*}} : f32 to i8
// CHECK: sf.yield %[[I]] : i8
// CHECK: return %[[Q]]
func.func @requantize(%x: !x, %w: !w, %scale: tensor<64xf32>) -> tensor<?x64xi8> {
  %y = sf.matmul %x, %w : (!x, !w) -> tensor<?x64xf16>
  %q = sf.quantize %y, %scale : tensor<?x64xf16>, tensor<64xf32> -> tensor<?x64xi8>
  return %q : tensor<?x64xi8>
}

// Scales of an 8-bit product: per token of x, per feature of the weight.
// CHECK-LABEL: @dequantized_operands
// CHECK: %[[WS:.*]] = tensor.collapse_shape %arg3 {{\[}}[0, 1]] : tensor<64x1xf32> into tensor<64xf32>
// CHECK: %[[Y:.*]] = sf.matmul %arg0, %arg2 epilogue(%arg1, %[[WS]] : tensor<?x1xf32>, tensor<64xf32>) {
// CHECK-NEXT: ^bb0(%[[A:.*]]: i32, %[[S:.*]]: f32, %[[T:.*]]: f32):
// CHECK: %[[F:.*]] = arith.sitofp %[[A]] : i32 to f32
// CHECK: %[[P:.*]] = arith.mulf %[[F]], %[[S]]
// CHECK: %[[R:.*]] = arith.mulf %[[P]], %[[T]]
// CHECK: arith.truncf %[[R]] : f32 to f16
// CHECK: return %[[Y]]
func.func @dequantized_operands(%q: tensor<?x128xi8>, %s: tensor<?x1xf32>, %w: tensor<64x128xi8, #sf.weight<sp24>>, %t: tensor<64x1xf32>) -> tensor<?x64xf16> {
  %x = sf.dequantize %q, %s : tensor<?x128xi8>, tensor<?x1xf32> -> !x
  %v = sf.dequantize %w, %t : tensor<64x128xi8, #sf.weight<sp24>>, tensor<64x1xf32> -> !w
  %y = sf.matmul %x, %v : (!x, !w) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// The whole of an 8-bit gated unit: two dynamically quantized products and the requantization of the result.
// CHECK-LABEL: @quantized_gated
// CHECK: %[[Q:.*]], %[[S:.*]] = sf.quantize %arg0
// CHECK: sf.compress %arg1 : tensor<64x128xi8>
// CHECK: sf.compress %arg2 : tensor<64x128xi8>
// CHECK: %[[Y:.*]] = sf.matmul %[[Q]], %{{.*}}, %{{.*}} epilogue(%[[S]], %arg3, %arg4 : tensor<?x1xf32>, tensor<f32>, tensor<f32>)
// CHECK-NOT: sf.dequantize
// CHECK-NOT: sf.quantize
// CHECK: return %[[Y]]
func.func @quantized_gated(%x: !x, %w0: tensor<64x128xi8>, %w1: tensor<64x128xi8>, %s: tensor<f32>, %out: tensor<f32>) -> tensor<?x64xi8> {
  %q, %t = sf.quantize %x : !x -> tensor<?x128xi8>, tensor<?x1xf32>
  %d = sf.dequantize %q, %t : tensor<?x128xi8>, tensor<?x1xf32> -> !x
  %v0 = sf.dequantize %w0, %s : tensor<64x128xi8>, tensor<f32> -> tensor<64x128xf16>
  %v1 = sf.dequantize %w1, %s : tensor<64x128xi8>, tensor<f32> -> tensor<64x128xf16>
  %c0 = sf.compress %v0 : tensor<64x128xf16> -> !w
  %c1 = sf.compress %v1 : tensor<64x128xf16> -> !w
  %y0 = sf.matmul %d, %c0 : (!x, !w) -> tensor<?x64xf16>
  %y1 = sf.matmul %d, %c1 : (!x, !w) -> tensor<?x64xf16>
  %y = arith.mulf %y0, %y1 : tensor<?x64xf16>
  %r = sf.quantize %y, %out : tensor<?x64xf16>, tensor<f32> -> tensor<?x64xi8>
  return %r : tensor<?x64xi8>
}

// Scales per k are no factor of the product.
// CHECK-LABEL: @scales_per_k
// CHECK: sf.dequantize
// CHECK: sf.matmul {{.*}} -> tensor<?x64xf16>
func.func @scales_per_k(%q: tensor<?x128xi8>, %s: tensor<128xf32>, %w: !w) -> tensor<?x64xf16> {
  %x = sf.dequantize %q, %s : tensor<?x128xi8>, tensor<128xf32> -> !x
  %y = sf.matmul %x, %w : (!x, !w) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// An 8-bit weight with 16-bit inputs: its constants are dequantized now, in its canonical form.
// CHECK-LABEL: @constant_weight
// CHECK-NEXT: %[[W:.*]] = arith.constant dense_resource<w.f16.sp24> : tensor<1x4xf16, #sf.weight<sp24>>
// CHECK-NEXT: sf.matmul %arg0, %[[W]] :
func.func @constant_weight(%x: tensor<?x4xf16>) -> tensor<?x1xf16> {
  %s = arith.constant dense<0.5> : tensor<1x1xf32>
  %q = arith.constant dense_resource<w> : tensor<1x4xi8, #sf.weight<sp24>>
  %w = sf.dequantize %q, %s : tensor<1x4xi8, #sf.weight<sp24>>, tensor<1x1xf32> -> tensor<1x4xf16, #sf.weight<sp24>>
  %y = sf.matmul %x, %w : (tensor<?x4xf16>, tensor<1x4xf16, #sf.weight<sp24>>) -> tensor<?x1xf16>
  return %y : tensor<?x1xf16>
}

// CHECK-LABEL: @run_time_weight
// CHECK: %[[D:.*]] = sf.decompress %arg1
// CHECK: %[[F:.*]] = sf.dequantize %[[D]], %arg2 : tensor<64x128xi8>, tensor<f32> -> tensor<64x128xf16>
// CHECK: %[[C:.*]] = sf.compress %[[F]] {mode = "prune"}
// CHECK: sf.matmul %arg0, %[[C]]
func.func @run_time_weight(%x: !x, %q: tensor<64x128xi8, #sf.weight<sp24>>, %s: tensor<f32>) -> tensor<?x64xf16> {
  %w = sf.dequantize %q, %s : tensor<64x128xi8, #sf.weight<sp24>>, tensor<f32> -> !w
  %y = sf.matmul %x, %w : (!x, !w) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// x is also the residual: it has to exist, so what computes it is not absorbed.
// CHECK-LABEL: @residual_of_input
// CHECK: %[[X:.*]] = math.tanh %arg0
// CHECK: sf.matmul %[[X]], %arg1 epilogue(%[[X]] : tensor<?x128xf16>)
func.func @residual_of_input(%h: !x, %w: tensor<128x128xf16>) -> !x {
  %x = math.tanh %h : !x
  %y = sf.matmul %x, %w : (!x, tensor<128x128xf16>) -> !x
  %z = arith.addf %y, %x : !x
  return %z : !x
}

// CHECK: w.f16.sp24: "0x10000000003C004009"
{-#
  dialect_resources: { builtin: { w: "0x10000000020409" } }
#-}
