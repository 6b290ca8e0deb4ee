// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-assign-layouts)))" | FileCheck %s

// The instruction gives a, b, the accumulator and the metadata their fragments (see docs/Layouts.md): `a` is shared by the
// warps along tokens, `b` by those along features. X's ring is swizzled: 16-byte pieces are permuted by the row, with a
// period of 8 rows. The weight's rings have the packed order, whole chunks of 64 features one after the other.
// CHECK-DAG: #[[X:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32], [8, 0], [16, 0]]>
// CHECK-DAG: #[[VALUES:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [1, 0], [0, 8], [0, 2], [0, 4], [8, 0], [16, 0], [32, 0], [2, 0], [4, 0], [0, 16], [64, 0]]>
// CHECK-DAG: #[[METADATA:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [0, 2], [1, 0], [2, 0], [4, 0], [0, 4], [0, 8], [8, 0], [16, 0], [32, 0], [64, 0]]>
// CHECK-DAG: #[[ACC:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}1, 0], [2, 0], [4, 0], [0, 1], [0, 8]], lane = {{\[\[}}0, 2], [0, 4], [8, 0], [16, 0], [32, 0]], warps = [2, 2], along = [0, 1]>
// CHECK-DAG: #[[B:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [0, 8], [0, 16], [8, 0]], lane = {{\[\[}}0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], warps = [2, 2], along = [-1, 0]>
// CHECK-DAG: #[[E:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [0, 2], [1, 0], [2, 0], [4, 0]], lane = {{\[\[}}0, 4], [0, 8], [8, 0], [16, 0], [32, 0]], warps = [2, 2], along = [0, -1]>
// CHECK-DAG: #[[A:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [1, 0], [0, 8], [2, 0], [4, 0]], lane = {{\[\[}}0, 2], [0, 4], [8, 0], [16, 0], [32, 0]], warps = [2, 2], along = [0, -1]>
// CHECK-LABEL: sf_tile.kernel @sparse
// CHECK: sf_tile.splat {{.*}} -> <128x32xf32, #[[ACC]]>
// CHECK: sf_tile.ring : <2 x 32x64xf16, #[[X]]>
// CHECK: sf_tile.ring : <2 x 128x32xf16, #[[VALUES]]>
// CHECK: sf_tile.ring : <2 x 128x16xi4, #[[METADATA]]>
// CHECK: sf_tile.load {{.*}} -> <32x32xf16, #[[B]]>
// CHECK: sf_tile.load {{.*}} -> <128x16xi4, #[[E]]>
// CHECK: sf_tile.load {{.*}} -> <128x16xf16, #[[A]]>
// CHECK: sf_tile.mma {{.*}} -> <128x32xf32, #[[ACC]]>
gpu.module @kernels {
  sf_tile.kernel @sparse(%i: index) attributes {config = #sf.kernel_config<tile = 128x32x64, warps = 2x2, atom = mma_sp>, threads = 128 : i64} {
    %zero = arith.constant 0.0 : f32
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<128x32xf32>
    %x = sf_tile.ring : !sf_tile.ring<2 x 32x64xf16>
    %w = sf_tile.ring : !sf_tile.ring<2 x 128x32xf16>
    %m = sf_tile.ring : !sf_tile.ring<2 x 128x16xi4>
    %b = sf_tile.load %x[%i] start [0, 32] : !sf_tile.ring<2 x 32x64xf16> -> !sf_tile.tile<32x32xf16>
    %e = sf_tile.load %m[%i] : !sf_tile.ring<2 x 128x16xi4> -> !sf_tile.tile<128x16xi4>
    %a = sf_tile.load %w[%i] start [0, 16] : !sf_tile.ring<2 x 128x32xf16> -> !sf_tile.tile<128x16xf16>
    %r = sf_tile.mma <"mma_sp_m16n8k32_f16"> %a, %b, %acc metadata %e {metadata_start = 8 : i64}
      : !sf_tile.tile<128x16xf16>, !sf_tile.tile<32x32xf16>, !sf_tile.tile<128x32xf32>, !sf_tile.tile<128x16xi4> -> !sf_tile.tile<128x32xf32>
    sf_tile.return
  }
}

// -----

// One byte an element: the pieces and registers hold twice as many.
// CHECK-DAG: #[[X:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [0, 64], [1, 16], [2, 32], [4, 64]]>
// CHECK-DAG: #[[VALUES:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [0, 2], [1, 0], [0, 16], [0, 4], [0, 8], [8, 0], [16, 0], [32, 0], [2, 0], [4, 0], [0, 32]]>
// CHECK-DAG: #[[METADATA:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [1, 0], [0, 8], [8, 0], [16, 0], [32, 0], [0, 16]]>
// CHECK-DAG: #[[B:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [0, 2], [0, 16], [0, 32]], lane = {{\[\[}}0, 4], [0, 8], [1, 0], [2, 0], [4, 0]], warps = [1, 1], along = [-1, 0]>
// CHECK-DAG: #[[E:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [0, 2], [0, 4], [2, 0], [4, 0]], lane = {{\[\[}}1, 0], [0, 8], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, -1]>
// CHECK-DAG: #[[A:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [0, 2], [1, 0], [0, 16], [2, 0], [4, 0]], lane = {{\[\[}}0, 4], [0, 8], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, -1]>
// CHECK-LABEL: sf_tile.kernel @bytes
// CHECK: sf_tile.ring : <2 x 8x128xi8, #[[X]]>
// CHECK: sf_tile.ring : <2 x 64x64xi8, #[[VALUES]]>
// CHECK: sf_tile.ring : <2 x 64x32xi4, #[[METADATA]]>
// CHECK: sf_tile.load {{.*}} -> <8x64xi8, #[[B]]>
// CHECK: sf_tile.load {{.*}} -> <64x16xi4, #[[E]]>
// CHECK: sf_tile.load {{.*}} -> <64x32xi8, #[[A]]>
gpu.module @kernels {
  sf_tile.kernel @bytes(%i: index) attributes {config = #sf.kernel_config<tile = 64x8x128, warps = 1x1, atom = mma_sp>, threads = 32 : i64} {
    %zero = arith.constant 0 : i32
    %acc = sf_tile.splat %zero : i32 -> !sf_tile.tile<64x8xi32>
    %x = sf_tile.ring : !sf_tile.ring<2 x 8x128xi8>
    %w = sf_tile.ring : !sf_tile.ring<2 x 64x64xi8>
    %m = sf_tile.ring : !sf_tile.ring<2 x 64x32xi4>
    %b = sf_tile.load %x[%i] : !sf_tile.ring<2 x 8x128xi8> -> !sf_tile.tile<8x64xi8>
    %e = sf_tile.load %m[%i] : !sf_tile.ring<2 x 64x32xi4> -> !sf_tile.tile<64x16xi4>
    %a = sf_tile.load %w[%i] : !sf_tile.ring<2 x 64x64xi8> -> !sf_tile.tile<64x32xi8>
    %r = sf_tile.mma <"mma_sp_m16n8k64_s8"> %a, %b, %acc metadata %e
      : !sf_tile.tile<64x32xi8>, !sf_tile.tile<8x64xi8>, !sf_tile.tile<64x8xi32>, !sf_tile.tile<64x16xi4> -> !sf_tile.tile<64x8xi32>
    sf_tile.return
  }
}

// -----

// No instruction, so a layout for streaming: a lane holds 16 bytes of the type in memory (f16), a warp contiguous rows. What
// the map and the reduction need in one layout gets it; the reduced tile its slice, in which lanes hold copies.
// CHECK-DAG: #[[ROWS:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [0, 2], [0, 4], [4, 0]], lane = {{\[\[}}0, 8], [0, 16], [0, 32], [1, 0], [2, 0]], warps = [2, 1], along = [0, 1]>
// CHECK-DAG: #[[SLICE:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}4, 0]], lane = {{\[\[}}0, 0], [0, 0], [0, 0], [1, 0], [2, 0]], warps = [2, 1], along = [0, -1]>
// CHECK-LABEL: sf_tile.kernel @stream
// CHECK: sf_tile.load {{.*}} -> <16x64xf16, #[[ROWS]]>
// CHECK: sf_tile.map {{.*}} -> !sf_tile.tile<16x64xf32, #[[ROWS]]>
// CHECK: sf_tile.reduce {{.*}} -> <16x1xf32, #[[SLICE]]>
gpu.module @kernels {
  sf_tile.kernel @stream(%x: memref<?x64xf16>, %i: index) attributes {threads = 64 : i64} {
    %c0 = arith.constant 0 : index
    %t = sf_tile.load %x[%i, %c0] : memref<?x64xf16> -> !sf_tile.tile<16x64xf16>
    %d = sf_tile.map %t : !sf_tile.tile<16x64xf16> -> !sf_tile.tile<16x64xf32> {
    ^bb0(%a: f16):
      %b = arith.extf %a : f16 to f32
      sf_tile.yield %b : f32
    }
    %m = sf_tile.reduce max %d {dim = 1} : !sf_tile.tile<16x64xf32> -> !sf_tile.tile<16x1xf32>
    sf_tile.return
  }
}

// -----

// Whole groups of four are in one thread, so kept elements and nibbles lie beside the dense ones.
// CHECK-DAG: #[[DENSE:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [0, 2], [0, 4], [4, 0]], lane = {{\[\[}}0, 8], [0, 16], [0, 32], [1, 0], [2, 0]], warps = [1, 1], along = [0, 1]>
// CHECK-DAG: #[[KEPT:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [0, 2], [4, 0]], lane = {{\[\[}}0, 4], [0, 8], [0, 16], [1, 0], [2, 0]], warps = [1, 1], along = [0, 1]>
// CHECK-DAG: #[[GROUPS:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [4, 0]], lane = {{\[\[}}0, 2], [0, 4], [0, 8], [1, 0], [2, 0]], warps = [1, 1], along = [0, 1]>
// CHECK-LABEL: sf_tile.kernel @compress
// CHECK: sf_tile.compress {{.*}} : <8x64xf16, #[[DENSE]]> -> <8x32xf16, #[[KEPT]]>, <8x16xi4, #[[GROUPS]]>
gpu.module @kernels {
  sf_tile.kernel @compress(%x: memref<?x64xf16>, %i: index) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %t = sf_tile.load %x[%i, %c0] : memref<?x64xf16> -> !sf_tile.tile<8x64xf16>
    %k, %m = sf_tile.compress %t : !sf_tile.tile<8x64xf16> -> !sf_tile.tile<8x32xf16>, !sf_tile.tile<8x16xi4>
    sf_tile.return
  }
}

// -----

// More threads than elements: lanes and a last axis of warps hold copies.
// CHECK: #[[COPIES:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}1], [2]], lane = {{\[\[}}4], [8], [16], [0], [0]], warps = [1, 4], along = [0, -1]>
// CHECK-LABEL: sf_tile.kernel @copies
// CHECK: sf_tile.load {{.*}} -> <32xf32, #[[COPIES]]>
gpu.module @kernels {
  sf_tile.kernel @copies(%x: memref<32xf32>, %i: index) attributes {threads = 128 : i64} {
    %t = sf_tile.load %x[%i] : memref<32xf32> -> !sf_tile.tile<32xf32>
    sf_tile.return
  }
}

// -----

// A warpgroup's instruction reads shared memory itself: `a` and `b` stay in the layout of their stage, and only metadata and the
// accumulator get fragments, in which a lane owns 2 contiguous features. Values are core matrices, 8 rows of 16 bytes; every
// further warpgroup takes the next 64 features.
// CHECK-DAG: #[[X:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32], [8, 0], [16, 0]]>
// CHECK-DAG: #[[VALUES:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16], [64, 0]]>
// CHECK-DAG: #[[METADATA:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [0, 2], [1, 0], [0, 4], [0, 8], [2, 0], [4, 0], [8, 0], [16, 0], [32, 0], [64, 0]]>
// CHECK-DAG: #[[ACC:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}1, 0], [0, 1], [0, 8], [0, 16]], lane = {{\[\[}}0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [8, 1], along = [0, 1]>
// CHECK-DAG: #[[E:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [0, 2], [1, 0]], lane = {{\[\[}}0, 4], [0, 8], [2, 0], [4, 0], [8, 0]], warps = [8, 1], along = [0, -1]>
// CHECK-LABEL: sf_tile.kernel @warpgroups
// CHECK: sf_tile.splat {{.*}} -> <128x32xf32, #[[ACC]]>
// CHECK: sf_tile.ring : <2 x 32x64xf16, #[[X]]>
// CHECK: sf_tile.ring : <2 x 128x32xf16, #[[VALUES]]>
// CHECK: sf_tile.ring : <2 x 128x16xi4, #[[METADATA]]>
// CHECK: sf_tile.load {{.*}} -> <32x32xf16, #[[X]]>
// CHECK: sf_tile.load {{.*}} -> <128x16xi4, #[[E]]>
// CHECK: sf_tile.load {{.*}} -> <128x16xf16, #[[VALUES]]>
// CHECK: sf_tile.mma {{.*}} -> <128x32xf32, #[[ACC]]>
gpu.module @kernels {
  sf_tile.kernel @warpgroups(%i: index) attributes {config = #sf.kernel_config<tile = 128x32x64, warps = 8x1, atom = wgmma_sp>, threads = 288 : i64} {
    %zero = arith.constant 0.0 : f32
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<128x32xf32>
    %x = sf_tile.ring : !sf_tile.ring<2 x 32x64xf16>
    %w = sf_tile.ring : !sf_tile.ring<2 x 128x32xf16>
    %m = sf_tile.ring : !sf_tile.ring<2 x 128x16xi4>
    %b = sf_tile.load %x[%i] start [0, 32] : !sf_tile.ring<2 x 32x64xf16> -> !sf_tile.tile<32x32xf16>
    %e = sf_tile.load %m[%i] : !sf_tile.ring<2 x 128x16xi4> -> !sf_tile.tile<128x16xi4>
    %a = sf_tile.load %w[%i] start [0, 16] : !sf_tile.ring<2 x 128x32xf16> -> !sf_tile.tile<128x16xf16>
    %r = sf_tile.mma <"wgmma_sp_m64k32_f16"> %a, %b, %acc metadata %e {metadata_start = 8 : i64}
      : !sf_tile.tile<128x16xf16>, !sf_tile.tile<32x32xf16>, !sf_tile.tile<128x32xf32>, !sf_tile.tile<128x16xi4> -> !sf_tile.tile<128x32xf32>
    sf_tile.return
  }
}

// -----

// Values that the instruction takes in registers are a fragment of four, from the same stage of core matrices.
// CHECK-DAG: #[[FRAGMENT:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [1, 0], [0, 8]], lane = {{\[\[}}0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [8, 1], along = [0, -1]>
// CHECK-DAG: #[[VALUES:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16], [64, 0]]>
// CHECK-LABEL: sf_tile.kernel @values_in_registers
// CHECK: sf_tile.ring : <2 x 128x32xf16, #[[VALUES]]>
// CHECK: sf_tile.load {{.*}} -> <128x16xf16, #[[FRAGMENT]]>
gpu.module @kernels {
  sf_tile.kernel @values_in_registers(%i: index) attributes {config = #sf.kernel_config<tile = 128x32x64, warps = 8x1, atom = wgmma_sp_rs>, threads = 288 : i64} {
    %zero = arith.constant 0.0 : f32
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<128x32xf32>
    %x = sf_tile.ring : !sf_tile.ring<2 x 32x64xf16>
    %w = sf_tile.ring : !sf_tile.ring<2 x 128x32xf16>
    %m = sf_tile.ring : !sf_tile.ring<2 x 128x16xi4>
    %b = sf_tile.load %x[%i] start [0, 32] : !sf_tile.ring<2 x 32x64xf16> -> !sf_tile.tile<32x32xf16>
    %e = sf_tile.load %m[%i] : !sf_tile.ring<2 x 128x16xi4> -> !sf_tile.tile<128x16xi4>
    %a = sf_tile.load %w[%i] start [0, 16] : !sf_tile.ring<2 x 128x32xf16> -> !sf_tile.tile<128x16xf16>
    %r = sf_tile.mma <"wgmma_sp_rs_m64k32_f16"> %a, %b, %acc metadata %e {metadata_start = 8 : i64}
      : !sf_tile.tile<128x16xf16>, !sf_tile.tile<32x32xf16>, !sf_tile.tile<128x32xf32>, !sf_tile.tile<128x16xi4> -> !sf_tile.tile<128x32xf32>
    sf_tile.return
  }
}

// -----

// What a block of a cluster gets of the accumulators, 24 tokens of 48, has their layout with half of the registers; what follows
// is derived from that.
// CHECK-DAG: #[[ACC:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}1, 0], [0, 1], [0, 8], [0, 16], [0, 32]], lane = {{\[\[}}0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [8, 1], along = [0, 1], used = 24>
// CHECK-DAG: #[[SHARE:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}1, 0], [0, 1], [0, 8], [0, 16]], lane = {{\[\[}}0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [8, 1], along = [0, 1], used = 12>
// CHECK-DAG: #[[SLICE:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}1, 0], [0, 1]], lane = {{\[\[}}0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [8, 1], along = [0, 1]>
// CHECK-LABEL: sf_tile.kernel @shares
// CHECK: sf_tile.reduce_scatter({{.*}}) : (!sf_tile.tile<128x48xf32, #[[ACC]]>, !sf_tile.tile<128x48xf32, #[[ACC]]>) -> (!sf_tile.tile<128x24xf32, #[[SHARE]]>, !sf_tile.tile<128x24xf32, #[[SHARE]]>)
// CHECK: sf_tile.slice %{{.*}}[0, 8] : <128x24xf32, #[[SHARE]]> -> <128x8xf32, #[[SLICE]]>
gpu.module @kernels {
  sf_tile.kernel @shares(%i: index)
      attributes {cluster = 2 : i64, config = #sf.kernel_config<tile = 128x48x64, warps = 8x1, split_k = 2, cluster = 2, atom = wgmma>, threads = 288 : i64} {
    %zero = arith.constant 0.0 : f32
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<128x48xf32>
    %x = sf_tile.ring : !sf_tile.ring<2 x 48x64xf16>
    %w = sf_tile.ring : !sf_tile.ring<2 x 128x64xf16>
    %v = sf_tile.ring : !sf_tile.ring<2 x 128x64xf16>
    %b = sf_tile.load %x[%i] start [0, 0] : !sf_tile.ring<2 x 48x64xf16> -> !sf_tile.tile<48x16xf16>
    %a = sf_tile.load %w[%i] start [0, 0] : !sf_tile.ring<2 x 128x64xf16> -> !sf_tile.tile<128x16xf16>
    %c = sf_tile.load %v[%i] start [0, 0] : !sf_tile.ring<2 x 128x64xf16> -> !sf_tile.tile<128x16xf16>
    %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %acc
      : !sf_tile.tile<128x16xf16>, !sf_tile.tile<48x16xf16>, !sf_tile.tile<128x48xf32> -> !sf_tile.tile<128x48xf32>
    %q = sf_tile.mma <"wgmma_m64k16_f16"> %c, %b, %acc
      : !sf_tile.tile<128x16xf16>, !sf_tile.tile<48x16xf16>, !sf_tile.tile<128x48xf32> -> !sf_tile.tile<128x48xf32>
    %s:2 = sf_tile.reduce_scatter(%r, %q)
      : (!sf_tile.tile<128x48xf32>, !sf_tile.tile<128x48xf32>) -> (!sf_tile.tile<128x24xf32>, !sf_tile.tile<128x24xf32>)
    %t = sf_tile.slice %s#0[0, 8] : !sf_tile.tile<128x24xf32> -> !sf_tile.tile<128x8xf32>
    sf_tile.return
  }
}
