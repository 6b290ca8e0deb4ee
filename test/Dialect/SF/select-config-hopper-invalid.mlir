// RUN: not sparseflow-opt %s --sf-select-config="target=sm_80 config='tile = 64x64x64, warps = 4x1, atom = wgmma_sp'" 2>&1 | FileCheck %s
// RUN: not sparseflow-opt %s --sf-select-config="target=sm_90 config='tile = 64x64x64, warps = 4x1, atom = wgmma_sp'" 2>&1 | FileCheck %s --check-prefix=PLAIN
// RUN: not sparseflow-opt %s --sf-select-config="target=sm_90a config='tile = 64x64x64, warps = 4x1, atom = wgmma'" 2>&1 | FileCheck %s --check-prefix=DENSE
// RUN: not sparseflow-opt %s --sf-select-config="target=sm_90a config='tile = 64x64x64, warps = 4x1, atom = wgmma_sp'" 2>&1 | FileCheck %s --check-prefix=ROWS

// Warpgroups exist on sm_90a alone, the dense atom does not take a 2:4 weight, and the copy engine takes rows of multiples of 16 bytes.
// CHECK: 'sf.matmul' op expected sm_90a and rows of x of a multiple of 16 bytes for wgmma_sp, got sm_80 and 'tensor<?x64xf16>'; use mma_sp, or mma for dense weights
// PLAIN: got sm_90 and 'tensor<?x64xf16>'
// DENSE: 'sf.matmul' op expected atom mma_sp, wgmma_sp or wgmma_sp_rs for a 2:4 weight, got wgmma in configuration 0
// ROWS: 'sf.matmul' op expected sm_90a and rows of x of a multiple of 16 bytes for wgmma_sp, got sm_90a and 'tensor<?x68xf16>'
func.func @aligned(%x: tensor<?x64xf16>, %w: tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x64xf16>, tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %0 : tensor<?x64xf16>
}
func.func @unaligned(%x: tensor<?x68xf16>, %w: tensor<64x68xf16, #sf.weight<sp24>>) -> tensor<?x64xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x68xf16>, tensor<64x68xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %0 : tensor<?x64xf16>
}
