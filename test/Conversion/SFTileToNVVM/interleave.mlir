// RUN: sparseflow-opt %s --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm))" | FileCheck %s

#swizzled = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
#packed = #sf_tile.layout<offset = [[0, 1], [1, 0], [0, 8], [0, 2], [0, 4], [8, 0], [16, 0], [32, 0], [2, 0], [4, 0], [0, 16]]>
#acc = #sf_tile.layout<register = [[1, 0], [2, 0], [4, 0], [0, 1]], lane = [[0, 2], [0, 4], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, 1]>
#b = #sf_tile.layout<register = [[0, 1], [0, 8], [0, 16]], lane = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], warps = [1, 1], along = [-1, 0]>
#a = #sf_tile.layout<register = [[0, 1], [1, 0], [0, 8], [2, 0], [4, 0]], lane = [[0, 2], [0, 4], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, -1]>
#e = #sf_tile.layout<register = [[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]], lane = [[0, 4], [0, 8], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, -1]>

// The five reads of the second product stand before the first in the schedule. They move between its four instructions, over
// the first three quarters of them; the reads that the first product uses stay.
// CHECK-LABEL: llvm.func @two_products
// CHECK: nvvm.ldmatrix
// CHECK-COUNT-4: llvm.load
// CHECK: nvvm.ldmatrix
// CHECK: llvm.load
// CHECK: call_intrinsic "llvm.nvvm.mma.sp
// CHECK-COUNT-2: llvm.load
// CHECK: call_intrinsic "llvm.nvvm.mma.sp
// CHECK: llvm.load
// CHECK: call_intrinsic "llvm.nvvm.mma.sp
// CHECK-NOT: llvm.load
// CHECK-COUNT-5: call_intrinsic "llvm.nvvm.mma.sp
gpu.module @kernels {
  sf_tile.kernel @two_products(%zero: f32) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %nibble = arith.constant 4 : i4
    %x = sf_tile.ring {offset = 0 : i64, stride = 5120 : i64} : !sf_tile.ring<2 x 8x64xf16, #swizzled>
    %w = sf_tile.ring {offset = 1024 : i64, stride = 5120 : i64} : !sf_tile.ring<2 x 64x32xf16, #packed>
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32, #acc>
    %e = sf_tile.splat %nibble : i4 -> !sf_tile.tile<64x16xi4, #e>
    %b0 = sf_tile.load %x[%c0] start [0, 0] : !sf_tile.ring<2 x 8x64xf16, #swizzled> -> !sf_tile.tile<8x32xf16, #b>
    %a0 = sf_tile.load %w[%c0] start [0, 0] : !sf_tile.ring<2 x 64x32xf16, #packed> -> !sf_tile.tile<64x16xf16, #a>
    %b1 = sf_tile.load %x[%c0] start [0, 32] : !sf_tile.ring<2 x 8x64xf16, #swizzled> -> !sf_tile.tile<8x32xf16, #b>
    %a1 = sf_tile.load %w[%c0] start [0, 16] : !sf_tile.ring<2 x 64x32xf16, #packed> -> !sf_tile.tile<64x16xf16, #a>
    %r0 = sf_tile.mma <"mma_sp_m16n8k32_f16"> %a0, %b0, %acc metadata %e
      : !sf_tile.tile<64x16xf16, #a>, !sf_tile.tile<8x32xf16, #b>, !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xi4, #e>
      -> !sf_tile.tile<64x8xf32, #acc>
    sf_tile.commit
    %r1 = sf_tile.mma <"mma_sp_m16n8k32_f16"> %a1, %b1, %r0 metadata %e {metadata_start = 8 : i64}
      : !sf_tile.tile<64x16xf16, #a>, !sf_tile.tile<8x32xf16, #b>, !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xi4, #e>
      -> !sf_tile.tile<64x8xf32, #acc>
    sf_tile.return
  }

  // The fragment of the second product is negated before the first: its reads stay in front of what uses them, and only the
  // one of x moves.
  // CHECK-LABEL: llvm.func @used_at_once
  // CHECK: nvvm.ldmatrix
  // CHECK-COUNT-8: llvm.load
  // CHECK: nvvm.ldmatrix
  // CHECK-NOT: llvm.load
  // CHECK-COUNT-8: call_intrinsic "llvm.nvvm.mma.sp
  sf_tile.kernel @used_at_once(%zero: f32) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %nibble = arith.constant 4 : i4
    %x = sf_tile.ring {offset = 0 : i64, stride = 5120 : i64} : !sf_tile.ring<2 x 8x64xf16, #swizzled>
    %w = sf_tile.ring {offset = 1024 : i64, stride = 5120 : i64} : !sf_tile.ring<2 x 64x32xf16, #packed>
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32, #acc>
    %e = sf_tile.splat %nibble : i4 -> !sf_tile.tile<64x16xi4, #e>
    %b0 = sf_tile.load %x[%c0] start [0, 0] : !sf_tile.ring<2 x 8x64xf16, #swizzled> -> !sf_tile.tile<8x32xf16, #b>
    %a0 = sf_tile.load %w[%c0] start [0, 0] : !sf_tile.ring<2 x 64x32xf16, #packed> -> !sf_tile.tile<64x16xf16, #a>
    %b1 = sf_tile.load %x[%c0] start [0, 32] : !sf_tile.ring<2 x 8x64xf16, #swizzled> -> !sf_tile.tile<8x32xf16, #b>
    %a1 = sf_tile.load %w[%c0] start [0, 16] : !sf_tile.ring<2 x 64x32xf16, #packed> -> !sf_tile.tile<64x16xf16, #a>
    %n1 = sf_tile.map %a1 : !sf_tile.tile<64x16xf16, #a> -> !sf_tile.tile<64x16xf16, #a> {
    ^bb0(%v: f16):
      %n = arith.negf %v : f16
      sf_tile.yield %n : f16
    }
    %r0 = sf_tile.mma <"mma_sp_m16n8k32_f16"> %a0, %b0, %acc metadata %e
      : !sf_tile.tile<64x16xf16, #a>, !sf_tile.tile<8x32xf16, #b>, !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xi4, #e>
      -> !sf_tile.tile<64x8xf32, #acc>
    sf_tile.commit
    %r1 = sf_tile.mma <"mma_sp_m16n8k32_f16"> %n1, %b1, %r0 metadata %e {metadata_start = 8 : i64}
      : !sf_tile.tile<64x16xf16, #a>, !sf_tile.tile<8x32xf16, #b>, !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xi4, #e>
      -> !sf_tile.tile<64x8xf32, #acc>
    sf_tile.return
  }
}
