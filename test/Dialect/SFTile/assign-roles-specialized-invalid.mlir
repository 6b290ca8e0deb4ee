// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-assign-roles)))"

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16], [0, 32]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>

gpu.module @kernels {
  // expected-error @below {{expected whole warpgroups and one warp more for the producer, got 128 threads}}
  sf_tile.kernel @no_producer(%init: !sf_tile.tile<64x8xf32, #acc>, %steps: index) attributes {threads = 128 : i64} {
    %c0 = arith.constant 0 : index
    %xring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16, #x>
    %wring = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16, #w>
    %sum = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<64x8xf32, #acc>)
        rings(%xring, %wring : !sf_tile.ring<2 x 8x64xf16, #x>, !sf_tile.ring<2 x 64x64xf16, #w>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x8xf32, #acc>):
      %b = sf_tile.load %xring[%stage] : !sf_tile.ring<2 x 8x64xf16, #x> -> !sf_tile.tile<8x16xf16, #x>
      %a = sf_tile.load %wring[%stage] : !sf_tile.ring<2 x 64x64xf16, #w> -> !sf_tile.tile<64x16xf16, #w>
      %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %carried
        : !sf_tile.tile<64x16xf16, #w>, !sf_tile.tile<8x16xf16, #x>, !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc>
      sf_tile.yield %r : !sf_tile.tile<64x8xf32, #acc>
    } {stages = 2 : i64} -> !sf_tile.tile<64x8xf32, #acc>
    sf_tile.return
  }
}

// -----

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16], [0, 32]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>

gpu.module @kernels {
  sf_tile.kernel @nested(%tokens: index, %init: !sf_tile.tile<64x8xf32, #acc>, %steps: index) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %feature, %token, %split = sf_tile.tile_id %tokens {feature_tiles = 1, tile_tokens = 8, splits = 1, raster = 1}
    %xring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16, #x>
    %wring = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16, #w>
    scf.for %i = %c0 to %steps step %c1 {
      // expected-error @below {{expected the pipeline to stand directly in the kernel}}
      %sum = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<64x8xf32, #acc>)
          rings(%xring, %wring : !sf_tile.ring<2 x 8x64xf16, #x>, !sf_tile.ring<2 x 64x64xf16, #w>) producer {
      ^bb0(%step: index, %stage: index):
        sf_tile.yield
      } consumer {
      ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x8xf32, #acc>):
        %b = sf_tile.load %xring[%stage] : !sf_tile.ring<2 x 8x64xf16, #x> -> !sf_tile.tile<8x16xf16, #x>
        %a = sf_tile.load %wring[%stage] : !sf_tile.ring<2 x 64x64xf16, #w> -> !sf_tile.tile<64x16xf16, #w>
        %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %carried
          : !sf_tile.tile<64x16xf16, #w>, !sf_tile.tile<8x16xf16, #x>, !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc>
        sf_tile.yield %r : !sf_tile.tile<64x8xf32, #acc>
      } {stages = 2 : i64} -> !sf_tile.tile<64x8xf32, #acc>
    }
    sf_tile.return
  }
}

// -----

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16], [0, 32]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>

gpu.module @kernels {
  sf_tile.kernel @no_tile(%init: !sf_tile.tile<64x8xf32, #acc>, %steps: index) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %xring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16, #x>
    %wring = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16, #w>
    // expected-error @below {{expected one tile_id before the pipeline, got 0}}
    %sum = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<64x8xf32, #acc>)
        rings(%xring, %wring : !sf_tile.ring<2 x 8x64xf16, #x>, !sf_tile.ring<2 x 64x64xf16, #w>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x8xf32, #acc>):
      %b = sf_tile.load %xring[%stage] : !sf_tile.ring<2 x 8x64xf16, #x> -> !sf_tile.tile<8x16xf16, #x>
      %a = sf_tile.load %wring[%stage] : !sf_tile.ring<2 x 64x64xf16, #w> -> !sf_tile.tile<64x16xf16, #w>
      %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %carried
        : !sf_tile.tile<64x16xf16, #w>, !sf_tile.tile<8x16xf16, #x>, !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc>
      sf_tile.yield %r : !sf_tile.tile<64x8xf32, #acc>
    } {stages = 2 : i64} -> !sf_tile.tile<64x8xf32, #acc>
    sf_tile.return
  }
}

// -----

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16], [0, 32]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>

gpu.module @kernels {
  sf_tile.kernel @condition(%x: memref<?x256xf16>, %tokens: index, %init: !sf_tile.tile<64x8xf32, #acc>, %steps: index, %on: i1) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %feature, %token, %split = sf_tile.tile_id %tokens {feature_tiles = 1, tile_tokens = 8, splits = 1, raster = 1}
    %xring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16, #x>
    %wring = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16, #w>
    %sum = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<64x8xf32, #acc>)
        rings(%xring, %wring : !sf_tile.ring<2 x 8x64xf16, #x>, !sf_tile.ring<2 x 64x64xf16, #w>) producer {
    ^bb0(%step: index, %stage: index):
      // expected-error @below {{expected a copy without a condition: the copy engine has none}}
      sf_tile.copy_async %x[%c0, %step] [8, 64] to %xring[%stage] if %on logical : memref<?x256xf16> to <2 x 8x64xf16, #x>
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x8xf32, #acc>):
      %b = sf_tile.load %xring[%stage] : !sf_tile.ring<2 x 8x64xf16, #x> -> !sf_tile.tile<8x16xf16, #x>
      %a = sf_tile.load %wring[%stage] : !sf_tile.ring<2 x 64x64xf16, #w> -> !sf_tile.tile<64x16xf16, #w>
      %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %carried
        : !sf_tile.tile<64x16xf16, #w>, !sf_tile.tile<8x16xf16, #x>, !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc>
      sf_tile.yield %r : !sf_tile.tile<64x8xf32, #acc>
    } {stages = 2 : i64} -> !sf_tile.tile<64x8xf32, #acc>
    sf_tile.return
  }
}

// -----

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16], [0, 32]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>

gpu.module @kernels {
  sf_tile.kernel @view(%packed: memref<1024xi8>, %tokens: index, %init: !sf_tile.tile<64x8xf32, #acc>, %steps: index) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %feature, %token, %split = sf_tile.tile_id %tokens {feature_tiles = 1, tile_tokens = 8, splits = 1, raster = 1}
    %x = sf_tile.view %packed {byte_offset = 0 : i64} : memref<1024xi8> to memref<8x64xf16>
    %xring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16, #x>
    %wring = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16, #w>
    %sum = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<64x8xf32, #acc>)
        rings(%xring, %wring : !sf_tile.ring<2 x 8x64xf16, #x>, !sf_tile.ring<2 x 64x64xf16, #w>) producer {
    ^bb0(%step: index, %stage: index):
      // expected-error @below {{expected the source to be an argument of the kernel: its tensor map is made before the launch}}
      sf_tile.copy_async %x[%c0, %step] [8, 64] to %xring[%stage] logical : memref<8x64xf16> to <2 x 8x64xf16, #x>
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x8xf32, #acc>):
      %b = sf_tile.load %xring[%stage] : !sf_tile.ring<2 x 8x64xf16, #x> -> !sf_tile.tile<8x16xf16, #x>
      %a = sf_tile.load %wring[%stage] : !sf_tile.ring<2 x 64x64xf16, #w> -> !sf_tile.tile<64x16xf16, #w>
      %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %carried
        : !sf_tile.tile<64x16xf16, #w>, !sf_tile.tile<8x16xf16, #x>, !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc>
      sf_tile.yield %r : !sf_tile.tile<64x8xf32, #acc>
    } {stages = 2 : i64} -> !sf_tile.tile<64x8xf32, #acc>
    sf_tile.return
  }
}

// -----

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32], [8, 0]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16], [0, 32]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1], [0, 8]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>
#share = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>

gpu.module @kernels {
  // expected-error @below {{expected one reduce_scatter, of all tiles: the inbox has one phase; got 2}}
  sf_tile.kernel @two_sums(%x: memref<?x128xf16>, %w: memref<4x2x4096xf16>) attributes {cluster = 2 : i64, threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %tokens = memref.dim %x, %c0 : memref<?x128xf16>
    %feature, %token, %split = sf_tile.tile_id %tokens {cluster = 2, feature_tiles = 4, tile_tokens = 16, splits = 2, raster = 2}
    %upper = arith.addi %split, %c1 : index
    %zero = arith.constant 0.0 : f32
    %init = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x16xf32, #acc>
    %xring = sf_tile.ring : !sf_tile.ring<3 x 16x64xf16, #x>
    %wring = sf_tile.ring : !sf_tile.ring<3 x 64x64xf16, #w>
    %sum = sf_tile.pipeline %split to %upper init(%init : !sf_tile.tile<64x16xf32, #acc>)
        rings(%xring, %wring : !sf_tile.ring<3 x 16x64xf16, #x>, !sf_tile.ring<3 x 64x64xf16, #w>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.copy_async %x[%token, %step] [16, 64] to %xring[%stage] logical : memref<?x128xf16> to <3 x 16x64xf16, #x>
      sf_tile.copy_async %w[%feature, %step, %c0] [1, 1, 4096] to %wring[%stage] storage : memref<4x2x4096xf16> to <3 x 64x64xf16, #w>
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x16xf32, #acc>):
      %b = sf_tile.load %xring[%stage] start [0, 0] : !sf_tile.ring<3 x 16x64xf16, #x> -> !sf_tile.tile<16x16xf16, #x>
      %a = sf_tile.load %wring[%stage] start [0, 0] : !sf_tile.ring<3 x 64x64xf16, #w> -> !sf_tile.tile<64x16xf16, #w>
      %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %carried
        : !sf_tile.tile<64x16xf16, #w>, !sf_tile.tile<16x16xf16, #x>, !sf_tile.tile<64x16xf32, #acc> -> !sf_tile.tile<64x16xf32, #acc>
      sf_tile.yield %r : !sf_tile.tile<64x16xf32, #acc>
    } {stages = 3 : i64} -> !sf_tile.tile<64x16xf32, #acc>
    %one = sf_tile.reduce_scatter(%sum) : (!sf_tile.tile<64x16xf32, #acc>) -> !sf_tile.tile<64x8xf32, #share>
    %two = sf_tile.reduce_scatter(%sum) : (!sf_tile.tile<64x16xf32, #acc>) -> !sf_tile.tile<64x8xf32, #share>
    sf_tile.return
  }
}
