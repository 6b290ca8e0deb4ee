// RUN: sparseflow-opt %s --sf-select-config=target=sm_90 --split-input-file | FileCheck %s
// RUN: sparseflow-opt %s --sf-select-config=target=sm_89 --split-input-file | FileCheck %s --check-prefix=SMALL
// RUN: sparseflow-opt %s --sf-select-config="config='max_tokens = 8, tile = 64x32x128, warps = 1x2, stages = 4, atom = mma_sp'" --split-input-file 2>&1 | FileCheck %s --check-prefix=FORCED
// RUN: sparseflow-opt %s --sf-select-config="config='#sf.kernel_config<tile = 64x32x128, warps = 1x2, stages = 4, atom = mma_sp>'" --split-input-file 2>&1 | FileCheck %s --check-prefix=FORCED
// RUN: sparseflow-opt %s --sf-select-config="target=sm_90 max-accumulators=64" --split-input-file | FileCheck %s --check-prefix=ROOMY
// RUN: not sparseflow-opt %s --sf-select-config=target=sm_75 2>&1 | FileCheck %s --check-prefix=TARGET
// RUN: not sparseflow-opt %s --sf-select-config=config="tile=64" 2>&1 | FileCheck %s --check-prefix=CONFIG

// TARGET: expected a known target, got 'sm_75'; known targets are sm_80
// CONFIG: expected a kernel configuration such as 'tile = 256x128x64, warps = 4x2, atom = mma_sp', or 'cublaslt', got 'tile=64'

// Few tokens take narrow tiles, many the widest; the last variant serves any number. On chips with 99 KiB of shared memory
// the widest tile does not fit three times.
// CHECK: module attributes {sf.target = #sf.target<"sm_90">}
// CHECK-LABEL: @linear
// CHECK: sf.matmul
// CHECK-SAME: configs = [#sf.kernel_config<max_tokens = [[A:[0-9]+]], tile = 64x{{16|32}}x128
// CHECK-SAME: #sf.kernel_config<tile = 256x128x64, warps = 4x2, split_k = 1, raster = 8, atom = mma_sp>]
// ROOMY-LABEL: @linear
// ROOMY-NOT: tile = 256x128
// ROOMY: #sf.kernel_config<tile = {{128x128x[0-9]+, warps = 2x4|256x64x[0-9]+, warps = 4x2}}, split_k = 1, raster = 8, atom = mma_sp>]
// SMALL-LABEL: @linear
// SMALL: #sf.kernel_config<tile = 128x128x64, warps = 2x{{[24]}}, split_k = 1, raster = 8, atom = mma_sp>]
// FORCED-LABEL: @linear
// FORCED: configs = [#sf.kernel_config<tile = 64x32x128, warps = 1x2, stages = 4, split_k = 1, raster = 8, atom = mma_sp>]
func.func @linear(%x: tensor<?x4096xf16>, %w: tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x4096xf16>, tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}

// -----

// One number of tokens, one variant. K is split because 64 tiles fill less than half of the chip.
// CHECK-LABEL: @static_tokens
// CHECK: configs = [#sf.kernel_config<tile = 64x64x128, warps = 1x4, split_k = 2, raster = 8, atom = mma_sp>]
func.func @static_tokens(%x: tensor<64x4096xf16>, %w: tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<64x4096xf16> {
  %0 = sf.matmul %x, %w : (tensor<64x4096xf16>, tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<64x4096xf16>
  return %0 : tensor<64x4096xf16>
}

// -----

// A k tile is a whole number of 128-byte chunks: 128 elements of i8.
// CHECK-LABEL: @i8
// CHECK: #sf.kernel_config<tile = 256x128x{{128|256}}, warps = 4x2, split_k = 1, raster = 8, atom = mma_sp>]
func.func @i8(%x: tensor<?x4096xi8>, %w: tensor<4096x4096xi8, #sf.weight<sp24>>) -> tensor<?x4096xi32> {
  %0 = sf.matmul %x, %w : (tensor<?x4096xi8>, tensor<4096x4096xi8, #sf.weight<sp24>>) -> tensor<?x4096xi32>
  return %0 : tensor<?x4096xi32>
}

// -----

// Rows of 308 bytes are copied 4 bytes at a time: many copies a thread, so fewer tokens.
// CHECK-LABEL: @unaligned_rows
// CHECK: #sf.kernel_config<tile = 256x64x128, warps = 4x2, split_k = 1, raster = 8, atom = mma_sp>]
func.func @unaligned_rows(%x: tensor<?x308xi8>, %w: tensor<4096x308xi8, #sf.weight<sp24>>) -> tensor<?x4096xi32> {
  %0 = sf.matmul %x, %w : (tensor<?x308xi8>, tensor<4096x308xi8, #sf.weight<sp24>>) -> tensor<?x4096xi32>
  return %0 : tensor<?x4096xi32>
}

// -----

// Two weights have two accumulators: half the tile, so that they fit in registers.
// CHECK-LABEL: @gated
// CHECK: #sf.kernel_config<tile = {{128x128x[0-9]+, warps = 2x4|256x64x[0-9]+, warps = 4x2}}, split_k = 1, raster = 8, atom = mma_sp>]
func.func @gated(%x: tensor<?x4096xf16>, %w: tensor<4096x4096xf16, #sf.weight<sp24>>, %v: tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf32> {
  %0 = sf.matmul %x, %w, %v epilogue {
  ^bb0(%a: f32, %b: f32):
    %1 = arith.mulf %a, %b : f32
    sf.yield %1 : f32
  } : (tensor<?x4096xf16>, tensor<4096x4096xf16, #sf.weight<sp24>>, tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf32>
  return %0 : tensor<?x4096xf32>
}

// -----

// Configurations that are there stay.
// CHECK-LABEL: @kept
// CHECK: configs = [#sf.kernel_config<tile = 64x8x64, warps = 1x1, split_k = 1, raster = 8, atom = mma_sp>]
func.func @kept(%x: tensor<?x4096xf16>, %w: tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16> {
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma_sp>]}
    : (tensor<?x4096xf16>, tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}
