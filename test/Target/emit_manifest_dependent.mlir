// A kernel that waits for the one before it on the stream is launched while that one ends.
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_90a format=ptx" --sf-emit-manifest="target=sm_90a print=true" -o /dev/null | FileCheck %s

// CHECK: "kernels":[{"block":[32,1,1],"config":"","cubin":null,"dependent_launch":true,
// CHECK-SAME: "name":"waits"
// CHECK-NOT: dependent_launch
// CHECK-SAME: "name":"does_not"
module {
  gpu.module @kernels {
    llvm.func @waits(%x: !llvm.ptr<1>, %xs: i64, %y: !llvm.ptr<1>, %ys: i64)
        attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 32, 1, 1>, sf.dependent_launch} {
      nvvm.griddepcontrol wait
      llvm.return
    }
    llvm.func @does_not(%x: !llvm.ptr<1>, %xs: i64, %y: !llvm.ptr<1>, %ys: i64)
        attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 32, 1, 1>} {
      llvm.return
    }
  }
  func.func @main(%x: tensor<16x64xf32>) -> tensor<16x64xf32> {
    %h = sf_tile.launch @kernels::@waits(%x) <blocks = 4> : (tensor<16x64xf32>) -> tensor<16x64xf32>
    %y = sf_tile.launch @kernels::@does_not(%h) <blocks = 4> : (tensor<16x64xf32>) -> tensor<16x64xf32>
    return %y : tensor<16x64xf32>
  }
}
