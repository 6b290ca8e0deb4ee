// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-assign-roles)))" | FileCheck %s

// A kernel waits for the one ahead of it on the stream before its first access to global memory, be that in a loop, and lets the
// one behind it begin. What stays in the block comes before.
// CHECK-LABEL: sf_tile.kernel @loads
// CHECK: sf_tile.load %{{.*}} : !sf_tile.ring
// CHECK: sf_tile.grid_wait
// CHECK-NEXT: sf_tile.launch_dependents
// CHECK-NEXT: scf.for
// CHECK-NEXT: sf_tile.load
// CHECK-NOT: sf_tile.grid_wait
module attributes {sf.target = #sf.target<"sm_90">} {
  gpu.module @kernels {
    sf_tile.kernel @loads(%x: memref<64x64xf16>, %y: memref<64x64xf16>) attributes {threads = 32 : i64} {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c4 = arith.constant 4 : index
      %ring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16>
      %r = sf_tile.load %ring[%c0] : !sf_tile.ring<2 x 8x64xf16> -> !sf_tile.tile<8x64xf16>
      scf.for %i = %c0 to %c4 step %c1 {
        %t = sf_tile.load %x[%i, %c0] : memref<64x64xf16> -> !sf_tile.tile<8x64xf16>
        sf_tile.store %t, %y[%i, %c0] : !sf_tile.tile<8x64xf16>, memref<64x64xf16>
      }
      sf_tile.return
    }
  }
}

// -----

// A store, too: what it overwrites may still be read.
// CHECK-LABEL: sf_tile.kernel @stores
// CHECK: sf_tile.splat
// CHECK-NEXT: sf_tile.grid_wait
// CHECK-NEXT: sf_tile.launch_dependents
// CHECK-NEXT: sf_tile.store
//
// Threads with roles wait in them, before the first tile. The kernel behind may begin when the producer has brought everything.
// CHECK-LABEL: sf_tile.kernel @specialized
// CHECK: sf_tile.barriers
// CHECK: sf_tile.role producer {
// CHECK-NEXT: sf_tile.tile_range
// CHECK: sf_tile.grid_wait
// CHECK-NEXT: scf.for
// CHECK: sf_tile.launch_dependents
// CHECK-NEXT: } {consumers = 4 : i64}
// CHECK-NEXT: sf_tile.role consumer {
// CHECK-NEXT: sf_tile.tile_range
// CHECK: sf_tile.grid_wait
// CHECK-NEXT: scf.for
// CHECK-NOT: sf_tile.launch_dependents
// CHECK: sf_tile.return
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>
module attributes {sf.target = #sf.target<"sm_90a">} {
  gpu.module @kernels {
    sf_tile.kernel @stores(%y: memref<64x64xf16>, %v: f16) attributes {threads = 32 : i64} {
      %c0 = arith.constant 0 : index
      %t = sf_tile.splat %v : f16 -> !sf_tile.tile<8x64xf16>
      sf_tile.store %t, %y[%c0, %c0] : !sf_tile.tile<8x64xf16>, memref<64x64xf16>
      sf_tile.return
    }
    sf_tile.kernel @specialized(%x: memref<?x256xf16>, %w: memref<4x4x4096xf16>, %y: memref<?x256xf32>) attributes {threads = 160 : i64} {
      %c0 = arith.constant 0 : index
      %c4 = arith.constant 4 : index
      %zero = arith.constant 0.0 : f32
      %tokens = memref.dim %x, %c0 : memref<?x256xf16>
      %feature, %token, %split = sf_tile.tile_id %tokens {feature_tiles = 4, raster = 2, splits = 1, tile_tokens = 8}
      %init = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32, #acc>
      %xring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16>
      %wring = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16>
      %acc = sf_tile.pipeline %c0 to %c4 init(%init : !sf_tile.tile<64x8xf32, #acc>)
          rings(%xring, %wring : !sf_tile.ring<2 x 8x64xf16>, !sf_tile.ring<2 x 64x64xf16>) producer {
      ^bb0(%step: index, %stage: index):
        sf_tile.copy_async %w[%feature, %step, %c0] [1, 1, 4096] to %wring[%stage] storage : memref<4x4x4096xf16> to <2 x 64x64xf16>
        sf_tile.copy_async %x[%token, %step] [8, 64] to %xring[%stage] logical : memref<?x256xf16> to <2 x 8x64xf16>
        sf_tile.yield
      } consumer {
      ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x8xf32, #acc>):
        %b = sf_tile.load %xring[%stage] start [0, 0] : !sf_tile.ring<2 x 8x64xf16> -> !sf_tile.tile<8x16xf16>
        %a = sf_tile.load %wring[%stage] start [0, 0] : !sf_tile.ring<2 x 64x64xf16> -> !sf_tile.tile<64x16xf16>
        %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %carried
          : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc>
        sf_tile.yield %r : !sf_tile.tile<64x8xf32, #acc>
      } {stages = 2 : i64} -> !sf_tile.tile<64x8xf32, #acc>
      sf_tile.store %acc, %y[%token, %feature] dims [1, 0] : !sf_tile.tile<64x8xf32, #acc>, memref<?x256xf32>
      sf_tile.return
    }
  }
}

// -----

// The weight is a constant: before the wait the producer fills the stages that there are, or fewer if there are fewer steps, with
// the weight of its first tile, if it has one. Each stage expects the bytes of all of its parts.
//
// CHECK-LABEL: sf_tile.kernel @constant_weight
// CHECK-SAME: %[[W:[a-z0-9]+]]: memref<4x4x4096xf16> {sf_tile.constant}
// CHECK: %[[C4:.*]] = arith.constant 4 : index
// CHECK: %[[XRING:.*]] = sf_tile.ring : <2 x 8x64xf16
// CHECK: %[[WRING:.*]] = sf_tile.ring : <2 x 64x64xf16
// CHECK: %[[BYTES:.*]] = arith.subi %c9216_i32, %{{.*}} : i32
// CHECK-NEXT: sf_tile.role producer {
// CHECK-NEXT: %[[FIRST:.*]], %[[END:.*]], %{{.*}} = sf_tile.tile_range
// CHECK-NEXT: %[[FEATURE:.*]], %{{.*}}, %{{.*}} = sf_tile.tile_id %{{.*}} number %[[FIRST]]
// CHECK:      %[[AHEAD:.*]] = arith.minsi %{{.*}}, %[[C4]]
// CHECK-NEXT: %[[HAS:.*]] = arith.cmpi slt, %[[FIRST]], %[[END]]
// CHECK-NEXT: %[[UNTIL:.*]] = arith.select %[[HAS]], %[[AHEAD]], %c0
// CHECK:      scf.for %[[K:.*]] = %c0{{.*}} to %[[UNTIL]]
// CHECK-NEXT:   %[[S:.*]] = arith.subi %[[K]], %c0
// CHECK:        sf_tile.acquire %{{.*}}[%[[S]]] parity %c1_i32{{.*}} bytes %[[BYTES]] :
// CHECK-NEXT:   sf_tile.copy_async %[[W]][%[[FEATURE]], %[[K]], %c0] [1, 1, 4096] to %[[WRING]][%[[S]]] signals
// CHECK-NOT:    sf_tile.copy_async
// CHECK:      sf_tile.grid_wait
//
// In the loop it skips what it has done.
// CHECK:      scf.for %[[TILE:.*]] = %[[FIRST]] to %[[END]]
// CHECK:        scf.for %[[K:.*]] = %c0{{.*}} to %[[C4]] {{.*}} iter_args(%[[S:.*]] = %{{.*}}, %[[P:.*]] = %{{.*}})
// CHECK-NEXT:     %[[TILE_LATER:.*]] = arith.cmpi ne, %[[TILE]], %[[FIRST]]
// CHECK:          %[[STEP_LATER:.*]] = arith.cmpi sge, %[[K]], %{{.*}}
// CHECK-NEXT:     %[[LATER:.*]] = arith.ori %[[TILE_LATER]], %[[STEP_LATER]]
// CHECK-NEXT:     scf.if %[[LATER]] {
// CHECK-NEXT:       sf_tile.acquire %{{.*}}[%[[S]]] parity %[[P]] bytes %[[BYTES]] :
// CHECK-NEXT:       sf_tile.copy_async %[[W]]
// CHECK-NEXT:     }
// CHECK-NEXT:     sf_tile.copy_async %{{.*}}[%{{.*}}, %[[K]]] [8, 64] to %[[XRING]][%[[S]]] signals
// CHECK: sf_tile.role consumer {
// CHECK-NEXT: sf_tile.tile_range
// CHECK: sf_tile.grid_wait
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>
module attributes {sf.target = #sf.target<"sm_90a">} {
  gpu.module @kernels {
    sf_tile.kernel @constant_weight(%x: memref<?x256xf16>, %w: memref<4x4x4096xf16> {sf_tile.constant}, %y: memref<?x256xf32>) attributes {threads = 160 : i64} {
      %c0 = arith.constant 0 : index
      %c4 = arith.constant 4 : index
      %zero = arith.constant 0.0 : f32
      %tokens = memref.dim %x, %c0 : memref<?x256xf16>
      %feature, %token, %split = sf_tile.tile_id %tokens {feature_tiles = 4, raster = 2, splits = 1, tile_tokens = 8}
      %init = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32, #acc>
      %xring = sf_tile.ring : !sf_tile.ring<2 x 8x64xf16>
      %wring = sf_tile.ring : !sf_tile.ring<2 x 64x64xf16>
      %acc = sf_tile.pipeline %c0 to %c4 init(%init : !sf_tile.tile<64x8xf32, #acc>)
          rings(%xring, %wring : !sf_tile.ring<2 x 8x64xf16>, !sf_tile.ring<2 x 64x64xf16>) producer {
      ^bb0(%step: index, %stage: index):
        sf_tile.copy_async %w[%feature, %step, %c0] [1, 1, 4096] to %wring[%stage] storage : memref<4x4x4096xf16> to <2 x 64x64xf16>
        sf_tile.copy_async %x[%token, %step] [8, 64] to %xring[%stage] logical : memref<?x256xf16> to <2 x 8x64xf16>
        sf_tile.yield
      } consumer {
      ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x8xf32, #acc>):
        %b = sf_tile.load %xring[%stage] start [0, 0] : !sf_tile.ring<2 x 8x64xf16> -> !sf_tile.tile<8x16xf16>
        %a = sf_tile.load %wring[%stage] start [0, 0] : !sf_tile.ring<2 x 64x64xf16> -> !sf_tile.tile<64x16xf16>
        %r = sf_tile.mma <"wgmma_m64k16_f16"> %a, %b, %carried
          : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x16xf16>, !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc>
        sf_tile.yield %r : !sf_tile.tile<64x8xf32, #acc>
      } {stages = 2 : i64} -> !sf_tile.tile<64x8xf32, #acc>
      sf_tile.store %acc, %y[%token, %feature] dims [1, 0] : !sf_tile.tile<64x8xf32, #acc>, memref<?x256xf32>
      sf_tile.return
    }
  }
}

// -----

// A chip before sm_90 starts a kernel when the one before has ended.
// CHECK-LABEL: sf_tile.kernel @ampere
// CHECK-NOT: sf_tile.grid_wait
// CHECK: sf_tile.return
module attributes {sf.target = #sf.target<"sm_89">} {
  gpu.module @kernels {
    sf_tile.kernel @ampere(%y: memref<64x64xf16>, %v: f16) attributes {threads = 32 : i64} {
      %c0 = arith.constant 0 : index
      %t = sf_tile.splat %v : f16 -> !sf_tile.tile<8x64xf16>
      sf_tile.store %t, %y[%c0, %c0] : !sf_tile.tile<8x64xf16>, memref<64x64xf16>
      sf_tile.return
    }
  }
}
