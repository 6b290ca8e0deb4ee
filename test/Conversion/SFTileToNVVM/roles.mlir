// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm,canonicalize,cse))" | FileCheck %s

// One thread initializes a stage's two barriers, the full ones (one arrival, the producer's) before the empty ones (one for each of
// 4 warps), and tells the copy engine; then the block may go on. 2 stages: empty ones begin 16 bytes behind full ones.
// CHECK-LABEL: llvm.func @barriers(
// CHECK-SAME: %{{[a-z0-9]+}}: i32, %{{[a-z0-9]+}}: i32, %[[BYTES:[a-z0-9]+]]: i32, %[[ON:[a-z0-9]+]]: i1
// CHECK: %[[THREAD:.*]] = nvvm.read.ptx.sreg.tid.x
// CHECK: %[[FIRST:.*]] = arith.cmpi eq, %[[THREAD]], %c0_i32
// CHECK: scf.if %[[FIRST]] {
// CHECK:   %[[FULL0:.*]] = llvm.getelementptr %[[SMEM:.*]][1024]
// CHECK:   nvvm.mbarrier.init %[[FULL0]], %c1_i32
// CHECK:   %[[EMPTY0:.*]] = llvm.getelementptr %[[FULL0]][16]
// CHECK:   nvvm.mbarrier.init %[[EMPTY0]], %c4_i32
// CHECK:   %[[FULL1:.*]] = llvm.getelementptr %[[SMEM]][1032]
// CHECK:   nvvm.mbarrier.init %[[FULL1]], %c1_i32
// CHECK:   %[[EMPTY1:.*]] = llvm.getelementptr %[[FULL1]][16]
// CHECK:   nvvm.mbarrier.init %[[EMPTY1]], %c4_i32
// CHECK:   nvvm.fence.mbarrier.init
// CHECK: }
// CHECK: nvvm.barrier
//
// One thread of the fifth warp produces: it waits for the empty barrier and announces bytes at the full one.
// CHECK: %[[PRODUCER:.*]] = arith.cmpi eq, %[[THREAD]], %c128_i32
// CHECK: scf.if %[[PRODUCER]] {
// CHECK:   %[[FULL:.*]] = llvm.getelementptr %{{.*}}[%{{.*}}] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, i8
// CHECK:   %[[EMPTY:.*]] = llvm.getelementptr %[[FULL]][16]
// CHECK:   scf.while : () -> () {
// CHECK:     %[[DONE:.*]] = nvvm.mbarrier.try_wait %[[EMPTY]], %[[PARITY:.*]] : !llvm.ptr<3>, i32 -> i1
// CHECK:     %[[AGAIN:.*]] = arith.xori %[[DONE]], %true : i1
// CHECK:     scf.condition(%[[AGAIN]])
// CHECK:   nvvm.mbarrier.arrive.expect_tx %[[FULL]], %[[BYTES]] :
// CHECK: }
//
// Four warps consume: all wait for the full barrier, one thread of each arrives at the empty one. Their condition is the same in a
// warp, and known to be.
// CHECK: %[[GROUP:.*]] = arith.shrui %[[THREAD]], %c7_i32
// CHECK: %[[UNIFORM:.*]] = nvvm.shfl.sync idx %{{.*}}, %[[GROUP]],
// CHECK: %[[CONSUMER:.*]] = arith.cmpi slt, %[[UNIFORM]], %c1_i32
// CHECK: scf.if %[[CONSUMER]] {
// CHECK:   %[[FULL:.*]] = llvm.getelementptr %{{.*}}[%{{.*}}] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, i8
// CHECK:   nvvm.mbarrier.try_wait %[[FULL]], %[[PARITY]]
// CHECK:   %[[LANE:.*]] = arith.andi %[[THREAD]], %c31_i32
// CHECK:   %[[ELECTED:.*]] = arith.cmpi slt, %[[LANE]], %c1_i32
// CHECK:   scf.if %[[ELECTED]] {
// CHECK:     %[[EMPTY:.*]] = llvm.getelementptr %{{.*}}[16]
// CHECK:     nvvm.mbarrier.arrive %[[EMPTY]]
// CHECK:   %[[BOTH:.*]] = arith.andi %{{.*}}, %[[ON]] : i1
// CHECK:   scf.if %[[BOTH]] {
// CHECK:     nvvm.mbarrier.arrive
gpu.module @kernels {
  sf_tile.kernel @barriers(%i: i32, %parity: i32, %bytes: i32, %on: i1) attributes {threads = 160 : i64} {
    %stage = arith.index_cast %i : i32 to index
    %barriers = sf_tile.barriers {consumers = 4, offset = 1024} : !sf_tile.barriers<2>
    sf_tile.role producer {
      sf_tile.acquire %barriers[%stage] parity %parity bytes %bytes : !sf_tile.barriers<2>
    } {consumers = 4}
    sf_tile.role consumer {
      sf_tile.await %barriers[%stage] parity %parity : !sf_tile.barriers<2>
      sf_tile.release %barriers[%stage] : !sf_tile.barriers<2>
      sf_tile.release %barriers[%stage] if %on : !sf_tile.barriers<2>
    } {consumers = 4}
    sf_tile.return
  }
}

// -----

#row = #sf_tile.layout<register = [[0, 1]], lane = [[0, 2], [0, 4], [0, 8], [0, 16], [0, 32]], warps = [1], along = [0]>

// Blocks that stay: the first tile is the block's number, the step the number of blocks; 4 x ceil(tokens / 16) x 3 tiles.
// CHECK-LABEL: llvm.func @tiles
// CHECK-SAME: sf.persistent
// CHECK: %[[BLOCK:.*]] = nvvm.read.ptx.sreg.ctaid.x
// CHECK: %[[BLOCKS:.*]] = nvvm.read.ptx.sreg.nctaid.x
// CHECK: scf.for
// CHECK-NOT: nvvm.read.ptx.sreg.ctaid.x
gpu.module @kernels {
  sf_tile.kernel @tiles(%x: memref<?x64xf16>) attributes {persistent, threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f16
    %t = sf_tile.splat %zero : f16 -> !sf_tile.tile<1x64xf16, #row>
    %tokens = memref.dim %x, %c0 : memref<?x64xf16>
    %first, %end, %step = sf_tile.tile_range %tokens {feature_tiles = 4, splits = 3, tile_tokens = 16}
    scf.for %i = %first to %end step %step {
      %feature, %token, %split = sf_tile.tile_id %tokens number %i {feature_tiles = 4, raster = 2, splits = 3, tile_tokens = 16}
      sf_tile.store %t, %x[%token, %feature] : !sf_tile.tile<1x64xf16, #row>, memref<?x64xf16>
    }
    sf_tile.return
  }
}

// -----

#row = #sf_tile.layout<register = [[0, 1]], lane = [[0, 2], [0, 4], [0, 8], [0, 16], [0, 32]], warps = [1], along = [0]>

// Blocks of a cluster that divide K: the split is a block's rank in its cluster, and a cluster's number is that of its tile. There are
// 3 x ceil(tokens / 16) tiles, and a cluster goes on by as many as there are clusters.
// CHECK-LABEL: llvm.func @splits_in_clusters
// CHECK-SAME: nvvm.cluster_dim = array<i32: 4, 1, 1>
// CHECK: %[[TILES:.*]] = arith.muli %{{.*}}, %c3_i32
// CHECK: %[[BLOCK:.*]] = nvvm.read.ptx.sreg.ctaid.x
// CHECK: %[[CLUSTER:.*]] = arith.divui %[[BLOCK]], %c4_i32
// CHECK: %[[BLOCKS:.*]] = nvvm.read.ptx.sreg.nctaid.x
// CHECK: %[[CLUSTERS:.*]] = arith.divui %[[BLOCKS]], %c4_i32
// CHECK: %[[FIRST:.*]] = arith.index_cast %[[CLUSTER]]
// CHECK: %[[END:.*]] = arith.index_cast %[[TILES]]
// CHECK: %[[STEP:.*]] = arith.index_cast %[[CLUSTERS]]
// CHECK: scf.for %{{.*}} = %[[FIRST]] to %[[END]] step %[[STEP]] {
// CHECK:   %[[RANK:.*]] = nvvm.read.ptx.sreg.cluster.ctarank
// CHECK:   %[[SPLIT:.*]] = arith.index_cast %[[RANK]]
// CHECK:   arith.index_cast %[[SPLIT]]
gpu.module @kernels {
  sf_tile.kernel @splits_in_clusters(%x: memref<?x64xf16>) attributes {cluster = 4 : i64, threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f16
    %t = sf_tile.splat %zero : f16 -> !sf_tile.tile<1x64xf16, #row>
    %tokens = memref.dim %x, %c0 : memref<?x64xf16>
    %first, %end, %step = sf_tile.tile_range %tokens {cluster = 4, feature_tiles = 3, splits = 4, tile_tokens = 16}
    scf.for %i = %first to %end step %step {
      %feature, %token, %split = sf_tile.tile_id %tokens number %i {cluster = 4, feature_tiles = 3, raster = 2, splits = 4, tile_tokens = 16}
      %row = arith.addi %token, %feature : index
      sf_tile.store %t, %x[%row, %split] : !sf_tile.tile<1x64xf16, #row>, memref<?x64xf16>
    }
    sf_tile.return
  }
}

// -----

#row = #sf_tile.layout<register = [[0, 1]], lane = [[0, 2], [0, 4], [0, 8], [0, 16], [0, 32]], warps = [1], along = [0]>

// Panels of two feature tiles, the last of one: a panel's number by the reciprocal of its tiles, the rest by constants.
// CHECK-LABEL: llvm.func @panels
// CHECK: %[[PANEL_TILES:.*]] = arith.muli %{{.*}}, %c2_i32
// CHECK: %[[RECIPROCAL:.*]] = arith.divui %c-1_i32, %[[PANEL_TILES]]
// CHECK: %{{.*}}, %[[HIGH:.*]] = arith.mului_extended %[[TILE:.*]], %[[RECIPROCAL]]
// CHECK: %[[BELOW:.*]] = arith.muli %[[HIGH]], %[[PANEL_TILES]]
// CHECK: %[[REST:.*]] = arith.subi %[[TILE]], %[[BELOW]]
// CHECK: %[[TOO_SMALL:.*]] = arith.cmpi uge, %[[REST]], %[[PANEL_TILES]]
// CHECK: %[[ONE:.*]] = arith.extui %[[TOO_SMALL]]
// CHECK: %[[PANEL:.*]] = arith.addi %[[HIGH]], %[[ONE]]
// CHECK: %[[FIRST:.*]] = arith.muli %[[PANEL]], %c2_i32
// CHECK: %[[TOKEN:.*]] = arith.divui %[[WITHIN:.*]], %c2_i32
// CHECK: %[[NARROW:.*]] = arith.cmpi sgt, %[[FIRST]], %c3_i32
// CHECK: arith.select %[[NARROW]], %c1_i32, %c2_i32
// CHECK: arith.select %[[NARROW]], %[[WITHIN]], %[[TOKEN]]
// CHECK-NOT: div
gpu.module @kernels {
  sf_tile.kernel @panels(%x: memref<?x64xf16>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f16
    %t = sf_tile.splat %zero : f16 -> !sf_tile.tile<1x64xf16, #row>
    %tokens = memref.dim %x, %c0 : memref<?x64xf16>
    %feature, %token, %split = sf_tile.tile_id %tokens {feature_tiles = 5, raster = 2, splits = 1, tile_tokens = 16}
    sf_tile.store %t, %x[%token, %feature] : !sf_tile.tile<1x64xf16, #row>, memref<?x64xf16>
    sf_tile.return
  }
}

// -----

// An inbox is one barrier more, behind the empty ones; with it the whole cluster waits until all are initialized.
// CHECK-LABEL: llvm.func @inbox
// CHECK:   %[[FULL0:.*]] = llvm.getelementptr %{{.*}}[1024]
// CHECK:   nvvm.mbarrier.init %{{.*}}, %c4_i32
// CHECK:   %[[INBOX:.*]] = llvm.getelementptr %[[FULL0]][32]
// CHECK:   nvvm.mbarrier.init %[[INBOX]], %c12_i32
// CHECK:   nvvm.fence.mbarrier.init
// CHECK: }
// CHECK-NOT: nvvm.barrier
// CHECK: nvvm.cluster.arrive
// CHECK-NEXT: nvvm.cluster.wait
gpu.module @kernels {
  sf_tile.kernel @inbox() attributes {cluster = 4 : i64, threads = 160 : i64} {
    %barriers = sf_tile.barriers {consumers = 4, offset = 1024, senders = 12} : !sf_tile.barriers<2>
    sf_tile.return
  }
}
