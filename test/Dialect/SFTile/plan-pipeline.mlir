// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-plan-pipeline)))" | FileCheck %s
// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-plan-pipeline{bytes-in-flight=16384 max-stages=4})))" | FileCheck %s --check-prefix=FEW

// Stages of 32 KiB: 128 KiB in flight beside the stage that is read want five, and the chip's shared memory says how many
// there are: 163 KiB, 99 KiB and 227 KiB.

// CHECK-LABEL: sf_tile.kernel @sm_80
// CHECK: sf_tile.ring : <5 x 128x64xf16>
// CHECK: sf_tile.ring : <5 x 256x32xf16>
// CHECK: } {stages = 5 : i64}
// FEW-LABEL: sf_tile.kernel @sm_80
// FEW: sf_tile.ring : <2 x 128x64xf16>
// FEW: } {stages = 2 : i64}
gpu.module @kernels attributes {sf.target = #sf.target<"sm_80">} {
  sf_tile.kernel @sm_80(%steps: index) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %x = sf_tile.ring : !sf_tile.ring<? x 128x64xf16>
    %w = sf_tile.ring : !sf_tile.ring<? x 256x32xf16>
    sf_tile.pipeline %c0 to %steps rings(%x, %w : !sf_tile.ring<? x 128x64xf16>, !sf_tile.ring<? x 256x32xf16>) producer {
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

// CHECK-LABEL: sf_tile.kernel @sm_86
// CHECK: } {stages = 3 : i64}
gpu.module @kernels attributes {sf.target = #sf.target<"sm_86">} {
  sf_tile.kernel @sm_86(%steps: index) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %x = sf_tile.ring : !sf_tile.ring<? x 256x64xf16>
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

// A stage of 64 KiB: three fit on sm_90, and are enough.
// CHECK-LABEL: sf_tile.kernel @sm_90
// CHECK: } {stages = 3 : i64}
gpu.module @kernels attributes {sf.target = #sf.target<"sm_90">} {
  sf_tile.kernel @sm_90(%steps: index) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %x = sf_tile.ring : !sf_tile.ring<? x 512x64xf16>
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

// Small stages: as many as are worth having.
// CHECK-LABEL: sf_tile.kernel @small_stages
// CHECK: } {stages = 8 : i64}
// FEW-LABEL: sf_tile.kernel @small_stages
// FEW: } {stages = 4 : i64}
gpu.module @kernels {
  sf_tile.kernel @small_stages(%steps: index) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %x = sf_tile.ring : !sf_tile.ring<? x 8x64xf16>
    sf_tile.pipeline %c0 to %steps rings(%x : !sf_tile.ring<? x 8x64xf16>) producer {
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

// CHECK-LABEL: sf_tile.kernel @configured
// CHECK: sf_tile.ring : <6 x 8x64xf16>
// CHECK: } {stages = 6 : i64}
// FEW-LABEL: sf_tile.kernel @configured
// FEW: } {stages = 6 : i64}
gpu.module @kernels {
  sf_tile.kernel @configured(%steps: index)
      attributes {config = #sf.kernel_config<tile = 64x8x64, warps = 1x1, stages = 6, atom = mma>, threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %x = sf_tile.ring : !sf_tile.ring<? x 8x64xf16>
    sf_tile.pipeline %c0 to %steps rings(%x : !sf_tile.ring<? x 8x64xf16>) producer {
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

// 128 x 256 f16 2:4 by wgmma: 41984 bytes a stage, of which five leave room for their barriers.
// CHECK-LABEL: sf_tile.kernel @asynchronous
// CHECK: } {stages = 5 : i64}
gpu.module @kernels attributes {sf.target = #sf.target<"sm_90a">} {
  sf_tile.kernel @asynchronous(%init: !sf_tile.tile<128x256xf32>, %steps: index) attributes {threads = 288 : i64} {
    %c0 = arith.constant 0 : index
    %x = sf_tile.ring : !sf_tile.ring<? x 256x64xf16>
    %w = sf_tile.ring : !sf_tile.ring<? x 128x32xf16>
    %m = sf_tile.ring : !sf_tile.ring<? x 128x16xi4>
    %sum = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<128x256xf32>)
        rings(%x, %w, %m : !sf_tile.ring<? x 256x64xf16>, !sf_tile.ring<? x 128x32xf16>, !sf_tile.ring<? x 128x16xi4>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<128x256xf32>):
      %b = sf_tile.load %x[%stage] : !sf_tile.ring<? x 256x64xf16> -> !sf_tile.tile<256x32xf16>
      %e = sf_tile.load %m[%stage] : !sf_tile.ring<? x 128x16xi4> -> !sf_tile.tile<128x16xi4>
      %a = sf_tile.load %w[%stage] : !sf_tile.ring<? x 128x32xf16> -> !sf_tile.tile<128x16xf16>
      %r = sf_tile.mma <"wgmma_sp_m64k32_f16"> %a, %b, %carried metadata %e
        : !sf_tile.tile<128x16xf16>, !sf_tile.tile<256x32xf16>, !sf_tile.tile<128x256xf32>, !sf_tile.tile<128x16xi4> -> !sf_tile.tile<128x256xf32>
      sf_tile.yield %r : !sf_tile.tile<128x256xf32>
    } -> !sf_tile.tile<128x256xf32>
    sf_tile.return
  }
}

// -----

// Of the three stages of 64 KiB that fit, one makes room for what the other block of the cluster sends: 128 x 128 words.
// CHECK-LABEL: sf_tile.kernel @inbox
// CHECK: } {stages = 2 : i64}
gpu.module @kernels attributes {sf.target = #sf.target<"sm_90a">} {
  sf_tile.kernel @inbox(%init: !sf_tile.tile<128x256xf32>, %steps: index) attributes {cluster = 2 : i64, threads = 288 : i64} {
    %c0 = arith.constant 0 : index
    %x = sf_tile.ring : !sf_tile.ring<? x 256x128xf16>
    %sum = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<128x256xf32>) rings(%x : !sf_tile.ring<? x 256x128xf16>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<128x256xf32>):
      sf_tile.yield %carried : !sf_tile.tile<128x256xf32>
    } -> !sf_tile.tile<128x256xf32>
    %s = sf_tile.reduce_scatter(%sum) : (!sf_tile.tile<128x256xf32>) -> !sf_tile.tile<128x128xf32>
    sf_tile.return
  }
}
