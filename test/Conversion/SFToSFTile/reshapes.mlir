// A tensor whose dimensions of size 1 are others is copied, as a matrix of one column may have its rows apart.
// RUN: sparseflow-opt %s --split-input-file --convert-sf-to-sf-tile --cse | FileCheck %s

// CHECK-LABEL: func.func @row
// CHECK-NOT: tensor.collapse_shape
// CHECK: sf_tile.launch @kernels::@row_elementwise_0(%arg0) <blocks = 1> : (tensor<1x64xf32>) -> tensor<64xf32>
// CHECK: sf_tile.load %{{.*}}[%{{.*}}, %{{.*}}] dims [0, 1] : memref<1x64xf32, strided<[?, 1]>> -> <1x128xf32>
func.func @row(%x: tensor<1x64xf32>) -> tensor<64xf32> {
  %0 = tensor.collapse_shape %x [[0, 1]] : tensor<1x64xf32> into tensor<64xf32>
  return %0 : tensor<64xf32>
}

// -----

// CHECK-LABEL: func.func @column
// CHECK-NOT: tensor.collapse_shape
// CHECK: sf_tile.launch @kernels::@column_elementwise_0(%arg0) <blocks = 1> : (tensor<64x1xf32>) -> tensor<64xf32>
// CHECK: sf_tile.load %{{.*}}[%{{.*}}, %c0] dims [1, -1] : memref<64x1xf32, strided<[?, 1]>> -> <1x128xf32>
func.func @column(%x: tensor<64x1xf32>) -> tensor<64xf32> {
  %0 = tensor.collapse_shape %x [[0, 1]] : tensor<64x1xf32> into tensor<64xf32>
  return %0 : tensor<64xf32>
}

// -----

// An element for each token; the grid follows it.
// CHECK-LABEL: func.func @tokens
// CHECK-NOT: tensor.expand_shape
// CHECK: sf_tile.launch @kernels::@tokens_elementwise_0(%arg0) <blocks = 1, rows_of = 0, rows_per_block = 2048> : (tensor<?xf32>) -> tensor<?x1xf32>
// CHECK: sf_tile.load %{{.*}}[%{{.*}}] dims [0] : memref<?xf32> -> <2048x1xf32>
func.func @tokens(%x: tensor<?xf32>) -> tensor<?x1xf32> {
  %c0 = arith.constant 0 : index
  %m = tensor.dim %x, %c0 : tensor<?xf32>
  %0 = tensor.expand_shape %x [[0, 1]] output_shape [%m, 1] : tensor<?xf32> into tensor<?x1xf32>
  return %0 : tensor<?x1xf32>
}
