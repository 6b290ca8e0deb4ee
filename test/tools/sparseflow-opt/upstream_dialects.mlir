// The driver parses what other front ends hand over: linalg on tensors and upstream 2:4 encodings.
// RUN: sparseflow-opt %s --verify-roundtrip --canonicalize | FileCheck %s

#NV_24 = #sparse_tensor.encoding<{
  map = (i, j) -> (i : dense, j floordiv 4 : dense, j mod 4 : structured[2, 4])
}>

// CHECK-LABEL: func.func @linear
// CHECK: linalg.matmul
func.func @linear(%x: tensor<?x64xf16>, %w: tensor<64x32xf16, #NV_24>, %init: tensor<?x32xf16>) -> tensor<?x32xf16> {
  %y = linalg.matmul ins(%x, %w : tensor<?x64xf16>, tensor<64x32xf16, #NV_24>) outs(%init : tensor<?x32xf16>) -> tensor<?x32xf16>
  return %y : tensor<?x32xf16>
}
