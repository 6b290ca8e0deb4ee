// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-allocate-smem)))"

gpu.module @kernels attributes {sf.target = #sf.target<"sm_86">} {
  // expected-error @below {{expected at most 101376 bytes of shared memory on sm_86, got 131072; choose a smaller tile or fewer stages}}
  sf_tile.kernel @too_much() attributes {threads = 32 : i64} {
    %x = sf_tile.ring : !sf_tile.ring<4 x 256x64xf16>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @no_depth() attributes {threads = 32 : i64} {
    // expected-error @below {{expected a known depth; run sf-tile-plan-pipeline first}}
    %x = sf_tile.ring : !sf_tile.ring<? x 8x64xf16>
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @no_layout(%x: memref<2x128xf32>, %i: index) attributes {threads = 64 : i64} {
    %t = sf_tile.load %x[%i, %i] : memref<2x128xf32> -> !sf_tile.tile<2x128xf32>
    // expected-error @below {{expected layouts to be assigned; run sf-tile-assign-layouts first}}
    %s = sf_tile.reduce add %t {dim = 1} : !sf_tile.tile<2x128xf32> -> !sf_tile.tile<2x1xf32>
    sf_tile.return
  }
}
