// RUN: sparseflow-opt %s --verify-roundtrip | FileCheck %s
// RUN: sparseflow-opt %s --mlir-print-op-generic | sparseflow-opt | FileCheck %s

// Layouts are printed once, as aliases that say where the layout lives.
// CHECK-DAG: #[[STAGE:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [0, 2], [0, 4], [1, 4]]>
// CHECK-DAG: #[[TILE:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}0, 1], [8, 0]], lane = {{\[\[}}0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], warps = [4, 2], along = [0, 1]>
// CHECK-DAG: #[[SLICE:tile[0-9]*]] = #sf_tile.layout<register = {{\[\[}}8, 0]], lane = {{\[\[}}0, 0], [0, 0], [1, 0], [2, 0], [4, 0]], warps = [4, 2], along = [0, -1]>
// CHECK-DAG: #[[PACKING:stage[0-9]*]] = #sf_tile.layout<offset = {{\[\[}}0, 1], [1, 0]]>
#stage = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [1, 4]]>
#tile = #sf_tile.layout<register = [[0, 1], [8, 0]], lane = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], warps = [4, 2], along = [0, 1]>
#slice = #sf_tile.layout<register = [[8, 0]], lane = [[0, 0], [0, 0], [1, 0], [2, 0], [4, 0]], warps = [4, 2], along = [0, -1]>

// CHECK-LABEL: func.func private @types
// CHECK-SAME: !sf_tile.tile<64xf32>
// CHECK-SAME: !sf_tile.tile<64x16xi4>
// CHECK-SAME: !sf_tile.tile<64x16xf16, #[[TILE]]>
// CHECK-SAME: !sf_tile.tile<64x1xf16, #[[SLICE]]>
// CHECK-SAME: !sf_tile.ring<? x 128x64xf8E4M3FN>
// CHECK-SAME: !sf_tile.ring<4 x 2x8xi8, #[[STAGE]]>
// CHECK-SAME: !sf_tile.tile<2x4xi8, #[[STAGE]]>
// CHECK-SAME: !sf_tile.barriers<5>
// CHECK-SAME: !sf_tile.tensor_map<256x64xf16, of = 0>
func.func private @types(!sf_tile.tile<64xf32>, !sf_tile.tile<64x16xi4>, !sf_tile.tile<64x16xf16, #tile>,
                         !sf_tile.tile<64x1xf16, #slice>, !sf_tile.ring<? x 128x64xf8E4M3FN>,
                         !sf_tile.ring<4 x 2x8xi8, #stage>, !sf_tile.tile<2x4xi8, #stage>, !sf_tile.barriers<5>,
                         !sf_tile.tensor_map<256x64xf16, of = 0>)

// CHECK-LABEL: func.func private @attributes
// CHECK-SAME: atom = #sf_tile.atom<"mma_sp_m16n8k64_s8">
// CHECK-SAME: order = #sf_tile<order logical>
// CHECK-SAME: reduce = #sf_tile<reduce max>
// CHECK-SAME: role = #sf_tile<role producer>
func.func private @attributes() attributes {
  atom = #sf_tile.atom<"mma_sp_m16n8k64_s8">, order = #sf_tile<order logical>, reduce = #sf_tile<reduce max>,
  role = #sf_tile<role producer>}

gpu.module @kernels {
  // CHECK-LABEL: sf_tile.kernel @attributes(%{{.*}}: memref<?x64xf16, strided<[?, 1]>>, %{{.*}}: i32)
  // CHECK-SAME: attributes {config = #sf.kernel_config<tile = 64x16x64, warps = 1x1, split_k = 1, raster = 8, atom = mma>, shared_bytes = 1024 : i64, threads = 32 : i64}
  sf_tile.kernel @attributes(%x: memref<?x64xf16, strided<[?, 1]>>, %scalar: i32) attributes {
      config = #sf.kernel_config<tile = 64x16x64, warps = 1x1, atom = mma>, shared_bytes = 1024 : i64, threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %tokens = memref.dim %x, %c0 : memref<?x64xf16, strided<[?, 1]>>
    // CHECK: %{{.*}}, %{{.*}}, %{{.*}} = sf_tile.tile_id %{{.*}} {feature_tiles = 4 : i64, raster = 2 : i64, splits = 3 : i64, tile_tokens = 16 : i64}
    %feature, %token, %split = sf_tile.tile_id %tokens {feature_tiles = 4, raster = 2, splits = 3, tile_tokens = 16}
    // CHECK: %[[FIRST:.*]], %{{.*}}, %{{.*}} = sf_tile.tile_range %{{.*}} {feature_tiles = 4 : i64, splits = 3 : i64, tile_tokens = 16 : i64}
    %first, %end, %step = sf_tile.tile_range %tokens {feature_tiles = 4, splits = 3, tile_tokens = 16}
    // CHECK: sf_tile.tile_id %{{.*}} number %[[FIRST]] {feature_tiles = 4
    %f, %t, %s = sf_tile.tile_id %tokens number %first {feature_tiles = 4, raster = 2, splits = 3, tile_tokens = 16}
    // CHECK: sf_tile.return
    sf_tile.return
  }

  // CHECK-LABEL: sf_tile.kernel @persistent
  // CHECK-SAME: attributes {persistent, threads = 160 : i64}
  sf_tile.kernel @persistent() attributes {persistent, threads = 160 : i64} {
    sf_tile.return
  }

  // CHECK-LABEL: sf_tile.kernel @memory
  sf_tile.kernel @memory(%x: memref<?x64xf16>, %w: memref<4608xi8>, %bias: memref<64xf16>, %step: index, %inside: i1)
      attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    // CHECK: %[[RING:.*]] = sf_tile.ring : <2 x 16x64xf16>
    %ring = sf_tile.ring : !sf_tile.ring<2 x 16x64xf16>
    // CHECK: %[[PACKED:.*]] = sf_tile.ring {offset = 2048 : i64, stride = 6144 : i64} : <2 x 64x32xf16>
    %packed = sf_tile.ring {offset = 2048 : i64, stride = 6144 : i64} : !sf_tile.ring<2 x 64x32xf16>
    // CHECK: %[[VIEW:.*]] = sf_tile.view %{{.*}} {byte_offset = 512 : i64} : memref<4608xi8> to memref<1x1x2048xf16>
    %view = sf_tile.view %w {byte_offset = 512 : i64} : memref<4608xi8> to memref<1x1x2048xf16>
    // CHECK: sf_tile.is_contiguous %{{.*}} : memref<?x64xf16>
    %contiguous = sf_tile.is_contiguous %x : memref<?x64xf16>
    // CHECK: sf_tile.copy_async %{{.*}}[%{{.*}}, %{{.*}}] [16, 64] to %[[RING]][%{{.*}}] logical : memref<?x64xf16> to <2 x 16x64xf16>
    sf_tile.copy_async %x[%step, %c0] [16, 64] to %ring[%c0] logical : memref<?x64xf16> to <2 x 16x64xf16>
    // CHECK: sf_tile.copy_async %[[VIEW]][%{{.*}}, %{{.*}}, %{{.*}}] [1, 1, 2048] to %[[PACKED]][%{{.*}}] if %{{.*}} storage
    sf_tile.copy_async %view[%c0, %step, %c0] [1, 1, 2048] to %packed[%c0] if %inside storage
      : memref<1x1x2048xf16> to <2 x 64x32xf16>
    // CHECK: sf_tile.commit
    sf_tile.commit
    // CHECK: sf_tile.wait {pending = 1 : i64}
    sf_tile.wait {pending = 1}
    // CHECK: sf_tile.load %[[RING]][%{{.*}}] : !sf_tile.ring<2 x 16x64xf16> -> <16x16xf16>
    %0 = sf_tile.load %ring[%c0] : !sf_tile.ring<2 x 16x64xf16> -> !sf_tile.tile<16x16xf16>
    // CHECK: sf_tile.load %[[RING]][%{{.*}}] start [8, 48] : !sf_tile.ring<2 x 16x64xf16> -> <8x16xf16>
    %1 = sf_tile.load %ring[%c0] start [8, 48] : !sf_tile.ring<2 x 16x64xf16> -> !sf_tile.tile<8x16xf16>
    // CHECK: %[[T:.*]] = sf_tile.load %{{.*}}[%{{.*}}, %{{.*}}] : memref<?x64xf16> -> <16x64xf16>
    %2 = sf_tile.load %x[%step, %c0] : memref<?x64xf16> -> !sf_tile.tile<16x64xf16>
    // CHECK: sf_tile.load %{{.*}}[%{{.*}}] dims [0] : memref<64xf16> -> <64x1xf16>
    %3 = sf_tile.load %bias[%c0] dims [0] : memref<64xf16> -> !sf_tile.tile<64x1xf16>
    // CHECK: %[[TRANSPOSED:.*]] = sf_tile.load %{{.*}}[%{{.*}}, %{{.*}}] dims [1, 0] : memref<?x64xf16> -> <64x16xf16>
    %4 = sf_tile.load %x[%step, %c0] dims [1, 0] : memref<?x64xf16> -> !sf_tile.tile<64x16xf16>
    // CHECK: sf_tile.load %{{.*}}[%{{.*}}, %{{.*}}] dims [1, -1] : memref<?x64xf16> -> <1x16xf16>
    %5 = sf_tile.load %x[%step, %c0] dims [1, -1] : memref<?x64xf16> -> !sf_tile.tile<1x16xf16>
    // CHECK: sf_tile.store %[[T]], %{{.*}}[%{{.*}}, %{{.*}}] : <16x64xf16>, memref<?x64xf16>
    sf_tile.store %2, %x[%step, %c0] : !sf_tile.tile<16x64xf16>, memref<?x64xf16>
    // CHECK: sf_tile.store %[[TRANSPOSED]], %{{.*}}[%{{.*}}, %{{.*}}] dims [1, 0] : <64x16xf16>, memref<?x64xf16>
    sf_tile.store %4, %x[%step, %c0] dims [1, 0] : !sf_tile.tile<64x16xf16>, memref<?x64xf16>
    // CHECK: sf_tile.store %{{.*}}, %[[VIEW]][%{{.*}}, %{{.*}}, %{{.*}}] packing #[[PACKING]] : <2x2xf16>, memref<1x1x2048xf16>
    %6 = sf_tile.load %ring[%c0] : !sf_tile.ring<2 x 16x64xf16> -> !sf_tile.tile<2x2xf16>
    sf_tile.store %6, %view[%c0, %step, %c0] packing <offset = [[0, 1], [1, 0]]>
      : !sf_tile.tile<2x2xf16>, memref<1x1x2048xf16>
    sf_tile.return
  }

  // CHECK-LABEL: sf_tile.kernel @pipeline
  sf_tile.kernel @pipeline(%x: memref<?x64xf16>, %steps: index) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f32
    %init = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x16xf32>
    %ring = sf_tile.ring : !sf_tile.ring<? x 16x64xf16>
    // CHECK: sf_tile.pipeline %{{.*}} to %{{.*}} init(%{{.*}} : !sf_tile.tile<64x16xf32>) rings(%{{.*}} : !sf_tile.ring<? x 16x64xf16>) producer {
    %0 = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<64x16xf32>) rings(%ring : !sf_tile.ring<? x 16x64xf16>) producer {
    // CHECK-NEXT: ^bb0(%{{.*}}: index, %{{.*}}: index):
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    // CHECK: } consumer {
    } consumer {
    // CHECK-NEXT: ^bb0(%{{.*}}: index, %{{.*}}: index, %[[CARRIED:.*]]: !sf_tile.tile<64x16xf32>):
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x16xf32>):
      // CHECK-NEXT: sf_tile.yield %[[CARRIED]] : !sf_tile.tile<64x16xf32>
      sf_tile.yield %carried : !sf_tile.tile<64x16xf32>
    // CHECK-NEXT: } -> !sf_tile.tile<64x16xf32>
    } -> !sf_tile.tile<64x16xf32>
    // CHECK: sf_tile.pipeline %{{.*}} to %{{.*}} producer {
    sf_tile.pipeline %c0 to %steps producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index):
      sf_tile.yield
    // CHECK: } {stages = 4 : i64}
    } {stages = 4 : i64}
    sf_tile.return
  }

  // CHECK-LABEL: sf_tile.kernel @cluster
  sf_tile.kernel @cluster(%x: memref<?x64xf32>, %barriers: !sf_tile.barriers<2>, %f: !sf_tile.tile<64x64xf32>, %i: !sf_tile.tile<64x32xi32>)
      attributes {cluster = 4 : i64, threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %tokens = memref.dim %x, %c0 : memref<?x64xf32>
    // CHECK: sf_tile.tile_id %{{.*}} {cluster = 4 : i64, feature_tiles = 3 : i64, raster = 2 : i64, splits = 4 : i64, tile_tokens = 64 : i64}
    %feature, %token, %split = sf_tile.tile_id %tokens {cluster = 4, feature_tiles = 3, raster = 2, splits = 4, tile_tokens = 64}
    // CHECK: %[[SUM:.*]] = sf_tile.reduce_scatter(%{{.*}}) : (!sf_tile.tile<64x64xf32>) -> !sf_tile.tile<64x16xf32>
    %sum = sf_tile.reduce_scatter(%f) : (!sf_tile.tile<64x64xf32>) -> !sf_tile.tile<64x16xf32>
    // CHECK: sf_tile.reduce_scatter(%{{.*}}, %{{.*}}) signals %{{.*}} : !sf_tile.barriers<2> {scratch_offset = 1024 : i64} : (!sf_tile.tile<64x64xf32>, !sf_tile.tile<64x32xi32>) -> (!sf_tile.tile<64x16xf32>, !sf_tile.tile<64x8xi32>)
    %sums:2 = sf_tile.reduce_scatter(%f, %i) signals %barriers : !sf_tile.barriers<2> {scratch_offset = 1024}
      : (!sf_tile.tile<64x64xf32>, !sf_tile.tile<64x32xi32>) -> (!sf_tile.tile<64x16xf32>, !sf_tile.tile<64x8xi32>)
    // CHECK: sf_tile.store %[[SUM]], %{{.*}}[%[[TOKEN:.*]], %{{.*}}] from %[[TOKEN]] dims [1, 0] : <64x16xf32>, memref<?x64xf32>
    sf_tile.store %sum, %x[%token, %c0] from %token dims [1, 0] : !sf_tile.tile<64x16xf32>, memref<?x64xf32>
    // CHECK: sf_tile.store %{{.*}} dims [1, 0] {in_bounds} : <64x16xf32>
    sf_tile.store %sum, %x[%token, %c0] dims [1, 0] {in_bounds} : !sf_tile.tile<64x16xf32>, memref<?x64xf32>
    sf_tile.return
  }
}

// CHECK-LABEL: func.func @roles
func.func @roles(%map: !sf_tile.tensor_map<16x64xf16, of = 0>, %w: memref<1x4x2048xf16>, %stage: index, %parity: i32, %bytes: i32, %on: i1,
                 %acc: !sf_tile.tile<64x16xf32>, %metadata: !sf_tile.tile<64x16xi4>) {
  %ring = sf_tile.ring : !sf_tile.ring<2 x 16x64xf16>
  %packed = sf_tile.ring : !sf_tile.ring<2 x 64x32xf16>
  // CHECK: %[[BARRIERS:.*]] = sf_tile.barriers {consumers = 4 : i64} : <2>
  %barriers = sf_tile.barriers {consumers = 4} : !sf_tile.barriers<2>
  // CHECK: sf_tile.barriers {consumers = 8 : i64, offset = 1024 : i64} : <5>
  %placed = sf_tile.barriers {consumers = 8, offset = 1024} : !sf_tile.barriers<5>
  // CHECK: sf_tile.barriers {cluster = 2 : i64, consumers = 4 : i64, senders = 12 : i64} : <2>
  %inbox = sf_tile.barriers {cluster = 2, consumers = 4, senders = 12} : !sf_tile.barriers<2>
  // CHECK: sf_tile.role producer {
  sf_tile.role producer {
    // CHECK-NEXT: sf_tile.acquire %[[BARRIERS]][%{{.*}}] parity %{{.*}} bytes %{{.*}} : <2>
    sf_tile.acquire %barriers[%stage] parity %parity bytes %bytes : !sf_tile.barriers<2>
    // CHECK-NEXT: sf_tile.copy_async %{{.*}}[%{{.*}}, %{{.*}}] [16, 64] to %{{.*}}[%{{.*}}] signals %[[BARRIERS]] logical : !sf_tile.tensor_map<16x64xf16, of = 0> to <2 x 16x64xf16>, !sf_tile.barriers<2>
    sf_tile.copy_async %map[%stage, %stage] [16, 64] to %ring[%stage] signals %barriers logical
      : !sf_tile.tensor_map<16x64xf16, of = 0> to <2 x 16x64xf16>, !sf_tile.barriers<2>
    // CHECK-NEXT: sf_tile.copy_async %{{.*}}[%{{.*}}, %{{.*}}, %{{.*}}] [1, 1, 2048] to %{{.*}}[%{{.*}}] signals %[[BARRIERS]] storage : memref<1x4x2048xf16> to <2 x 64x32xf16>, !sf_tile.barriers<2>
    sf_tile.copy_async %w[%stage, %stage, %stage] [1, 1, 2048] to %packed[%stage] signals %barriers storage
      : memref<1x4x2048xf16> to <2 x 64x32xf16>, !sf_tile.barriers<2>
  // CHECK-NEXT: } {consumers = 4 : i64}
  } {consumers = 4}
  // CHECK-NEXT: sf_tile.role consumer {
  sf_tile.role consumer {
    // CHECK-NEXT: sf_tile.await %[[BARRIERS]][%{{.*}}] parity %{{.*}} : <2>
    sf_tile.await %barriers[%stage] parity %parity : !sf_tile.barriers<2>
    // CHECK-NEXT: sf_tile.mma_fence
    sf_tile.mma_fence
    // CHECK-NEXT: sf_tile.mma_commit
    sf_tile.mma_commit
    // CHECK-NEXT: sf_tile.mma_wait 1
    sf_tile.mma_wait 1
    // CHECK-NEXT: sf_tile.mma_wait 0(%{{.*}}, %{{.*}} : !sf_tile.tile<64x16xf32>, !sf_tile.tile<64x16xi4>) -> !sf_tile.tile<64x16xf32>, !sf_tile.tile<64x16xi4>
    %0:2 = sf_tile.mma_wait 0(%acc, %metadata : !sf_tile.tile<64x16xf32>, !sf_tile.tile<64x16xi4>)
      -> !sf_tile.tile<64x16xf32>, !sf_tile.tile<64x16xi4>
    // CHECK-NEXT: sf_tile.release %[[BARRIERS]][%{{.*}}] : <2>
    sf_tile.release %barriers[%stage] : !sf_tile.barriers<2>
    // CHECK-NEXT: sf_tile.release %[[BARRIERS]][%{{.*}}] if %{{.*}} : <2>
    sf_tile.release %barriers[%stage] if %on : !sf_tile.barriers<2>
  } {consumers = 4}
  return
}

// CHECK-LABEL: func.func @arithmetic
func.func @arithmetic(%dense: !sf_tile.tile<64x16xf16>, %x: !sf_tile.tile<8x16xf16>, %x2: !sf_tile.tile<8x32xf16>,
                      %metadata: !sf_tile.tile<64x16xi4>, %acc: !sf_tile.tile<64x8xf32>, %scalar: f32) {
  // CHECK: sf_tile.splat %{{.*}} : f32 -> <64x8xf32>
  %0 = sf_tile.splat %scalar : f32 -> !sf_tile.tile<64x8xf32>
  // CHECK: sf_tile.slice %{{.*}}[0, 4] : <64x8xf32> -> <64x4xf32>
  %slice = sf_tile.slice %0[0, 4] : !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x4xf32>
  // CHECK: sf_tile.iota 1 : <64x8xi32>
  %1 = sf_tile.iota 1 : !sf_tile.tile<64x8xi32>
  // CHECK: sf_tile.mma <"mma_m16n8k16_f16"> %{{.*}}, %{{.*}}, %{{.*}} : <64x16xf16>, <8x16xf16>, <64x8xf32> -> <64x8xf32>
  %2 = sf_tile.mma <"mma_m16n8k16_f16"> %dense, %x, %acc
    : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32>
  // CHECK: sf_tile.mma <"mma_sp_m16n8k32_f16"> %{{.*}}, %{{.*}}, %{{.*}} metadata %{{.*}} {metadata_start = 8 : i64} : <64x16xf16>, <8x32xf16>, <64x8xf32>, !sf_tile.tile<64x16xi4> -> <64x8xf32>
  %3 = sf_tile.mma <"mma_sp_m16n8k32_f16"> %dense, %x2, %acc metadata %metadata {metadata_start = 8 : i64}
    : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x32xf16>, !sf_tile.tile<64x8xf32>, !sf_tile.tile<64x16xi4> -> !sf_tile.tile<64x8xf32>
  // CHECK: %[[MAX:.*]] = sf_tile.reduce max %{{.*}} {dim = 0 : i64} : <64x8xf32> -> <1x8xf32>
  %4 = sf_tile.reduce max %acc {dim = 0} : !sf_tile.tile<64x8xf32> -> !sf_tile.tile<1x8xf32>
  // CHECK: sf_tile.reduce add %{{.*}} {dim = 1 : i64, scratch_offset = 0 : i64} : <64x8xf32> -> <64x1xf32>
  %5 = sf_tile.reduce add %acc {dim = 1, scratch_offset = 0} : !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x1xf32>
  // CHECK: sf_tile.map %{{.*}}, %[[MAX]] : !sf_tile.tile<64x8xf32>, !sf_tile.tile<1x8xf32> -> !sf_tile.tile<64x8xf32>, !sf_tile.tile<64x8xf16> {
  // CHECK-NEXT: ^bb0(%{{.*}}: f32, %{{.*}}: f32):
  %6:2 = sf_tile.map %acc, %4 : !sf_tile.tile<64x8xf32>, !sf_tile.tile<1x8xf32> -> !sf_tile.tile<64x8xf32>, !sf_tile.tile<64x8xf16> {
  ^bb0(%a: f32, %b: f32):
    %s = arith.mulf %a, %b : f32
    %h = arith.truncf %s : f32 to f16
    // CHECK: sf_tile.yield %{{.*}}, %{{.*}} : f32, f16
    sf_tile.yield %s, %h : f32, f16
  }
  // CHECK: sf_tile.map !sf_tile.tile<64x8xf32> {
  %7 = sf_tile.map !sf_tile.tile<64x8xf32> {
    sf_tile.yield %scalar : f32
  }
  // CHECK: %[[KEPT:.*]], %[[METADATA:.*]] = sf_tile.compress %{{.*}} : <64x16xf16> -> <64x8xf16>, <64x4xi4>
  %kept, %nibbles = sf_tile.compress %dense : !sf_tile.tile<64x16xf16> -> !sf_tile.tile<64x8xf16>, !sf_tile.tile<64x4xi4>
  // CHECK: sf_tile.decompress %[[KEPT]], %[[METADATA]] : <64x8xf16>, <64x4xi4> -> <64x16xf16>
  %8 = sf_tile.decompress %kept, %nibbles : !sf_tile.tile<64x8xf16>, !sf_tile.tile<64x4xi4> -> !sf_tile.tile<64x16xf16>
  return
}

// CHECK-LABEL: func.func @dependency
func.func @dependency() {
  // CHECK-NEXT: sf_tile.grid_wait
  sf_tile.grid_wait
  // CHECK-NEXT: sf_tile.launch_dependents
  sf_tile.launch_dependents
  return
}

// CHECK-LABEL: func.func @library
func.func @library(%x: tensor<?x64xf16>, %w: tensor<32x64xf16>) -> tensor<?x32xf16> {
  // CHECK: sf_tile.dispatch "sf.matmul 32x64 f16 2:4" %{{.*}} [16, 16, -1, -1]
  %0 = sf_tile.dispatch "sf.matmul 32x64 f16 2:4" %x [16, 16, -1, -1] : tensor<?x64xf16> -> tensor<?x32xf16> {
    // CHECK-NEXT: sf_tile.library_matmul %{{.*}}, %{{.*}} : tensor<?x64xf16>, tensor<32x64xf16> -> tensor<?x32xf16>
    %1 = sf_tile.library_matmul %x, %w : tensor<?x64xf16>, tensor<32x64xf16> -> tensor<?x32xf16>
    sf_tile.yield %1 : tensor<?x32xf16>
  }, {
    %1 = sf_tile.launch @kernels::@small(%x) <blocks = 2> : (tensor<?x64xf16>) -> tensor<?x32xf16>
    sf_tile.yield %1 : tensor<?x32xf16>
  }, {
    %1 = sf_tile.library_matmul %x, %w : tensor<?x64xf16>, tensor<32x64xf16> -> tensor<?x32xf16>
    sf_tile.yield %1 : tensor<?x32xf16>
  }, {
    %1 = sf_tile.launch @kernels::@large(%x) <blocks = 4> : (tensor<?x64xf16>) -> tensor<?x32xf16>
    sf_tile.yield %1 : tensor<?x32xf16>
  }
  return %0 : tensor<?x32xf16>
}

// CHECK-LABEL: func.func @host
func.func @host(%x: tensor<?x64xf16>) -> tensor<?x32xf16> {
  // CHECK: sf_tile.dispatch "sf.matmul 32x64 f16 2:4" %{{.*}} [16, -1] : tensor<?x64xf16> -> tensor<?x32xf16> {
  %0 = sf_tile.dispatch "sf.matmul 32x64 f16 2:4" %x [16, -1] : tensor<?x64xf16> -> tensor<?x32xf16> {
    // CHECK-NEXT: sf_tile.launch @kernels::@small(%{{.*}}) <blocks = 2, rows_of = 0, rows_per_block = 8> : (tensor<?x64xf16>) -> tensor<?x32xf16>
    %1 = sf_tile.launch @kernels::@small(%x) <blocks = 2, rows_of = 0, rows_per_block = 8> : (tensor<?x64xf16>) -> tensor<?x32xf16>
    // CHECK-NEXT: sf_tile.yield %{{.*}} : tensor<?x32xf16>
    sf_tile.yield %1 : tensor<?x32xf16>
  // CHECK-NEXT: }, {
  }, {
    // CHECK-NEXT: sf_tile.launch @kernels::@large(%{{.*}}) <blocks = 4> : (tensor<?x64xf16>) -> tensor<?x32xf16>
    %1 = sf_tile.launch @kernels::@large(%x) <blocks = 4> : (tensor<?x64xf16>) -> tensor<?x32xf16>
    sf_tile.yield %1 : tensor<?x32xf16>
  }
  return %0 : tensor<?x32xf16>
}
