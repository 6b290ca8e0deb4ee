// A scalar in another shape is the same buffer.
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_80 format=ptx" --sf-emit-manifest="target=sm_80 print=true" -o /dev/null | FileCheck %s

// CHECK: "buffers":[{"index":0,"kind":"input"},{"index":1,"kind":"input"},{"index":0,"kind":"output"}]
// CHECK-SAME: "args":[{"buffer":0},{"buffer":1},{"buffer":2}]
module {
  gpu.module @kernels {
    llvm.func @scale(%x: !llvm.ptr<1>, %s: !llvm.ptr<1>, %y: !llvm.ptr<1>) attributes {gpu.kernel, nvvm.kernel} {
      llvm.return
    }
  }
  func.func @main(%x: tensor<4xf16>, %s: tensor<1x1xf32>) -> tensor<4xf16> {
    %scalar = tensor.collapse_shape %s [] : tensor<1x1xf32> into tensor<f32>
    %0 = sf_tile.launch @kernels::@scale(%x, %scalar) <blocks = 1> : (tensor<4xf16>, tensor<f32>) -> tensor<4xf16>
    return %0 : tensor<4xf16>
  }
}
