// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm,canonicalize,cse))" | FileCheck %s

#acc = #sf_tile.layout<register = [[1, 0], [0, 1], [0, 8], [0, 16]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>
#share = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>

// A cluster of four: a thread has 16 sums, four for each block, which it sends as one vector of 16 bytes to the slot
// (rank - block - 1) mod 4 of that block; slots are 2048 bytes, of 128 threads. Nothing for itself.
// CHECK-LABEL: llvm.func @sums
// CHECK: %[[RANK:.*]] = nvvm.read.ptx.sreg.cluster.ctarank
// CHECK: %[[MINE:.*]] = arith.muli %[[THREAD:.*]], %c16_i32
// CHECK: %[[PLACE:.*]] = arith.addi %[[MINE]], %c2048_i32
// CHECK: %[[NOT0:.*]] = arith.cmpi ne, %[[RANK]], %c0_i32
// CHECK: scf.if %[[NOT0]] {
// CHECK:   %[[FROM:.*]] = arith.addi %[[RANK]], %c3_i32
// CHECK:   %[[SLOT:.*]] = arith.andi %[[FROM]], %c3_i32
// CHECK:   %[[BYTES:.*]] = arith.muli %[[SLOT]], %c2048_i32
// CHECK:   %[[OFFSET:.*]] = arith.addi %[[PLACE]], %[[BYTES]]
// CHECK:   %[[HERE:.*]] = llvm.getelementptr %{{.*}}[%[[OFFSET]]] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, i8
// CHECK:   %[[THERE:.*]] = nvvm.mapa %[[HERE]], %c0_i32 : !llvm.ptr<3> -> !llvm.ptr<7>
// CHECK:   llvm.store %{{.*}}, %[[THERE]] {alignment = 16 : i64} : vector<4xf32>, !llvm.ptr<7>
// CHECK: }
// CHECK: scf.if
// CHECK:   nvvm.mapa %{{.*}}, %c1_i32
// CHECK: scf.if
// CHECK:   nvvm.mapa %{{.*}}, %c2_i32
// CHECK: scf.if
// CHECK:   nvvm.mapa %{{.*}}, %c3_i32
//
// When a warp has written, a lane for each other block arrives at the inbox of that one, which lies behind the two stages' barriers.
// What is written and read is of two blocks, so the barrier is the cluster's.
// CHECK: %[[BARRIERS:.*]] = llvm.getelementptr %{{.*}}[8192]
// CHECK: %[[INBOX:.*]] = llvm.getelementptr %[[BARRIERS]][32]
// CHECK: nvvm.bar.warp.sync %c-1_i32
// CHECK: %[[LANE:.*]] = arith.andi %[[THREAD]], %c31_i32
// CHECK: %[[OTHER:.*]] = arith.cmpi ne, %[[LANE]], %[[RANK]]
// CHECK: %[[FEW:.*]] = arith.cmpi slt, %[[LANE]], %c4_i32
// CHECK: %[[TELLS:.*]] = arith.andi %[[FEW]], %[[OTHER]]
// CHECK: scf.if %[[TELLS]] {
// CHECK:   %[[THEIRS:.*]] = nvvm.mapa %[[INBOX]], %[[LANE]]
// CHECK:   nvvm.mbarrier.arrive %[[THEIRS]] {scope = #nvvm.mem_scope<cluster>} : !llvm.ptr<7>
// CHECK: }
//
// Its own share, of constants here, and then the slots in order.
// CHECK: nvvm.mbarrier.try_wait %[[INBOX]], %c0_i32 {scope = #nvvm.mem_scope<cluster>} : !llvm.ptr<3>, i32 -> i1
// CHECK: %[[SLOT0:.*]] = llvm.getelementptr %{{.*}}[%[[PLACE]]]
// CHECK: %[[IN0:.*]] = llvm.load %[[SLOT0]] {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xf32>
// CHECK: %[[A:.*]] = llvm.extractelement %[[IN0]][%c0_i32 : i32]
// CHECK: %[[SUM0:.*]] = arith.addf %{{.*}}, %[[A]] : f32
// CHECK: %[[SLOT1:.*]] = llvm.getelementptr %[[SLOT0]][2048]
// CHECK: %[[IN1:.*]] = llvm.load %[[SLOT1]]
// CHECK: %[[B:.*]] = llvm.extractelement %[[IN1]][%c0_i32 : i32]
// CHECK: %[[SUM1:.*]] = arith.addf %[[SUM0]], %[[B]] : f32
// CHECK: %[[SLOT2:.*]] = llvm.getelementptr %[[SLOT0]][4096]
// CHECK: %[[IN2:.*]] = llvm.load %[[SLOT2]]
// CHECK: %[[C:.*]] = llvm.extractelement %[[IN2]][%c0_i32 : i32]
// CHECK: %[[SUM2:.*]] = arith.addf %[[SUM1]], %[[C]] : f32
// CHECK-NOT: llvm.load
// CHECK: llvm.insertelement %[[SUM2]]
gpu.module @kernels {
  sf_tile.kernel @sums(%y: memref<?x64xf32>, %v: f32) attributes {cluster = 4 : i64, threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %barriers = sf_tile.barriers {consumers = 4, offset = 8192, senders = 12} : !sf_tile.barriers<2>
    sf_tile.role consumer {
      %t = sf_tile.splat %v : f32 -> !sf_tile.tile<64x32xf32, #acc>
      %s = sf_tile.reduce_scatter(%t) signals %barriers : !sf_tile.barriers<2> {scratch_offset = 2048 : i64}
        : (!sf_tile.tile<64x32xf32, #acc>) -> !sf_tile.tile<64x8xf32, #share>
      sf_tile.store %s, %y[%c0, %c0] dims [1, 0] {in_bounds} : !sf_tile.tile<64x8xf32, #share>, memref<?x64xf32>
    } {consumers = 4}
    sf_tile.return
  }
}

// -----

#acc = #sf_tile.layout<register = [[1, 0], [0, 1], [0, 8]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>
#share = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>

// Two products, in integers: a thread sends its part of both, and takes those of its own part by its rank.
// CHECK-LABEL: llvm.func @two_products(
// CHECK-SAME: %[[V:[a-z0-9]+]]: i32, %[[U:[a-z0-9]+]]: i32
// CHECK: scf.if
// CHECK:   llvm.insertelement %[[V]]
// CHECK:   llvm.store %{{.*}} : vector<4xi32>, !llvm.ptr<7>
// CHECK:   llvm.insertelement %[[U]]
// CHECK:   llvm.store %{{.*}} : vector<4xi32>, !llvm.ptr<7>
// CHECK: scf.if
// CHECK-COUNT-2: llvm.store %{{.*}} : vector<4xi32>, !llvm.ptr<7>
// CHECK-NOT: llvm.store
// CHECK: nvvm.mbarrier.try_wait
// CHECK: llvm.load %{{.*}} : !llvm.ptr<3> -> vector<4xi32>
// CHECK: arith.addi %[[V]], %{{.*}} : i32
// CHECK: llvm.load %{{.*}} : !llvm.ptr<3> -> vector<4xi32>
// CHECK: arith.addi %[[U]], %{{.*}} : i32
gpu.module @kernels {
  sf_tile.kernel @two_products(%v: i32, %u: i32, %y: memref<?x64xi32>) attributes {cluster = 2 : i64, threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %c8 = arith.constant 8 : index
    %barriers = sf_tile.barriers {consumers = 4, offset = 8192, senders = 4} : !sf_tile.barriers<2>
    sf_tile.role consumer {
      %t = sf_tile.splat %v : i32 -> !sf_tile.tile<64x16xi32, #acc>
      %r = sf_tile.splat %u : i32 -> !sf_tile.tile<64x16xi32, #acc>
      %s:2 = sf_tile.reduce_scatter(%t, %r) signals %barriers : !sf_tile.barriers<2> {scratch_offset = 0 : i64}
        : (!sf_tile.tile<64x16xi32, #acc>, !sf_tile.tile<64x16xi32, #acc>) -> (!sf_tile.tile<64x8xi32, #share>, !sf_tile.tile<64x8xi32, #share>)
      sf_tile.store %s#0, %y[%c0, %c0] dims [1, 0] {in_bounds} : !sf_tile.tile<64x8xi32, #share>, memref<?x64xi32>
      sf_tile.store %s#1, %y[%c8, %c0] dims [1, 0] {in_bounds} : !sf_tile.tile<64x8xi32, #share>, memref<?x64xi32>
    } {consumers = 4}
    sf_tile.return
  }
}
