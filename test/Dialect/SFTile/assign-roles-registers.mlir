// RUN: sparseflow-opt %s --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-assign-roles)))" | FileCheck %s

#x = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16], [0, 32], [1, 8], [2, 16], [4, 32]]>
#w = #sf_tile.layout<offset = [[0, 1], [0, 2], [0, 4], [2, 0], [4, 0], [8, 0], [1, 0], [16, 0], [32, 0], [0, 8], [0, 16]]>
#m = #sf_tile.layout<offset = [[0, 1], [0, 2], [1, 0], [0, 4], [0, 8], [2, 0], [4, 0], [8, 0], [16, 0], [32, 0]]>
#a = #sf_tile.layout<register = [[0, 1], [1, 0], [0, 8]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, -1]>
#acc = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, 1]>
#e = #sf_tile.layout<register = [[0, 1], [0, 2], [1, 0]], lane = [[0, 4], [0, 8], [2, 0], [4, 0], [8, 0]], warps = [4, 1], along = [0, -1]>

// Values in registers are read while a product runs, as metadata is: with one group in flight, those of the group before are kept by
// the wait for it, and the registers of two steps alternate. At first nothing is in flight. The last step is followed by the wait for
// everything, without the one that leaves a group in flight.
// CHECK-LABEL: sf_tile.kernel @values_in_registers
// CHECK: sf_tile.role consumer {
// CHECK: %[[NO_E:.*]] = sf_tile.splat {{.*}} -> <64x16xi4
// CHECK: %[[NO_A0:.*]] = sf_tile.splat {{.*}} -> <64x16xf16
// CHECK: %[[NO_A1:.*]] = sf_tile.splat {{.*}} -> <64x16xf16
// CHECK: %[[LOOP:.*]]:10 = scf.while {{.*}} %[[IN_E:[a-z0-9]+]] = %[[NO_E]], %[[IN_A0:[a-z0-9]+]] = %[[NO_A0]], %[[IN_A1:[a-z0-9]+]] = %[[NO_A1]])
// CHECK:   %[[E:.*]] = sf_tile.load %{{.*}} : {{.*}} -> <64x16xi4
// CHECK:   %[[A0:.*]] = sf_tile.load %{{.*}} start [0, 0] : {{.*}} -> <64x16xf16
// CHECK:   %[[A1:.*]] = sf_tile.load %{{.*}} start [0, 16] : {{.*}} -> <64x16xf16
// CHECK:   sf_tile.mma_fence
// CHECK-NEXT: sf_tile.mma <"wgmma_sp_rs_m64k32_f16"> %[[A0]]
// CHECK-NEXT: sf_tile.mma <"wgmma_sp_rs_m64k32_f16"> %[[A1]]
// CHECK-NEXT: sf_tile.mma_commit
// CHECK:   sf_tile.mma_wait 1(%[[IN_E]], %[[IN_A0]], %[[IN_A1]] :
// CHECK:   %[[NEXT_E:.*]] = sf_tile.load %{{.*}} : {{.*}} -> <64x16xi4
// CHECK:   %[[NEXT_A0:.*]] = sf_tile.load %{{.*}} start [0, 0] : {{.*}} -> <64x16xf16
// CHECK:   %[[NEXT_A1:.*]] = sf_tile.load %{{.*}} start [0, 16] : {{.*}} -> <64x16xf16
// CHECK:   sf_tile.mma_commit
// CHECK-NOT: sf_tile.mma_wait
// CHECK:   scf.condition(%{{.*}}) %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %[[E]], %[[A0]], %[[A1]], %[[NEXT_E]], %[[NEXT_A0]], %[[NEXT_A1]] :
// CHECK: } do {
// CHECK:   sf_tile.mma_wait 1(%[[OLD_E:[a-z0-9]+]], %[[OLD_A0:[a-z0-9]+]], %[[OLD_A1:[a-z0-9]+]] :
// CHECK:   sf_tile.release
// CHECK:   scf.yield
// CHECK: sf_tile.mma_wait 0(%[[LOOP]]#1, %[[LOOP]]#4, %[[LOOP]]#5, %[[LOOP]]#6, %[[LOOP]]#7, %[[LOOP]]#8, %[[LOOP]]#9 :
gpu.module @kernels {
  sf_tile.kernel @values_in_registers(%x: memref<?x256xf16>, %w: memref<4x4x2048xf16>, %m: memref<4x4x128xi32>) attributes {threads = 160 : i64} {
    %c0 = arith.constant 0 : index
    %c4 = arith.constant 4 : index
    %tokens = memref.dim %x, %c0 : memref<?x256xf16>
    %feature, %token, %split = sf_tile.tile_id %tokens {feature_tiles = 4, tile_tokens = 8, splits = 1, raster = 2}
    %zero = arith.constant 0.0 : f32
    %init = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32, #acc>
    %xring = sf_tile.ring : !sf_tile.ring<3 x 8x64xf16, #x>
    %wring = sf_tile.ring : !sf_tile.ring<3 x 64x32xf16, #w>
    %mring = sf_tile.ring : !sf_tile.ring<3 x 64x16xi4, #m>
    %sum = sf_tile.pipeline %c0 to %c4 init(%init : !sf_tile.tile<64x8xf32, #acc>)
        rings(%xring, %wring, %mring : !sf_tile.ring<3 x 8x64xf16, #x>, !sf_tile.ring<3 x 64x32xf16, #w>, !sf_tile.ring<3 x 64x16xi4, #m>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.copy_async %w[%feature, %step, %c0] [1, 1, 2048] to %wring[%stage] storage : memref<4x4x2048xf16> to <3 x 64x32xf16, #w>
      sf_tile.copy_async %m[%feature, %step, %c0] [1, 1, 128] to %mring[%stage] storage : memref<4x4x128xi32> to <3 x 64x16xi4, #m>
      sf_tile.copy_async %x[%token, %step] [8, 64] to %xring[%stage] logical : memref<?x256xf16> to <3 x 8x64xf16, #x>
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x8xf32, #acc>):
      %b0 = sf_tile.load %xring[%stage] start [0, 0] : !sf_tile.ring<3 x 8x64xf16, #x> -> !sf_tile.tile<8x32xf16, #x>
      %e = sf_tile.load %mring[%stage] : !sf_tile.ring<3 x 64x16xi4, #m> -> !sf_tile.tile<64x16xi4, #e>
      %a0 = sf_tile.load %wring[%stage] start [0, 0] : !sf_tile.ring<3 x 64x32xf16, #w> -> !sf_tile.tile<64x16xf16, #a>
      %r0 = sf_tile.mma <"wgmma_sp_rs_m64k32_f16"> %a0, %b0, %carried metadata %e
        : !sf_tile.tile<64x16xf16, #a>, !sf_tile.tile<8x32xf16, #x>, !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xi4, #e> -> !sf_tile.tile<64x8xf32, #acc>
      %b1 = sf_tile.load %xring[%stage] start [0, 32] : !sf_tile.ring<3 x 8x64xf16, #x> -> !sf_tile.tile<8x32xf16, #x>
      %a1 = sf_tile.load %wring[%stage] start [0, 16] : !sf_tile.ring<3 x 64x32xf16, #w> -> !sf_tile.tile<64x16xf16, #a>
      %r1 = sf_tile.mma <"wgmma_sp_rs_m64k32_f16"> %a1, %b1, %r0 metadata %e {metadata_start = 8 : i64}
        : !sf_tile.tile<64x16xf16, #a>, !sf_tile.tile<8x32xf16, #x>, !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xi4, #e> -> !sf_tile.tile<64x8xf32, #acc>
      sf_tile.yield %r1 : !sf_tile.tile<64x8xf32, #acc>
    } {stages = 3 : i64} -> !sf_tile.tile<64x8xf32, #acc>
    %y = sf_tile.map %sum : !sf_tile.tile<64x8xf32, #acc> -> !sf_tile.tile<64x8xf32, #acc> {
    ^bb0(%v: f32):
      sf_tile.yield %v : f32
    }
    sf_tile.return
  }
}
