// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-assign-roles)))" | FileCheck %s

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16]]>
#m = #sf_tile.layout<offset = [[0, 1], [0, 2], [1, 0], [0, 4], [0, 8], [2, 0], [4, 0], [8, 0], [16, 0], [32, 0]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>
#e = #sf_tile.layout<register = [[0, 1], [0, 2], [1, 0]], lane = [[0, 4], [0, 8], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, -1]>

// Five warps: four consume, one thread of the fifth produces. X's copy goes through a tensor map, a further argument, whose box is
// a row of 128 bytes wide; the weight's copies need none.
//
// CHECK-LABEL: sf_tile.kernel @two_products
// CHECK-SAME: %[[X:[a-z0-9]+]]: memref<?x256xf16>, %[[W:[a-z0-9]+]]: memref<4x4x2048xf16>, %[[M:[a-z0-9]+]]: memref<4x4x128xi32>, %[[STEPS:[a-z0-9]+]]: index, %[[MAP:[a-z0-9]+]]: !sf_tile.tensor_map<8x64xf16, of = 0>
// CHECK-SAME: attributes {persistent,
// CHECK-NOT: sf_tile.tile_id
// CHECK: %[[TOKENS:.*]] = memref.dim %[[X]]
// CHECK: %[[INIT:.*]] = sf_tile.splat
// CHECK: %[[XRING:.*]] = sf_tile.ring : <3 x 8x64xf16
// CHECK: %[[WRING:.*]] = sf_tile.ring : <3 x 64x32xf16
// CHECK: %[[MRING:.*]] = sf_tile.ring : <3 x 64x16xi4
// CHECK: %[[BARRIERS:.*]] = sf_tile.barriers {consumers = 4 : i64} : <3>
//
// The bytes of a stage's three parts, 1024 + 4096 + 512, less 128 for each row of X's box that the matrix has not.
// CHECK: %[[ROWS:.*]] = arith.minsi %[[TOKENS]], %c8{{.*}} : index
// CHECK: %[[MISSING:.*]] = arith.subi %c8{{.*}}, %[[ROWS]] : index
// CHECK: %[[LESS:.*]] = arith.muli %[[MISSING]], %c128 : index
// CHECK: %[[LESS_I32:.*]] = arith.index_cast %[[LESS]] : index to i32
// CHECK: %[[BYTES:.*]] = arith.subi %c5632_i32, %[[LESS_I32]] : i32
//
// The producer. Blocks stay and take one tile after the other; the position in the ring goes on from tile to tile. A stage's first
// phase, empty, counts as over, hence parity 1.
// CHECK: sf_tile.role producer {
// CHECK-NEXT: %[[FIRST:.*]], %[[END:.*]], %[[STEP:.*]] = sf_tile.tile_range %{{.*}} {feature_tiles = 4 : i64, splits = 1 : i64, tile_tokens = 8 : i64}
// CHECK:      scf.for %[[TILE:.*]] = %[[FIRST]] to %[[END]] step %[[STEP]] iter_args(%[[S0:.*]] = %c0{{.*}}, %[[P0:.*]] = %c1_i32) -> (index, i32) {
// CHECK-NEXT:   %[[FEATURE:.*]], %[[TOKEN:.*]], %{{.*}} = sf_tile.tile_id %{{.*}} number %[[TILE]] {feature_tiles = 4 : i64, raster = 2 : i64, splits = 1 : i64, tile_tokens = 8 : i64}
// CHECK-NEXT:   %[[ROW:.*]] = arith.muli %[[TOKEN]], %{{.*}} : index
//
// In each step: wait until the stage is empty, announce the bytes, issue the copies. The parity flips where the stage returns to 0.
// CHECK:        %[[FILLED:.*]]:2 = scf.for %[[K:.*]] = %{{.*}} to %[[STEPS]] step %{{.*}} iter_args(%[[S:.*]] = %[[S0]], %[[P:.*]] = %[[P0]]) -> (index, i32) {
// CHECK-NEXT:     sf_tile.acquire %[[BARRIERS]][%[[S]]] parity %[[P]] bytes %[[BYTES]] : <3>
// CHECK-NEXT:     sf_tile.copy_async %[[MAP]][%[[ROW]], %[[K]]] [8, 64] to %[[XRING]][%[[S]]] signals %[[BARRIERS]] logical
// CHECK-NEXT:     sf_tile.copy_async %[[W]][%[[FEATURE]], %[[K]], %{{.*}}] [1, 1, 2048] to %[[WRING]][%[[S]]] signals %[[BARRIERS]] storage
// CHECK-NEXT:     sf_tile.copy_async %[[M]][%[[FEATURE]], %[[K]], %{{.*}}] [1, 1, 128] to %[[MRING]][%[[S]]] signals %[[BARRIERS]] storage
// CHECK:          %[[NEXT:.*]] = arith.addi %[[S]], %{{.*}} : index
// CHECK:          %[[WRAPS:.*]] = arith.cmpi eq, %[[NEXT]], %c3{{.*}} : index
// CHECK:          %[[STAGE:.*]] = arith.select %[[WRAPS]], %c0{{.*}}, %[[NEXT]] : index
// CHECK-NEXT:     %[[FLIP:.*]] = arith.extui %[[WRAPS]] : i1 to i32
// CHECK-NEXT:     %[[PARITY:.*]] = arith.xori %[[P]], %[[FLIP]] : i32
// CHECK-NEXT:     scf.yield %[[STAGE]], %[[PARITY]] : index, i32
// CHECK:        scf.yield %[[FILLED]]#0, %[[FILLED]]#1 : index, i32
// CHECK: } {consumers = 4 : i64}
//
// The consumers take the same tiles and begin with parity 0. All loads come first, then the products between a fence and a commit,
// and nothing else there. The wait gives back what the products write and what they read in registers: the sum and the metadata.
// CHECK: sf_tile.role consumer {
// CHECK:      scf.for %[[TILE:.*]] = %{{.*}} to %{{.*}} step %{{.*}} iter_args(%[[S0:.*]] = %c0{{.*}}, %[[P0:.*]] = %c0_i32) -> (index, i32) {
// CHECK-NEXT:   sf_tile.tile_id %{{.*}} number %[[TILE]]
// CHECK:        %[[LOOP:.*]]:3 = scf.for %{{.*}} = %{{.*}} to %[[STEPS]] step %{{.*}} iter_args(%[[SUM:.*]] = %[[INIT]], %[[S:.*]] = %[[S0]], %[[P:.*]] = %[[P0]])
// CHECK-NEXT:     sf_tile.await %[[BARRIERS]][%[[S]]] parity %[[P]] : <3>
// CHECK-NEXT:     %[[B0:.*]] = sf_tile.load %[[XRING]][%[[S]]] start [0, 0]
// CHECK-NEXT:     %[[E:.*]] = sf_tile.load %[[MRING]][%[[S]]]
// CHECK-NEXT:     %[[A0:.*]] = sf_tile.load %[[WRING]][%[[S]]] start [0, 0]
// CHECK-NEXT:     %[[B1:.*]] = sf_tile.load %[[XRING]][%[[S]]] start [0, 32]
// CHECK-NEXT:     %[[A1:.*]] = sf_tile.load %[[WRING]][%[[S]]] start [0, 16]
// CHECK-NEXT:     sf_tile.mma_fence
// CHECK-NEXT:     %[[R0:.*]] = sf_tile.mma <"wgmma_sp_m64k32_f16"> %[[A0]], %[[B0]], %[[SUM]] metadata %[[E]] :
// CHECK-NEXT:     %[[R1:.*]] = sf_tile.mma <"wgmma_sp_m64k32_f16"> %[[A1]], %[[B1]], %[[R0]] metadata %[[E]] {metadata_start = 8 : i64} :
// CHECK-NEXT:     sf_tile.mma_commit
// CHECK-NEXT:     %[[DONE:.*]]:2 = sf_tile.mma_wait 0(%[[R1]], %[[E]] :
// CHECK-NEXT:     sf_tile.release %[[BARRIERS]][%[[S]]] : <3>
// CHECK:          scf.yield %[[DONE]]#0, %{{.*}}, %{{.*}} : !sf_tile.tile<64x8xf32
//
// What follows the pipeline is theirs, tile by tile.
// CHECK:        sf_tile.map %[[LOOP]]#0
// CHECK:        scf.yield %[[LOOP]]#1, %[[LOOP]]#2 : index, i32
// CHECK: } {consumers = 4 : i64}
// CHECK-NEXT: sf_tile.return
gpu.module @kernels {
  sf_tile.kernel @two_products(%x: memref<?x256xf16>, %w: memref<4x4x2048xf16>, %m: memref<4x4x128xi32>, %steps: index) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %tokens = memref.dim %x, %c0 : memref<?x256xf16>
    %feature, %token, %split = sf_tile.tile_id %tokens {feature_tiles = 4, tile_tokens = 8, splits = 1, raster = 2}
    %c8 = arith.constant 8 : index
    %row = arith.muli %token, %c8 : index
    %zero = arith.constant 0.0 : f32
    %init = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32, #acc>
    %xring = sf_tile.ring : !sf_tile.ring<3 x 8x64xf16, #x>
    %wring = sf_tile.ring : !sf_tile.ring<3 x 64x32xf16, #w>
    %mring = sf_tile.ring : !sf_tile.ring<3 x 64x16xi4, #m>
    %sum = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<64x8xf32, #acc>)
        rings(%xring, %wring, %mring : !sf_tile.ring<3 x 8x64xf16, #x>, !sf_tile.ring<3 x 64x32xf16, #w>, !sf_tile.ring<3 x 64x16xi4, #m>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.copy_async %x[%row, %step] [8, 64] to %xring[%stage] logical : memref<?x256xf16> to <3 x 8x64xf16, #x>
      sf_tile.copy_async %w[%feature, %step, %c0] [1, 1, 2048] to %wring[%stage] storage : memref<4x4x2048xf16> to <3 x 64x32xf16, #w>
      sf_tile.copy_async %m[%feature, %step, %c0] [1, 1, 128] to %mring[%stage] storage : memref<4x4x128xi32> to <3 x 64x16xi4, #m>
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x8xf32, #acc>):
      %b0 = sf_tile.load %xring[%stage] start [0, 0] : !sf_tile.ring<3 x 8x64xf16, #x> -> !sf_tile.tile<8x32xf16, #x>
      %e = sf_tile.load %mring[%stage] : !sf_tile.ring<3 x 64x16xi4, #m> -> !sf_tile.tile<64x16xi4, #e>
      %a0 = sf_tile.load %wring[%stage] start [0, 0] : !sf_tile.ring<3 x 64x32xf16, #w> -> !sf_tile.tile<64x16xf16, #w>
      %r0 = sf_tile.mma <"wgmma_sp_m64k32_f16"> %a0, %b0, %carried metadata %e
        : !sf_tile.tile<64x16xf16, #w>, !sf_tile.tile<8x32xf16, #x>, !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xi4, #e> -> !sf_tile.tile<64x8xf32, #acc>
      %b1 = sf_tile.load %xring[%stage] start [0, 32] : !sf_tile.ring<3 x 8x64xf16, #x> -> !sf_tile.tile<8x32xf16, #x>
      %a1 = sf_tile.load %wring[%stage] start [0, 16] : !sf_tile.ring<3 x 64x32xf16, #w> -> !sf_tile.tile<64x16xf16, #w>
      %r1 = sf_tile.mma <"wgmma_sp_m64k32_f16"> %a1, %b1, %r0 metadata %e {metadata_start = 8 : i64}
        : !sf_tile.tile<64x16xf16, #w>, !sf_tile.tile<8x32xf16, #x>, !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xi4, #e> -> !sf_tile.tile<64x8xf32, #acc>
      sf_tile.yield %r1 : !sf_tile.tile<64x8xf32, #acc>
    } {stages = 3 : i64} -> !sf_tile.tile<64x8xf32, #acc>
    %y = sf_tile.map %sum : !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc> {
    ^bb0(%v: f32):
      sf_tile.yield %v : f32
    }
    sf_tile.return
  }
}

// -----

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [0, 64], [1, 16], [2, 32], [4, 64], [0, 128]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 16], [0, 32], [0, 64], [0, 128], [64, 0]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [8, 1], along = [0, 1]>

// Dense, 8 bits, two warpgroups: the box of a tensor map is a row of 128 bytes wide however wide the stage is.
// CHECK-LABEL: sf_tile.kernel @wide_stage
// CHECK-SAME: !sf_tile.tensor_map<8x128xi8, of = 0>
// CHECK: sf_tile.barriers {consumers = 8 : i64} : <2>
// CHECK: sf_tile.copy_async %{{.*}} [8, 256] to
// CHECK: %[[R:.*]] = sf_tile.mma <"wgmma_m64k32_s8">
// CHECK-NEXT: sf_tile.mma_commit
// CHECK-NEXT: sf_tile.mma_wait 0(%[[R]] : !sf_tile.tile<128x8xi32, #{{.*}}>)
gpu.module @kernels {
  sf_tile.kernel @wide_stage(%x: memref<?x256xi8>, %steps: index) attributes {threads = 288 : i64} {
    %c0 = arith.constant 0 : index
    %tokens = memref.dim %x, %c0 : memref<?x256xi8>
    %feature, %token, %split = sf_tile.tile_id %tokens {feature_tiles = 1, tile_tokens = 8, splits = 1, raster = 1}
    %zero = arith.constant 0 : i32
    %init = sf_tile.splat %zero : i32 -> !sf_tile.tile<128x8xi32, #acc>
    %xring = sf_tile.ring : !sf_tile.ring<2 x 8x256xi8, #x>
    %wring = sf_tile.ring : !sf_tile.ring<2 x 128x256xi8, #w>
    %sum = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<128x8xi32, #acc>)
        rings(%xring, %wring : !sf_tile.ring<2 x 8x256xi8, #x>, !sf_tile.ring<2 x 128x256xi8, #w>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.copy_async %x[%token, %step] [8, 256] to %xring[%stage] logical : memref<?x256xi8> to <2 x 8x256xi8, #x>
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<128x8xi32, #acc>):
      %b = sf_tile.load %xring[%stage] : !sf_tile.ring<2 x 8x256xi8, #x> -> !sf_tile.tile<8x32xi8, #x>
      %a = sf_tile.load %wring[%stage] : !sf_tile.ring<2 x 128x256xi8, #w> -> !sf_tile.tile<128x32xi8, #w>
      %r = sf_tile.mma <"wgmma_m64k32_s8"> %a, %b, %carried
        : !sf_tile.tile<128x32xi8, #w>, !sf_tile.tile<8x32xi8, #x>, !sf_tile.tile<128x8xi32, #acc> -> !sf_tile.tile<128x8xi32, #acc>
      sf_tile.yield %r : !sf_tile.tile<128x8xi32, #acc>
    } {stages = 2 : i64} -> !sf_tile.tile<128x8xi32, #acc>
    sf_tile.return
  }
}

// -----

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32], [8, 0]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16], [0, 32]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1], [0, 8]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>
#share = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>

// Blocks of a cluster that divide K share no stage: boxes are whole, copies go to the block alone, and stages are released to it
// alone. The four warps of the other block send their sums. There is one inbox, so a block takes one tile and the kernel is not
// persistent. Three steps are known to be three: one, then two with a group in flight.
// CHECK-LABEL: sf_tile.kernel @parts
// CHECK-SAME: !sf_tile.tensor_map<16x64xf16, of = 0>
// CHECK-NOT: persistent
// CHECK-SAME: attributes {cluster = 2 : i64, threads = 160 : i64}
// CHECK: %[[BARRIERS:.*]] = sf_tile.barriers {consumers = 4 : i64, senders = 4 : i64} : <3>
// CHECK: sf_tile.role producer {
// CHECK: sf_tile.tile_range %{{.*}} {cluster = 2 : i64, feature_tiles = 4 : i64, splits = 2 : i64, tile_tokens = 16 : i64}
// CHECK: sf_tile.copy_async {{.*}} logical :
// CHECK: sf_tile.role consumer {
// CHECK: scf.for
// CHECK: %{{.*}}, %{{.*}}, %[[SPLIT:.*]] = sf_tile.tile_id %{{.*}} number %{{.*}} {cluster = 2 : i64
// CHECK: %[[LOWER:.*]] = arith.muli %[[SPLIT]], %c3
// CHECK: sf_tile.mma_wait 0
// CHECK: sf_tile.release %[[BARRIERS]][%{{.*}}] : <3>
// CHECK: %[[NEXT:.*]] = arith.addi %[[LOWER]], %c1
// CHECK: scf.while (%[[STEP:.*]] = %[[NEXT]],
// CHECK: sf_tile.mma_commit
// CHECK: %[[HAS_PREVIOUS:.*]] = arith.cmpi ne, %[[STEP]], %[[NEXT]]
// CHECK: sf_tile.mma_wait 1
// CHECK: sf_tile.release %[[BARRIERS]][%{{.*}}] if %[[HAS_PREVIOUS]] : <3>
// CHECK: sf_tile.mma_commit
// CHECK: %[[GOES_ON:.*]] = arith.cmpi ult
// CHECK: scf.condition(%[[GOES_ON]])
// CHECK: sf_tile.mma_wait 1
// CHECK: sf_tile.release %[[BARRIERS]][%{{.*}}] : <3>
// CHECK: %[[SUM:.*]] = sf_tile.mma_wait 0
// CHECK: sf_tile.release %[[BARRIERS]][%{{.*}}] : <3>
// CHECK: sf_tile.release %[[BARRIERS]][%{{.*}}] : <3>
// CHECK: sf_tile.reduce_scatter(%[[SUM]]) signals %[[BARRIERS]] : !sf_tile.barriers<3> :
gpu.module @kernels {
  sf_tile.kernel @parts(%x: memref<?x384xf16>, %w: memref<4x6x4096xf16>) attributes {cluster = 2 : i64, threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %c3 = arith.constant 3 : index
    %tokens = memref.dim %x, %c0 : memref<?x384xf16>
    %feature, %token, %split = sf_tile.tile_id %tokens {cluster = 2, feature_tiles = 4, tile_tokens = 16, splits = 2, raster = 2}
    %lower = arith.muli %split, %c3 : index
    %upper = arith.addi %lower, %c3 : index
    %zero = arith.constant 0.0 : f32
    %init = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x16xf32, #acc>
    %xring = sf_tile.ring : !sf_tile.ring<3 x 16x64xf16, #x>
    %wring = sf_tile.ring : !sf_tile.ring<3 x 64x64xf16, #w>
    %sum = sf_tile.pipeline %lower to %upper init(%init : !sf_tile.tile<64x16xf32, #acc>)
        rings(%xring, %wring : !sf_tile.ring<3 x 16x64xf16, #x>, !sf_tile.ring<3 x 64x64xf16, #w>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.copy_async %x[%token, %step] [16, 64] to %xring[%stage] logical : memref<?x384xf16> to <3 x 16x64xf16, #x>
      sf_tile.copy_async %w[%feature, %step, %c0] [1, 1, 4096] to %wring[%stage] storage : memref<4x6x4096xf16> to <3 x 64x64xf16, #w>
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x16xf32, #acc>):
      %b = sf_tile.load %xring[%stage] start [0, 0] : !sf_tile.ring<3 x 16x64xf16, #x> -> !sf_tile.tile<16x16xf16, #x>
      %a = sf_tile.load %wring[%stage] start [0, 0] : !sf_tile.ring<3 x 64x64xf16, #w> -> !sf_tile.tile<64x16xf16, #w>
      %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %carried
        : !sf_tile.tile<64x16xf16, #w>, !sf_tile.tile<16x16xf16, #x>, !sf_tile.tile<64x16xf32, #acc> -> !sf_tile.tile<64x16xf32, #acc>
      sf_tile.yield %r : !sf_tile.tile<64x16xf32, #acc>
    } {stages = 3 : i64} -> !sf_tile.tile<64x16xf32, #acc>
    %share = sf_tile.reduce_scatter(%sum) : (!sf_tile.tile<64x16xf32, #acc>) -> !sf_tile.tile<64x8xf32, #share>
    sf_tile.return
  }
}

// -----

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16], [0, 32]]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>

// What is loaded before the pipeline is for what follows it: the consumers load it for each tile, ahead of their products, and compute
// what is made of it alone.
// CHECK-LABEL: sf_tile.kernel @loads_ahead
// CHECK: sf_tile.role producer
// CHECK-NOT: sf_tile.load
// CHECK-NOT: sf_tile.map
// CHECK: sf_tile.role consumer {
// CHECK: sf_tile.tile_id
// CHECK-NEXT: %[[LOADED:.*]] = sf_tile.load %{{.*}} : memref<4x8xf32> -> <64x8xf32
// CHECK-NEXT: sf_tile.map %[[LOADED]]
// CHECK: sf_tile.await
// CHECK: sf_tile.mma <
// CHECK-NOT: memref<4x8xf32>
gpu.module @kernels {
  sf_tile.kernel @loads_ahead(%x: memref<?x256xf16>, %w: memref<4x4x4096xf16>, %s: memref<4x8xf32>, %y: memref<?x256xf32>, %steps: index) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %tokens = memref.dim %x, %c0 : memref<?x256xf16>
    %feature, %token, %split = sf_tile.tile_id %tokens {feature_tiles = 4, tile_tokens = 8, splits = 1, raster = 2}
    %loaded = sf_tile.load %s[%feature, %c0] : memref<4x8xf32> -> !sf_tile.tile<64x8xf32, #acc>
    %scale = sf_tile.map %loaded : !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc> {
    ^bb0(%p: f32):
      %v = arith.negf %p : f32
      sf_tile.yield %v : f32
    }
    %zero = arith.constant 0.0 : f32
    %init = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32, #acc>
    %xring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16, #x>
    %wring = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16, #w>
    %sum = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<64x8xf32, #acc>)
        rings(%xring, %wring : !sf_tile.ring<2 x 8x64xf16, #x>, !sf_tile.ring<2 x 64x64xf16, #w>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.copy_async %x[%token, %step] [8, 64] to %xring[%stage] logical : memref<?x256xf16> to <2 x 8x64xf16, #x>
      sf_tile.copy_async %w[%feature, %step, %c0] [1, 1, 4096] to %wring[%stage] storage : memref<4x4x4096xf16> to <2 x 64x64xf16, #w>
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x8xf32, #acc>):
      %b = sf_tile.load %xring[%stage] start [0, 0] : !sf_tile.ring<2 x 8x64xf16, #x> -> !sf_tile.tile<8x16xf16, #x>
      %a = sf_tile.load %wring[%stage] start [0, 0] : !sf_tile.ring<2 x 64x64xf16, #w> -> !sf_tile.tile<64x16xf16, #w>
      %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %carried
        : !sf_tile.tile<64x16xf16, #w>, !sf_tile.tile<8x16xf16, #x>, !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc>
      sf_tile.yield %r : !sf_tile.tile<64x8xf32, #acc>
    } {stages = 2 : i64} -> !sf_tile.tile<64x8xf32, #acc>
    %scaled = sf_tile.map %sum, %scale : !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc> {
    ^bb0(%p: f32, %q: f32):
      %v = arith.mulf %p, %q : f32
      sf_tile.yield %v : f32
    }
    sf_tile.store %scaled, %y[%token, %feature] dims [1, 0] : !sf_tile.tile<64x8xf32, #acc>, memref<?x256xf32>
    sf_tile.return
  }
}
