// RUN: sparseflow-opt %s --convert-sf-to-sf-tile --cse --split-input-file | FileCheck %s

// What the library writes itself needs no kernel; of another result it computes the sums, one matrix a weight, and the
// epilogue is the kernel that split-K ends with, without a sum.

// CHECK-LABEL: func.func @direct
// CHECK: sf_tile.dispatch "sf.matmul 64x128 f16 2:4" %arg0 [16, 16, -1]
// CHECK-SAME: {sf.times = [#sf.times<sparse = 2.000000e+00 : f64, dense = 1.000000e+00 : f64>, #sf.times<>, #sf.times<>]}
// CHECK-NEXT: %[[Y:.*]] = sf_tile.library_matmul %arg0, %arg2 : tensor<?x128xf16>, tensor<64x128xf16> -> tensor<?x64xf16>
// CHECK-NEXT: sf_tile.yield %[[Y]]
// CHECK: sf_tile.launch @kernels::@direct_matmul_0(%arg0, %arg1)
// CHECK: sf_tile.launch @kernels::@direct_matmul_1(%arg0, %arg1)
// CHECK-NOT: epilogue
func.func @direct(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24, pack = mma>>,
                  %dense: tensor<64x128xf16>) -> tensor<?x64xf16> {
  %y = sf.matmul %x, %w {
    configs = [#sf.library_config<cublaslt, max_tokens = 16>,
               #sf.kernel_config<max_tokens = 16, tile = 64x8x64, warps = 1x1, atom = mma_sp>,
               #sf.kernel_config<tile = 64x16x64, warps = 1x1, atom = mma_sp>],
    sf.times = [#sf.times<sparse = 2.0, dense = 1.0>, #sf.times<>, #sf.times<>]
  } library(%dense : tensor<64x128xf16>)
    : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// -----

// CHECK-LABEL: func.func @gated
// CHECK: %[[A:.*]] = sf_tile.library_matmul %arg0, %arg2 : {{.*}} -> tensor<?x64xf32>
// CHECK-NEXT: %[[B:.*]] = sf_tile.library_matmul %arg0, %arg3 : {{.*}} -> tensor<?x64xf32>
// CHECK-NEXT: sf_tile.launch @kernels::@gated_matmul_0_epilogue(%[[A]], %[[B]], %arg4) <blocks = 1, rows_of = 0, rows_per_block = 4>
// CHECK-LABEL: sf_tile.kernel @gated_matmul_0_epilogue(
// CHECK-SAME: attributes {config = #sf.library_config<cublaslt>, threads = 128 : i64}
// CHECK: %[[P0:.*]] = sf_tile.load %arg0[%[[T:.*]], %[[F:.*]]] : {{.*}} -> <4x256xf32>
// CHECK: %[[P1:.*]] = sf_tile.load %arg1[%[[T]], %[[F]]] : {{.*}} -> <4x256xf32>
// CHECK: sf_tile.map %[[P0]], %[[P1]], %{{.*}} : {{.*}} -> !sf_tile.tile<4x256xf16>
func.func @gated(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24, pack = mma>>,
                 %dense: tensor<64x128xf16>, %gate: tensor<64x128xf16>, %bias: tensor<64xf16>) -> tensor<?x64xf16> {
  %y = sf.matmul %x, %w, %w {configs = [#sf.library_config<cublaslt>,
                                        #sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma_sp>]}
      library(%dense, %gate : tensor<64x128xf16>, tensor<64x128xf16>) epilogue(%bias : tensor<64xf16>) {
  ^bb0(%a: f32, %b: f32, %c: f16):
    %0 = arith.mulf %a, %b : f32
    %1 = arith.truncf %0 : f32 to f16
    %2 = arith.addf %1, %c : f16
    sf.yield %2 : f16
  } : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24, pack = mma>>, tensor<64x128xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// -----

// No library saturates: the cast of a plain product is ours, too.
// CHECK-LABEL: func.func @saturated
// CHECK: %[[S:.*]] = sf_tile.library_matmul %arg0, %arg2 : tensor<?x128xi8>, tensor<64x128xi8> -> tensor<?x64xi32>
// CHECK-NEXT: sf_tile.launch @kernels::@saturated_matmul_0_epilogue(%[[S]]) {{.*}} -> tensor<?x64xi8>
func.func @saturated(%x: tensor<?x128xi8>, %w: tensor<64x128xi8, #sf.weight<sp24, pack = mma>>,
                     %dense: tensor<64x128xi8>) -> tensor<?x64xi8> {
  %y = sf.matmul %x, %w {configs = [#sf.library_config<cublaslt>,
                                    #sf.kernel_config<tile = 64x8x128, warps = 1x1, atom = mma_sp>]}
    library(%dense : tensor<64x128xi8>)
    : (tensor<?x128xi8>, tensor<64x128xi8, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xi8>
  return %y : tensor<?x64xi8>
}
