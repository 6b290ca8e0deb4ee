// RUN: sparseflow-opt %s --sf-import-sparse-tensor --split-input-file --verify-diagnostics | FileCheck %s

#NV_24 = #sparse_tensor.encoding<{map = (i, j) -> (i : dense, j floordiv 4 : dense, j mod 4 : structured[2, 4])}>
#NV_24_T = #sparse_tensor.encoding<{map = (i, j) -> (j : dense, i floordiv 4 : dense, i mod 4 : structured[2, 4])}>
#x_map = affine_map<(m, n, k) -> (m, k)>
#xt_map = affine_map<(m, n, k) -> (k, m)>
#wt_map = affine_map<(m, n, k) -> (n, k)>
#y_map = affine_map<(m, n, k) -> (m, n)>

// CHECK-LABEL: @weight_by_feature
// CHECK-SAME: (%[[X:.*]]: tensor<?x128xf16>, %[[W:.*]]: tensor<64x128xf16, #sf.weight<sp24>>, %{{.*}}) -> tensor<?x64xf32>
func.func @weight_by_feature(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #NV_24>, %init: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %zero = arith.constant 0.0 : f32
  %c = linalg.fill ins(%zero : f32) outs(%init : tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK-NEXT: %[[Y:.*]] = sf.matmul %[[X]], %[[W]] : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf32>
  // CHECK-NEXT: return %[[Y]]
  %y = linalg.matmul indexing_maps = [#x_map, #wt_map, #y_map]
    ins(%x, %w : tensor<?x128xf16>, tensor<64x128xf16, #NV_24>) outs(%c : tensor<?x64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// A [K,N] tensor that is pruned along K is stored as [N,K].
// CHECK-LABEL: @weight_by_k
// CHECK-SAME: (%[[X:.*]]: tensor<?x128xf16>, %[[W:.*]]: tensor<64x128xf16, #sf.weight<sp24>>, %{{.*}})
func.func @weight_by_k(%x: tensor<?x128xf16>, %w: tensor<128x64xf16, #NV_24_T>, %init: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %zero = arith.constant 0.0 : f32
  %c = linalg.fill ins(%zero : f32) outs(%init : tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK-NEXT: sf.matmul %[[X]], %[[W]] :
  %y = linalg.matmul ins(%x, %w : tensor<?x128xf16>, tensor<128x64xf16, #NV_24_T>) outs(%c : tensor<?x64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// CHECK-LABEL: @transposed_x
func.func @transposed_x(%x: tensor<128x?xf16>, %w: tensor<64x128xf16, #NV_24>, %init: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %zero = arith.constant 0.0 : f32
  %c = linalg.fill ins(%zero : f32) outs(%init : tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: %[[T:.*]] = linalg.transpose ins(%arg0 : tensor<128x?xf16>) outs(%{{.*}} : tensor<?x128xf16>) permutation = [1, 0]
  // CHECK-NEXT: sf.matmul %[[T]], %arg1
  %y = linalg.matmul indexing_maps = [#xt_map, #wt_map, #y_map]
    ins(%x, %w : tensor<128x?xf16>, tensor<64x128xf16, #NV_24>) outs(%c : tensor<?x64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// CHECK-LABEL: @converted_constant
func.func @converted_constant(%x: tensor<?x4xf16>, %init: tensor<?x2xf32>) -> tensor<?x2xf32> {
  // CHECK-DAG: %[[W:.*]] = arith.constant dense<{{.*}}> : tensor<2x4xf16>
  // CHECK-DAG: %[[C:.*]] = sf.compress %[[W]] : tensor<2x4xf16> -> tensor<2x4xf16, #sf.weight<sp24>>
  // CHECK-NEXT: sf.matmul %arg0, %[[C]]
  %dense = arith.constant dense<[[1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 0.0, 4.0]]> : tensor<2x4xf16>
  %w = sparse_tensor.convert %dense : tensor<2x4xf16> to tensor<2x4xf16, #NV_24>
  %c = arith.constant dense<0.0> : tensor<2x2xf32>
  %zero = arith.constant 0.0 : f32
  %z = linalg.fill ins(%zero : f32) outs(%init : tensor<?x2xf32>) -> tensor<?x2xf32>
  %y = linalg.matmul indexing_maps = [#x_map, #wt_map, #y_map]
    ins(%x, %w : tensor<?x4xf16>, tensor<2x4xf16, #NV_24>) outs(%z : tensor<?x2xf32>) -> tensor<?x2xf32>
  return %y : tensor<?x2xf32>
}

// CHECK-LABEL: @converted_transposed_constant
func.func @converted_transposed_constant() -> tensor<4x2xf16, #NV_24_T> {
  // CHECK: %[[W:.*]] = arith.constant dense_resource<weight.transposed> : tensor<2x4xf16>
  // CHECK: %[[C:.*]] = sf.compress %[[W]] : tensor<2x4xf16> -> tensor<2x4xf16, #sf.weight<sp24>>
  // CHECK: return %[[C]] : tensor<2x4xf16, #sf.weight<sp24>>
  %dense = arith.constant dense<[[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.0, 4.0]]> : tensor<4x2xf16>
  %w = sparse_tensor.convert %dense : tensor<4x2xf16> to tensor<4x2xf16, #NV_24_T>
  return %w : tensor<4x2xf16, #NV_24_T>
}

// CHECK-LABEL: @encoded_constant
func.func @encoded_constant() -> tensor<1x4xf16, #NV_24> {
  // CHECK: %[[W:.*]] = arith.constant dense<{{.*}}> : tensor<1x4xf16>
  // CHECK: sf.compress %[[W]]
  %w = arith.constant dense<[[1.0, 0.0, 2.0, 0.0]]> : tensor<1x4xf16, #NV_24>
  return %w : tensor<1x4xf16, #NV_24>
}

// CHECK-LABEL: @to_dense
func.func @to_dense(%w: tensor<64x128xf16, #NV_24>) -> tensor<64x128xf16> {
  // CHECK: sf.decompress %arg0 : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16>
  %0 = sparse_tensor.convert %w : tensor<64x128xf16, #NV_24> to tensor<64x128xf16>
  return %0 : tensor<64x128xf16>
}

func.func private @callee(tensor<64x128xf16, #NV_24>) -> tensor<64x128xf16, #NV_24>
// CHECK: func.func private @callee(tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<64x128xf16, #sf.weight<sp24>>

// CHECK-LABEL: @calls
func.func @calls(%w: tensor<64x128xf16, #NV_24>) -> tensor<64x128xf16, #NV_24> {
  // CHECK: call @callee(%arg0) : (tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<64x128xf16, #sf.weight<sp24>>
  %0 = call @callee(%w) : (tensor<64x128xf16, #NV_24>) -> tensor<64x128xf16, #NV_24>
  return %0 : tensor<64x128xf16, #NV_24>
}

// A product with the weight on the left is for sf-orient-operands.
// CHECK-LABEL: @left
func.func @left(%x: tensor<128x?xf16>, %w: tensor<64x128xf16, #NV_24>, %c: tensor<64x?xf32>) -> tensor<64x?xf32> {
  // CHECK: linalg.matmul ins(%{{.*}}, %{{.*}} : tensor<64x128xf16, #sf.weight<sp24>>, tensor<128x?xf16>)
  %y = linalg.matmul ins(%w, %x : tensor<64x128xf16, #NV_24>, tensor<128x?xf16>) outs(%c : tensor<64x?xf32>) -> tensor<64x?xf32>
  return %y : tensor<64x?xf32>
}

// CHECK-LABEL: @dense_weights
func.func @dense_weights(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>, %v: tensor<128x64xf16>, %c: tensor<?x64xf32>)
    -> (tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>) {
  %zero = arith.constant 0.0 : f32
  %z = linalg.fill ins(%zero : f32) outs(%c : tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: sf.matmul %arg0, %arg1 : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  %0 = linalg.matmul indexing_maps = [#x_map, #wt_map, #y_map]
    ins(%x, %w : tensor<?x128xf16>, tensor<64x128xf16>) outs(%z : tensor<?x64xf32>) -> tensor<?x64xf32>
  // CHECK: %[[T:.*]] = linalg.transpose ins(%arg2
  // CHECK: sf.matmul %arg0, %[[T]]
  %1 = linalg.matmul ins(%x, %v : tensor<?x128xf16>, tensor<128x64xf16>) outs(%z : tensor<?x64xf32>) -> tensor<?x64xf32>
  // A transposition of the operand cancels.
  %e = tensor.empty() : tensor<128x64xf16>
  %t = linalg.transpose ins(%w : tensor<64x128xf16>) outs(%e : tensor<128x64xf16>) permutation = [1, 0]
  // CHECK: sf.matmul %arg0, %arg1
  %2 = linalg.matmul ins(%x, %t : tensor<?x128xf16>, tensor<128x64xf16>) outs(%z : tensor<?x64xf32>) -> tensor<?x64xf32>
  return %0, %1, %2 : tensor<?x64xf32>, tensor<?x64xf32>, tensor<?x64xf32>
}

// CHECK-LABEL: @generic
func.func @generic(%x: tensor<?x128xi8>, %w: tensor<64x128xi8>) -> tensor<?x64xi32> {
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0 : i32
  %m = tensor.dim %x, %c0 : tensor<?x128xi8>
  %e = tensor.empty(%m) : tensor<?x64xi32>
  %z = linalg.fill ins(%zero : i32) outs(%e : tensor<?x64xi32>) -> tensor<?x64xi32>
  // CHECK-NEXT: sf.matmul %arg0, %arg1 : (tensor<?x128xi8>, tensor<64x128xi8>) -> tensor<?x64xi32>
  %y = linalg.generic {indexing_maps = [#x_map, #wt_map, #y_map], iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%x, %w : tensor<?x128xi8>, tensor<64x128xi8>) outs(%z : tensor<?x64xi32>) {
  ^bb0(%a: i8, %b: i8, %acc: i32):
    %0 = arith.extsi %a : i8 to i32
    %1 = arith.extsi %b : i8 to i32
    %2 = arith.muli %0, %1 : i32
    %3 = arith.addi %acc, %2 : i32
    linalg.yield %3 : i32
  } -> tensor<?x64xi32>
  return %y : tensor<?x64xi32>
}

// CHECK-LABEL: @initial_value
func.func @initial_value(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #NV_24>, %c: tensor<?x64xf16>) -> tensor<?x64xf16> {
  // CHECK: sf.matmul %arg0, %arg1 epilogue(%arg2 : tensor<?x64xf16>) {
  // CHECK-NEXT: ^bb0(%[[ACC:.*]]: f32, %[[C:.*]]: f16):
  // CHECK-NEXT: %[[E:.*]] = arith.extf %[[C]]
  // CHECK-NEXT: %[[S:.*]] = arith.addf %[[ACC]], %[[E]]
  // CHECK-NEXT: %[[T:.*]] = arith.truncf %[[S]]
  // CHECK-NEXT: sf.yield %[[T]] : f16
  %y = linalg.matmul indexing_maps = [#x_map, #wt_map, #y_map]
    ins(%x, %w : tensor<?x128xf16>, tensor<64x128xf16, #NV_24>) outs(%c : tensor<?x64xf16>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// CHECK-LABEL: @not_for_tensor_cores
func.func @not_for_tensor_cores(%x: tensor<?x128xf64>, %w: tensor<128x64xf64>, %c: tensor<?x64xf64>) -> tensor<?x64xf64> {
  // CHECK: linalg.matmul
  %y = linalg.matmul ins(%x, %w : tensor<?x128xf64>, tensor<128x64xf64>) outs(%c : tensor<?x64xf64>) -> tensor<?x64xf64>
  return %y : tensor<?x64xf64>
}

// -----

#NV_24 = #sparse_tensor.encoding<{map = (i, j) -> (i : dense, j floordiv 4 : dense, j mod 4 : structured[2, 4])}>
func.func @pruned_along_features(%x: tensor<?x128xf16>, %w: tensor<128x64xf16, #NV_24>, %c: tensor<?x64xf32>) -> tensor<?x64xf32> {
  // expected-error@+1 {{'linalg.matmul' op expected the weight to be 2:4 along the reduced dimension K, got it 2:4 along the other one; prune it along K}}
  %y = linalg.matmul ins(%x, %w : tensor<?x128xf16>, tensor<128x64xf16, #NV_24>) outs(%c : tensor<?x64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// -----

#CSR = #sparse_tensor.encoding<{map = (i, j) -> (i : dense, j : compressed)}>
// expected-error@+1 {{expected a tensor that is 2:4 along one of two dimensions}}
func.func @csr(%w: tensor<128x64xf16, #CSR>) {
  return
}

// -----

#NV_34 = #sparse_tensor.encoding<{map = (i, j) -> (i : dense, j floordiv 4 : dense, j mod 4 : structured[3, 4])}>
// expected-error@+1 {{expected a tensor that is 2:4 along one of two dimensions}}
func.func @three_of_four(%w: tensor<128x64xf16, #NV_34>) {
  return
}

// -----

#NV_24 = #sparse_tensor.encoding<{map = (i, j) -> (i : dense, j floordiv 4 : dense, j mod 4 : structured[2, 4])}>
// expected-error@+1 {{expected K to be a multiple of 4 for 2:4 weights, got 126; pad K to 128}}
func.func @ragged(%w: tensor<64x126xf16, #NV_24>) {
  return
}

// -----

#NV_24 = #sparse_tensor.encoding<{map = (i, j) -> (i : dense, j floordiv 4 : dense, j mod 4 : structured[2, 4])}>
func.func @f32(%x: tensor<?x128xf32>, %w: tensor<128x128xf32, #NV_24>, %c: tensor<?x128xf32>) -> tensor<?x128xf32> {
  // expected-error@+1 {{'linalg.matmul' op expected a product that takes a 2:4 operand, but no tensor-core product takes f32 and f32 to f32}}
  %y = linalg.matmul ins(%x, %w : tensor<?x128xf32>, tensor<128x128xf32, #NV_24>) outs(%c : tensor<?x128xf32>) -> tensor<?x128xf32>
  return %y : tensor<?x128xf32>
}

// -----

#NV_24 = #sparse_tensor.encoding<{map = (i, j) -> (i : dense, j floordiv 4 : dense, j mod 4 : structured[2, 4])}>
func.func @other_use(%w: tensor<64x128xf16, #NV_24>) -> memref<?xf16> {
  // expected-error@+1 {{'sparse_tensor.values' op expected 2:4 tensors to be used by products}}
  %0 = sparse_tensor.values %w : tensor<64x128xf16, #NV_24> to memref<?xf16>
  return %0 : memref<?xf16>
}
