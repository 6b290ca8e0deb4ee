// Parameters that are tensor maps follow the others: each names the buffer whose matrix it describes, and its box. The kernel's
// argument 0 is buffer 0 of the first launch and, of the second, the intermediate.
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_90a format=ptx" --sf-emit-manifest="target=sm_90a print=true" -o /dev/null | FileCheck %s
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_90a format=ptx" | FileCheck %s --check-prefix=PTX

// CHECK: "args":[{"buffer":0},{"dim":"M"},{"stride":0},{"buffer":[[H:[0-9]+]]},{"dim":"M"},{"stride":[[H]]},{"tensor_map":{"box":[64,32],"buffer":0,"fits":true,"swizzle":128}}],"kernel":"through_map"
// CHECK: "args":[{"buffer":[[H]]},{"dim":"M"},{"stride":[[H]]},{"buffer":1},{"dim":"M"},{"stride":1},{"tensor_map":{"box":[64,32],"buffer":[[H]],"fits":true,"swizzle":128}}],"kernel":"through_map"

// PTX: .param .align 64 .b8 through_map_param_6[128]
module {
  gpu.module @kernels {
    llvm.func @through_map(%x: !llvm.ptr<1>, %xm: i64, %xs: i64, %y: !llvm.ptr<1>, %ym: i64, %ys: i64,
                           %map: !llvm.ptr {llvm.byval = !llvm.array<128 x i8>, llvm.align = 64 : i64, nvvm.grid_constant})
        attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 160, 1, 1>, sf.tensor_maps = [array<i64: 0, 64, 32>]} {
      llvm.return
    }
  }
  func.func @main(%x: tensor<?x64xf32> {sf.name = "x"}) -> (tensor<?x64xf32> {sf.name = "y"}) {
    %h = sf_tile.launch @kernels::@through_map(%x) <blocks = 1, rows_of = 0, rows_per_block = 64> : (tensor<?x64xf32>) -> tensor<?x64xf32>
    %y = sf_tile.launch @kernels::@through_map(%h) <blocks = 1, rows_of = 0, rows_per_block = 64> : (tensor<?x64xf32>) -> tensor<?x64xf32>
    return %y : tensor<?x64xf32>
  }
}
