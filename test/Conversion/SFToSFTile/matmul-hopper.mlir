// RUN: sparseflow-opt %s --split-input-file --convert-sf-to-sf-tile --cse | FileCheck %s

// The schedule is that of every chip: the same copies, loads and products, only by another atom. A warp more is the producer. A warp
// has all tokens of its features, so the epilogue takes 8 at a time, and loads its operands some slices ahead: of the first three before
// the products, which hide how long they take to come. Tiles that lie in the
// result as a whole ask for nothing more, where it and the residual are contiguous.
// CHECK-LABEL: func.func @residual
// CHECK: sf_tile.launch @kernels::@residual_matmul_0(%arg0, %arg1, %arg2) <blocks = 1, rows_of = 0, rows_per_block = 32>
// CHECK: sf_tile.kernel @residual_matmul_0
// CHECK-SAME: threads = 160
//
// A tile that would reach beyond the last token is moved back, to end with it, or to begin with the first: rows outside of X are slow
// to copy. Of the tokens that it has in common with the tile before it stores none.
// CHECK: %[[NUM:.*]] = memref.dim
// CHECK: %[[TILE:.*]], %[[TOKEN:.*]], %{{.*}} = sf_tile.tile_id %[[NUM]]
// CHECK: %[[OWN:.*]] = arith.muli %[[TOKEN]], %c32
// CHECK: %[[LAST:.*]] = arith.subi %[[NUM]], %c32
// CHECK: %[[AT_LEAST_0:.*]] = arith.maxsi %[[LAST]], %c0
// CHECK: %[[T0:.*]] = arith.minsi %[[OWN]], %[[AT_LEAST_0]]
// CHECK: %[[T1:.*]] = arith.addi %[[T0]], %c8
// CHECK: %[[R0:.*]] = sf_tile.load %arg2[%[[T0]], %[[F:.*]]] dims [1, 0] : {{.*}} -> <64x8xf16>
// CHECK: %[[R1:.*]] = sf_tile.load %arg2[%[[T1]], %[[F]]] dims [1, 0] : {{.*}} -> <64x8xf16>
// CHECK: sf_tile.load %arg2[%{{.*}}, %[[F]]] dims [1, 0] : {{.*}} -> <64x8xf16>
// CHECK-NOT: sf_tile.load
// CHECK: %[[ACC:.*]] = sf_tile.pipeline
// CHECK-COUNT-2: storage
// CHECK: sf_tile.copy_async %{{.*}}[%[[T0]], %{{.*}}] [32, 64] to %{{.*}} logical
// CHECK: } consumer {
// CHECK: sf_tile.load %{{.*}} start [0, 0] : !sf_tile.ring<? x 32x64xf16> -> <32x32xf16>
// CHECK: sf_tile.mma <"wgmma_sp_m64k32_f16">
// CHECK: sf_tile.mma <"wgmma_sp_m64k32_f16"> {{.*}} {metadata_start = 8 : i64}
// CHECK-NOT: sf_tile.mma
// CHECK: %[[IS_OWN:.*]] = arith.cmpi sge, %[[T0]], %[[OWN]]
// CHECK: %[[R_PLAIN:.*]] = sf_tile.is_contiguous
// CHECK: %[[Y_PLAIN:.*]] = sf_tile.is_contiguous
// CHECK: %[[INSIDE:.*]] = arith.andi %{{.*}}, %[[IS_OWN]]
// CHECK: %[[R_TOO:.*]] = arith.andi %[[INSIDE]], %[[R_PLAIN]]
// CHECK: %[[WHOLE:.*]] = arith.andi %[[R_TOO]], %[[Y_PLAIN]]
// CHECK: scf.if %[[WHOLE]]
// CHECK: sf_tile.load %{{.*}}, %[[F]]] dims [1, 0] {in_bounds} : {{.*}} -> <64x8xf16>
// CHECK: %[[LOW:.*]] = sf_tile.slice %[[ACC]][0, 0] : <64x32xf32> -> <64x8xf32>
// CHECK: %[[Y0:.*]] = sf_tile.map %[[LOW]], %[[R0]]
// CHECK: sf_tile.store %[[Y0]], %[[Y:[a-z0-9_]+]][%[[T0]], %[[F]]] dims [1, 0] {in_bounds}
// CHECK: %[[HIGH:.*]] = sf_tile.slice %[[ACC]][0, 8] : <64x32xf32> -> <64x8xf32>
// CHECK: %[[Y1:.*]] = sf_tile.map %[[HIGH]], %[[R1]]
// CHECK: sf_tile.store %[[Y1]], %[[Y]][%[[T1]], %[[F]]] dims [1, 0] {in_bounds}
// CHECK-COUNT-2: {in_bounds}
// CHECK: else
// CHECK-NOT: in_bounds
// CHECK-COUNT-4: sf_tile.store %{{.*}} from %[[OWN]] dims [1, 0] :
// CHECK-NOT: sf_tile.store
module attributes {sf.target = #sf.target<"sm_90a">} {
  func.func @residual(%x: tensor<?x64xf16>, %w: tensor<64x64xf16, #sf.weight<sp24, pack = wgmma>>, %r: tensor<?x64xf16>) -> tensor<?x64xf16> {
    %y = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x32x64, warps = 4x1, atom = wgmma_sp>]} epilogue(%r : tensor<?x64xf16>) {
    ^bb0(%acc: f32, %residual: f16):
      %e = arith.extf %residual : f16 to f32
      %s = arith.addf %acc, %e : f32
      %t = arith.truncf %s : f32 to f16
      sf.yield %t : f16
    } : (tensor<?x64xf16>, tensor<64x64xf16, #sf.weight<sp24, pack = wgmma>>) -> tensor<?x64xf16>
    return %y : tensor<?x64xf16>
  }
}

// -----

// The two blocks of a cluster divide K, three steps in two parts. Each gets the sums of half of the tile's tokens, 16, and stores
// them: one kernel, with twice the blocks.
// CHECK-LABEL: func.func @split_in_a_cluster
// CHECK: %[[ONLY:.*]] = sf_tile.launch @kernels::@split_in_a_cluster_matmul_0(%arg0, %arg1) <blocks = 2, rows_of = 0, rows_per_block = 32>
// CHECK: sf_tile.yield %[[ONLY]]
// CHECK: sf_tile.kernel @split_in_a_cluster_matmul_0
// CHECK-SAME: cluster = 2
// CHECK: %{{.*}}, %[[TOKEN:.*]], %[[SPLIT:.*]] = sf_tile.tile_id %{{.*}} {cluster = 2 : i64, feature_tiles = 1 : i64, raster = 8 : i64, splits = 2 : i64, tile_tokens = 32 : i64}
// CHECK: %[[OWN:.*]] = arith.muli %[[TOKEN]], %c32
// CHECK: %[[T:.*]] = arith.minsi %[[OWN]], %{{.*}}
// CHECK: %[[BEFORE:.*]] = arith.muli %[[SPLIT]], %c16
// CHECK: %[[SHARE:.*]] = arith.addi %[[T]], %[[BEFORE]]
// CHECK: %[[FIRST:.*]] = arith.muli %[[SPLIT]], %c2
// CHECK: %[[LOWER:.*]] = arith.minsi %[[FIRST]], %c3
// CHECK: %[[END:.*]] = arith.addi %[[LOWER]], %c2
// CHECK: %[[UPPER:.*]] = arith.minsi %[[END]], %c3
// CHECK: %[[ACC:.*]] = sf_tile.pipeline %[[LOWER]] to %[[UPPER]]
// CHECK: %[[SUMS:.*]] = sf_tile.reduce_scatter(%[[ACC]]) : (!sf_tile.tile<64x32xf32>) -> !sf_tile.tile<64x16xf32>
// CHECK: arith.cmpi sge, %[[SHARE]], %[[OWN]]
// CHECK: sf_tile.slice %[[SUMS]][0, 0] : <64x16xf32> -> <64x8xf32>
// CHECK: sf_tile.store %{{.*}}[%[[SHARE]], %{{.*}}] dims [1, 0] {in_bounds}
// CHECK: sf_tile.slice %[[SUMS]][0, 8]
// CHECK: else
// CHECK-COUNT-2: sf_tile.store %{{.*}} from %[[OWN]]
// CHECK-NOT: sf_tile.store
// CHECK-NOT: sf_tile.kernel
module attributes {sf.target = #sf.target<"sm_90a">} {
  func.func @split_in_a_cluster(%x: tensor<?x192xf16>, %w: tensor<64x192xf16, #sf.weight<sp24, pack = wgmma>>) -> tensor<?x64xf16> {
    %y = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x32x64, warps = 4x1, split_k = 2, cluster = 2, atom = wgmma_sp>]} epilogue {
    ^bb0(%acc: f32):
      %t = arith.truncf %acc : f32 to f16
      sf.yield %t : f16
    } : (tensor<?x192xf16>, tensor<64x192xf16, #sf.weight<sp24, pack = wgmma>>) -> tensor<?x64xf16>
    return %y : tensor<?x64xf16>
  }
}

// -----

// Steps that the parts divide evenly are as many for each, and known: no minimum.
// CHECK-LABEL: sf_tile.kernel @equal_parts
// CHECK: %{{.*}}, %{{.*}}, %[[SPLIT:.*]] = sf_tile.tile_id
// CHECK: %[[LOWER:.*]] = arith.muli %[[SPLIT]], %c2
// CHECK-NEXT: %[[UPPER:.*]] = arith.addi %[[LOWER]], %c2
// CHECK: sf_tile.pipeline %[[LOWER]] to %[[UPPER]]
// CHECK: sf_tile.reduce_scatter
module attributes {sf.target = #sf.target<"sm_90a">} {
  func.func @equal_parts(%x: tensor<?x256xf16>, %w: tensor<64x256xf16, #sf.weight<sp24, pack = wgmma>>) -> tensor<?x64xf32> {
    %y = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x32x64, warps = 4x1, split_k = 2, cluster = 2, atom = wgmma_sp>]}
      : (tensor<?x256xf16>, tensor<64x256xf16, #sf.weight<sp24, pack = wgmma>>) -> tensor<?x64xf32>
    return %y : tensor<?x64xf32>
  }
}
