// A kernel whose blocks stay is launched with no more of them than the chip holds: 132 multiprocessors, each of which takes 12 of 160
// threads (2048 at most) or, of 100 KiB of shared memory, 2.
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_90a format=ptx" --sf-emit-manifest="target=sm_90a print=true" -o /dev/null | FileCheck %s

// CHECK: "grid":[{"max":1584,"mul":4,"per":16,"symbol":"M"},{"const":1},{"const":1}],{{.*}}"name":"by_threads"
// CHECK: "grid":[{"max":264,"mul":4,"per":16,"symbol":"M"},{"const":1},{"const":1}],{{.*}}"name":"by_shared_memory"
// A constant number of tokens has a constant grid: 4 of 4 x 100, then all that fit of 4 x 1000.
// CHECK: "grid":[{"const":400},{"const":1},{"const":1}],{{.*}}"name":"few"
// CHECK: "grid":[{"const":1584},{"const":1},{"const":1}],{{.*}}"name":"many"
module {
  gpu.module @kernels {
    llvm.func @by_threads(%x: !llvm.ptr<1>, %xm: i64, %xs: i64, %y: !llvm.ptr<1>, %ym: i64, %ys: i64)
        attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 160, 1, 1>, sf.persistent} {
      llvm.return
    }
    llvm.func @by_shared_memory(%x: !llvm.ptr<1>, %xm: i64, %xs: i64, %y: !llvm.ptr<1>, %ym: i64, %ys: i64)
        attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 160, 1, 1>, sf.persistent, sf.shared_bytes = 102400 : i64} {
      llvm.return
    }
    llvm.func @few(%x: !llvm.ptr<1>, %xs: i64, %y: !llvm.ptr<1>, %ys: i64)
        attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 160, 1, 1>, sf.persistent} {
      llvm.return
    }
    llvm.func @many(%x: !llvm.ptr<1>, %xs: i64, %y: !llvm.ptr<1>, %ys: i64)
        attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 160, 1, 1>, sf.persistent} {
      llvm.return
    }
  }
  func.func @dynamic(%x: tensor<?x64xf32>) -> tensor<?x64xf32> {
    %h = sf_tile.launch @kernels::@by_threads(%x) <blocks = 4, rows_of = 0, rows_per_block = 16> : (tensor<?x64xf32>) -> tensor<?x64xf32>
    %y = sf_tile.launch @kernels::@by_shared_memory(%h) <blocks = 4, rows_of = 0, rows_per_block = 16> : (tensor<?x64xf32>) -> tensor<?x64xf32>
    return %y : tensor<?x64xf32>
  }
  func.func @constant(%x: tensor<1600x64xf32>) -> tensor<1600x64xf32> {
    %y = sf_tile.launch @kernels::@few(%x) <blocks = 4, rows_of = 0, rows_per_block = 16> : (tensor<1600x64xf32>) -> tensor<1600x64xf32>
    return %y : tensor<1600x64xf32>
  }
  func.func @large(%x: tensor<16000x64xf32>) -> tensor<16000x64xf32> {
    %y = sf_tile.launch @kernels::@many(%x) <blocks = 4, rows_of = 0, rows_per_block = 16> : (tensor<16000x64xf32>) -> tensor<16000x64xf32>
    return %y : tensor<16000x64xf32>
  }
}
