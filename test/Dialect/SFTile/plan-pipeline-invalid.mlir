// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-plan-pipeline)))"

gpu.module @kernels attributes {sf.target = #sf.target<"sm_86">} {
  sf_tile.kernel @too_deep(%steps: index)
      attributes {config = #sf.kernel_config<tile = 64x8x64, warps = 1x1, stages = 4, atom = mma>, threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %x = sf_tile.ring : !sf_tile.ring<? x 256x64xf16>
    // expected-error @below {{expected at most 3 stages of 32768 bytes on sm_86, got 4 in the kernel's configuration}}
    sf_tile.pipeline %c0 to %steps rings(%x : !sf_tile.ring<? x 256x64xf16>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    }
    sf_tile.return
  }
}

// -----

gpu.module @kernels attributes {sf.target = #sf.target<"sm_86">} {
  sf_tile.kernel @too_large(%steps: index) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %x = sf_tile.ring : !sf_tile.ring<? x 512x64xf16>
    // expected-error @below {{expected two stages to fit in the 101376 bytes of shared memory of sm_86, got stages of 65536; choose a smaller tile}}
    sf_tile.pipeline %c0 to %steps rings(%x : !sf_tile.ring<? x 512x64xf16>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    }
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @no_rings(%steps: index) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    // expected-error @below {{expected a pipeline with rings}}
    sf_tile.pipeline %c0 to %steps producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    }
    sf_tile.return
  }
}

// -----

// Asynchronous products leave 256 of the 227 KiB to their barriers.
gpu.module @kernels attributes {sf.target = #sf.target<"sm_90a">} {
  sf_tile.kernel @beside_barriers(%init: !sf_tile.tile<64x256xi32>, %steps: index) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %x = sf_tile.ring : !sf_tile.ring<? x 256x512xi8>
    // expected-error @below {{expected two stages to fit in the 232184 bytes of shared memory of sm_90a, got stages of 131072; choose a smaller tile}}
    %sum = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<64x256xi32>) rings(%x : !sf_tile.ring<? x 256x512xi8>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x256xi32>):
      %b = sf_tile.load %x[%stage] : !sf_tile.ring<? x 256x512xi8> -> !sf_tile.tile<256x32xi8>
      %a = sf_tile.load %x[%stage] : !sf_tile.ring<? x 256x512xi8> -> !sf_tile.tile<64x32xi8>
      %r = sf_tile.mma <"wgmma_m64k32_s8"> %a, %b, %carried
        : !sf_tile.tile<64x32xi8>, !sf_tile.tile<256x32xi8>, !sf_tile.tile<64x256xi32> -> !sf_tile.tile<64x256xi32>
      sf_tile.yield %r : !sf_tile.tile<64x256xi32>
    } -> !sf_tile.tile<64x256xi32>
    sf_tile.return
  }
}
