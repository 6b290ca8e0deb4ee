// RUN: sparseflow-opt %s --split-input-file --convert-sf-to-sf-tile --cse | FileCheck %s

// Everything fused is one kernel: two weights, their accumulators side by side in one pipeline, and the gate, bias and residual
// in one map that stores the result.

// CHECK-LABEL: func.func @gated
// CHECK-NEXT: %[[Y:.*]] = sf_tile.dispatch "sf.matmul 128x128 f16 2:4 gated + epilogue" %arg0 [-1] : tensor<?x128xf16> -> tensor<?x128xf16> {
// CHECK-NEXT:   %[[L:.*]] = sf_tile.launch @kernels::@gated_matmul_0(%arg0, %arg1, %arg2, %arg3, %arg4) <blocks = 2, rows_of = 0, rows_per_block = 8>
// CHECK-NEXT:   sf_tile.yield %[[L]]
// CHECK-NEXT: }
// CHECK-NEXT: return %[[Y]]
// CHECK-COUNT-1: sf_tile.kernel
// CHECK-SAME: @gated_matmul_0(%[[X:[a-z0-9]+]]: memref<?x128xf16, strided<[?, 1]>>, %[[W0:[a-z0-9]+]]: memref<18432xi8>, %[[W1:[a-z0-9]+]]: memref<18432xi8>, %[[BIAS:[a-z0-9]+]]: memref<128xf16>, %[[R:[a-z0-9]+]]: memref<?x128xf16, strided<[?, 1]>>, %[[OUT:[a-z0-9]+]]: memref<?x128xf16, strided<[?, 1]>>)
// CHECK-SAME: config = #sf.kernel_config<tile = 64x8x64, warps = 1x1
// CHECK-SAME: threads = 32
// CHECK: %[[F:.*]], %[[T:.*]], %{{.*}} = sf_tile.tile_id %{{.*}} {feature_tiles = 2 : i64, raster = 8 : i64, splits = 1 : i64, tile_tokens = 8 : i64}
// CHECK: sf_tile.ring : <? x 8x64xf16>
// CHECK: %[[R0:.*]] = sf_tile.ring : <? x 64x32xf16>
// CHECK: %[[V0:.*]] = sf_tile.view %[[W0]] {byte_offset = 0 : i64} : memref<18432xi8> to memref<2x2x2048xf16>
// CHECK: %[[E0:.*]] = sf_tile.view %[[W0]] {byte_offset = 16384 : i64} : memref<18432xi8> to memref<2x2x128xi32>
// CHECK: %[[M0:.*]] = sf_tile.ring : <? x 64x16xi4>
// CHECK: %[[R1:.*]] = sf_tile.ring : <? x 64x32xf16>
// CHECK: sf_tile.view %[[W1]] {byte_offset = 0 : i64}
// CHECK: %[[ACC:.*]]:2 = sf_tile.pipeline %c0 to %c2 init
// The producer: boxes of the packed weights as they lie, then one of X.
// CHECK: sf_tile.copy_async %[[V0]][%[[F]], %[[STEP:.*]], %c0] [1, 1, 2048] to %[[R0]][%{{.*}}] storage
// CHECK: sf_tile.copy_async %[[E0]][%[[F]], %[[STEP]], %c0] [1, 1, 128] to %[[M0]][%{{.*}}] storage
// CHECK-COUNT-2: storage
// CHECK: sf_tile.copy_async %[[X]][%{{.*}}, %{{.*}}] [8, 64] to %{{.*}} logical
// The consumer: two steps, two weights; a metadata register serves both steps.
// CHECK: } consumer {
// CHECK-COUNT-2: sf_tile.mma {{.*}} : <64x16xf16>
// CHECK-COUNT-2: sf_tile.mma {{.*}} {metadata_start = 8 : i64}
// CHECK-NOT: sf_tile.mma
// CHECK: sf_tile.load %[[BIAS]][%{{.*}}] dims [0] : memref<128xf16> -> <64x1xf16>
// CHECK: sf_tile.load %[[R]][%{{.*}}, %{{.*}}] dims [1, 0] : {{.*}} -> <64x8xf16>
// CHECK: %[[RESULT:.*]] = sf_tile.map %[[ACC]]#0, %[[ACC]]#1
// CHECK: sf_tile.store %[[RESULT]], %[[OUT]][%{{.*}}, %{{.*}}] dims [1, 0]
// CHECK-NEXT: sf_tile.return
// CHECK-NOT: sf_tile.kernel
func.func @gated(%x: tensor<?x128xf16>, %w0: tensor<128x128xf16, #sf.weight<sp24, pack = mma>>,
                 %w1: tensor<128x128xf16, #sf.weight<sp24, pack = mma>>, %bias: tensor<128xf16>,
                 %residual: tensor<?x128xf16>) -> tensor<?x128xf16> {
  %y = sf.matmul %x, %w0, %w1 {configs = [#sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma_sp>]}
      epilogue(%bias, %residual : tensor<128xf16>, tensor<?x128xf16>) {
  ^bb0(%gate: f32, %up: f32, %b: f16, %r: f16):
    %0 = arith.mulf %gate, %up : f32
    %1 = arith.truncf %0 : f32 to f16
    %2 = arith.addf %1, %b : f16
    %3 = arith.addf %2, %r : f16
    sf.yield %3 : f16
  } : (tensor<?x128xf16>, tensor<128x128xf16, #sf.weight<sp24, pack = mma>>, tensor<128x128xf16, #sf.weight<sp24, pack = mma>>)
      -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}

// -----

// One kernel for each configuration, which ranges of tokens that differ in nothing else share.
// CHECK-LABEL: func.func @variants
// CHECK: sf_tile.dispatch "sf.matmul 64x64 i8 2:4" %arg0 [16, 32, 48, -1]
// CHECK: sf_tile.launch @kernels::@variants_matmul_0(%arg0, %arg1) <blocks = 1, rows_of = 0, rows_per_block = 16>
// CHECK: sf_tile.launch @kernels::@variants_matmul_1(%arg0, %arg1) <blocks = 1, rows_of = 0, rows_per_block = 32>
// CHECK: sf_tile.launch @kernels::@variants_matmul_0(%arg0, %arg1) <blocks = 1, rows_of = 0, rows_per_block = 16>
// CHECK: sf_tile.launch @kernels::@variants_matmul_1(%arg0, %arg1) <blocks = 1, rows_of = 0, rows_per_block = 32>
// CHECK-COUNT-2: sf_tile.kernel
// CHECK-NOT: sf_tile.kernel
func.func @variants(%x: tensor<?x64xi8>, %w: tensor<64x64xi8, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xi32> {
  %y = sf.matmul %x, %w {configs = [#sf.kernel_config<max_tokens = 16, tile = 64x16x128, warps = 1x1, atom = mma_sp>,
                                    #sf.kernel_config<max_tokens = 32, tile = 64x32x128, warps = 1x2, atom = mma_sp>,
                                    #sf.kernel_config<max_tokens = 48, tile = 64x16x128, warps = 1x1, atom = mma_sp>,
                                    #sf.kernel_config<tile = 64x32x128, warps = 1x2, atom = mma_sp>]}
      : (tensor<?x64xi8>, tensor<64x64xi8, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xi32>
  return %y : tensor<?x64xi32>
}

// -----

// Dense: no metadata travels. Without an epilogue the map only casts.
// CHECK-LABEL: func.func @dense
// CHECK: sf_tile.dispatch "sf.matmul 64x64 bf16 dense"
// CHECK: sf_tile.kernel @dense_matmul_0
// CHECK-COUNT-2: = sf_tile.ring :
// CHECK-NOT: = sf_tile.ring :
// CHECK-COUNT-4: sf_tile.mma <"mma_m16n8k16_bf16">
// CHECK-NOT: sf_tile.mma
// CHECK: sf_tile.map
// CHECK-NEXT: ^bb0(%[[V:.*]]: f32):
// CHECK-NEXT: %[[C:.*]] = arith.truncf %[[V]] : f32 to bf16
// CHECK-NEXT: sf_tile.yield %[[C]]
func.func @dense(%x: tensor<?x64xbf16>, %w: tensor<64x64xbf16, #sf.weight<dense, pack = mma>>) -> tensor<?x64xbf16> {
  %y = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma>]}
      : (tensor<?x64xbf16>, tensor<64x64xbf16, #sf.weight<dense, pack = mma>>) -> tensor<?x64xbf16>
  return %y : tensor<?x64xbf16>
}
