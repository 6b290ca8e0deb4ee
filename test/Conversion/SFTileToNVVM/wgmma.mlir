// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm,canonicalize,cse))" | FileCheck %s

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32], [8, 0]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16], [64, 0]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1], [0, 8]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [8, 1], along = [0, 1]>
#e = #sf_tile.layout<register = [[0, 1], [0, 2], [1, 0]], lane = [[0, 4], [0, 8], [2, 0], [4, 0], [8, 0]], warps = [8, 1], along = [0, -1]>

// A tile that stays in shared memory is its descriptor. X: 64 bytes (4 units of 16) into the row for the second step; the 128-byte
// swizzle, 1024 bytes from 8 rows to the next: 1 << 62 | 64 << 32 | 1 << 16. Values: 2048 bytes into the chunk, the next 4096 for the
// second warpgroup; core matrices at 128 and 1024 bytes: 8 << 32 | 64 << 16.
//
// The instruction has 64 features and all tokens; accumulators are tied, output i to input i. It counts the token before the row's
// half, the tile the other way round, so 1 and 2, 5 and 6 change places. The second step of f16 is selector 1.
// CHECK-LABEL: llvm.func @sparse
// CHECK-DAG: %[[XFIELDS:.*]] = arith.constant 4611686293305360384 : i64
// CHECK-DAG: %[[WFIELDS:.*]] = arith.constant 34363932672 : i64
// CHECK-DAG: %[[WSTART:.*]] = arith.constant 6144 : i32
// CHECK: %[[XSTART:.*]] = llvm.getelementptr %{{.*}}[64]
// CHECK: llvm.ptrtoint %[[XSTART]] : !llvm.ptr<3> to i32
// CHECK: %[[B:.*]] = arith.ori %{{.*}}, %[[XFIELDS]] : i64
// CHECK: %[[GROUP:.*]] = arith.shrui %{{.*}}, %c7_i32
// CHECK: %[[UNIFORM:.*]] = nvvm.shfl.sync {{.*}} %[[GROUP]],
// CHECK: %[[BEHIND:.*]] = arith.muli %[[UNIFORM]], %c4096_i32
// CHECK: arith.addi %[[BEHIND]], %[[WSTART]]
// CHECK: %[[A:.*]] = arith.ori %{{.*}}, %[[WFIELDS]] : i64
// CHECK: nvvm.wgmma.fence.aligned
// CHECK-NEXT: %[[R:.*]] = llvm.inline_asm has_side_effects {{.*}}"wgmma.mma_async.sp.sync.aligned.m64n16k32.f32.f16.f16 {$0, $1, $2, $3, $4, $5, $6, $7}, $8, $9, $10, 1, 1, 1, 1, 0, 0;", "=f,=f,=f,=f,=f,=f,=f,=f,l,l,r,0,1,2,3,4,5,6,7" %[[A]], %[[B]], %{{.*}} : (i64, i64, i32, f32, f32, f32, f32, f32, f32, f32, f32)
// CHECK-NEXT: %[[R0:.*]] = llvm.extractvalue %[[R]][0]
// CHECK-NEXT: %[[R1:.*]] = llvm.extractvalue %[[R]][1]
// CHECK-NEXT: %[[R2:.*]] = llvm.extractvalue %[[R]][2]
// CHECK-NEXT: %[[R3:.*]] = llvm.extractvalue %[[R]][3]
// CHECK-NEXT: %[[R4:.*]] = llvm.extractvalue %[[R]][4]
// CHECK-NEXT: %[[R5:.*]] = llvm.extractvalue %[[R]][5]
// CHECK-NEXT: %[[R6:.*]] = llvm.extractvalue %[[R]][6]
// CHECK-NEXT: %[[R7:.*]] = llvm.extractvalue %[[R]][7]
// CHECK: nvvm.wgmma.commit.group.sync.aligned
// CHECK-NEXT: nvvm.wgmma.wait.group.sync.aligned 0
//
// What the wait gives back passes through it: nothing may read an accumulator before, nor take metadata's register.
// CHECK: llvm.inline_asm has_side_effects {{.*}}"", "=f,=f,=f,=f,=f,=f,=f,=f,0,1,2,3,4,5,6,7" %[[R0]], %[[R2]], %[[R1]], %[[R3]], %[[R4]], %[[R6]], %[[R5]], %[[R7]]
// CHECK: llvm.inline_asm has_side_effects {{.*}}"", "=r,0"
gpu.module @kernels {
  sf_tile.kernel @sparse(%y: memref<?x128xf32>, %i: i32, %zero: f32) attributes {threads = 288 : i64} {
    %c0 = arith.constant 0 : index
    %nibble = arith.constant 4 : i4
    %stage = arith.index_cast %i : i32 to index
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<128x16xf32, #acc>
    %e = sf_tile.splat %nibble : i4 -> !sf_tile.tile<128x16xi4, #e>
    %xring = sf_tile.ring {offset = 0 : i64, stride = 16384 : i64} : !sf_tile.ring<2 x 16x64xf16, #x>
    %wring = sf_tile.ring {offset = 4096 : i64, stride = 16384 : i64} : !sf_tile.ring<2 x 128x32xf16, #w>
    %b = sf_tile.load %xring[%stage] start [0, 32] : !sf_tile.ring<2 x 16x64xf16, #x> -> !sf_tile.tile<16x32xf16, #x>
    %a = sf_tile.load %wring[%stage] start [0, 16] : !sf_tile.ring<2 x 128x32xf16, #w> -> !sf_tile.tile<128x16xf16, #w>
    sf_tile.mma_fence
    %r = sf_tile.mma <"wgmma_sp_m64k32_f16"> %a, %b, %acc metadata %e {metadata_start = 8 : i64}
      : !sf_tile.tile<128x16xf16, #w>, !sf_tile.tile<16x32xf16, #x>, !sf_tile.tile<128x16xf32, #acc>, !sf_tile.tile<128x16xi4, #e>
      -> !sf_tile.tile<128x16xf32, #acc>
    sf_tile.mma_commit
    %done:2 = sf_tile.mma_wait 0(%r, %e : !sf_tile.tile<128x16xf32, #acc>, !sf_tile.tile<128x16xi4, #e>)
      -> !sf_tile.tile<128x16xf32, #acc>, !sf_tile.tile<128x16xi4, #e>
    sf_tile.store %done#0, %y[%c0, %c0] dims [1, 0] : !sf_tile.tile<128x16xf32, #acc>, memref<?x128xf32>
    sf_tile.return
  }
}

// -----

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [0, 64], [1, 16], [2, 32], [4, 64]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 16], [0, 32], [0, 64]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>

// Dense bytes: sums of i32 have neither negation nor transposition. One warpgroup takes all rows: no distance to a second one.
// CHECK-LABEL: llvm.func @dense
// CHECK-NOT: arith.shrui %{{.*}}, %c7_i32
// CHECK: llvm.inline_asm has_side_effects {{.*}}"wgmma.mma_async.sync.aligned.m64n8k32.s32.s8.s8 {$0, $1, $2, $3}, $4, $5, 1;", "=r,=r,=r,=r,l,l,0,1,2,3"
gpu.module @kernels {
  sf_tile.kernel @dense(%y: memref<?x64xi32>, %zero: i32) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %acc = sf_tile.splat %zero : i32 -> !sf_tile.tile<64x8xi32, #acc>
    %xring = sf_tile.ring {offset = 0 : i64, stride = 16384 : i64} : !sf_tile.ring<2 x 8x128xi8, #x>
    %wring = sf_tile.ring {offset = 4096 : i64, stride = 16384 : i64} : !sf_tile.ring<2 x 64x128xi8, #w>
    %b = sf_tile.load %xring[%c0] : !sf_tile.ring<2 x 8x128xi8, #x> -> !sf_tile.tile<8x32xi8, #x>
    %a = sf_tile.load %wring[%c0] : !sf_tile.ring<2 x 64x128xi8, #w> -> !sf_tile.tile<64x32xi8, #w>
    sf_tile.mma_fence
    %r = sf_tile.mma <"wgmma_m64k32_s8"> %a, %b, %acc
      : !sf_tile.tile<64x32xi8, #w>, !sf_tile.tile<8x32xi8, #x>, !sf_tile.tile<64x8xi32, #acc> -> !sf_tile.tile<64x8xi32, #acc>
    sf_tile.mma_commit
    %done = sf_tile.mma_wait 0(%r : !sf_tile.tile<64x8xi32, #acc>) -> !sf_tile.tile<64x8xi32, #acc>
    sf_tile.store %done, %y[%c0, %c0] dims [1, 0] : !sf_tile.tile<64x8xi32, #acc>, memref<?x64xi32>
    sf_tile.return
  }
}

// -----

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16]]>
#a = #sf_tile.layout<register = [[0, 1], [1, 0], [0, 8]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, -1]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>
#e = #sf_tile.layout<register = [[0, 1], [0, 2], [1, 0]], lane = [[0, 4], [0, 8], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, -1]>

// Values in registers: one ldmatrix brings a step's, a list of four takes the place of the descriptor, and only x can be transposed.
// They, too, are kept until the wait.
// CHECK-LABEL: llvm.func @values_in_registers
// CHECK: %[[VALUES:.*]] = nvvm.ldmatrix {{.*}} num = 4
// CHECK: %[[A0:.*]] = llvm.extractvalue %[[VALUES]][0]
// CHECK: %[[A1:.*]] = llvm.extractvalue %[[VALUES]][1]
// CHECK: %[[A2:.*]] = llvm.extractvalue %[[VALUES]][2]
// CHECK: %[[A3:.*]] = llvm.extractvalue %[[VALUES]][3]
// CHECK: nvvm.wgmma.fence.aligned
// CHECK-NEXT: llvm.inline_asm has_side_effects {{.*}}"wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16 {$0, $1, $2, $3}, {$4, $5, $6, $7}, $8, $9, 0, 1, 1, 1, 0;", "=f,=f,=f,=f,r,r,r,r,l,r,0,1,2,3" %[[A0]], %[[A1]], %[[A2]], %[[A3]],
// CHECK: nvvm.wgmma.wait.group.sync.aligned 0
// CHECK: llvm.inline_asm has_side_effects {{.*}}"", "=r,=r,=r,=r,0,1,2,3" %[[A0]], %[[A1]], %[[A2]], %[[A3]]
gpu.module @kernels {
  sf_tile.kernel @values_in_registers(%y: memref<?x64xf32>, %zero: f32) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %nibble = arith.constant 4 : i4
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32, #acc>
    %e = sf_tile.splat %nibble : i4 -> !sf_tile.tile<64x16xi4, #e>
    %xring = sf_tile.ring {offset = 0 : i64, stride = 8192 : i64} : !sf_tile.ring<2 x 8x64xf16, #x>
    %wring = sf_tile.ring {offset = 1024 : i64, stride = 8192 : i64} : !sf_tile.ring<2 x 64x32xf16, #w>
    %b = sf_tile.load %xring[%c0] : !sf_tile.ring<2 x 8x64xf16, #x> -> !sf_tile.tile<8x32xf16, #x>
    %a = sf_tile.load %wring[%c0] : !sf_tile.ring<2 x 64x32xf16, #w> -> !sf_tile.tile<64x16xf16, #a>
    sf_tile.mma_fence
    %r = sf_tile.mma <"wgmma_sp_rs_m64k32_f16"> %a, %b, %acc metadata %e
      : !sf_tile.tile<64x16xf16, #a>, !sf_tile.tile<8x32xf16, #x>, !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xi4, #e>
      -> !sf_tile.tile<64x8xf32, #acc>
    sf_tile.mma_commit
    %done:2 = sf_tile.mma_wait 0(%r, %a : !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xf16, #a>)
      -> !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xf16, #a>
    sf_tile.store %done#0, %y[%c0, %c0] dims [1, 0] : !sf_tile.tile<64x8xf32, #acc>, memref<?x64xf32>
    sf_tile.return
  }
}
