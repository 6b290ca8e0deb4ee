// RUN: sparseflow-opt %s --convert-sf-to-linalg --canonicalize --cse --split-input-file --verify-diagnostics | FileCheck %s

// Storage is no concern of the reference: every weight is its dense elements.

// CHECK-LABEL: func.func @storage
// CHECK-SAME: (%[[W:.*]]: tensor<64x128xi8>) -> (tensor<64x128xi8>, tensor<64x128xi8>)
// CHECK-NEXT: return %[[W]], %[[W]]
func.func @storage(%w: tensor<64x128xi8, #sf.weight<sp24>>)
    -> (tensor<64x128xi8>, tensor<64x128xi8, #sf.weight<sp24, pack = mma>>) {
  %0 = sf.decompress %w : tensor<64x128xi8, #sf.weight<sp24>> -> tensor<64x128xi8>
  %1 = sf.pack %w : tensor<64x128xi8, #sf.weight<sp24>> -> tensor<64x128xi8, #sf.weight<sp24, pack = mma>>
  return %0, %1 : tensor<64x128xi8>, tensor<64x128xi8, #sf.weight<sp24, pack = mma>>
}

// -----

// Calls follow their functions.

// CHECK-LABEL: func.func private @callee(tensor<4x8xf16>) -> tensor<4x8xf16>
func.func private @callee(tensor<4x8xf16, #sf.weight<sp24>>) -> tensor<4x8xf16, #sf.weight<sp24>>
// CHECK-LABEL: func.func @caller
func.func @caller(%w: tensor<4x8xf16, #sf.weight<sp24>>) -> tensor<4x8xf16, #sf.weight<sp24>> {
  // CHECK: call @callee(%{{.*}}) : (tensor<4x8xf16>) -> tensor<4x8xf16>
  %0 = call @callee(%w) : (tensor<4x8xf16, #sf.weight<sp24>>) -> tensor<4x8xf16, #sf.weight<sp24>>
  return %0 : tensor<4x8xf16, #sf.weight<sp24>>
}

// -----

// A constant is decoded: values 1, 2 at positions 0 and 3, then 3, 4 at 1 and 2.

// CHECK-LABEL: func.func @constant
// CHECK: dense_resource<w.dense> : tensor<1x8xi8>
func.func @constant() -> tensor<1x8xi8, #sf.weight<sp24>> {
  %w = arith.constant dense_resource<w> : tensor<1x8xi8, #sf.weight<sp24>>
  return %w : tensor<1x8xi8, #sf.weight<sp24>>
}
// CHECK: w.dense: "0x{{[0-9A-F]*}}0100000200030400"
{-# dialect_resources: { builtin: { w: "0x010000000102030469" } } #-}

// -----

// Choosing two of four compares each element with the others; verifying counts nonzeros as well.

// CHECK-LABEL: func.func @prune
func.func @prune(%w: tensor<4x8xi8>) -> tensor<4x8xi8, #sf.weight<sp24>> {
  // CHECK-NOT: cf.assert
  // CHECK: tensor.expand_shape {{.*}} : tensor<4x8xi8> into tensor<4x2x4xi8>
  // CHECK: linalg.index 2
  // CHECK: arith.select
  // CHECK: tensor.collapse_shape {{.*}} : tensor<4x2x4xi8> into tensor<4x8xi8>
  %0 = sf.compress %w {mode = "prune"} : tensor<4x8xi8> -> tensor<4x8xi8, #sf.weight<sp24>>
  return %0 : tensor<4x8xi8, #sf.weight<sp24>>
}
// CHECK-LABEL: func.func @prune_float
func.func @prune_float(%w: tensor<4x8xf16>) -> tensor<4x8xf16, #sf.weight<sp24>> {
  // CHECK: cf.assert {{.*}}"'sf.compress' op expected finite elements of tensor<4x8xf16>, got others"
  %0 = sf.compress %w {mode = "prune"} : tensor<4x8xf16> -> tensor<4x8xf16, #sf.weight<sp24>>
  return %0 : tensor<4x8xf16, #sf.weight<sp24>>
}
// CHECK-LABEL: func.func @verify
func.func @verify(%w: tensor<4x8xi8>) -> tensor<4x8xi8, #sf.weight<sp24>> {
  // CHECK: cf.assert {{.*}}"'sf.compress' op expected at most 2 nonzeros in each group of 4 along K
  %0 = sf.compress %w : tensor<4x8xi8> -> tensor<4x8xi8, #sf.weight<sp24>>
  return %0 : tensor<4x8xi8, #sf.weight<sp24>>
}

// -----

func.func @damaged_constant() -> tensor<1x8xi8, #sf.weight<sp24>> {
  // expected-error @below {{expected 2 mask bits in row 0, group 0 of a 2:4 bitmask, got 3}}
  // expected-error @below {{failed to legalize operation 'arith.constant'}}
  %w = arith.constant dense_resource<damaged> : tensor<1x8xi8, #sf.weight<sp24>>
  return %w : tensor<1x8xi8, #sf.weight<sp24>>
}
{-# dialect_resources: { builtin: { damaged: "0x010000000102030467" } } #-}
