// RUN: sparseflow-opt %s --convert-sf-to-sf-tile | FileCheck %s

// Kernels are named after their function, as PTX allows names. Functions whose names become alike number their kernels on.

// CHECK: func.func @"layers.0.up-proj"
// CHECK: sf_tile.launch @kernels::@layers_0_up_proj_compress_0
// CHECK: func.func @layers_0.up_proj
// CHECK: sf_tile.launch @kernels::@layers_0_up_proj_compress_1
// CHECK: func.func @"0 \C3\A9"
// CHECK: sf_tile.launch @kernels::@_0____compress_0
// CHECK: sf_tile.kernel @layers_0_up_proj_compress_0
// CHECK: sf_tile.kernel @layers_0_up_proj_compress_1
// CHECK: sf_tile.kernel @_0____compress_0
func.func @"layers.0.up-proj"(%x: tensor<32x128xf16>) -> tensor<32x128xf16, #sf.weight<sp24>> {
  %w = sf.compress %x {mode = "prune"} : tensor<32x128xf16> -> tensor<32x128xf16, #sf.weight<sp24>>
  return %w : tensor<32x128xf16, #sf.weight<sp24>>
}
func.func @layers_0.up_proj(%x: tensor<32x128xf16>) -> tensor<32x128xf16, #sf.weight<sp24>> {
  %w = sf.compress %x {mode = "prune"} : tensor<32x128xf16> -> tensor<32x128xf16, #sf.weight<sp24>>
  return %w : tensor<32x128xf16, #sf.weight<sp24>>
}
func.func @"0 é"(%x: tensor<32x128xf16>) -> tensor<32x128xf16, #sf.weight<sp24>> {
  %w = sf.compress %x {mode = "prune"} : tensor<32x128xf16> -> tensor<32x128xf16, #sf.weight<sp24>>
  return %w : tensor<32x128xf16, #sf.weight<sp24>>
}
