// RUN: sparseflow-opt %s --sf-orient-operands --split-input-file --verify-diagnostics | FileCheck %s

// CHECK-LABEL: @weight_on_the_left
func.func @weight_on_the_left(%x: tensor<128x?xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>, %init: tensor<64x?xf32>) -> tensor<64x?xf32> {
  %zero = arith.constant 0.0 : f32
  %c = linalg.fill ins(%zero : f32) outs(%init : tensor<64x?xf32>) -> tensor<64x?xf32>
  // CHECK: %[[XT:.*]] = linalg.transpose ins(%arg0 : tensor<128x?xf16>) outs(%{{.*}} : tensor<?x128xf16>) permutation = [1, 0]
  // CHECK: %[[YT:.*]] = sf.matmul %[[XT]], %arg1 : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf32>
  // CHECK: %[[Y:.*]] = linalg.transpose ins(%[[YT]] : tensor<?x64xf32>) outs(%{{.*}} : tensor<64x?xf32>) permutation = [1, 0]
  // CHECK: return %[[Y]]
  %y = linalg.matmul ins(%w, %x : tensor<64x128xf16, #sf.weight<sp24>>, tensor<128x?xf16>) outs(%c : tensor<64x?xf32>) -> tensor<64x?xf32>
  return %y : tensor<64x?xf32>
}

// The transpositions that the front end wrote disappear.
// CHECK-LABEL: @transpositions_cancel
func.func @transpositions_cancel(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>, %m: index) -> tensor<?x64xf32> {
  %zero = arith.constant 0.0 : f32
  %xe = tensor.empty(%m) : tensor<128x?xf16>
  %xt = linalg.transpose ins(%x : tensor<?x128xf16>) outs(%xe : tensor<128x?xf16>) permutation = [1, 0]
  %e = tensor.empty(%m) : tensor<64x?xf32>
  %c = linalg.fill ins(%zero : f32) outs(%e : tensor<64x?xf32>) -> tensor<64x?xf32>
  // CHECK-NOT: transpose
  // CHECK: %[[Y:.*]] = sf.matmul %arg0, %arg1
  // CHECK-NEXT: return %[[Y]]
  %y = linalg.matmul ins(%w, %xt : tensor<64x128xf16, #sf.weight<sp24>>, tensor<128x?xf16>) outs(%c : tensor<64x?xf32>) -> tensor<64x?xf32>
  %ye = tensor.empty(%m) : tensor<?x64xf32>
  %yt = linalg.transpose ins(%y : tensor<64x?xf32>) outs(%ye : tensor<?x64xf32>) permutation = [1, 0]
  return %yt : tensor<?x64xf32>
}

// A right operand that is stored by tokens needs no transposition.
// CHECK-LABEL: @tokens_by_k
func.func @tokens_by_k(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>, %init: tensor<64x?xf32>) -> tensor<64x?xf32> {
  %zero = arith.constant 0.0 : f32
  %c = linalg.fill ins(%zero : f32) outs(%init : tensor<64x?xf32>) -> tensor<64x?xf32>
  // CHECK: %[[YT:.*]] = sf.matmul %arg0, %arg1 : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  // CHECK: linalg.transpose ins(%[[YT]]
  %y = linalg.matmul indexing_maps = [affine_map<(n, m, k) -> (n, k)>, affine_map<(n, m, k) -> (m, k)>, affine_map<(n, m, k) -> (n, m)>]
    ins(%w, %x : tensor<64x128xf16>, tensor<?x128xf16>) outs(%c : tensor<64x?xf32>) -> tensor<64x?xf32>
  return %y : tensor<64x?xf32>
}

// CHECK-LABEL: @initial_value
func.func @initial_value(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>, %c: tensor<64x?xf32>) -> tensor<64x?xf32> {
  // CHECK: %[[CT:.*]] = linalg.transpose ins(%arg2
  // CHECK: sf.matmul %arg0, %arg1 epilogue(%[[CT]] : tensor<?x64xf32>)
  %y = linalg.matmul indexing_maps = [affine_map<(n, m, k) -> (n, k)>, affine_map<(n, m, k) -> (m, k)>, affine_map<(n, m, k) -> (n, m)>]
    ins(%w, %x : tensor<64x128xf16, #sf.weight<sp24>>, tensor<?x128xf16>) outs(%c : tensor<64x?xf32>) -> tensor<64x?xf32>
  return %y : tensor<64x?xf32>
}

// -----

func.func @two_sparse_operands(%x: tensor<128x128xf16, #sf.weight<sp24>>, %c: tensor<128x128xf32>) -> tensor<128x128xf32> {
  // expected-error@+1 {{'linalg.matmul' op expected one 2:4 operand, got two; the tensor cores take the second one dense, so decompress it with sf.decompress}}
  %y = linalg.matmul ins(%x, %x : tensor<128x128xf16, #sf.weight<sp24>>, tensor<128x128xf16, #sf.weight<sp24>>) outs(%c : tensor<128x128xf32>) -> tensor<128x128xf32>
  return %y : tensor<128x128xf32>
}

// -----

func.func @no_product(%x: tensor<128x128xf16, #sf.weight<sp24>>, %c: tensor<128x128xf16>) -> tensor<128x128xf16> {
  // expected-error@+1 {{'linalg.exp' op expected a product that takes a 2:4 operand, but it is no product of two tensors; decompress the operand with sf.decompress}}
  %y = linalg.exp ins(%x : tensor<128x128xf16, #sf.weight<sp24>>) outs(%c : tensor<128x128xf16>) -> tensor<128x128xf16>
  return %y : tensor<128x128xf16>
}

// -----

func.func @pruned_along_features(%x: tensor<?x64xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>, %c: tensor<128x?xf32>) -> tensor<128x?xf32> {
  // expected-error@+1 {{'linalg.matmul' op expected the weight to be 2:4 along the reduced dimension K, got it 2:4 along the other one; prune it along K}}
  %y = linalg.matmul indexing_maps = [affine_map<(n, m, k) -> (k, n)>, affine_map<(n, m, k) -> (m, k)>, affine_map<(n, m, k) -> (n, m)>]
    ins(%w, %x : tensor<64x128xf16, #sf.weight<sp24>>, tensor<?x64xf16>) outs(%c : tensor<128x?xf32>) -> tensor<128x?xf32>
  return %y : tensor<128x?xf32>
}
