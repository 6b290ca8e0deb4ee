// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(sf_tile.kernel(sf-tile-assign-roles)))" | FileCheck %s

// Two products a stage, and three stages. All stages are filled first, in a loop that stays one; S groups in flight minus the
// first leave S - 1 behind the first wait.
//
// CHECK-DAG: #[[UNROLL:.*]] = #llvm.loop_unroll<disable = true>
// CHECK-DAG: #[[ANNOTATION:.*]] = #llvm.loop_annotation<unroll = #[[UNROLL]]>
// CHECK-LABEL: sf_tile.kernel @two_products
// CHECK-SAME: %[[X:[a-z0-9]+]]: memref<?x256xf16>, %[[STEPS:[a-z0-9]+]]: index, %[[OWN:[a-z0-9]+]]: i1
// CHECK: %[[INIT:.*]] = sf_tile.splat
// CHECK: %[[XRING:.*]] = sf_tile.ring : <3 x 8x64xf16>
// CHECK: %[[WRING:.*]] = sf_tile.ring : <3 x 64x32xf16>
// CHECK: %[[MRING:.*]] = sf_tile.ring : <3 x 64x16xi4>
// CHECK-DAG: %[[ONE:.*]] = arith.constant 1 : index
// CHECK-DAG: %[[DEPTH:.*]] = arith.constant 3 : index
// CHECK: scf.for %[[S:.*]] = %{{.*}} to %[[DEPTH]] step %[[ONE]] {
// CHECK-NEXT:   %[[STEP:.*]] = arith.addi %{{.*}}, %[[S]]
// CHECK-NEXT:   %[[EXISTS:.*]] = arith.cmpi slt, %[[STEP]], %[[STEPS]]
// CHECK-NEXT:   sf_tile.copy_async %[[X]][%{{.*}}, %[[STEP]]] [8, 64] to %[[XRING]][%[[S]]] if %[[EXISTS]]
//               A copy that has a condition of its own keeps it.
// CHECK-NEXT:   %[[BOTH:.*]] = arith.andi %[[OWN]], %[[EXISTS]]
// CHECK-NEXT:   sf_tile.copy_async %[[X]][%{{.*}}, %[[STEP]]] [64, 32] to %[[WRING]][%[[S]]] if %[[BOTH]]
// CHECK-NEXT:   sf_tile.commit
// CHECK-NEXT: } {loop_annotation = #[[ANNOTATION]]}
// CHECK-NEXT: sf_tile.wait {pending = 2 : i64}
//
// The fragments of the first product are read before the loop and carried over it.
// CHECK-NEXT: %[[B0:.*]] = sf_tile.load %[[XRING]][%[[ZERO:.*]]] start [0, 0]
// CHECK-NEXT: %[[M0:.*]] = sf_tile.load %[[MRING]][%[[ZERO]]]
// CHECK-NEXT: %[[A0:.*]] = sf_tile.load %[[WRING]][%[[ZERO]]] start [0, 0]
// CHECK-NEXT: %[[LOOP:.*]]:5 = scf.for %[[K:.*]] = %{{.*}} to %[[STEPS]] step %[[ONE]] iter_args(%[[STAGE:.*]] = %[[ZERO]], %[[ACC:.*]] = %[[INIT]], %[[B:.*]] = %[[B0]], %[[M:.*]] = %[[M0]], %[[A:.*]] = %[[A0]])
//
// In a step: the second product's fragments before the first product; then the wait, which leaves S - 2; the first product's
// fragments from the next stage before the last product, its metadata after it; then the stage just read is filled again.
// CHECK-NEXT:   %[[B1:.*]] = sf_tile.load %[[XRING]][%[[STAGE]]] start [0, 32]
// CHECK-NEXT:   %[[A1:.*]] = sf_tile.load %[[WRING]][%[[STAGE]]] start [0, 16]
// CHECK-NEXT:   %[[R0:.*]] = sf_tile.mma <"mma_sp_m16n8k32_f16"> %[[A]], %[[B]], %[[ACC]] metadata %[[M]] :
// CHECK-NEXT:   sf_tile.wait {pending = 1 : i64}
// CHECK-NEXT:   %[[FOLLOWING:.*]] = arith.addi %[[STAGE]], %[[ONE]]
// CHECK-NEXT:   %[[WRAPS:.*]] = arith.cmpi eq, %[[FOLLOWING]], %[[DEPTH]]
// CHECK-NEXT:   %[[NEXT:.*]] = arith.select %[[WRAPS]], %[[ZERO]], %[[FOLLOWING]]
// CHECK:        %[[BN:.*]] = sf_tile.load %[[XRING]][%[[NEXT]]] start [0, 0]
// CHECK-NEXT:   %[[AN:.*]] = sf_tile.load %[[WRING]][%[[NEXT]]] start [0, 0]
// CHECK-NEXT:   %[[R1:.*]] = sf_tile.mma <"mma_sp_m16n8k32_f16"> %[[A1]], %[[B1]], %[[R0]] metadata %[[M]] {metadata_start = 8 : i64}
// CHECK:        %[[MN:.*]] = sf_tile.load %[[MRING]][%[[NEXT]]]
// CHECK:        %[[AHEAD:.*]] = arith.addi %[[K]], %[[DEPTH]]
// CHECK-NEXT:   %[[MORE:.*]] = arith.cmpi slt, %[[AHEAD]], %[[STEPS]]
// CHECK-NEXT:   sf_tile.copy_async %[[X]][%{{.*}}, %[[AHEAD]]] [8, 64] to %[[XRING]][%[[STAGE]]] if %[[MORE]]
// CHECK:        sf_tile.commit
// CHECK-NEXT:   scf.yield %[[NEXT]], %[[R1]], %[[BN]], %[[MN]], %[[AN]]
//
// Nothing is in flight after it.
// CHECK:      sf_tile.wait {pending = 0 : i64}
// CHECK-NEXT: sf_tile.map %[[LOOP]]#1
gpu.module @kernels {
  sf_tile.kernel @two_products(%x: memref<?x256xf16>, %steps: index, %own: i1) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f32
    %init = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32>
    %xring = sf_tile.ring : !sf_tile.ring<3 x 8x64xf16>
    %wring = sf_tile.ring : !sf_tile.ring<3 x 64x32xf16>
    %mring = sf_tile.ring : !sf_tile.ring<3 x 64x16xi4>
    %acc = sf_tile.pipeline %c0 to %steps init(%init : !sf_tile.tile<64x8xf32>)
        rings(%xring, %wring, %mring : !sf_tile.ring<3 x 8x64xf16>, !sf_tile.ring<3 x 64x32xf16>, !sf_tile.ring<3 x 64x16xi4>) producer {
    ^bb0(%step: index, %stage: index):
      sf_tile.copy_async %x[%c0, %step] [8, 64] to %xring[%stage] logical : memref<?x256xf16> to <3 x 8x64xf16>
      sf_tile.copy_async %x[%c0, %step] [64, 32] to %wring[%stage] if %own storage : memref<?x256xf16> to <3 x 64x32xf16>
      sf_tile.yield
    } consumer {
    ^bb0(%step: index, %stage: index, %carried: !sf_tile.tile<64x8xf32>):
      %b0 = sf_tile.load %xring[%stage] start [0, 0] : !sf_tile.ring<3 x 8x64xf16> -> !sf_tile.tile<8x32xf16>
      %m = sf_tile.load %mring[%stage] : !sf_tile.ring<3 x 64x16xi4> -> !sf_tile.tile<64x16xi4>
      %a0 = sf_tile.load %wring[%stage] start [0, 0] : !sf_tile.ring<3 x 64x32xf16> -> !sf_tile.tile<64x16xf16>
      %r0 = sf_tile.mma <"mma_sp_m16n8k32_f16"> %a0, %b0, %carried metadata %m
        : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x32xf16>, !sf_tile.tile<64x8xf32>, !sf_tile.tile<64x16xi4> -> !sf_tile.tile<64x8xf32>
      %b1 = sf_tile.load %xring[%stage] start [0, 32] : !sf_tile.ring<3 x 8x64xf16> -> !sf_tile.tile<8x32xf16>
      %a1 = sf_tile.load %wring[%stage] start [0, 16] : !sf_tile.ring<3 x 64x32xf16> -> !sf_tile.tile<64x16xf16>
      %r1 = sf_tile.mma <"mma_sp_m16n8k32_f16"> %a1, %b1, %r0 metadata %m {metadata_start = 8 : i64}
        : !sf_tile.tile<64x16xf16>, !sf_tile.tile<8x32xf16>, !sf_tile.tile<64x8xf32>, !sf_tile.tile<64x16xi4> -> !sf_tile.tile<64x8xf32>
      sf_tile.yield %r1 : !sf_tile.tile<64x8xf32>
    } {stages = 3 : i64} -> !sf_tile.tile<64x8xf32>
    %y = sf_tile.map %acc : !sf_tile.tile<64x8xf32> -> !sf_tile.tile<64x8xf32> {
    ^bb0(%v: f32):
      sf_tile.yield %v : f32
    }
    sf_tile.return
  }
}
