// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-assign-roles)))"

gpu.module @kernels {
  sf_tile.kernel @no_depth(%steps: index) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    // expected-error @below {{expected at least two stages; run sf-tile-plan-pipeline first}}
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

gpu.module @kernels {
  sf_tile.kernel @no_product(%steps: index) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    // expected-error @below {{expected a consumer that ends in a matrix product}}
    sf_tile.pipeline %c0 to %steps producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } {stages = 2 : i64}
    sf_tile.return
  }
}

// -----

gpu.module @kernels {
  sf_tile.kernel @other_work(%steps: index) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    sf_tile.pipeline %c0 to %steps producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index):
      // expected-error @below {{expected a consumer of loads and matrix products}}
      %0 = sf_tile.iota 0 : !sf_tile.tile<8xi32>
      sf_tile.yield
    } {stages = 2 : i64}
    sf_tile.return
  }
}
