// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-assign-layouts)))"

gpu.module @kernels {
  sf_tile.kernel @no_config(%a: memref<64x16xf16>, %b: memref<8x16xf16>, %i: index) attributes {threads = 32 : i64} {
    %zero = arith.constant 0.0 : f32
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32>
    %0 = sf_tile.load %a[%i, %i] : memref<64x16xf16> -> !sf_tile.tile<64x16xf16>
    %1 = sf_tile.load %b[%i, %i] : memref<8x16xf16> -> !sf_tile.tile<8x16xf16>
    // expected-error @below {{expected the kernel to have a configuration, which says how warps divide tiles}}
    %2 = sf_tile.mma <"mma_m16n8k16_f16"> %0, %1, %acc
      : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
    sf_tile.return
  }
}

// -----

// A lane's 8 contiguous features need a whole chunk of 64 in one warp.
gpu.module @kernels {
  sf_tile.kernel @narrow_warp(%a: memref<64x16xf16>, %b: memref<8x16xf16>, %i: index)
      attributes {config = #sf.kernel_config<tile = 64x8x64, warps = 2x1, atom = mma>, threads = 64 : i64} {
    %zero = arith.constant 0.0 : f32
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32>
    %0 = sf_tile.load %a[%i, %i] : memref<64x16xf16> -> !sf_tile.tile<64x16xf16>
    %1 = sf_tile.load %b[%i, %i] : memref<8x16xf16> -> !sf_tile.tile<8x16xf16>
    // expected-error @below {{expected a warp's tile to have a multiple of 64 features, got 32; use another number of warps along features}}
    %2 = sf_tile.mma <"mma_m16n8k16_f16"> %0, %1, %acc
      : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
    sf_tile.return
  }
}

// -----

// The tile is not the configuration's.
gpu.module @kernels {
  sf_tile.kernel @other_tile(%a: memref<64x16xf16>, %b: memref<16x16xf16>, %i: index)
      attributes {config = #sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma>, threads = 32 : i64} {
    %zero = arith.constant 0.0 : f32
    // expected-error @below {{expected a tile that the layout #sf_tile.layout<register = [[1, 0], [2, 0], [4, 0], [0, 1]], lane = [[0, 2], [0, 4], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, 1]> covers, got '!sf_tile.tile<64x16xf32>'}}
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x16xf32>
    %0 = sf_tile.load %a[%i, %i] : memref<64x16xf16> -> !sf_tile.tile<64x16xf16>
    %1 = sf_tile.load %b[%i, %i] : memref<16x16xf16> -> !sf_tile.tile<16x16xf16>
    %2 = sf_tile.mma <"mma_m16n8k16_f16"> %0, %1, %acc
      : !sf_tile.tile<64x16xf16>, !sf_tile.tile<16x16xf16>, !sf_tile.tile<64x16xf32> -> !sf_tile.tile<64x16xf32>
    sf_tile.return
  }
}

// -----

// One tile cannot be both an operand and an accumulator's broadcast input.
gpu.module @kernels {
  sf_tile.kernel @two_layouts(%a: memref<64x16xf16>, %b: memref<16x16xf16>, %i: index)
      attributes {config = #sf.kernel_config<tile = 64x16x64, warps = 1x1, atom = mma>, threads = 32 : i64} {
    %zero = arith.constant 0.0 : f32
    // expected-error @below {{expected one layout for a tile, got #sf_tile.layout<}}
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x16xf32>
    %0 = sf_tile.load %a[%i, %i] : memref<64x16xf16> -> !sf_tile.tile<64x16xf16>
    %1 = sf_tile.load %b[%i, %i] : memref<16x16xf16> -> !sf_tile.tile<16x16xf16>
    %2 = sf_tile.mma <"mma_m16n8k16_f16"> %0, %1, %acc
      : !sf_tile.tile<64x16xf16>, !sf_tile.tile<16x16xf16>, !sf_tile.tile<64x16xf32> -> !sf_tile.tile<64x16xf32>
    %3 = sf_tile.map %2, %0 : !sf_tile.tile<64x16xf32>, !sf_tile.tile<64x16xf16> -> !sf_tile.tile<64x16xf32> {
    ^bb0(%x: f32, %y: f16):
      sf_tile.yield %x : f32
    }
    sf_tile.return
  }
}

// -----

// A ring that is read as `a` and as `b`.
gpu.module @kernels {
  sf_tile.kernel @two_ring_layouts(%i: index)
      attributes {config = #sf.kernel_config<tile = 64x64x64, warps = 1x1, atom = mma>, threads = 32 : i64} {
    %zero = arith.constant 0.0 : f32
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x64xf32>
    %ring = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16>
    // expected-error @below {{expected one layout for the ring, got #sf_tile.layout<}}
    %0 = sf_tile.load %ring[%i] : !sf_tile.ring<2 x 64x64xf16> -> !sf_tile.tile<64x16xf16>
    %1 = sf_tile.load %ring[%i] : !sf_tile.ring<2 x 64x64xf16> -> !sf_tile.tile<64x16xf16>
    %2 = sf_tile.mma <"mma_m16n8k16_f16"> %0, %1, %acc
      : !sf_tile.tile<64x16xf16>, !sf_tile.tile<64x16xf16>, !sf_tile.tile<64x64xf32> -> !sf_tile.tile<64x64xf32>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @odd_size(%x: memref<?x48xf16>, %i: index) attributes {threads = 32 : i64} {
    // expected-error @below {{expected tiles of power-of-two sizes, got '!sf_tile.tile<8x48xf16>'}}
    %0 = sf_tile.load %x[%i, %i] : memref<?x48xf16> -> !sf_tile.tile<8x48xf16>
    sf_tile.return
  }
}

// -----

// Rows of 128 bytes one below the other: the 8 rows that ldmatrix reads together all begin at bank 0.
#rows = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 0], [2, 0], [4, 0]]>
#b = #sf_tile.layout<register = [[0, 1], [0, 8]], lane = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], warps = [1], along = [0]>
gpu.module @kernels {
  sf_tile.kernel @bank_conflict(%i: index) attributes {threads = 32 : i64} {
    %ring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16, #rows>
    // expected-error @below {{expected a read without bank conflicts: 4 passes, got 32}}
    %0 = sf_tile.load %ring[%i] : !sf_tile.ring<2 x 8x64xf16, #rows> -> !sf_tile.tile<8x16xf16, #b>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @unassigned_ring(%i: index) attributes {threads = 32 : i64} {
    %ring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16>
    // expected-error @below {{cannot read the ring: expected layouts to be assigned}}
    %0 = sf_tile.load %ring[%i] : !sf_tile.ring<2 x 8x64xf16> -> !sf_tile.tile<8x16xf16>
    sf_tile.return
  }
}

// -----

// Two offsets for one element.
#twice = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [1, 0], [1, 0]]>
#t = #sf_tile.layout<register = [[0, 1], [0, 2]], lane = [[0, 4], [1, 0], [0, 0], [0, 0], [0, 0]], warps = [1], along = [0]>
gpu.module @kernels {
  sf_tile.kernel @not_a_bijection(%i: index) attributes {threads = 32 : i64} {
    %ring = sf_tile.ring : !sf_tile.ring<2 x 2x8xf16, #twice>
    // expected-error @below {{cannot read the ring: expected a stage's layout to be a bijection, got}}
    %0 = sf_tile.load %ring[%i] : !sf_tile.ring<2 x 2x8xf16, #twice> -> !sf_tile.tile<2x8xf16, #t>
    sf_tile.return
  }
}

// -----

// A lane's 16 contiguous bits are less than a bank.
#stage = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [1, 0]]>
#narrow = #sf_tile.layout<register = [[1, 0]], lane = [[0, 1], [0, 2], [0, 4], [0, 0], [0, 0]], warps = [1], along = [0]>
gpu.module @kernels {
  sf_tile.kernel @narrow(%i: index) attributes {threads = 32 : i64} {
    %ring = sf_tile.ring : !sf_tile.ring<2 x 2x8xf16, #stage>
    // expected-error @below {{cannot read the ring: expected at least 32 contiguous bits in a lane's registers, got 16}}
    %0 = sf_tile.load %ring[%i] : !sf_tile.ring<2 x 2x8xf16, #stage> -> !sf_tile.tile<2x8xf16, #narrow>
    sf_tile.return
  }
}

// -----

// A stage of `b` is made of panels of 128 bytes.
gpu.module @kernels {
  sf_tile.kernel @narrow_stage(%a: memref<64x16xf16>, %i: index)
      attributes {config = #sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma>, threads = 32 : i64} {
    %zero = arith.constant 0.0 : f32
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32>
    %ring = sf_tile.ring : !sf_tile.ring<2 x 8x32xf16>
    %0 = sf_tile.load %a[%i, %i] : memref<64x16xf16> -> !sf_tile.tile<64x16xf16>
    // expected-error @below {{expected a stage of whole rows of 128 bytes, a power of two of them along k, got '!sf_tile.ring<2 x 8x32xf16>'}}
    %1 = sf_tile.load %ring[%i] : !sf_tile.ring<2 x 8x32xf16> -> !sf_tile.tile<8x16xf16>
    %2 = sf_tile.mma <"mma_m16n8k16_f16"> %0, %1, %acc
      : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
    sf_tile.return
  }
}

// -----

// A stage of `a` is made of packed chunks.
gpu.module @kernels {
  sf_tile.kernel @part_of_chunk(%b: memref<8x16xf16>, %i: index)
      attributes {config = #sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma>, threads = 32 : i64} {
    %zero = arith.constant 0.0 : f32
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32>
    %ring = sf_tile.ring : !sf_tile.ring<2 x 64x96xf16>
    // expected-error @below {{expected a stage of whole packed chunks, a power of two of them along k, got '!sf_tile.ring<2 x 64x96xf16>'}}
    %0 = sf_tile.load %ring[%i] : !sf_tile.ring<2 x 64x96xf16> -> !sf_tile.tile<64x16xf16>
    %1 = sf_tile.load %b[%i, %i] : memref<8x16xf16> -> !sf_tile.tile<8x16xf16>
    %2 = sf_tile.mma <"mma_m16n8k16_f16"> %0, %1, %acc
      : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
    sf_tile.return
  }
}

// -----

// A warpgroup's warp has 16 features.
gpu.module @kernels {
  sf_tile.kernel @wide_warp(%i: index)
      attributes {config = #sf.kernel_config<tile = 64x64x64, warps = 1x1, atom = mma>, threads = 32 : i64} {
    %zero = arith.constant 0.0 : f32
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x64xf32>
    %x = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16>
    %w = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16>
    %b = sf_tile.load %x[%i] : !sf_tile.ring<2 x 64x64xf16> -> !sf_tile.tile<64x16xf16>
    %a = sf_tile.load %w[%i] : !sf_tile.ring<2 x 64x64xf16> -> !sf_tile.tile<64x16xf16>
    // expected-error @below {{expected a warp's tile to have 16 features, got 64; use another number of warps along features}}
    %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %acc
      : !sf_tile.tile<64x16xf16>, !sf_tile.tile<64x16xf16>, !sf_tile.tile<64x64xf32> -> !sf_tile.tile<64x64xf32>
    sf_tile.return
  }
}

// -----

// A warpgroup's operands are in shared memory.
gpu.module @kernels {
  sf_tile.kernel @operand_in_registers(%x: memref<8x16xf16>, %i: index)
      attributes {config = #sf.kernel_config<tile = 64x8x64, warps = 4x1, atom = wgmma>, threads = 160 : i64} {
    %zero = arith.constant 0.0 : f32
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32>
    %w = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16>
    %b = sf_tile.load %x[%i, %i] : memref<8x16xf16> -> !sf_tile.tile<8x16xf16>
    %a = sf_tile.load %w[%i] : !sf_tile.ring<2 x 64x64xf16> -> !sf_tile.tile<64x16xf16>
    // expected-error @below {{expected the operands of a warpgroup's product to be loaded from rings}}
    %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %acc
      : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
    sf_tile.return
  }
}

// -----

#swizzled = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
gpu.module @kernels {
  sf_tile.kernel @not_an_operand(%i: index) attributes {threads = 32 : i64} {
    %ring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16, #swizzled>
    // expected-error @below {{cannot describe the tile: expected a tile in shared memory to be one operand of products of warpgroups}}
    %0 = sf_tile.load %ring[%i] : !sf_tile.ring<2 x 8x64xf16, #swizzled> -> !sf_tile.tile<8x16xf16, #swizzled>
    sf_tile.return
  }
}
