// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-allocate-smem)))" | FileCheck %s

// A stage's parts lie together, each at a multiple of the swizzle's period of 1024 bytes: 4096, then 512 that are rounded up.
// CHECK-LABEL: sf_tile.kernel @rings
// CHECK-SAME: shared_bytes = 15360 : i64
// CHECK: sf_tile.ring {offset = 0 : i64, stride = 5120 : i64} : <3 x 32x64xf16>
// CHECK: sf_tile.ring {offset = 4096 : i64, stride = 5120 : i64} : <3 x 64x16xi4>
gpu.module @kernels {
  sf_tile.kernel @rings() attributes {threads = 32 : i64} {
    %x = sf_tile.ring : !sf_tile.ring<3 x 32x64xf16>
    %m = sf_tile.ring : !sf_tile.ring<3 x 64x16xi4>
    sf_tile.return
  }
}

// -----

#wide = #sf_tile.layout<register = [[0, 1], [1, 0]], lane = [[0, 2], [0, 4], [0, 8], [0, 16], [0, 32]], warps = [1, 2], along = [0, 1]>
#narrow = #sf_tile.layout<register = [[1, 0]], lane = [[0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], warps = [1, 2], along = [0, -1]>
#rows = #sf_tile.layout<register = [[0, 1], [1, 0]], lane = [[0, 2], [0, 4], [0, 8], [0, 16], [0, 32]], warps = [2, 1], along = [0, 1]>
#columns = #sf_tile.layout<register = [[1, 0]], lane = [[0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], warps = [2, 1], along = [0, -1]>

// Scratch of a reduction across warps, 4 bytes for each register of the result and thread, follows the rings; a reduction
// inside of each warp needs none.
// CHECK-LABEL: sf_tile.kernel @scratch
// CHECK-SAME: shared_bytes = 512 : i64
// CHECK: sf_tile.reduce add %{{.*}} {dim = 1 : i64, scratch_offset = 0 : i64}
// CHECK-LABEL: sf_tile.kernel @behind_the_rings
// CHECK-SAME: shared_bytes = 2560 : i64
// CHECK: sf_tile.ring {offset = 0 : i64, stride = 1024 : i64}
// CHECK: sf_tile.reduce add %{{.*}} {dim = 1 : i64, scratch_offset = 2048 : i64}
// CHECK-LABEL: sf_tile.kernel @inside_of_warps
// CHECK-SAME: shared_bytes = 0 : i64
// CHECK: sf_tile.reduce add %{{.*}} {dim = 1 : i64} :
gpu.module @kernels {
  sf_tile.kernel @scratch(%x: memref<2x128xf32>, %i: index) attributes {threads = 64 : i64} {
    %t = sf_tile.load %x[%i, %i] : memref<2x128xf32> -> !sf_tile.tile<2x128xf32, #wide>
    %s = sf_tile.reduce add %t {dim = 1} : !sf_tile.tile<2x128xf32, #wide> -> !sf_tile.tile<2x1xf32, #narrow>
    sf_tile.return
  }
  sf_tile.kernel @behind_the_rings(%x: memref<2x128xf32>, %i: index) attributes {threads = 64 : i64} {
    %ring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16>
    %t = sf_tile.load %x[%i, %i] : memref<2x128xf32> -> !sf_tile.tile<2x128xf32, #wide>
    %s = sf_tile.reduce add %t {dim = 1} : !sf_tile.tile<2x128xf32, #wide> -> !sf_tile.tile<2x1xf32, #narrow>
    sf_tile.return
  }
  sf_tile.kernel @inside_of_warps(%x: memref<4x64xf32>, %i: index) attributes {threads = 64 : i64} {
    %t = sf_tile.load %x[%i, %i] : memref<4x64xf32> -> !sf_tile.tile<4x64xf32, #rows>
    %s = sf_tile.reduce add %t {dim = 1} : !sf_tile.tile<4x64xf32, #rows> -> !sf_tile.tile<4x1xf32, #columns>
    sf_tile.return
  }
}

// -----

// CHECK-LABEL: sf_tile.kernel @none
// CHECK-SAME: shared_bytes = 0 : i64
gpu.module @kernels {
  sf_tile.kernel @none() attributes {threads = 32 : i64} {
    sf_tile.return
  }
}

// -----

#wide = #sf_tile.layout<register = [[0, 1], [1, 0]], lane = [[0, 2], [0, 4], [0, 8], [0, 16], [0, 32]], warps = [1, 2], along = [0, 1]>
#narrow = #sf_tile.layout<register = [[1, 0]], lane = [[0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], warps = [1, 2], along = [0, -1]>

// Barriers, 16 bytes a stage, follow the rings and the scratch.
// CHECK-LABEL: sf_tile.kernel @barriers
// CHECK-SAME: shared_bytes = 15408 : i64
// CHECK: sf_tile.barriers {consumers = 8 : i64, offset = 15360 : i64} : <3>
// CHECK-LABEL: sf_tile.kernel @barriers_behind_scratch
// CHECK-SAME: shared_bytes = 2592 : i64
// CHECK: sf_tile.barriers {consumers = 1 : i64, offset = 2560 : i64} : <2>
// CHECK: sf_tile.reduce add %{{.*}} {dim = 1 : i64, scratch_offset = 2048 : i64}
gpu.module @kernels attributes {sf.target = #sf.target<"sm_90a">} {
  sf_tile.kernel @barriers() attributes {threads = 288 : i64} {
    %x = sf_tile.ring : !sf_tile.ring<3 x 32x64xf16>
    %m = sf_tile.ring : !sf_tile.ring<3 x 64x16xi4>
    %b = sf_tile.barriers {consumers = 8 : i64} : !sf_tile.barriers<3>
    sf_tile.return
  }
  sf_tile.kernel @barriers_behind_scratch(%x: memref<2x128xf32>, %i: index) attributes {threads = 64 : i64} {
    %ring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16>
    %b = sf_tile.barriers {consumers = 1 : i64} : !sf_tile.barriers<2>
    %t = sf_tile.load %x[%i, %i] : memref<2x128xf32> -> !sf_tile.tile<2x128xf32, #wide>
    %s = sf_tile.reduce add %t {dim = 1} : !sf_tile.tile<2x128xf32, #wide> -> !sf_tile.tile<2x1xf32, #narrow>
    sf_tile.return
  }
}

// -----

#wide = #sf_tile.layout<register = [[0, 1], [1, 0]], lane = [[0, 2], [0, 4], [0, 8], [0, 16], [0, 32]], warps = [1, 2], along = [0, 1]>
#narrow = #sf_tile.layout<register = [[1, 0]], lane = [[0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], warps = [1, 2], along = [0, -1]>

// What the other three blocks of a cluster send, 64 x 8 and 64 x 16 words each, has a place of its own behind the stages and the
// scratch of reductions: another block may be ahead. Behind it the barriers, of which the inbox takes 8 bytes more.
// CHECK-LABEL: sf_tile.kernel @inbox
// CHECK-SAME: shared_bytes = 21032 : i64
// CHECK: sf_tile.barriers {consumers = 4 : i64, offset = 20992 : i64, senders = 12 : i64} : <2>
// CHECK: sf_tile.reduce add %{{.*}} {dim = 1 : i64, scratch_offset = 2048 : i64}
// CHECK: sf_tile.reduce_scatter(%{{.*}}, %{{.*}}) {scratch_offset = 2560 : i64}
gpu.module @kernels attributes {sf.target = #sf.target<"sm_90a">} {
  sf_tile.kernel @inbox(%x: memref<2x128xf32>, %i: index, %v: f32) attributes {cluster = 4 : i64, threads = 64 : i64} {
    %ring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16>
    %b = sf_tile.barriers {consumers = 4 : i64, senders = 12 : i64} : !sf_tile.barriers<2>
    %t = sf_tile.load %x[%i, %i] : memref<2x128xf32> -> !sf_tile.tile<2x128xf32, #wide>
    %s = sf_tile.reduce add %t {dim = 1} : !sf_tile.tile<2x128xf32, #wide> -> !sf_tile.tile<2x1xf32, #narrow>
    %p = sf_tile.splat %v : f32 -> !sf_tile.tile<64x32xf32>
    %q = sf_tile.splat %v : f32 -> !sf_tile.tile<64x64xf32>
    %sums:2 = sf_tile.reduce_scatter(%p, %q) : (!sf_tile.tile<64x32xf32>, !sf_tile.tile<64x64xf32>) -> (!sf_tile.tile<64x8xf32>, !sf_tile.tile<64x16xf32>)
    sf_tile.return
  }
}
