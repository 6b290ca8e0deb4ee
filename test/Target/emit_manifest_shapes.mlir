// Constants are named by their resource and held once; inputs that never meet have symbols of their
// own; a number of rows that is known chooses its variant now; alignment follows the rows.
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_80 format=ptx" --sf-emit-manifest="target=sm_80 print=true" -o /dev/null | FileCheck %s

// CHECK: "inputs":[{"align":{"pointer":8,"stride":4},"dtype":"f16","name":"input0","shape":["M",4]},{"align":{"pointer":2,"stride":1},"dtype":"f16","name":"input1","shape":["M1",3]},{"align":{"pointer":16,"stride":16},"dtype":"i8","name":"q","shape":[32,16]}]
// CHECK-SAME: "outputs":[{{.*}}"name":"output0","shape":["M",4]},{{.*}}"name":"output1","shape":["M1",3]},{{.*}}"name":"output2","shape":[32,16]}]
// CHECK-SAME: {"kind":"constant","tensor":"bias"}
// CHECK-NOT: "kind":"constant"
// CHECK-SAME: "steps":
// CHECK-SAME: "variants":[{"launches":[{"args":[{"buffer":2},{"stride":2},{"buffer":5},{"stride":5}],"kernel":"static"}],"max":null,
// CHECK-SAME: "symbols":["M","M1"]
module {
  gpu.module @kernels {
    llvm.func @two(%x: !llvm.ptr<1>, %xm: i64, %xs: i64, %b: !llvm.ptr<1>, %y: !llvm.ptr<1>, %ym: i64, %ys: i64) attributes {gpu.kernel, nvvm.kernel} {
      llvm.return
    }
    llvm.func @three(%x: !llvm.ptr<1>, %xm: i64, %xs: i64, %b: !llvm.ptr<1>, %y: !llvm.ptr<1>, %ym: i64, %ys: i64) attributes {gpu.kernel, nvvm.kernel} {
      llvm.return
    }
    llvm.func @static(%x: !llvm.ptr<1>, %xs: i64, %y: !llvm.ptr<1>, %ys: i64) attributes {gpu.kernel, nvvm.kernel} {
      llvm.return
    }
  }
  func.func @main(%a: tensor<?x4xf16>, %b: tensor<?x3xf16>, %q: tensor<32x16xi8> {sf.name = "q"}) -> (tensor<?x4xf16>, tensor<?x3xf16>, tensor<32x16xi8>) {
    %c0 = arith.constant dense_resource<bias> : tensor<4xf16>
    %c1 = arith.constant dense_resource<bias> : tensor<4xf16>
    %0 = sf_tile.launch @kernels::@two(%a, %c0) <blocks = 1, rows_of = 0, rows_per_block = 16> : (tensor<?x4xf16>, tensor<4xf16>) -> tensor<?x4xf16>
    %1 = sf_tile.launch @kernels::@three(%b, %c1) <blocks = 1, rows_of = 0, rows_per_block = 16> : (tensor<?x3xf16>, tensor<4xf16>) -> tensor<?x3xf16>
    %2 = sf_tile.dispatch "sf.matmul" %q [16, 64, -1] : tensor<32x16xi8> -> tensor<32x16xi8> {
      %3 = sf_tile.launch @kernels::@none(%q) <blocks = 1> : (tensor<32x16xi8>) -> tensor<32x16xi8>
      sf_tile.yield %3 : tensor<32x16xi8>
    }, {
      %3 = sf_tile.launch @kernels::@static(%q) <blocks = 1> : (tensor<32x16xi8>) -> tensor<32x16xi8>
      sf_tile.yield %3 : tensor<32x16xi8>
    }, {
      %3 = sf_tile.launch @kernels::@none(%q) <blocks = 1> : (tensor<32x16xi8>) -> tensor<32x16xi8>
      sf_tile.yield %3 : tensor<32x16xi8>
    }
    return %0, %1, %2 : tensor<?x4xf16>, tensor<?x3xf16>, tensor<32x16xi8>
  }
}

{-#
  dialect_resources: {
    builtin: {
      bias: "0x020000000000000000000000"
    }
  }
#-}
