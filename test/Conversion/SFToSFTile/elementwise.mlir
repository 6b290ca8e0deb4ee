// RUN: sparseflow-opt %s --split-input-file --convert-sf-to-sf-tile --cse | FileCheck %s

#full = affine_map<(m, n) -> (m, n)>
#feature = affine_map<(m, n) -> (n)>
#token = affine_map<(m, n) -> (m, 0)>
#scalar = affine_map<(m, n) -> ()>

// Operands of every kind meet one tile of rows x columns; the grid follows the first operand that has the rows.
// CHECK-LABEL: func.func @broadcasts
// CHECK: sf_tile.dispatch "elementwise" %arg2 [-1]
// CHECK-NEXT: sf_tile.launch @kernels::@broadcasts_elementwise_0(%arg0, %arg1, %arg2, %arg3) <blocks = 1, rows_of = 2, rows_per_block = 16>
// CHECK-NOT: tensor.empty
// CHECK: sf_tile.kernel @broadcasts_elementwise_0
// CHECK-SAME: %[[S:[a-z0-9]+]]: memref<f32>, %[[F:[a-z0-9]+]]: memref<128xf32>, %[[T:[a-z0-9]+]]: memref<?x1xf32, strided<[?, 1]>>, %[[X:[a-z0-9]+]]: memref<?x128xf32, strided<[?, 1]>>, %[[OUT:[a-z0-9]+]]: memref<?x128xf16, strided<[?, 1]>>
// CHECK: sf_tile.load %[[S]][] dims [] : memref<f32> -> <1x1xf32>
// CHECK: sf_tile.load %[[F]][%{{.*}}] dims [1] : memref<128xf32> -> <1x128xf32>
// CHECK: sf_tile.load %[[T]][%{{.*}}, %c0] dims [0, -1] : {{.*}} -> <16x1xf32>
// CHECK: sf_tile.load %[[X]][%{{.*}}, %{{.*}}] dims [0, 1] : {{.*}} -> <16x128xf32>
// CHECK: %[[Y:.*]] = sf_tile.map
// CHECK: sf_tile.store %[[Y]], %[[OUT]]
// CHECK-NOT: sf_tile.kernel
func.func @broadcasts(%s: tensor<f32>, %f: tensor<128xf32>, %t: tensor<?x1xf32>, %x: tensor<?x128xf32>) -> tensor<?x128xf16> {
  %c0 = arith.constant 0 : index
  %rows = tensor.dim %x, %c0 : tensor<?x128xf32>
  %init = tensor.empty(%rows) : tensor<?x128xf16>
  %y = linalg.generic {indexing_maps = [#scalar, #feature, #token, #full, #full], iterator_types = ["parallel", "parallel"]}
      ins(%s, %f, %t, %x : tensor<f32>, tensor<128xf32>, tensor<?x1xf32>, tensor<?x128xf32>) outs(%init : tensor<?x128xf16>) {
  ^bb0(%a: f32, %b: f32, %c: f32, %d: f32, %out: f16):
    %0 = arith.mulf %a, %b : f32
    %1 = arith.mulf %c, %d : f32
    %2 = arith.addf %0, %1 : f32
    %3 = arith.truncf %2 : f32 to f16
    linalg.yield %3 : f16
  } -> tensor<?x128xf16>
  return %y : tensor<?x128xf16>
}

// -----

// A vector is a row; its grid is fixed.
// CHECK-LABEL: func.func @vector
// CHECK: sf_tile.launch @kernels::@vector_elementwise_0(%arg0) <blocks = 1> : (tensor<100xf32>) -> tensor<100xf32>
// CHECK: sf_tile.store %{{.*}}, %{{.*}}[%{{.*}}] dims [1] : <1x128xf32>, memref<100xf32>
func.func @vector(%x: tensor<100xf32>) -> tensor<100xf32> {
  %init = tensor.empty() : tensor<100xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(n) -> (n)>, affine_map<(n) -> (n)>], iterator_types = ["parallel"]}
      ins(%x : tensor<100xf32>) outs(%init : tensor<100xf32>) {
  ^bb0(%a: f32, %out: f32):
    %0 = math.exp %a : f32
    linalg.yield %0 : f32
  } -> tensor<100xf32>
  return %y : tensor<100xf32>
}

// -----

// A transposed operand is read along its own rows; the grid is fixed, because no operand has the result's rows.
// CHECK-LABEL: func.func @transposed
// CHECK: sf_tile.launch @kernels::@transposed_elementwise_0(%arg0) <blocks = 4> : (tensor<128x64xf32>) -> tensor<64x128xf32>
// CHECK: sf_tile.load %{{.*}}[%{{.*}}, %{{.*}}] dims [1, 0] : {{.*}} -> <32x64xf32>
// CHECK: sf_tile.store %{{.*}} dims [0, 1] : <32x64xf32>
func.func @transposed(%x: tensor<128x64xf32>) -> tensor<64x128xf32> {
  %init = tensor.empty() : tensor<64x128xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (n, m)>, affine_map<(m, n) -> (m, n)>],
                       iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<128x64xf32>) outs(%init : tensor<64x128xf32>) {
  ^bb0(%a: f32, %out: f32):
    linalg.yield %a : f32
  } -> tensor<64x128xf32>
  return %y : tensor<64x128xf32>
}

// -----

// One number a row is a vector [M] or a matrix [1, M] along its columns as well.
// CHECK-LABEL: func.func @one_a_row
// CHECK: sf_tile.load %{{.*}}[%{{.*}}] dims [0] : memref<64xf32> -> <32x1xf32>
func.func @one_a_row(%b: tensor<64xf32>, %x: tensor<64x128xf32>) -> tensor<64x128xf32> {
  %init = tensor.empty() : tensor<64x128xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m)>, affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m, n)>],
                       iterator_types = ["parallel", "parallel"]}
      ins(%b, %x : tensor<64xf32>, tensor<64x128xf32>) outs(%init : tensor<64x128xf32>) {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %0 = arith.addf %a, %c : f32
    linalg.yield %0 : f32
  } -> tensor<64x128xf32>
  return %y : tensor<64x128xf32>
}

// -----

// A matrix of one row is read as a vector.
// CHECK-LABEL: func.func @row
// CHECK: sf_tile.launch @kernels::@row_elementwise_0(%arg0, %arg1) <blocks = 1, rows_of = 0, rows_per_block = 16>
// CHECK: sf_tile.load %{{.*}}[%c0, %{{.*}}] dims [-1, 1] : memref<1x128xf32, strided<[?, 1]>> -> <1x128xf32>
func.func @row(%x: tensor<?x128xf32>, %b: tensor<1x128xf32>) -> tensor<?x128xf32> {
  %c0 = arith.constant 0 : index
  %rows = tensor.dim %x, %c0 : tensor<?x128xf32>
  %init = tensor.empty(%rows) : tensor<?x128xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (0, n)>, affine_map<(m, n) -> (m, n)>],
                       iterator_types = ["parallel", "parallel"]}
      ins(%x, %b : tensor<?x128xf32>, tensor<1x128xf32>) outs(%init : tensor<?x128xf32>) {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %0 = arith.addf %a, %c : f32
    linalg.yield %0 : f32
  } -> tensor<?x128xf32>
  return %y : tensor<?x128xf32>
}
