// RUN: sparseflow-opt %s --sf-select-config=target=sm_90a --split-input-file | FileCheck %s
// RUN: sparseflow-opt %s --sf-select-config=target=sm_90 --split-input-file | FileCheck %s --check-prefix=PLAIN
// RUN: sparseflow-opt %s --sf-select-config="target=sm_90a max-accumulators=64" --split-input-file | FileCheck %s --check-prefix=ROOMY

// sm_90a has wgmma: a warpgroup for each 64 features, narrow tiles for few tokens, the widest for
// many. sm_90 has not.
// CHECK: module attributes {sf.target = #sf.target<"sm_90a">}
// CHECK-LABEL: @sparse
// CHECK-SAME: tensor<?x4096xf16>
// CHECK: configs = [#sf.kernel_config<max_tokens = {{[0-9]+}}, tile = 64x{{[0-9]+x[0-9]+}}, warps = 4x1,
// CHECK-SAME: #sf.kernel_config<max_tokens = 1024, tile = 128x256x64
// A wave more begins with the next token: other tiles fill it, and the kernel comes back where its own do.
// CHECK-SAME: #sf.kernel_config<max_tokens = 1152, tile = 192x192x64
// CHECK-SAME: #sf.kernel_config<max_tokens = 2048, tile = 128x256x64
// CHECK-SAME: #sf.kernel_config<tile = 128x256x64, warps = 8x1, split_k = 1, raster = 16, atom = wgmma_sp>]
// PLAIN-LABEL: @sparse
// PLAIN-NOT: wgmma
// ROOMY-LABEL: @sparse
// ROOMY-NOT: x256x64
// ROOMY: #sf.kernel_config<tile = {{[0-9]+x1?[0-9]?[0-9]x64, warps = [0-9]+x1}}, split_k = 1, raster = 16, atom = wgmma_sp>]
func.func @sparse(%x: tensor<?x4096xf16>, %w: tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x4096xf16>, tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}

// -----

// CHECK-LABEL: @dense
// CHECK: #sf.kernel_config<tile = 128x256x128, warps = 8x1, split_k = 1, raster = 16, atom = wgmma>]
func.func @dense(%x: tensor<?x4096xi8>, %w: tensor<4096x4096xi8>) -> tensor<?x4096xi32> {
  %0 = sf.matmul %x, %w : (tensor<?x4096xi8>, tensor<4096x4096xi8>) -> tensor<?x4096xi32>
  return %0 : tensor<?x4096xi32>
}

// -----

// Two weights have two accumulators.
// CHECK-LABEL: @gated
// CHECK: #sf.kernel_config<tile = 128x128x64, warps = 8x1, split_k = 1, raster = 16, atom = wgmma_sp>]
// With fewer accumulators no more than two warpgroups, which have the most registers for each thread.
// ROOMY-LABEL: @gated
// ROOMY-NOT: warps = {{12|16}}x1
// ROOMY: return
func.func @gated(%x: tensor<?x4096xf16>, %w: tensor<4096x4096xf16, #sf.weight<sp24>>, %v: tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf32> {
  %0 = sf.matmul %x, %w, %v epilogue {
  ^bb0(%a: f32, %b: f32):
    %1 = arith.mulf %a, %b : f32
    sf.yield %1 : f32
  } : (tensor<?x4096xf16>, tensor<4096x4096xf16, #sf.weight<sp24>>, tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf32>
  return %0 : tensor<?x4096xf32>
}

// -----

// 8-bit floats: wgmma multiplies them; on sm_90, which has no such mma, they are widened.
// CHECK-LABEL: @float8
// CHECK: sf.matmul
// CHECK-SAME: atom = wgmma_sp>]} : (tensor<?x4096xf8E4M3FN>
// PLAIN-LABEL: @float8
// PLAIN: sf.matmul
// PLAIN-SAME: atom = mma_sp>]} : (tensor<?x4096xf16>
func.func @float8(%x: tensor<?x4096xf8E4M3FN>, %w: tensor<4096x4096xf8E4M3FN, #sf.weight<sp24>>) -> tensor<?x4096xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x4096xf8E4M3FN>, tensor<4096x4096xf8E4M3FN, #sf.weight<sp24>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}

// -----

// Rows of 308 bytes have no tensor map, which wants multiples of 16: they go another way.
// CHECK-LABEL: @unaligned_rows
// CHECK-NOT: wgmma
// CHECK: atom = mma_sp>]
func.func @unaligned_rows(%x: tensor<?x308xi8>, %w: tensor<4096x308xi8, #sf.weight<sp24>>) -> tensor<?x4096xi32> {
  %0 = sf.matmul %x, %w : (tensor<?x308xi8>, tensor<4096x308xi8, #sf.weight<sp24>>) -> tensor<?x4096xi32>
  return %0 : tensor<?x4096xi32>
}

// -----

// 8-bit floats in such rows have no mma on this chip either: widened.
// CHECK-LABEL: @unaligned_float8
// CHECK: sf.matmul
// CHECK-SAME: atom = mma_sp>]} : (tensor<?x308xf16>
func.func @unaligned_float8(%x: tensor<?x308xf8E5M2>, %w: tensor<4096x308xf8E5M2, #sf.weight<sp24>>) -> tensor<?x4096xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x308xf8E5M2>, tensor<4096x308xf8E5M2, #sf.weight<sp24>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}

// -----

// A weight that came packed says for which instructions.
// CHECK-LABEL: @packed_for_mma
// CHECK: sf.matmul
// CHECK-SAME: atom = mma_sp>]} : ({{.*}}pack = mma>
func.func @packed_for_mma(%x: tensor<?x4096xf16>, %w: tensor<4096x4096xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x4096xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x4096xf16>, tensor<4096x4096xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}

// -----

// Rows of 8208 bytes straddle lines of the L2: many features beside few tokens, in clusters that share the copies.
// CHECK-LABEL: @straddling
// CHECK: #sf.kernel_config<max_tokens = 4096, tile = 256x128x64, warps = 16x1, split_k = 1, cluster = 2, raster = 16, atom = wgmma_sp>
func.func @straddling(%x: tensor<?x4104xf16>, %w: tensor<4096x4104xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x4104xf16>, tensor<4096x4104xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}

// -----

// A kernel of so many accumulators in two warpgroups was slow: what has fewer is left, and other numbers of warpgroups.
// CHECK-LABEL: @known_slow
// CHECK-NOT: tile = 128x{{224|240|256}}x
// CHECK: tile = 128x192x64
// CHECK-NOT: tile = 128x{{224|240|256}}x
// CHECK: sf.slow_configs
func.func @known_slow(%x: tensor<?x4096xf16>, %w: tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16> {
  %0 = sf.matmul %x, %w {sf.slow_configs = [#sf.kernel_config<max_tokens = 512, tile = 128x224x64, warps = 8x1, atom = wgmma_sp>]} : (tensor<?x4096xf16>, tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}
