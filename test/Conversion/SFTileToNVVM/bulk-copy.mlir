// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm,canonicalize,cse))" | FileCheck %s

#swizzled = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32], [0, 64]]>

// A tensor map is passed by value; the manifest learns of it by argument and box. Its box is a panel of 128 bytes, the stage has
// two: 1024 bytes apart in shared memory, 64 columns in the matrix. Coordinates begin with the column.
// CHECK-LABEL: llvm.func @panels(
// CHECK-SAME: %[[MAP:[a-z0-9]+]]: !llvm.ptr {llvm.align = 64 : i64, llvm.byval = !llvm.array<128 x i8>, nvvm.grid_constant}
// CHECK-SAME: sf.tensor_maps = [array<i64: 0, 8, 64>]
// CHECK: %[[FULL:.*]] = llvm.getelementptr %{{.*}}[%{{.*}}] : (!llvm.ptr<3>, i32) -> !llvm.ptr<3>, i8
// CHECK: %[[TARGET0:.*]] = llvm.addrspacecast %{{.*}} : !llvm.ptr<3> to !llvm.ptr<7>
// CHECK: nvvm.cp.async.bulk.tensor.shared.cluster.global %[[TARGET0]], %[[MAP]], %[[FULL]], box[%[[COLUMN:.*]], %[[ROW:.*]]]
// CHECK: %[[PANEL1:.*]] = arith.addi %{{.*}}, %c1024_i32
// CHECK: %[[SHARED1:.*]] = llvm.getelementptr %{{.*}}[%[[PANEL1]]]
// CHECK: %[[COLUMN1:.*]] = arith.addi %[[COLUMN]], %c64_i32
// CHECK: %[[TARGET1:.*]] = llvm.addrspacecast %[[SHARED1]] : !llvm.ptr<3> to !llvm.ptr<7>
// CHECK: nvvm.cp.async.bulk.tensor.shared.cluster.global %[[TARGET1]], %[[MAP]], %[[FULL]], box[%[[COLUMN1]], %[[ROW]]]
// CHECK-NOT: nvvm.cp.async
gpu.module @kernels {
  sf_tile.kernel @panels(%x: memref<?x256xf16>, %r: i32, %c: i32, %map: !sf_tile.tensor_map<8x64xf16, of = 0>) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %row = arith.index_cast %r : i32 to index
    %column = arith.index_cast %c : i32 to index
    %ring = sf_tile.ring {offset = 0 : i64, stride = 2048 : i64} : !sf_tile.ring<2 x 8x128xf16, #swizzled>
    %barriers = sf_tile.barriers {consumers = 4, offset = 4096} : !sf_tile.barriers<2>
    sf_tile.copy_async %map[%row, %column] [8, 128] to %ring[%row] signals %barriers logical
      : !sf_tile.tensor_map<8x64xf16, of = 0> to <2 x 8x128xf16, #swizzled>, !sf_tile.barriers<2>
    sf_tile.return
  }
}

// -----

// Storage order: one chunk of 4096 bytes for each 64 features. Two chunks of features are two runs, 4 chunks of k apart in memory;
// 3 x 64 features are not a multiple of the box, so a run is brought back inside: what it copies belongs to rows that are not stored.
// CHECK-LABEL: llvm.func @runs
// CHECK: %[[FIRST:.*]] = arith.minsi %{{.*}}, %c2_i64
// CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %{{.*}}, %[[FULL:.*]], %c4096_i32
// CHECK: %[[NEXT:.*]] = arith.addi %{{.*}}, %c1_i64
// CHECK: arith.minsi %[[NEXT]], %c2_i64
// CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %{{.*}}, %[[FULL]], %c4096_i32
// CHECK-NOT: nvvm.cp.async
gpu.module @kernels {
  sf_tile.kernel @runs(%w: memref<3x4x2048xf16>, %f: i32, %k: i32) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %feature = arith.index_cast %f : i32 to index
    %chunk = arith.index_cast %k : i32 to index
    %ring = sf_tile.ring {offset = 0 : i64, stride = 8192 : i64} : !sf_tile.ring<2 x 128x32xf16>
    %barriers = sf_tile.barriers {consumers = 8, offset = 16384} : !sf_tile.barriers<2>
    sf_tile.copy_async %w[%feature, %chunk, %c0] [2, 1, 2048] to %ring[%chunk] signals %barriers storage
      : memref<3x4x2048xf16> to <2 x 128x32xf16>, !sf_tile.barriers<2>
    sf_tile.return
  }
}

// -----

// All of k in one chunk, but 3 chunks of features: what may reach beyond is copied chunk by chunk.
// CHECK-LABEL: llvm.func @short_k
// CHECK-COUNT-2: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %{{.*}}, %{{.*}}, %c4096_i32
// CHECK-NOT: nvvm.cp.async
gpu.module @kernels {
  sf_tile.kernel @short_k(%w: memref<3x1x2048xf16>, %f: i32) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %c2 = arith.constant 2 : index
    %tile = arith.index_cast %f : i32 to index
    %feature = arith.muli %tile, %c2 : index
    %ring = sf_tile.ring {offset = 0 : i64, stride = 8192 : i64} : !sf_tile.ring<2 x 128x32xf16>
    %barriers = sf_tile.barriers {consumers = 8, offset = 16384} : !sf_tile.barriers<2>
    sf_tile.copy_async %w[%feature, %c0, %c0] [2, 1, 2048] to %ring[%c0] signals %barriers storage
      : memref<3x1x2048xf16> to <2 x 128x32xf16>, !sf_tile.barriers<2>
    sf_tile.return
  }
}

// -----

// All of k in one chunk: both chunks of features are contiguous, one copy.
// CHECK-LABEL: llvm.func @one_run
// CHECK: nvvm.cp.async.bulk.shared.cluster.global %{{.*}}, %{{.*}}, %{{.*}}, %c8192_i32
// CHECK-NOT: nvvm.cp.async
gpu.module @kernels {
  sf_tile.kernel @one_run(%w: memref<2x1x2048xf16>) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %ring = sf_tile.ring {offset = 0 : i64, stride = 8192 : i64} : !sf_tile.ring<2 x 128x32xf16>
    %barriers = sf_tile.barriers {consumers = 8, offset = 16384} : !sf_tile.barriers<2>
    sf_tile.copy_async %w[%c0, %c0, %c0] [2, 1, 2048] to %ring[%c0] signals %barriers storage
      : memref<2x1x2048xf16> to <2 x 128x32xf16>, !sf_tile.barriers<2>
    sf_tile.return
  }
}
