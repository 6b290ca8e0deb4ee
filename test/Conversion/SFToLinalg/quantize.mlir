// RUN: sparseflow-opt %s --convert-sf-to-linalg --canonicalize --cse --split-input-file | FileCheck %s

// The scale of a row is its largest magnitude over the limit, and 1 for a row of zeros.

// CHECK-LABEL: func.func @per_token
// CHECK-SAME: %[[X:.*]]: tensor<?x128xf16>
func.func @per_token(%x: tensor<?x128xf16>) -> (tensor<?x128xi8>, tensor<?x1xf32>) {
  // CHECK: %[[ROWS:.*]] = tensor.expand_shape %[[X]] {{.*}} : tensor<?x128xf16> into tensor<?x1x128xf16>
  // CHECK: %[[MAX:.*]] = linalg.generic {{.*}} iterator_types = ["parallel", "parallel", "reduction"]{{.*}} ins(%[[ROWS]]
  // CHECK: math.absf
  // CHECK: arith.maximumf
  // CHECK: %[[SCALE:.*]] = linalg.generic {{.*}} ins(%[[MAX]] : tensor<?x1xf32>)
  // CHECK: arith.divf %{{.*}}, %{{.*}} : f32
  // CHECK: arith.select
  // CHECK: linalg.generic {{.*}} ins(%[[X]], %[[SCALE]] : tensor<?x128xf16>, tensor<?x1xf32>)
  // CHECK: arith.divf
  // CHECK: math.roundeven
  // CHECK: arith.fptosi {{.*}} : f32 to i8
  %q, %s = sf.quantize %x : tensor<?x128xf16> -> tensor<?x128xi8>, tensor<?x1xf32>
  return %q, %s : tensor<?x128xi8>, tensor<?x1xf32>
}

// -----

// CHECK-DAG: #[[ID:.*]] = affine_map<(d0, d1) -> (d0, d1)>
// CHECK-DAG: #[[GROUP:.*]] = affine_map<(d0, d1) -> (d0, d1 floordiv 64)>
// CHECK-DAG: #[[FEATURE:.*]] = affine_map<(d0, d1) -> (d1)>
// CHECK-LABEL: func.func @given_scales
func.func @given_scales(%x: tensor<?x128xf32>, %g: tensor<?x2xf32>, %f: tensor<128xf32>) -> tensor<?x128xbf16> {
  // CHECK: linalg.generic {indexing_maps = [#[[ID]], #[[GROUP]], #[[ID]]]
  // CHECK: arith.truncf {{.*}} : f32 to f8E4M3FN
  %q = sf.quantize %x, %g : tensor<?x128xf32>, tensor<?x2xf32> -> tensor<?x128xf8E4M3FN>
  // CHECK: linalg.generic {indexing_maps = [#[[ID]], #[[FEATURE]], #[[ID]]]
  // CHECK: arith.extf {{.*}} : f8E4M3FN to f32
  // CHECK: arith.mulf
  // CHECK: arith.truncf {{.*}} : f32 to bf16
  %y = sf.dequantize %q, %f : tensor<?x128xf8E4M3FN>, tensor<128xf32> -> tensor<?x128xbf16>
  return %y : tensor<?x128xbf16>
}
