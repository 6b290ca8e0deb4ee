// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm,cse))" | FileCheck %s

#swizzled = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>

// 8 x 64 f16 are 64 pieces of 16 bytes: two rounds of 32 threads. A piece whose row lies outside of X, or whose copy is off, has
// a source size of 0 and arrives as zeros.
// CHECK: llvm.mlir.global external @sf_smem() {addr_space = 3 : i32, alignment = 1024 : i64} : !llvm.array<0 x i8>
// CHECK-LABEL: llvm.func @logical(
// CHECK-SAME: %{{.*}}: !llvm.ptr<1>, %[[ROWS:[a-z0-9]+]]: i64, %{{.*}}: i32, %[[ON:[a-z0-9]+]]: i1)
// CHECK-SAME: gpu.kernel, nvvm.kernel, nvvm.minctasm = 1 : i32, nvvm.reqntid = array<i32: 32, 1, 1>
// CHECK: %[[SMEM:.*]] = llvm.mlir.addressof @sf_smem : !llvm.ptr<3>
// CHECK: %[[TARGET:.*]] = llvm.getelementptr %[[SMEM]]
// CHECK: %[[IN0:.*]] = arith.cmpi slt, %{{.*}}, %[[ROWS]] : i64
// CHECK: %[[IN1:.*]] = arith.cmpi slt, %{{.*}}, %[[ROWS]] : i64
// CHECK: %[[C0:.*]] = arith.andi %[[IN0]], %[[ON]]
// CHECK: %[[S0:.*]] = arith.select %[[C0]], %c16_i32, %c0_i32
// CHECK: %[[C1:.*]] = arith.andi %[[IN1]], %[[ON]]
// CHECK: %[[S1:.*]] = arith.select %[[C1]], %c16_i32, %c0_i32
// CHECK: nvvm.cp.async.shared.global %[[TARGET]], %{{.*}}, 16, cache = cg, %[[S0]]
// CHECK: %[[SECOND:.*]] = llvm.getelementptr %[[TARGET]][512]
// CHECK: nvvm.cp.async.shared.global %[[SECOND]], %{{.*}}, 16, cache = cg, %[[S1]]
// CHECK-NEXT: nvvm.cp.async.commit.group
// CHECK-NEXT: nvvm.cp.async.wait.group 1
// CHECK-NEXT: nvvm.barrier
gpu.module @kernels {
  sf_tile.kernel @logical(%x: memref<?x64xf16>, %i: i32, %on: i1) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %token = arith.index_cast %i : i32 to index
    %ring = sf_tile.ring {offset = 1024 : i64, stride = 4096 : i64} : !sf_tile.ring<2 x 8x64xf16, #swizzled>
    sf_tile.copy_async %x[%token, %c0] [8, 64] to %ring[%c0] if %on logical : memref<?x64xf16> to <2 x 8x64xf16, #swizzled>
    sf_tile.commit
    sf_tile.wait {pending = 1}
    sf_tile.return
  }
}

// -----

// Storage order, inside for certain: no source size. The packed weight is 4096 bytes, two rounds of 128 threads.
// CHECK-LABEL: llvm.func @storage
// CHECK: nvvm.cp.async.shared.global %[[TARGET:.*]], %{{.*}}, 16, cache = cg : !llvm.ptr<3>, !llvm.ptr<1>{{$}}
// CHECK: %[[SECOND:.*]] = llvm.getelementptr %[[TARGET]][2048]
// CHECK: nvvm.cp.async.shared.global %[[SECOND]], %{{.*}}, 16, cache = cg : !llvm.ptr<3>, !llvm.ptr<1>{{$}}
// CHECK-NOT: nvvm.cp.async.shared.global
gpu.module @kernels {
  sf_tile.kernel @storage(%w: memref<2x2x2048xf16>, %i: i32) attributes {threads = 128 : i64} {
    %c0 = arith.constant 0 : index
    %chunk = arith.index_cast %i : i32 to index
    %ring = sf_tile.ring {offset = 0 : i64, stride = 4096 : i64} : !sf_tile.ring<2 x 64x32xf16>
    sf_tile.copy_async %w[%chunk, %chunk, %c0] [1, 1, 2048] to %ring[%c0] storage : memref<2x2x2048xf16> to <2 x 64x32xf16>
    sf_tile.return
  }
}

// -----

// Rather narrower pieces for all threads than a branch: 512 bytes for 128 threads are pieces of 4.
// CHECK-LABEL: llvm.func @narrow_pieces
// CHECK: nvvm.cp.async.shared.global %{{.*}}, %{{.*}}, 4, cache = ca : !llvm.ptr<3>, !llvm.ptr<1>{{$}}
// CHECK-NOT: nvvm.cp.async.shared.global
// CHECK-NOT: scf.if
gpu.module @kernels {
  sf_tile.kernel @narrow_pieces(%w: memref<2x2x128xi32>) attributes {threads = 128 : i64} {
    %c0 = arith.constant 0 : index
    %ring = sf_tile.ring {offset = 0 : i64, stride = 1024 : i64} : !sf_tile.ring<2 x 64x16xi4>
    sf_tile.copy_async %w[%c0, %c0, %c0] [1, 1, 128] to %ring[%c0] storage : memref<2x2x128xi32> to <2 x 64x16xi4>
    sf_tile.return
  }
}

// -----

// 48 pieces for 32 threads: half of them copy in the second round.
// CHECK-LABEL: llvm.func @last_round
// CHECK: nvvm.cp.async.shared.global
// CHECK: %[[ACTIVE:.*]] = arith.cmpi slt, %{{.*}}, %c16_i32
// CHECK: scf.if %[[ACTIVE]] {
// CHECK: nvvm.cp.async.shared.global
gpu.module @kernels {
  sf_tile.kernel @last_round(%w: memref<6x64xf16>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %ring = sf_tile.ring {offset = 0 : i64, stride = 1024 : i64} : !sf_tile.ring<2 x 6x64xf16>
    sf_tile.copy_async %w[%c0, %c0] [6, 64] to %ring[%c0] storage : memref<6x64xf16> to <2 x 6x64xf16>
    sf_tile.return
  }
}
