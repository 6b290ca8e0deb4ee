// A library's product beside a kernel: its buffers by index, sums in workspace of its variant alone, what was measured.
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_80 format=ptx" --sf-emit-manifest="target=sm_80 print=true" --split-input-file -o /dev/null | FileCheck %s

// CHECK: "buffers":[{"index":0,"kind":"input"},{"index":0,"kind":"output"},{"dtype":"f32","kind":"workspace","shape":["M",32],"slot":0},{"kind":"constant","tensor":"up.dense"}]
// CHECK-SAME: "slots":[{"sizes":[{"bytes":0,"bytes_per":128,"cap":16,"symbol":"M"}]}]
// CHECK-SAME: "symbol":"M","variants":[{"launches":[{"library":"cublaslt","matmul":{"compute":"f32","w":3,"x":0,"y":2}},{"args":[{"buffer":2},{"dim":"M"},{"stride":2},{"buffer":1},{"dim":"M"},{"stride":1}],"kernel":"epilogue"}],"max":16,"path":"dense cublasLt","reason":"dense was measured faster","time_us":{"dense":9.75,"sparse":12.5}}
// CHECK-SAME: {"launches":[{"args":{{.*}},"kernel":"sparse"}],"max":null
// CHECK-NOT: time_us
module {
  gpu.module @kernels {
    llvm.func @epilogue(%x: !llvm.ptr<1>, %xm: i64, %xs: i64, %y: !llvm.ptr<1>, %ym: i64, %ys: i64) attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 128, 1, 1>} {
      llvm.return
    }
    llvm.func @sparse(%x: !llvm.ptr<1>, %xm: i64, %xs: i64, %y: !llvm.ptr<1>, %ym: i64, %ys: i64) attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 128, 1, 1>} {
      llvm.return
    }
  }
  func.func @main(%x: tensor<?x4xf16>) -> tensor<?x32xf16> {
    %w = arith.constant dense_resource<up.dense> : tensor<32x4xf16>
    %y = sf_tile.dispatch "sf.matmul 32x4 f16 2:4" %x [16, -1] {sf.times = [#sf.times<sparse = 12.5, dense = 9.75>, #sf.times<>]}
        : tensor<?x4xf16> -> tensor<?x32xf16> {
      %0 = sf_tile.library_matmul %x, %w : tensor<?x4xf16>, tensor<32x4xf16> -> tensor<?x32xf32>
      %1 = sf_tile.launch @kernels::@epilogue(%0) <blocks = 1, rows_of = 0, rows_per_block = 4> : (tensor<?x32xf32>) -> tensor<?x32xf16>
      sf_tile.yield %1 : tensor<?x32xf16>
    }, {
      %0 = sf_tile.launch @kernels::@sparse(%x) <blocks = 1, rows_of = 0, rows_per_block = 8> : (tensor<?x4xf16>) -> tensor<?x32xf16>
      sf_tile.yield %0 : tensor<?x32xf16>
    }
    return %y : tensor<?x32xf16>
  }
}

// -----

// A known number of rows leaves the library and what stands in for it; integers are summed in i32.
// CHECK: "steps":[{"label":"sf.matmul 32x4 i8 dense","op":"matmul","symbol":null,"variants":[{"launches":[{"library":"cublaslt","matmul":{"compute":"i32","w":2,"x":0,"y":1}}],"max":null,"path":"dense cublasLt"
// CHECK-SAME: {"launches":[{"args":[{"buffer":0},{"stride":0},{"buffer":1},{"stride":1}],"kernel":"some"}],"max":null
// CHECK-NOT: "kernel":"other"
module {
  gpu.module @kernels {
    llvm.func @some(%x: !llvm.ptr<1>, %xs: i64, %y: !llvm.ptr<1>, %ys: i64) attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 128, 1, 1>} {
      llvm.return
    }
    llvm.func @other(%x: !llvm.ptr<1>, %xs: i64, %y: !llvm.ptr<1>, %ys: i64) attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 128, 1, 1>} {
      llvm.return
    }
  }
  func.func @main(%x: tensor<8x4xi8>) -> tensor<8x32xi32> {
    %w = arith.constant dense_resource<up> : tensor<32x4xi8>
    %y = sf_tile.dispatch "sf.matmul 32x4 i8 dense" %x [16, 32, -1] : tensor<8x4xi8> -> tensor<8x32xi32> {
      %0 = sf_tile.library_matmul %x, %w : tensor<8x4xi8>, tensor<32x4xi8> -> tensor<8x32xi32>
      sf_tile.yield %0 : tensor<8x32xi32>
    }, {
      %0 = sf_tile.launch @kernels::@some(%x) <blocks = 1, rows_of = 0, rows_per_block = 8> : (tensor<8x4xi8>) -> tensor<8x32xi32>
      sf_tile.yield %0 : tensor<8x32xi32>
    }, {
      %0 = sf_tile.launch @kernels::@other(%x) <blocks = 1, rows_of = 0, rows_per_block = 8> : (tensor<8x4xi8>) -> tensor<8x32xi32>
      sf_tile.yield %0 : tensor<8x32xi32>
    }
    return %y : tensor<8x32xi32>
  }
}
