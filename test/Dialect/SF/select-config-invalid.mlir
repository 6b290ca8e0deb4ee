// RUN: sparseflow-opt %s --sf-select-config=target=sm_80 --split-input-file --verify-diagnostics
// RUN: not sparseflow-opt %s --split-input-file --sf-select-config="target=sm_89 config='tile = 64x64x64, warps = 1x2, atom = mma'" 2>&1 | FileCheck %s

// The dense atom cannot be forced on a 2:4 weight, nor 64 elements of 8 bits as a chunk.
// CHECK: 'sf.matmul' op expected atom mma_sp, wgmma_sp or wgmma_sp_rs for a 2:4 weight, got mma in configuration 0
func.func @f8(%x: tensor<?x4096xf8E4M3FN>, %w: tensor<4096x4096xf8E4M3FN, #sf.weight<sp24>>) -> tensor<?x4096xf16> {
  // expected-error@+1 {{'sf.matmul' op expected a chip with 8-bit floats (sm_89 or later) for 'f8E4M3FN', got sm_80; quantize to i8, or compile for another target}}
  %0 = sf.matmul %x, %w : (tensor<?x4096xf8E4M3FN>, tensor<4096x4096xf8E4M3FN, #sf.weight<sp24>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}

// -----

// What stands in the IR is checked like what the command line wants.
func.func @warpgroups_elsewhere(%x: tensor<?x64xf16>, %w: tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf16> {
  // expected-error@+1 {{'sf.matmul' op expected sm_90a and rows of x of a multiple of 16 bytes for wgmma_sp, got sm_80 and 'tensor<?x64xf16>'; use mma_sp, or mma for dense weights}}
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x64x64, warps = 4x1, atom = wgmma_sp>]}
    : (tensor<?x64xf16>, tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %0 : tensor<?x64xf16>
}

// -----

// The smallest tile of each number of warps was slow.
func.func @all_slow(%x: tensor<?x64xf16>, %w: tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf16> {
  // expected-error@+1 {{'sf.matmul' op expected a configuration for sm_80 whose kernel neither spills registers nor has its wgmma instructions serialized, got none beside those that do, [#sf.kernel_config<tile = 64x16x64}}
  %0 = sf.matmul %x, %w {sf.slow_configs = [#sf.kernel_config<tile = 64x16x64, warps = 1x2, atom = mma_sp>,
                                            #sf.kernel_config<tile = 64x32x64, warps = 1x4, atom = mma_sp>,
                                            #sf.kernel_config<tile = 256x16x64, warps = 4x2, atom = mma_sp>]}
    : (tensor<?x64xf16>, tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %0 : tensor<?x64xf16>
}
