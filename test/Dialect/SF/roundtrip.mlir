// RUN: sparseflow-opt %s --verify-roundtrip | FileCheck %s
// RUN: sparseflow-opt %s --mlir-print-op-generic | sparseflow-opt | FileCheck %s

// CHECK: sf.config = #sf.kernel_config<max_tokens = 64, tile = 256x128x64, warps = 4x2, stages = 4, split_k = 2, raster = 16, atom = mma_sp>
// CHECK-SAME: sf.defaults = #sf.kernel_config<tile = 64x16x128, warps = 1x2, split_k = 1, raster = 8, atom = mma>
// CHECK-SAME: sf.parts = #sf.kernel_config<tile = 64x64x64, warps = 4x1, split_k = 8, cluster = 8, raster = 1, atom = wgmma_sp>
// CHECK-SAME: sf.target = #sf.target<"sm_90a">
module attributes {
  sf.target = #sf.target<"sm_90a">,
  sf.config = #sf.kernel_config<atom = mma_sp, raster = 16, split_k = 2, stages = 4, warps = 4x2, tile = 256x128x64, max_tokens = 64>,
  sf.defaults = #sf.kernel_config<tile = 64x16x128, warps = 1x2, atom = mma>,
  sf.parts = #sf.kernel_config<tile = 64x64x64, warps = 4x1, split_k = 8, cluster = 8, raster = 1, atom = wgmma_sp>
} {

// CHECK-LABEL: @encodings
// CHECK-SAME: tensor<64x128xf16, #sf.weight<sp24>>
// CHECK-SAME: tensor<64x128xbf16, #sf.weight<sp24, pack = mma>>
// CHECK-SAME: tensor<64x128xf8E4M3FN, #sf.weight<dense, pack = mma>>
// CHECK-SAME: tensor<64x128xf32, #sf.weight<sp24>>
func.func @encodings(%a: tensor<64x128xf16, #sf.weight<sp24>>,
                     %b: tensor<64x128xbf16, #sf.weight<sp24, pack = mma>>,
                     %c: tensor<64x128xf8E4M3FN, #sf.weight<dense, pack = mma>>,
                     %d: tensor<64x128xf32, #sf.weight<sp24>>) {
  return
}

// CHECK-LABEL: @matmul
func.func @matmul(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>,
                  %dense: tensor<64x128xf16>) -> (tensor<?x64xf16>, tensor<?x64xf32>) {
  // CHECK: %{{.*}} = sf.matmul %{{.*}}, %{{.*}} : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  %0 = sf.matmul %x, %w : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  // CHECK: sf.matmul %{{.*}}, %{{.*}} {configs = [#sf.kernel_config<tile = 64x16x64, warps = 2x2, split_k = 1, raster = 8, atom = mma>]} : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  %1 = sf.matmul %x, %dense {configs = [#sf.kernel_config<tile = 64x16x64, warps = 2x2, atom = mma>]}
    : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  return %0, %1 : tensor<?x64xf16>, tensor<?x64xf32>
}

// A kernel stands for the library's calls alone, and several libraries' ranges may follow.
// CHECK-LABEL: @library
func.func @library(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24, pack = mma>>,
                   %dense: tensor<64x128xf16>, %bias: tensor<64xf16>) -> tensor<?x64xf32> {
  // CHECK: sf.matmul %{{.*}}, %{{.*}}, %{{.*}} {configs = [#sf.library_config<cublaslt, max_tokens = 16>,
  // CHECK-SAME: #sf.kernel_config<max_tokens = 16, tile = 64x16x64, warps = 2x2, split_k = 1, raster = 8, atom = mma_sp>,
  // CHECK-SAME: #sf.library_config<cublaslt>,
  // CHECK-SAME: #sf.kernel_config<tile = 64x16x64, warps = 2x2, split_k = 1, raster = 8, atom = mma_sp>],
  // CHECK-SAME: sf.times = [#sf.times<sparse = 1.250000e+01 : f64, dense = 9.750000e+00 : f64>, #sf.times<sparse = 3.000000e+01 : f64>]
  // CHECK-SAME: library(%{{.*}}, %{{.*}} : tensor<64x128xf16>, tensor<64x128xf16>) epilogue(%{{.*}} : tensor<64xf16>) {
  %0 = sf.matmul %x, %w, %w {
    configs = [
      #sf.library_config<cublaslt, max_tokens = 16>,
      #sf.kernel_config<max_tokens = 16, tile = 64x16x64, warps = 2x2, atom = mma_sp>,
      #sf.library_config<cublaslt>,
      #sf.kernel_config<tile = 64x16x64, warps = 2x2, atom = mma_sp>
    ],
    sf.times = [#sf.times<sparse = 12.5, dense = 9.75>, #sf.times<sparse = 30.0>]
  } library(%dense, %dense : tensor<64x128xf16>, tensor<64x128xf16>) epilogue(%bias : tensor<64xf16>) {
  ^bb0(%a: f32, %b: f32, %c: f16):
    %1 = arith.mulf %a, %b : f32
    sf.yield %1 : f32
  } : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24, pack = mma>>, tensor<64x128xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// CHECK-LABEL: @epilogue
func.func @epilogue(%x: tensor<?x128xi8>, %w0: tensor<64x128xi8, #sf.weight<sp24>>,
                    %w1: tensor<64x128xi8, #sf.weight<sp24>>, %feature: tensor<64xf32>,
                    %token: tensor<?x1xf32>, %full: tensor<?x64xf16>, %scalar: tensor<f32>) -> tensor<?x64xf16> {
  // CHECK: sf.matmul %{{.*}}, %{{.*}}, %{{.*}} epilogue(%{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} : tensor<64xf32>, tensor<?x1xf32>, tensor<?x64xf16>, tensor<f32>) {
  // CHECK-NEXT: ^bb0(%[[ACC:.*]]: i32, %{{.*}}: i32, %{{.*}}: f32, %{{.*}}: f32, %{{.*}}: f16, %{{.*}}: f32):
  // CHECK: sf.yield %{{.*}} : f16
  // CHECK-NEXT: } : (tensor<?x128xi8>, tensor<64x128xi8, #sf.weight<sp24>>, tensor<64x128xi8, #sf.weight<sp24>>) -> tensor<?x64xf16>
  %0 = sf.matmul %x, %w0, %w1 epilogue(%feature, %token, %full, %scalar
      : tensor<64xf32>, tensor<?x1xf32>, tensor<?x64xf16>, tensor<f32>) {
  ^bb0(%acc0: i32, %acc1: i32, %f: f32, %t: f32, %r: f16, %s: f32):
    %sum = arith.addi %acc0, %acc1 : i32
    %sum_f = arith.sitofp %sum : i32 to f32
    %1 = arith.mulf %sum_f, %f : f32
    %2 = arith.mulf %1, %t : f32
    %3 = arith.mulf %2, %s : f32
    %4 = math.exp %3 : f32
    %5 = arith.truncf %4 : f32 to f16
    %6 = arith.addf %5, %r : f16
    sf.yield %6 : f16
  } : (tensor<?x128xi8>, tensor<64x128xi8, #sf.weight<sp24>>, tensor<64x128xi8, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %0 : tensor<?x64xf16>
}

// CHECK-LABEL: @epilogue_without_operands
func.func @epilogue_without_operands(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) -> tensor<?x64xf32> {
  // CHECK: sf.matmul %{{.*}}, %{{.*}} epilogue {
  %0 = sf.matmul %x, %w epilogue {
  ^bb0(%acc: f32):
    %1 = math.tanh %acc : f32
    sf.yield %1 : f32
  } : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// CHECK-LABEL: @weights
func.func @weights(%w: tensor<64x128xf16>) -> (tensor<64x128xf16>, tensor<64x128xf16, #sf.weight<sp24, pack = mma>>,
                                               tensor<64x128xf16, #sf.weight<dense, pack = mma>>) {
  // CHECK: sf.compress %{{.*}} : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  %0 = sf.compress %w {mode = "verify"} : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  // CHECK: sf.compress %{{.*}} {mode = "prune"} : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  %1 = sf.compress %w {mode = "prune"} : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  // CHECK: sf.decompress %{{.*}} : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16>
  %2 = sf.decompress %1 : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16>
  // CHECK: sf.pack %{{.*}} : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16, #sf.weight<sp24, pack = mma>>
  %3 = sf.pack %0 : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16, #sf.weight<sp24, pack = mma>>
  // CHECK: sf.pack %{{.*}} : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<dense, pack = mma>>
  %4 = sf.pack %w : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<dense, pack = mma>>
  return %2, %3, %4 : tensor<64x128xf16>, tensor<64x128xf16, #sf.weight<sp24, pack = mma>>,
                      tensor<64x128xf16, #sf.weight<dense, pack = mma>>
}

// CHECK-LABEL: @quantize
func.func @quantize(%x: tensor<?x256xf16>, %s: tensor<f32>) -> (tensor<?x256xi8>, tensor<?x256xf8E4M3FN>, tensor<?x256xf16>) {
  // CHECK: %[[Q:.*]], %[[S:.*]] = sf.quantize %{{.*}} : tensor<?x256xf16> -> tensor<?x256xi8>, tensor<?x1xf32>
  %q, %scale = sf.quantize %x {axis = "token"} : tensor<?x256xf16> -> tensor<?x256xi8>, tensor<?x1xf32>
  // CHECK: sf.quantize %{{.*}} {axis = "group", group = 128 : i64} : tensor<?x256xf16> -> tensor<?x256xi8>, tensor<?x2xf32>
  %q2, %scale2 = sf.quantize %x {axis = "group", group = 128} : tensor<?x256xf16> -> tensor<?x256xi8>, tensor<?x2xf32>
  // CHECK: sf.quantize %{{.*}}, %{{.*}} : tensor<?x256xf16>, tensor<f32> -> tensor<?x256xf8E4M3FN>
  %q3 = sf.quantize %x, %s : tensor<?x256xf16>, tensor<f32> -> tensor<?x256xf8E4M3FN>
  // CHECK: sf.dequantize %[[Q]], %[[S]] : tensor<?x256xi8>, tensor<?x1xf32> -> tensor<?x256xf16>
  %d = sf.dequantize %q, %scale : tensor<?x256xi8>, tensor<?x1xf32> -> tensor<?x256xf16>
  return %q2, %q3, %d : tensor<?x256xi8>, tensor<?x256xf8E4M3FN>, tensor<?x256xf16>
}

}
