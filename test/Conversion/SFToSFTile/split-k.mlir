// RUN: sparseflow-opt %s --convert-sf-to-sf-tile --cse | FileCheck %s

// Every part stores its accumulators to columns of its own, and a second kernel adds them in the order of the parts: the sum
// does not depend on which block finishes first. The epilogue runs after the sum.

// CHECK-LABEL: func.func @split
// CHECK: %[[PARTS:.*]] = sf_tile.launch @kernels::@split_matmul_0_partial(%arg0, %arg1) <blocks = 2, rows_of = 0, rows_per_block = 8> : {{.*}} -> tensor<?x128xf32>
// CHECK: sf_tile.launch @kernels::@split_matmul_0_reduce(%[[PARTS]], %arg2) <blocks = 1, rows_of = 0, rows_per_block = 4>
// CHECK: sf_tile.kernel @split_matmul_0_partial(
// CHECK: %{{.*}}, %{{.*}}, %[[SPLIT:.*]] = sf_tile.tile_id %{{.*}} {feature_tiles = 1 : i64, raster = 8 : i64, splits = 2 : i64, tile_tokens = 8 : i64}
// Three steps in two parts: two, and what is left.
// CHECK-DAG: %[[SHARE:.*]] = arith.constant 2 : index
// CHECK-DAG: %[[STEPS:.*]] = arith.constant 3 : index
// CHECK: %[[FIRST:.*]] = arith.muli %[[SPLIT]], %[[SHARE]]
// CHECK: %[[LOWER:.*]] = arith.minsi %[[FIRST]], %[[STEPS]]
// CHECK: %[[END:.*]] = arith.addi %[[LOWER]], %[[SHARE]]
// CHECK: %[[UPPER:.*]] = arith.minsi %[[END]], %[[STEPS]]
// CHECK: %[[ACC:.*]] = sf_tile.pipeline %[[LOWER]] to %[[UPPER]]
// CHECK-NOT: sf_tile.map
// CHECK: sf_tile.store %[[ACC]], %{{.*}} dims [1, 0] : <64x8xf32>
// CHECK: sf_tile.kernel @split_matmul_0_reduce(
// CHECK: %[[P0:.*]] = sf_tile.load %arg0[%{{.*}}, %{{.*}}] : {{.*}} -> <4x256xf32>
// CHECK: %[[P1:.*]] = sf_tile.load %arg0[%{{.*}}, %{{.*}}] : {{.*}} -> <4x256xf32>
// CHECK: %[[SUM:.*]] = sf_tile.map %[[P0]], %[[P1]]
// CHECK: arith.addf
// CHECK: sf_tile.map %[[SUM]], %{{.*}} : !sf_tile.tile<4x256xf32>, !sf_tile.tile<1x256xf16>
// CHECK-NOT: sf_tile.kernel
func.func @split(%x: tensor<?x192xf16>, %w: tensor<64x192xf16, #sf.weight<sp24, pack = mma>>, %bias: tensor<64xf16>) -> tensor<?x64xf16> {
  %y = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x8x64, warps = 1x1, split_k = 2, atom = mma_sp>]}
      epilogue(%bias : tensor<64xf16>) {
  ^bb0(%acc: f32, %b: f16):
    %0 = arith.truncf %acc : f32 to f16
    %1 = arith.addf %0, %b : f16
    sf.yield %1 : f16
  } : (tensor<?x192xf16>, tensor<64x192xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}
