// RUN: sparseflow-opt %s --convert-sf-to-linalg --canonicalize --cse --split-input-file | FileCheck %s

// The sum is taken in f64 over tokens, k, features; the result is one rounding of the f32 accumulator.

// CHECK-DAG: #[[ID:.*]] = affine_map<(d0, d1) -> (d0, d1)>
// CHECK-DAG: #[[TRANSPOSE:.*]] = affine_map<(d0, d1) -> (d1, d0)>
// CHECK-DAG: #[[X:.*]] = affine_map<(d0, d1, d2) -> (d0, d1)>
// CHECK-DAG: #[[W:.*]] = affine_map<(d0, d1, d2) -> (d1, d2)>
// CHECK-DAG: #[[Y:.*]] = affine_map<(d0, d1, d2) -> (d0, d2)>
// CHECK-LABEL: func.func @plain
// CHECK-SAME: %[[XARG:.*]]: tensor<?x128xf16>, %[[WARG:.*]]: tensor<64x128xf16>
func.func @plain(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16> {
  // CHECK: %[[WIDE:.*]] = linalg.generic {indexing_maps = [#[[ID]], #[[ID]]]
  // CHECK-SAME: ins(%[[XARG]] : tensor<?x128xf16>) outs({{.*}} : tensor<?x128xf64>)
  // CHECK: %[[WT:.*]] = linalg.generic {indexing_maps = [#[[TRANSPOSE]], #[[ID]]]
  // CHECK-SAME: ins(%[[WARG]] : tensor<64x128xf16>) outs({{.*}} : tensor<128x64xf32>)
  // CHECK: %[[SUM:.*]] = linalg.generic {indexing_maps = [#[[X]], #[[W]], #[[Y]]]
  // CHECK-SAME: iterator_types = ["parallel", "reduction", "parallel"]
  // CHECK-SAME: ins(%[[WIDE]], %[[WT]] : tensor<?x128xf64>, tensor<128x64xf32>)
  // CHECK: arith.mulf {{.*}} fastmath<contract> : f64
  // CHECK: arith.addf {{.*}} fastmath<contract> : f64
  // CHECK: linalg.generic {{.*}} ins(%[[SUM]] : tensor<?x64xf64>)
  // CHECK: %[[ACC:.*]] = arith.truncf {{.*}} : f64 to f32
  // CHECK: arith.truncf %[[ACC]] : f32 to f16
  %y = sf.matmul %x, %w : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// -----

// Operands of an epilogue are broadcast by their maps; its body moves in as it is.

// CHECK-DAG: #[[ID:.*]] = affine_map<(d0, d1) -> (d0, d1)>
// CHECK-DAG: #[[FEATURE:.*]] = affine_map<(d0, d1) -> (d1)>
// CHECK-DAG: #[[TOKEN:.*]] = affine_map<(d0, d1) -> (d0, 0)>
// CHECK-DAG: #[[SCALAR:.*]] = affine_map<(d0, d1) -> ()>
// CHECK-LABEL: func.func @epilogue
func.func @epilogue(%x: tensor<?x8xbf16>, %w: tensor<4x8xbf16>, %b: tensor<4xbf16>, %t: tensor<?x1xf32>,
                    %r: tensor<?x4xf16>, %s: tensor<f32>) -> tensor<?x4xf32> {
  // CHECK: linalg.generic {indexing_maps = [#[[ID]], #[[FEATURE]], #[[TOKEN]], #[[ID]], #[[SCALAR]], #[[ID]]]
  // CHECK: ^bb0(%[[SUM:.*]]: f64, %{{.*}}: bf16, %[[T:.*]]: f32, %{{.*}}: f16, %[[S:.*]]: f32, %{{.*}}: f32):
  // CHECK: %[[ACC:.*]] = arith.truncf %[[SUM]] : f64 to f32
  // CHECK: %[[SCALED:.*]] = arith.mulf %[[ACC]], %[[T]] : f32
  // CHECK: %[[OUT:.*]] = arith.addf %[[SCALED]], %[[S]] : f32
  // CHECK: linalg.yield %[[OUT]] : f32
  %y = sf.matmul %x, %w epilogue(%b, %t, %r, %s : tensor<4xbf16>, tensor<?x1xf32>, tensor<?x4xf16>, tensor<f32>) {
  ^bb0(%acc: f32, %b0: bf16, %t0: f32, %r0: f16, %s0: f32):
    %0 = arith.mulf %acc, %t0 : f32
    %1 = arith.addf %0, %s0 : f32
    sf.yield %1 : f32
  } : (tensor<?x8xbf16>, tensor<4x8xbf16>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// -----

// Products of i8 are summed exactly in i32, and saturate only at the end.

// CHECK-LABEL: func.func @integer
func.func @integer(%x: tensor<?x8xi8>, %w: tensor<4x8xi8>) -> tensor<?x4xi8> {
  // CHECK: iterator_types = ["parallel", "reduction", "parallel"]
  // CHECK: arith.muli {{.*}} : i32
  // CHECK: arith.addi {{.*}} : i32
  // CHECK: arith.maxsi
  // CHECK: arith.minsi
  // CHECK: arith.trunci {{.*}} : i32 to i8
  %y = sf.matmul %x, %w : (tensor<?x8xi8>, tensor<4x8xi8>) -> tensor<?x4xi8>
  return %y : tensor<?x4xi8>
}

// -----

// Several weights: a sum each, one elementwise operation over both.

// CHECK-LABEL: func.func @gated
func.func @gated(%x: tensor<?x8xf16>, %g: tensor<4x8xf16>, %u: tensor<4x8xf16>) -> tensor<?x4xf32> {
  // CHECK: %[[G:.*]] = linalg.generic {{.*}} iterator_types = ["parallel", "reduction", "parallel"]
  // CHECK: %[[U:.*]] = linalg.generic {{.*}} iterator_types = ["parallel", "reduction", "parallel"]
  // CHECK: linalg.generic {{.*}} iterator_types = ["parallel", "parallel"]{{.*}} ins(%[[G]], %[[U]] :
  %y = sf.matmul %x, %g, %u epilogue {
  ^bb0(%a: f32, %b: f32):
    %0 = arith.mulf %a, %b : f32
    sf.yield %0 : f32
  } : (tensor<?x8xf16>, tensor<4x8xf16>, tensor<4x8xf16>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}
