// Two matmuls and what lies between: buffers, one symbol, workspace reused by liveness, variants.
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_80 format=ptx" --sf-emit-manifest="target=sm_80 print=true" -o /dev/null | FileCheck %s

// CHECK: "inputs":[{"align":{"pointer":16,"stride":8},"dtype":"f16","name":"x","shape":["M",64]}],"name":"main"
// CHECK-SAME: "outputs":[{"align":{"pointer":16,"stride":8},"dtype":"f16","name":"y","shape":["M",64]}]

// Buffers 2 to 4 are the intermediates, 5 is private to the first variant: two slots hold the four.
// CHECK-SAME: "buffers":[{"index":0,"kind":"input"},{"index":0,"kind":"output"}
// CHECK-SAME: "kind":"workspace","shape":["M",64],"slot":0}
// CHECK-SAME: "kind":"workspace","shape":["M",64],"slot":1}
// CHECK-SAME: "kind":"workspace","shape":["M",64],"slot":0}
// CHECK-SAME: "kind":"workspace","shape":["M",64],"slot":1}]
// CHECK-SAME: "kernels":[{"block":[128,1,1]
// CHECK-SAME: "grid":[{"mul":2,"per":16,"symbol":"M"},{"const":1},{"const":1}]
// CHECK-SAME: "ptx":"sm_80/scale.ptx"
// CHECK-SAME: "slots":[{"sizes":[{"bytes":0,"bytes_per":128,"cap":null,"symbol":"M"}]},{"sizes":[{"bytes":0,"bytes_per":128,"cap":null,"symbol":"M"}]}]

// A launch on its own has one variant; the dispatch's are chosen by M.
// CHECK-SAME: "steps":[{"label":"scale","op":"scale","symbol":null,"variants":[{"launches":[{"args":[{"buffer":0},{"dim":"M"},{"stride":0},{"buffer":2},{"dim":"M"},{"stride":2}],"kernel":"scale"}],"max":null
// CHECK-SAME: {"label":"sf.matmul 64x64 f16 2:4","op":"matmul","symbol":"M","variants":[{"launches":[{"args":[{"buffer":4},{"dim":"M"},{"stride":4},{"buffer":5},{"dim":"M"},{"stride":5}],"kernel":"scale"},{"args":[{"buffer":5},{"dim":"M"},{"stride":5},{"buffer":1},{"dim":"M"},{"stride":1}],"kernel":"scale"}],"max":16
// CHECK-SAME: {"args":[{"buffer":4},{"dim":"M"},{"stride":4},{"buffer":1},{"dim":"M"},{"stride":1}],"kernel":"scale"}],"max":null
// CHECK-SAME: "symbols":["M"]

module {
  gpu.module @kernels {
    llvm.func @scale(%x: !llvm.ptr<1>, %xm: i64, %xs: i64, %y: !llvm.ptr<1>, %ym: i64, %ys: i64) attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 128, 1, 1>} {
      llvm.return
    }
  }
  func.func @main(%x: tensor<?x64xf16> {sf.name = "x"}) -> (tensor<?x64xf16> {sf.name = "y"}) {
    %a = sf_tile.launch @kernels::@scale(%x) <blocks = 2, rows_of = 0, rows_per_block = 16> : (tensor<?x64xf16>) -> tensor<?x64xf16>
    %b = sf_tile.launch @kernels::@scale(%a) <blocks = 2, rows_of = 0, rows_per_block = 16> : (tensor<?x64xf16>) -> tensor<?x64xf16>
    %c = sf_tile.launch @kernels::@scale(%b) <blocks = 2, rows_of = 0, rows_per_block = 16> : (tensor<?x64xf16>) -> tensor<?x64xf16>
    %d = sf_tile.dispatch "sf.matmul 64x64 f16 2:4" %c [16, -1] : tensor<?x64xf16> -> tensor<?x64xf16> {
      %0 = sf_tile.launch @kernels::@scale(%c) <blocks = 2, rows_of = 0, rows_per_block = 16> : (tensor<?x64xf16>) -> tensor<?x64xf16>
      %1 = sf_tile.launch @kernels::@scale(%0) <blocks = 2, rows_of = 0, rows_per_block = 16> : (tensor<?x64xf16>) -> tensor<?x64xf16>
      sf_tile.yield %1 : tensor<?x64xf16>
    }, {
      %0 = sf_tile.launch @kernels::@scale(%c) <blocks = 2, rows_of = 0, rows_per_block = 16> : (tensor<?x64xf16>) -> tensor<?x64xf16>
      sf_tile.yield %0 : tensor<?x64xf16>
    }
    return %d : tensor<?x64xf16>
  }
}
