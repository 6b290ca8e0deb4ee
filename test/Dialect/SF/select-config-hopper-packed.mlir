// RUN: sparseflow-opt %s --sf-select-config=target=sm_90a | FileCheck %s
// RUN: not sparseflow-opt %s --sf-select-config=target=sm_80 2>&1 | FileCheck %s --check-prefix=SM80
// RUN: not sparseflow-opt %s --sf-select-config="target=sm_90a config='tile = 64x64x64, warps = 1x2, atom = mma_sp'" 2>&1 | FileCheck %s --check-prefix=SM80

// A weight that came packed for warpgroups is multiplied by them or not at all.
// CHECK: atom = wgmma_sp>]}
// SM80: 'sf.matmul' op expected weights packed for the atom of the configurations, got 'tensor<4096x4096xf16, #sf.weight<sp24, pack = wgmma>>' and mma_sp
func.func @packed(%x: tensor<?x4096xf16>, %w: tensor<4096x4096xf16, #sf.weight<sp24, pack = wgmma>>) -> tensor<?x4096xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x4096xf16>, tensor<4096x4096xf16, #sf.weight<sp24, pack = wgmma>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}
