// Elementwise operations that no product takes are one kernel, whoever asks for their sizes, and a splat is a part of it.
// RUN: sparseflow-compile %s --emit=sf -o - | FileCheck %s

// CHECK-LABEL: func.func @main
// CHECK: linalg.generic
// CHECK-NOT: linalg.generic
// CHECK: return
func.func @main(%x: tensor<?x8xf32>, %y: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %c0 = arith.constant 0 : index
  %one = arith.constant 1.0 : f32
  %m = tensor.dim %x, %c0 : tensor<?x8xf32>
  %init = tensor.empty(%m) : tensor<?x8xf32>
  %ones = linalg.fill ins(%one : f32) outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  %0 = arith.mulf %x, %y : tensor<?x8xf32>
  %1 = math.tanh %0 : tensor<?x8xf32>
  %2 = arith.subf %ones, %1 : tensor<?x8xf32>
  return %2 : tensor<?x8xf32>
}
