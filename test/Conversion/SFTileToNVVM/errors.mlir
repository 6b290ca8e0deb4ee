// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm))"

gpu.module @kernels {
  sf_tile.kernel @unplaced() attributes {threads = 32 : i64} {
    // expected-error @below {{expected an offset; run sf-tile-allocate-smem first}}
    // expected-error @below {{failed to legalize operation 'sf_tile.ring'}}
    %ring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @no_layout(%v: f32) attributes {threads = 32 : i64} {
    // expected-error @below {{expected tiles and stages with layouts; run sf-tile-assign-layouts before}}
    %t = sf_tile.splat %v : f32 -> !sf_tile.tile<8x64xf32>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @no_stage_layout(%x: memref<?x64xf16>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %ring = sf_tile.ring {offset = 0 : i64, stride = 1024 : i64} : !sf_tile.ring<2 x 8x64xf16>
    // expected-error @below {{expected tiles and stages with layouts; run sf-tile-assign-layouts before}}
    sf_tile.copy_async %x[%c0, %c0] [8, 64] to %ring[%c0] logical : memref<?x64xf16> to <2 x 8x64xf16>
    sf_tile.return
  }
}

// -----

#acc = #sf_tile.layout<lane = [[0, 2], [0, 4], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, 1]>
#b = #sf_tile.layout<register = [[0, 1], [0, 2], [0, 16]], lane = [[0, 4], [0, 8], [1, 0], [2, 0], [4, 0]], warps = [1, 1], along = [-1, 0]>
#a = #sf_tile.layout<register = [[0, 1], [0, 2], [1, 0], [0, 16], [2, 0], [4, 0]], lane = [[0, 4], [0, 8], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, -1]>
gpu.module @kernels {
  sf_tile.kernel @no_registers(%zero: i32, %v: i8) attributes {threads = 32 : i64} {
    %acc = sf_tile.splat %zero : i32 -> !sf_tile.tile<64x8xi32, #acc>
    %a = sf_tile.splat %v : i8 -> !sf_tile.tile<64x32xi8, #a>
    %b = sf_tile.splat %v : i8 -> !sf_tile.tile<8x32xi8, #b>
    // expected-error @below {{expected layouts with the registers of 4x1 instructions, as sf-tile-assign-layouts gives them}}
    // expected-error @below {{failed to legalize operation 'sf_tile.mma'}}
    %r = sf_tile.mma <"mma_m16n8k32_s8"> %a, %b, %acc
      : !sf_tile.tile<64x32xi8, #a>, !sf_tile.tile<8x32xi8, #b>, !sf_tile.tile<64x8xi32, #acc> -> !sf_tile.tile<64x8xi32, #acc>
    sf_tile.return
  }
}

// -----

#row = #sf_tile.layout<register = [[1]], lane = [[2], [4], [8], [16], [32]], warps = [1], along = [0]>
gpu.module @kernels attributes {sf.target = #sf.target<"sm_80">} {
  sf_tile.kernel @float8(%x: memref<64xf8E4M3FN>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %t = sf_tile.load %x[%c0] : memref<64xf8E4M3FN> -> !sf_tile.tile<64xf8E4M3FN, #row>
    // expected-error @below {{expected a chip with 8-bit floats (sm_89 or later) to convert to or from them, got sm_80; use i8, or compile for another target}}
    %r = sf_tile.map %t : !sf_tile.tile<64xf8E4M3FN, #row> -> !sf_tile.tile<64xf32, #row> {
    ^bb0(%v: f8E4M3FN):
      %f = arith.extf %v : f8E4M3FN to f32
      sf_tile.yield %f : f32
    }
    sf_tile.return
  }
}

// -----

#odd = #sf_tile.layout<offset = [[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]]>
gpu.module @kernels {
  sf_tile.kernel @odd_rows(%x: memref<?x3xf16>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %ring = sf_tile.ring {offset = 0 : i64, stride = 1024 : i64} : !sf_tile.ring<2 x 8x3xf16, #odd>
    // expected-error @below {{expected rows of a multiple of 4 bytes, got 6}}
    // expected-error @below {{failed to legalize operation 'sf_tile.copy_async'}}
    sf_tile.copy_async %x[%c0, %c0] [8, 3] to %ring[%c0] logical : memref<?x3xf16> to <2 x 8x3xf16, #odd>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @unplaced_barriers() attributes {threads = 160 : i64} {
    // expected-error @below {{expected an offset; run sf-tile-allocate-smem first}}
    // expected-error @below {{failed to legalize operation 'sf_tile.barriers'}}
    %barriers = sf_tile.barriers {consumers = 4} : !sf_tile.barriers<2>
    sf_tile.return
  }
}

// -----

// The box of a part of a chunk would end inside of the next chunk.
gpu.module @kernels {
  sf_tile.kernel @part_of_chunk(%w: memref<2x3072xf16>) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %c2048 = arith.constant 2048 : index
    %ring = sf_tile.ring {offset = 0 : i64, stride = 4096 : i64} : !sf_tile.ring<2 x 64x32xf16>
    %barriers = sf_tile.barriers {consumers = 4, offset = 8192} : !sf_tile.barriers<2>
    // expected-error @below {{expected boxes that divide the source along dimension 1, of 3072, got boxes of 2048; choose a smaller tile}}
    // expected-error @below {{failed to legalize operation 'sf_tile.copy_async'}}
    sf_tile.copy_async %w[%c0, %c2048] [1, 2048] to %ring[%c0] signals %barriers storage : memref<2x3072xf16> to <2 x 64x32xf16>, !sf_tile.barriers<2>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @short_run(%w: memref<2x4xf16>) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %ring = sf_tile.ring {offset = 0 : i64, stride = 1024 : i64} : !sf_tile.ring<2 x 1x4xf16>
    %barriers = sf_tile.barriers {consumers = 4, offset = 2048} : !sf_tile.barriers<2>
    // expected-error @below {{expected runs of a multiple of 16 bytes, got 8}}
    // expected-error @below {{failed to legalize operation 'sf_tile.copy_async'}}
    sf_tile.copy_async %w[%c0, %c0] [1, 4] to %ring[%c0] signals %barriers storage : memref<2x4xf16> to <2 x 1x4xf16>, !sf_tile.barriers<2>
    sf_tile.return
  }
}

// -----

#acc = #sf_tile.layout<register = [[1, 0], [0, 1], [0, 8]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>
#share = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>
gpu.module @kernels {
  sf_tile.kernel @no_inbox(%v: f32) attributes {cluster = 2 : i64, threads = 160 : i64} {
    %t = sf_tile.splat %v : f32 -> !sf_tile.tile<64x16xf32, #acc>
    // expected-error @below {{expected barriers and scratch; run sf-tile-assign-roles and sf-tile-allocate-smem first}}
    // expected-error @below {{failed to legalize operation 'sf_tile.reduce_scatter'}}
    %s = sf_tile.reduce_scatter(%t) : (!sf_tile.tile<64x16xf32, #acc>) -> !sf_tile.tile<64x8xf32, #share>
    sf_tile.return
  }
}
