// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm,cse))" | FileCheck %s

#swizzled = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
#b = #sf_tile.layout<register = [[0, 1], [0, 8], [0, 16]], lane = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], warps = [1, 1], along = [-1, 0]>
#packed = #sf_tile.layout<offset = [[0, 1], [1, 0], [0, 8], [0, 2], [0, 4], [8, 0], [16, 0], [32, 0], [2, 0], [4, 0], [0, 16]]>
#a = #sf_tile.layout<register = [[0, 1], [1, 0], [0, 8], [2, 0], [4, 0]], lane = [[0, 2], [0, 4], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, -1]>

// Fragments of `b`: one ldmatrix of four 8x8 matrices is the whole step. Fragments of `a`: 16 contiguous bytes a lane and block,
// and the blocks lie 512 bytes apart: immediate offsets.
// CHECK-LABEL: llvm.func @ring
// CHECK: nvvm.ldmatrix %{{.*}} {eltType = #nvvm.ld_st_matrix_elt_type<b16>, layout = #nvvm.mma_layout<row>, num = 4 : i32{{.*}} : (!llvm.ptr<3>) -> !llvm.struct<(i32, i32, i32, i32)>
// CHECK-NOT: nvvm.ldmatrix
// CHECK: llvm.load %[[A:.*]] {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xi32>
// CHECK: %[[A1:.*]] = llvm.getelementptr %[[A]][512]
// CHECK: llvm.load %[[A1]] {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xi32>
// CHECK: llvm.getelementptr %[[A]][1024]
// CHECK: llvm.getelementptr %[[A]][1536]
gpu.module @kernels {
  sf_tile.kernel @ring() attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %x = sf_tile.ring {offset = 0 : i64, stride = 5120 : i64} : !sf_tile.ring<2 x 8x64xf16, #swizzled>
    %w = sf_tile.ring {offset = 1024 : i64, stride = 5120 : i64} : !sf_tile.ring<2 x 64x32xf16, #packed>
    %b = sf_tile.load %x[%c0] : !sf_tile.ring<2 x 8x64xf16, #swizzled> -> !sf_tile.tile<8x32xf16, #b>
    %a = sf_tile.load %w[%c0] : !sf_tile.ring<2 x 64x32xf16, #packed> -> !sf_tile.tile<64x16xf16, #a>
    sf_tile.return
  }
}

// -----

#rows = #sf_tile.layout<register = [[0, 1], [0, 2], [0, 4]], lane = [[0, 8], [0, 16], [0, 32], [1, 0], [2, 0]], warps = [1, 1], along = [0, 1]>

// 16 bytes a lane. A load reads a clamped address and drops what lies outside; a store is predicated.
// CHECK-LABEL: llvm.func @vectors(
// CHECK-SAME: %[[X:[a-z0-9]+]]: !llvm.ptr<1>, %[[ROWS:[a-z0-9]+]]: i64
// CHECK: %[[LEFT:.*]] = arith.subi %[[ROWS]], %[[ROW:.*]] : i64
// CHECK: %[[REST:.*]] = arith.trunci %{{.*}} : i64 to i32
// CHECK: %[[INSIDE:.*]] = arith.cmpi slt, %[[FIRST:.*]], %[[REST]] : i32
// CHECK: %[[LAST:.*]] = arith.addi %[[REST]], %{{.*}} : i32
// CHECK: arith.minsi %[[FIRST]], %[[LAST]]
// CHECK: %[[L:.*]] = llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xi32>
// CHECK: arith.select %[[INSIDE]], %[[L]], %{{.*}} : vector<4xi32>
// CHECK: scf.if %[[INSIDE]] {
// CHECK-NEXT: llvm.store %{{.*}}, %{{.*}} {alignment = 16 : i64} : vector<4xi32>, !llvm.ptr<1>
gpu.module @kernels {
  sf_tile.kernel @vectors(%x: memref<?x64xf16>, %i: i32) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %row = arith.index_cast %i : i32 to index
    %t = sf_tile.load %x[%row, %c0] : memref<?x64xf16> -> !sf_tile.tile<4x64xf16, #rows>
    sf_tile.store %t, %x[%row, %c0] : !sf_tile.tile<4x64xf16, #rows>, memref<?x64xf16>
    sf_tile.return
  }
}

// -----

#rows = #sf_tile.layout<register = [[0, 1], [0, 2], [0, 4]], lane = [[0, 8], [0, 16], [0, 32], [1, 0], [2, 0]], warps = [1, 1], along = [0, 1]>

// Rows of 62 elements keep only pairs aligned. The tile of 64 columns reaches beyond them.
// CHECK-LABEL: llvm.func @odd_rows
// CHECK-COUNT-4: llvm.load %{{.*}} {alignment = 4 : i64} : !llvm.ptr<1> -> i32
// CHECK-NOT: llvm.load
gpu.module @kernels {
  sf_tile.kernel @odd_rows(%x: memref<4x62xf16>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %t = sf_tile.load %x[%c0, %c0] : memref<4x62xf16> -> !sf_tile.tile<4x64xf16, #rows>
    sf_tile.return
  }
}

// -----

#copies = #sf_tile.layout<register = [[1], [2]], lane = [[4], [8], [16], [0], [0]], warps = [1, 4], along = [0, -1]>

// Of the threads that hold copies, one stores: lane bits 3 and 4 are 0, and so is the warp.
// CHECK-LABEL: llvm.func @one_owner
// CHECK: arith.andi %{{.*}}, %c24_i32
// CHECK: arith.cmpi eq
// CHECK: arith.cmpi eq
// CHECK: %[[OWNER:.*]] = arith.andi
// CHECK: scf.if %[[OWNER]] {
// CHECK-NEXT: llvm.store
gpu.module @kernels {
  sf_tile.kernel @one_owner(%x: memref<32xf32>) attributes {threads = 128 : i64} {
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f32
    %t = sf_tile.splat %zero : f32 -> !sf_tile.tile<32xf32, #copies>
    sf_tile.store %t, %x[%c0] : !sf_tile.tile<32xf32, #copies>, memref<32xf32>
    sf_tile.return
  }
}

// -----

#rows = #sf_tile.layout<register = [[0, 1], [0, 2], [0, 4]], lane = [[0, 8], [0, 16], [0, 32], [1, 0], [2, 0]], warps = [1, 1], along = [0, 1]>

// Rows before `from` are another tile's: of those from the first index on it says how many to leave out.
// CHECK-LABEL: llvm.func @from(
// CHECK-SAME: %[[X:[a-z0-9]+]]: !llvm.ptr<1>, %[[ROWS:[a-z0-9]+]]: i64
// CHECK: %[[LEFT:.*]] = arith.subi %[[ROWS]], %[[ROW:.*]] : i64
// CHECK: %[[REST_MIN:.*]] = arith.minsi %[[LEFT]]
// CHECK: %[[REST:.*]] = arith.trunci %[[REST_MIN]] : i64 to i32
// CHECK: %[[BEFORE:.*]] = arith.subi %[[FROM:.*]], %[[ROW]] : i64
// CHECK: %[[BEFORE_MIN:.*]] = arith.minsi %[[BEFORE]]
// CHECK: %[[SKIPPED:.*]] = arith.trunci %[[BEFORE_MIN]] : i64 to i32
// CHECK: %[[BELOW:.*]] = arith.cmpi slt, %{{.*}}, %[[REST]] : i32
// CHECK: %[[ABOVE:.*]] = arith.cmpi slt, %[[SKIPPED]], %{{.*}} : i32
// CHECK: %[[INSIDE:.*]] = arith.andi %[[BELOW]], %[[ABOVE]] : i1
// CHECK: scf.if %[[INSIDE]] {
// CHECK-NEXT: llvm.store
gpu.module @kernels {
  sf_tile.kernel @from(%x: memref<?x64xf16>, %i: i32, %j: i32, %v: f16) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %row = arith.index_cast %i : i32 to index
    %first = arith.index_cast %j : i32 to index
    %t = sf_tile.splat %v : f16 -> !sf_tile.tile<4x64xf16, #rows>
    sf_tile.store %t, %x[%row, %c0] from %first : !sf_tile.tile<4x64xf16, #rows>, memref<?x64xf16>
    sf_tile.return
  }
}

// -----

#rows = #sf_tile.layout<register = [[0, 1], [0, 2], [0, 4], [4, 0]], lane = [[0, 8], [0, 16], [0, 32], [1, 0], [2, 0]], warps = [1, 1], along = [0, 1]>

// Where rows lie one behind the other, four rows further is so many constants further.
// CHECK-LABEL: llvm.func @contiguous(
// CHECK-SAME: %[[Y:[a-z0-9]+]]: !llvm.ptr<1>, %{{[a-z0-9]+}}: i64, %[[STRIDE:[a-z0-9]+]]: i64
// CHECK: %[[COLUMNS:.*]] = arith.muli %c1_i64, %c64_i64 : i64
// CHECK: %[[SAME:.*]] = arith.cmpi eq, %[[STRIDE]], %[[COLUMNS]] : i64
// CHECK: %[[CONTIGUOUS:.*]] = arith.andi %{{.*}}, %[[SAME]] : i1
// CHECK: scf.if %[[CONTIGUOUS]] {
// CHECK: %[[FIRST:.*]] = llvm.getelementptr %[[Y]]
// CHECK-NOT: scf.if
// CHECK: llvm.store %{{.*}}, %[[FIRST]]
// CHECK: %[[ROWS:.*]] = arith.muli %c4_i64, %c64_i64 : i64
// CHECK: %[[BYTES:.*]] = arith.muli %[[ROWS]], %c2_i64 : i64
// CHECK: %[[SECOND:.*]] = llvm.getelementptr %[[FIRST]][%[[BYTES]]]
// CHECK: llvm.store %{{.*}}, %[[SECOND]]
gpu.module @kernels {
  sf_tile.kernel @contiguous(%y: memref<?x64xf16, strided<[?, 1]>>, %v: f16) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %t = sf_tile.splat %v : f16 -> !sf_tile.tile<8x64xf16, #rows>
    %c = sf_tile.is_contiguous %y : memref<?x64xf16, strided<[?, 1]>>
    scf.if %c {
      %plain = memref.cast %y : memref<?x64xf16, strided<[?, 1]>> to memref<?x64xf16>
      sf_tile.store %t, %plain[%c0, %c0] {in_bounds} : !sf_tile.tile<8x64xf16, #rows>, memref<?x64xf16>
    }
    sf_tile.return
  }
}
