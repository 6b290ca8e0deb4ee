// RUN: sparseflow-opt %s --sf-select-config=target=sm_90 --split-input-file --verify-diagnostics | FileCheck %s
// RUN: sparseflow-opt %s --sf-select-config=target=sm_89 --split-input-file | FileCheck %s --check-prefix=NATIVE

// Where 8-bit floats are not the chip's own, the product is one of f16. What two products share is converted once.
// CHECK-LABEL: @shared_input
// CHECK: %[[X:.*]] = linalg.generic
// CHECK-NEXT: ^bb0(%[[E:.*]]: f8E4M3FN, %{{.*}}: f16):
// CHECK-NEXT: arith.extf %[[E]] : f8E4M3FN to f16
// CHECK-NOT: linalg.generic
// CHECK-DAG: %[[Q:.*]] = arith.constant dense_resource<w> : tensor<1x4xf8E4M3FN, #sf.weight<sp24>>
// CHECK-DAG: %[[ONE:.*]] = arith.constant dense<1.000000e+00> : tensor<f32>
// CHECK-DAG: %[[W:.*]] = sf.dequantize %[[Q]], %[[ONE]] : tensor<1x4xf8E4M3FN, #sf.weight<sp24>>, tensor<f32> -> tensor<1x4xf16, #sf.weight<sp24>>
// CHECK-DAG: sf.matmul %[[X]], %[[W]] {configs = [{{.*}}]} : (tensor<?x4xf16>, tensor<1x4xf16, #sf.weight<sp24>>) -> tensor<?x1xf32>
// CHECK-DAG: sf.matmul %[[X]], %{{.*}} : (tensor<?x4xf16>, tensor<1x4xf16>) -> tensor<?x1xf8E4M3FN>
// NATIVE-LABEL: @shared_input
// NATIVE-NOT: linalg.generic
// NATIVE-COUNT-2: sf.matmul %{{.*}}, %{{.*}} : (tensor<?x4xf8E4M3FN>
func.func @shared_input(%x: tensor<?x4xf8E4M3FN>) -> (tensor<?x1xf32>, tensor<?x1xf8E4M3FN>) {
  %w = arith.constant dense_resource<w> : tensor<1x4xf8E4M3FN, #sf.weight<sp24>>
  %v = arith.constant dense<[[1.0, 2.0, 3.0, 4.0]]> : tensor<1x4xf8E4M3FN>
  %0 = sf.matmul %x, %w : (tensor<?x4xf8E4M3FN>, tensor<1x4xf8E4M3FN, #sf.weight<sp24>>) -> tensor<?x1xf32>
  %1 = sf.matmul %x, %v : (tensor<?x4xf8E4M3FN>, tensor<1x4xf8E4M3FN>) -> tensor<?x1xf8E4M3FN>
  return %0, %1 : tensor<?x1xf32>, tensor<?x1xf8E4M3FN>
}
{-#
  dialect_resources: { builtin: { w: "0x1000000038C009" } }
#-}

// -----

// CHECK-LABEL: @run_time_weight
// CHECK: %[[D:.*]] = sf.decompress %arg1
// CHECK: %[[G:.*]] = linalg.generic {{.*}} ins(%[[D]] : tensor<64x128xf8E5M2>)
// CHECK: %[[C:.*]] = sf.compress %[[G]] {mode = "prune"}
// CHECK: sf.matmul %{{.*}}, %[[C]]
func.func @run_time_weight(%x: tensor<?x128xf8E5M2>, %w: tensor<64x128xf8E5M2, #sf.weight<sp24>>) -> tensor<?x64xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x128xf8E5M2>, tensor<64x128xf8E5M2, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %0 : tensor<?x64xf16>
}
