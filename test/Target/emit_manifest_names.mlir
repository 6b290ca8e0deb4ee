// What has no name is named by its number, unless something else is called that.
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_80 format=ptx" --sf-emit-manifest="target=sm_80 print=true" -o /dev/null | FileCheck %s

// CHECK: "inputs":[{{.*}}"name":"input1","shape":[4]},{{.*}}"name":"input1_","shape":[4]},{{.*}}"name":"input2","shape":[4]}]
// CHECK-SAME: "outputs":[{{.*}}"name":"output","shape":[4]}]
module {
  gpu.module @kernels {
    llvm.func @add(%x: !llvm.ptr<1>, %y: !llvm.ptr<1>, %z: !llvm.ptr<1>, %out: !llvm.ptr<1>) attributes {gpu.kernel, nvvm.kernel} {
      llvm.return
    }
  }
  func.func @main(%x: tensor<4xf16> {sf.name = "input1"}, %y: tensor<4xf16>, %z: tensor<4xf16>) -> tensor<4xf16> {
    %0 = sf_tile.launch @kernels::@add(%x, %y, %z) <blocks = 1> : (tensor<4xf16>, tensor<4xf16>, tensor<4xf16>) -> tensor<4xf16>
    return %0 : tensor<4xf16>
  }
}
