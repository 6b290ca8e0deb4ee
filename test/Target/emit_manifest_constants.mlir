// A constant that stands in the text gets a name that no resource has, also where one has the name
// that it would get. Equal ones are held once.
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_80 format=ptx" --sf-emit-manifest="target=sm_80 print=true" -o /dev/null | FileCheck %s

// CHECK: {"kind":"constant","tensor":"main.constant1"},{"kind":"constant","tensor":"main.constant1_"}]
// CHECK-SAME: "args":[{"buffer":0},{"buffer":4}
// CHECK-SAME: "args":[{"buffer":2},{"buffer":5}
// CHECK-SAME: "args":[{"buffer":3},{"buffer":5}
module {
  gpu.module @kernels {
    llvm.func @add(%x: !llvm.ptr<1>, %b: !llvm.ptr<1>, %y: !llvm.ptr<1>) attributes {gpu.kernel, nvvm.kernel} {
      llvm.return
    }
  }
  func.func @main(%x: tensor<4xf16>) -> tensor<4xf16> {
    %c0 = arith.constant dense_resource<main.constant1> : tensor<4xf16>
    %c1 = arith.constant dense<1.0> : tensor<4xf16>
    %c2 = arith.constant dense<1.0> : tensor<4xf16>
    %0 = sf_tile.launch @kernels::@add(%x, %c0) <blocks = 1> : (tensor<4xf16>, tensor<4xf16>) -> tensor<4xf16>
    %1 = sf_tile.launch @kernels::@add(%0, %c1) <blocks = 1> : (tensor<4xf16>, tensor<4xf16>) -> tensor<4xf16>
    %2 = sf_tile.launch @kernels::@add(%1, %c2) <blocks = 1> : (tensor<4xf16>, tensor<4xf16>) -> tensor<4xf16>
    return %2 : tensor<4xf16>
  }
}

{-#
  dialect_resources: {
    builtin: {
      main.constant1: "0x020000000000000000000000"
    }
  }
#-}
