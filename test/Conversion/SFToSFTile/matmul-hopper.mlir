// RUN: sparseflow-opt %s --split-input-file --convert-sf-to-sf-tile --cse | FileCheck %s

// The schedule is that of every chip: the same copies, loads and products, only by another atom. A warp more is the producer. A warp
// has all tokens of its features, so the epilogue takes 8 at a time, and loads its operands some slices ahead. Tiles that lie in the
// result as a whole ask for nothing more.
// CHECK-LABEL: func.func @residual
// CHECK: sf_tile.launch @kernels::@residual_matmul_0(%arg0, %arg1, %arg2) <blocks = 1, rows_of = 0, rows_per_block = 32>
// CHECK: sf_tile.kernel @residual_matmul_0
// CHECK-SAME: threads = 160
// CHECK: %[[ACC:.*]] = sf_tile.pipeline
// CHECK-COUNT-2: storage
// CHECK: sf_tile.copy_async {{.*}} [32, 64] to %{{.*}} logical
// CHECK: } consumer {
// CHECK: sf_tile.load %{{.*}} start [0, 0] : !sf_tile.ring<? x 32x64xf16> -> <32x32xf16>
// CHECK: sf_tile.mma <"wgmma_sp_m64k32_f16">
// CHECK: sf_tile.mma <"wgmma_sp_m64k32_f16"> {{.*}} {metadata_start = 8 : i64}
// CHECK-NOT: sf_tile.mma
// CHECK: scf.if
// CHECK: %[[T1:.*]] = arith.addi %[[T0:.*]], %c8
// CHECK: %[[R0:.*]] = sf_tile.load %[[R:[a-z0-9]+]][%[[T0]], %[[F:.*]]] dims [1, 0] {in_bounds} : {{.*}} -> <64x8xf16>
// CHECK: %[[R1:.*]] = sf_tile.load %[[R]][%[[T1]], %[[F]]] dims [1, 0] {in_bounds}
// CHECK: %[[LOW:.*]] = sf_tile.slice %[[ACC]][0, 0] : <64x32xf32> -> <64x8xf32>
// CHECK: %[[Y0:.*]] = sf_tile.map %[[LOW]], %[[R0]]
// CHECK: sf_tile.store %[[Y0]], %[[Y:[a-z0-9]+]][%[[T0]], %[[F]]] dims [1, 0] {in_bounds}
// CHECK-COUNT-2: sf_tile.load
// CHECK: %[[HIGH:.*]] = sf_tile.slice %[[ACC]][0, 8] : <64x32xf32> -> <64x8xf32>
// CHECK: %[[Y1:.*]] = sf_tile.map %[[HIGH]], %[[R1]]
// CHECK: sf_tile.store %[[Y1]], %[[Y]][%[[T1]], %[[F]]] dims [1, 0] {in_bounds}
// CHECK-COUNT-2: {in_bounds}
// CHECK: else
// CHECK-NOT: in_bounds
// CHECK-COUNT-4: sf_tile.store
// CHECK-NOT: sf_tile.store
module attributes {sf.target = #sf.target<"sm_90a">} {
  func.func @residual(%x: tensor<?x64xf16>, %w: tensor<64x64xf16, #sf.weight<sp24, pack = wgmma>>, %r: tensor<?x64xf16>) -> tensor<?x64xf16> {
    %y = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x32x64, warps = 4x1, atom = wgmma_sp>]} epilogue(%r : tensor<?x64xf16>) {
    ^bb0(%acc: f32, %residual: f16):
      %e = arith.extf %residual : f16 to f32
      %s = arith.addf %acc, %e : f32
      %t = arith.truncf %s : f32 to f16
      sf.yield %t : f16
    } : (tensor<?x64xf16>, tensor<64x64xf16, #sf.weight<sp24, pack = wgmma>>) -> tensor<?x64xf16>
    return %y : tensor<?x64xf16>
  }
}
