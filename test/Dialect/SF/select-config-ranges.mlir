// Which of few kernels serves how many tokens: a tile's own number of tokens and the multiprocessors make waves.
// RUN: rm -rf %t && mkdir -p %t
// RUN: %python %S/Inputs/tuning.py %t/user.sqlite "sparseflow 0.1.0" 1024 "#sf.kernel_config<tile = 128x128x64, warps = 2x4, split_k = 1, raster = 8, atom = mma_sp>" 100
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80" | FileCheck %s
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 min-gain=100" | FileCheck %s --check-prefix=ONE
// Less than nothing is nothing.
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 min-gain=0" -o %t.zero
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 min-gain=-1" | diff %t.zero -
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 tuning=%t/user.sqlite explain=true" | FileCheck %s --check-prefix=TUNED

// 256 x 128 makes 96 tiles of 768 tokens, one wave on 108 multiprocessors; with 832 tokens it would be two, until those are fuller.
// CHECK-LABEL: @main
// CHECK: #sf.kernel_config<max_tokens = 768, tile = 256x128x64
// CHECK-SAME: #sf.kernel_config<max_tokens = 832, tile = 256x64x128
// CHECK-SAME: #sf.kernel_config<tile = 256x128x64

// Where another kernel gains nothing that is worth its compilation, one serves all.
// ONE-LABEL: @main
// ONE: configs = [#sf.kernel_config<tile = {{[^>]*}}>]}

// What was measured is taken for the number of tokens that it was measured with. Below, an estimate may go before it.
// TUNED-LABEL: @main
// TUNED: #sf.kernel_config<max_tokens = 1024, tile = 128x128x64, warps = 2x4, split_k = 1, raster = 8, atom = mma_sp>
// TUNED-SAME: "estimated by the cost model to be faster here than what was tuned at 1024 tokens"
// TUNED-SAME: "tuned: 100.0 us at 1024 tokens"
func.func @main(%x: tensor<?x4096xf16>, %w: tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x4096xf16>, tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}
