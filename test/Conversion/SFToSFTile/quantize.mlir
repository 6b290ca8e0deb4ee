// RUN: sparseflow-opt %s --split-input-file --convert-sf-to-sf-tile --cse | FileCheck %s

// Dynamic: maximum, scale and quotient are one kernel.
// CHECK-LABEL: func.func @dynamic
// CHECK: sf_tile.dispatch "sf.quantize" %arg0 [-1] : tensor<?x512xf16> -> tensor<?x512xi8>, tensor<?x1xf32>
// CHECK-COUNT-1: sf_tile.kernel
// CHECK-SAME: %[[X:[a-z0-9]+]]: memref<?x1x512xf16, strided<[?, 512, 1]>>, %[[Q:[a-z0-9]+]]: memref<?x1x512xi8, strided<[?, 512, 1]>>, %[[S:[a-z0-9]+]]: memref<?x1xf32, strided<[?, 1]>>
// CHECK: %[[T:.*]] = sf_tile.load %[[X]]{{.*}} -> <8x1x512xf16>
// CHECK: sf_tile.map %[[T]]
// CHECK: math.absf
// CHECK: sf_tile.reduce max %{{.*}} {dim = 2 : i64} : <8x1x512xf32> -> <8x1x1xf32>
// CHECK: %[[SCALE:.*]] = sf_tile.map
// CHECK: sf_tile.store %[[SCALE]], %[[S]]
// CHECK: %[[AGAIN:.*]] = sf_tile.load %[[X]]{{.*}} -> <8x1x512xf16>
// CHECK: %[[QUANTIZED:.*]] = sf_tile.map %[[AGAIN]], %[[SCALE]]
// CHECK: sf_tile.store %[[QUANTIZED]], %[[Q]]
// CHECK-NOT: sf_tile.kernel
func.func @dynamic(%x: tensor<?x512xf16>) -> (tensor<?x512xi8>, tensor<?x1xf32>) {
  %q, %s = sf.quantize %x : tensor<?x512xf16> -> tensor<?x512xi8>, tensor<?x1xf32>
  return %q, %s : tensor<?x512xi8>, tensor<?x1xf32>
}

// -----

// A row that does not fit into registers is walked in two loops.
// CHECK-LABEL: func.func @long_row
// CHECK: scf.for {{.*}} iter_args
// CHECK: sf_tile.load {{.*}} -> <1x1x16384xf16>
// CHECK: arith.maximumf
// CHECK: sf_tile.reduce max
// CHECK: scf.for
// CHECK: sf_tile.load {{.*}} -> <1x1x16384xf16>
// CHECK: sf_tile.store {{.*}} : <1x1x16384xi8>
func.func @long_row(%x: tensor<?x20000xf16>) -> (tensor<?x20000xi8>, tensor<?x1xf32>) {
  %q, %s = sf.quantize %x : tensor<?x20000xf16> -> tensor<?x20000xi8>, tensor<?x1xf32>
  return %q, %s : tensor<?x20000xi8>, tensor<?x1xf32>
}

// -----

// A scale a group: rows are groups x members.
// CHECK-LABEL: func.func @grouped
// CHECK: sf_tile.kernel
// CHECK-SAME: memref<?x4x128xf32, strided<[?, 128, 1]>>, %[[S:[a-z0-9]+]]: memref<?x4xf32, strided<[?, 1]>>
// CHECK: sf_tile.load %[[S]][%{{.*}}, %{{.*}}] dims [0, 1] : {{.*}} -> <8x4x1xf32>
// CHECK: sf_tile.load {{.*}} -> <8x4x128xf32>
// CHECK-NOT: sf_tile.reduce
func.func @grouped(%x: tensor<?x512xf32>, %s: tensor<?x4xf32>) -> tensor<?x512xi8> {
  %q = sf.quantize %x, %s : tensor<?x512xf32>, tensor<?x4xf32> -> tensor<?x512xi8>
  return %q : tensor<?x512xi8>
}

// -----

// One scale, and one a feature: elementwise.
// CHECK-LABEL: func.func @static
// CHECK: sf_tile.dispatch "sf.quantize"
// CHECK: sf_tile.dispatch "sf.dequantize"
// CHECK: sf_tile.kernel @static_quantize_0
// CHECK: sf_tile.load %{{.*}}[] dims [] : memref<f32> -> <1x1xf32>
// CHECK: sf_tile.kernel @static_dequantize_0
// CHECK: sf_tile.load %{{.*}}[%{{.*}}] dims [1] : memref<512xf32> -> <1x512xf32>
func.func @static(%x: tensor<?x512xf16>, %s: tensor<f32>, %f: tensor<512xf32>) -> tensor<?x512xf16> {
  %q = sf.quantize %x, %s : tensor<?x512xf16>, tensor<f32> -> tensor<?x512xi8>
  %y = sf.dequantize %q, %f : tensor<?x512xi8>, tensor<512xf32> -> tensor<?x512xf16>
  return %y : tensor<?x512xf16>
}
