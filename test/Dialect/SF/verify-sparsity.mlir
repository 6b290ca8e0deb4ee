// RUN: sparseflow-opt %s --sf-verify-sparsity --split-input-file --verify-diagnostics | FileCheck %s

// Two f16 values 1.0 and 2.0, then the bitmask 0b1001.
// CHECK-LABEL: @compressed
// CHECK-NEXT: %[[W:.*]] = arith.constant dense_resource<weight.sp24> : tensor<1x4xf16, #sf.weight<sp24>>
// CHECK-NEXT: return %[[W]]
// CHECK: weight.sp24: "0x10000000003C004009"
func.func @compressed() -> tensor<1x4xf16, #sf.weight<sp24>> {
  %w = arith.constant dense<[[1.0, 0.0, 0.0, 2.0]]> : tensor<1x4xf16>
  %0 = sf.compress %w : tensor<1x4xf16> -> tensor<1x4xf16, #sf.weight<sp24>>
  return %0 : tensor<1x4xf16, #sf.weight<sp24>>
}

// -----

// Pruned because the operation says so: the two largest magnitudes stay, ties go to the lower index.
// CHECK-LABEL: @pruned
// CHECK-NEXT: arith.constant dense_resource<weight.sp24> : tensor<2x4xi8, #sf.weight<sp24>>
// CHECK: weight.sp24: "0x10000000FD0405050A03"
func.func @pruned() -> tensor<2x4xi8, #sf.weight<sp24>> {
  %w = arith.constant dense<[[1, -3, 2, 4], [5, 5, -5, 5]]> : tensor<2x4xi8>
  %0 = sf.compress %w {mode = "prune"} : tensor<2x4xi8> -> tensor<2x4xi8, #sf.weight<sp24>>
  return %0 : tensor<2x4xi8, #sf.weight<sp24>>
}

// -----

// A resource keeps its name.
// CHECK-LABEL: @resource
// CHECK-NEXT: arith.constant dense_resource<layers.0.up.sp24> : tensor<1x8xi8, #sf.weight<sp24>>
func.func @resource() -> tensor<1x8xi8, #sf.weight<sp24>> {
  %w = arith.constant dense_resource<layers.0.up> : tensor<1x8xi8>
  %0 = sf.compress %w : tensor<1x8xi8> -> tensor<1x8xi8, #sf.weight<sp24>>
  return %0 : tensor<1x8xi8, #sf.weight<sp24>>
}
{-#
  dialect_resources: { builtin: { layers.0.up: "0x010000000100020000000300" } }
#-}

// -----

// CHECK-LABEL: @run_time
// CHECK: sf.compress %arg0
func.func @run_time(%w: tensor<64x128xf16>) -> tensor<64x128xf16, #sf.weight<sp24>> {
  %0 = sf.compress %w : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  return %0 : tensor<64x128xf16, #sf.weight<sp24>>
}

// -----

func.func @not_24() -> tensor<2x8xf16, #sf.weight<sp24>> {
  %w = arith.constant dense_resource<w1> : tensor<2x8xf16>
  // expected-error@+1 {{'sf.compress' op expected at most 2 non-zeros in each group of 4, got 2 groups with more in 'w1' (2x8xf16), the first at row 0, group 1 (k = 4 to 7) with 3; prune the weight, or ask for it with {mode = "prune"}}}
  %0 = sf.compress %w : tensor<2x8xf16> -> tensor<2x8xf16, #sf.weight<sp24>>
  return %0 : tensor<2x8xf16, #sf.weight<sp24>>
}
{-#
  dialect_resources: { builtin: { w1: "0x10000000003C00000000003C003C003C003C0000003C003C003C003C0000000000000000" } }
#-}

// -----

func.func @nan() -> tensor<1x4xf16, #sf.weight<sp24>> {
  %w = arith.constant dense<[[0.0, 0x7E00, 0.0, 0x7C00]]> : tensor<1x4xf16>
  // expected-error@+1 {{'sf.compress' op expected finite weights, got 2 NaN or infinite elements in (1x4xf16), the first at row 0, column 1}}
  %0 = sf.compress %w {mode = "prune"} : tensor<1x4xf16> -> tensor<1x4xf16, #sf.weight<sp24>>
  return %0 : tensor<1x4xf16, #sf.weight<sp24>>
}

// -----

func.func @three_bits() -> tensor<1x4xi8, #sf.weight<sp24>> {
  // expected-error@+1 {{'arith.constant' op expected a valid 2:4 bitmask in 'w' (1x4xi8)}}
  %w = arith.constant dense_resource<w> : tensor<1x4xi8, #sf.weight<sp24>>
  return %w : tensor<1x4xi8, #sf.weight<sp24>>
}
{-#
  dialect_resources: { builtin: { w: "0x1000000001020B" } }
#-}

// -----

func.func @wrong_size() -> tensor<1x4xi8, #sf.weight<sp24>> {
  // expected-error@+1 {{expected 3 bytes for 'tensor<1x4xi8, #sf.weight<sp24>>', got 2 in 'w'}}
  %w = arith.constant dense_resource<w> : tensor<1x4xi8, #sf.weight<sp24>>
  return %w : tensor<1x4xi8, #sf.weight<sp24>>
}
{-#
  dialect_resources: { builtin: { w: "0x100000000102" } }
#-}

// -----

func.func @no_bytes() -> tensor<1x4xi8, #sf.weight<sp24>> {
  // expected-error@+1 {{expected the bytes of the resource 'absent', got none; the module must carry them under dialect_resources}}
  %w = arith.constant dense_resource<absent> : tensor<1x4xi8, #sf.weight<sp24>>
  return %w : tensor<1x4xi8, #sf.weight<sp24>>
}

// -----

func.func @dense_weight(%x: tensor<?x2xf16>) -> tensor<?x1xf16> {
  %w = arith.constant dense<[[1.0, 0x7C00]]> : tensor<1x2xf16>
  // expected-error@+1 {{'sf.matmul' op expected finite weights, got infinity in (1x2xf16) at row 0}}
  %0 = sf.matmul %x, %w : (tensor<?x2xf16>, tensor<1x2xf16>) -> tensor<?x1xf16>
  return %0 : tensor<?x1xf16>
}

// -----

func.func @scale(%x: tensor<?x2xf16>) -> tensor<?x2xi8> {
  %s = arith.constant dense<[1.0, 0.0]> : tensor<2xf32>
  // expected-error@+1 {{'sf.quantize' op expected positive, finite scales, got 0.000000e+00 at index 1; where all elements are zero, the scale is 1}}
  %0 = sf.quantize %x, %s : tensor<?x2xf16>, tensor<2xf32> -> tensor<?x2xi8>
  return %0 : tensor<?x2xi8>
}

// -----

// A quotient or product with it would leave f32.
func.func @scale_range(%x: tensor<?x2xf16>) -> tensor<?x2xi8> {
  %s = arith.constant dense<1.0e-40> : tensor<f32>
  // expected-error@+1 {{'sf.quantize' op expected scales from 2^-100 to 2^100, got 9.999946e-41 at index 0; rescale the tensor}}
  %q = sf.quantize %x, %s : tensor<?x2xf16>, tensor<f32> -> tensor<?x2xi8>
  return %q : tensor<?x2xi8>
}

// -----

func.func @elements_of_a_stored_weight(%x: tensor<?x4xf16>) -> tensor<?x2xf16> {
  // expected-error@+1 {{expected dense_resource<...>, which holds a weight's stored bytes, for 'tensor<2x4xf16, #sf.weight<sp24>>', got dense<...>; sf.compress a constant without an encoding instead}}
  %w = arith.constant dense<1.0> : tensor<2x4xf16, #sf.weight<sp24>>
  %y = sf.matmul %x, %w : (tensor<?x4xf16>, tensor<2x4xf16, #sf.weight<sp24>>) -> tensor<?x2xf16>
  return %y : tensor<?x2xf16>
}
