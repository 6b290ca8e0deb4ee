// What was measured goes before what is estimated: per range of tokens, and only for the version that measured it.
// RUN: rm -rf %t && mkdir -p %t
// RUN: %python %S/Inputs/tuning.py %t/user.sqlite "sparseflow 0.1.0" 64 "#sf.kernel_config<tile = 64x64x64, warps = 1x4, split_k = 8, raster = 8, atom = mma_sp>" 12.5
// RUN: %python %S/Inputs/tuning.py %t/shipped.sqlite "sparseflow 0.1.0" 64 "#sf.kernel_config<tile = 64x32x64, warps = 1x4, split_k = 4, raster = 8, atom = mma_sp>" 9 256 "#sf.kernel_config<tile = 64x64x64, warps = 1x4, split_k = 4, raster = 8, atom = mma_sp>" 20.25
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 tuning=%t/user.sqlite shipped-tuning=%t/shipped.sqlite explain=true" | FileCheck %s --check-prefixes=CHECK,TUNED
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 shipped-tuning=%t/shipped.sqlite" | FileCheck %s --check-prefix=SHIPPED
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 explain=true" | FileCheck %s --check-prefix=MODEL
// RUN: sparseflow-opt %s --sf-select-config="target=sm_86 tuning=%t/user.sqlite" | FileCheck %s --check-prefix=OTHER

// Another version's entries are nobody's.
// RUN: %python %S/Inputs/tuning.py %t/old.sqlite "sparseflow 0.0.1" 64 "#sf.kernel_config<tile = 64x64x64, warps = 1x4, split_k = 8, raster = 8, atom = mma_sp>" 12.5
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 tuning=%t/old.sqlite" 2>&1 | FileCheck %s --check-prefix=OTHER

// RUN: %python %S/Inputs/tuning.py %t/wrong.sqlite "sparseflow 0.1.0" 64 "#sf.kernel_config<tile = 64x64x64, warps = 1x4, split_k = 8, raster = 8, atom = mma>" 1
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 tuning=%t/wrong.sqlite" 2>&1 | FileCheck %s --check-prefixes=WRONG,OTHER
// RUN: %python %S/Inputs/tuning.py %t/warps.sqlite "sparseflow 0.1.0" 64 "#sf.kernel_config<tile = 64x64x64, warps = 2x4, split_k = 1, raster = 8, atom = mma_sp>" 1
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 tuning=%t/warps.sqlite" 2>&1 | FileCheck %s --check-prefix=WARPS
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 tuning=%t/none.sqlite" 2>&1 | FileCheck %s --check-prefixes=NONE,OTHER

// RUN: %python %S/Inputs/tuning.py %t/time.sqlite "sparseflow 0.1.0" 64 "#sf.kernel_config<tile = 64x64x64, warps = 1x4, split_k = 8, raster = 8, atom = mma_sp>" inf 256 "#sf.kernel_config<tile = 64x64x64, warps = 1x4, split_k = 8, raster = 8, atom = mma_sp>" -1
// RUN: sparseflow-opt %s --sf-select-config="target=sm_80 tuning=%t/time.sqlite" 2>&1 | FileCheck %s --check-prefixes=TIME,OTHER

// A measured configuration may be the only one that is left.
// RUN: %python %S/Inputs/tuning.py %t/only.sqlite "sparseflow 0.1.0" 4096 "#sf.kernel_config<tile = 256x32x64, warps = 4x4, split_k = 1, raster = 8, atom = mma_sp>" 900
// RUN: sed 's/: (tensor<?x4096xf16>, /{sf.slow_configs = [#slow256, #slow128, #slow64]} &/' %s > %t/slow.mlir
// RUN: sparseflow-opt %t/slow.mlir --sf-select-config="target=sm_80 tuning=%t/only.sqlite" | FileCheck %s --check-prefix=ONLY
// ONLY: configs = [#sf.kernel_config<tile = 256x32x64, warps = 4x4, split_k = 1, raster = 8, atom = mma_sp>]

// WRONG: warning: expected the tuning database to hold a configuration for 64 tokens that this product can run, got '#sf.kernel_config<{{.*}}atom = mma>'; the cost model chooses instead
// WARPS: warning: expected the tuning database to hold a configuration for 64 tokens that this product can run, got '#sf.kernel_config<tile = 64x64x64, warps = 2x4,
// TIME-DAG: warning: expected the tuning database to hold a time above 0 for 64 tokens, got inf us; going on without this entry
// TIME-DAG: warning: expected the tuning database to hold a time above 0 for 256 tokens, got -1.000000 us; going on without this entry
// NONE: warning: expected a tuning database at '{{.*}}none.sqlite', got no such file; going on without it

// CHECK-LABEL: @main
// TUNED: #sf.kernel_config<max_tokens = 64, tile = 64x64x64, warps = 1x4, split_k = 8, raster = 8, atom = mma_sp>
// TUNED-SAME: #sf.kernel_config<max_tokens = 256, tile = 64x64x64, warps = 1x4, split_k = 4, raster = 8, atom = mma_sp>
// TUNED-SAME: sf.reasons = [{{.*}}"tuned: 12.5 us at 64 tokens", {{.*}}"tuned: 20.2 us at 256 tokens", {{.*}}"estimated by the cost model"]
// SHIPPED: #sf.kernel_config<max_tokens = 64, tile = 64x32x64, warps = 1x4, split_k = 4, raster = 8, atom = mma_sp>
// SHIPPED-NOT: sf.reasons
// MODEL-NOT: tuned
// MODEL: sf.reasons = ["estimated by the cost model"
// OTHER-NOT: split_k = 8,
#slow256 = #sf.kernel_config<tile = 256x16x64, warps = 4x2, atom = mma_sp>
#slow128 = #sf.kernel_config<tile = 128x16x64, warps = 2x2, atom = mma_sp>
#slow64 = #sf.kernel_config<tile = 64x16x64, warps = 1x2, atom = mma_sp>
func.func @main(%x: tensor<?x4096xf16>, %w: tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16> {
  %0 = sf.matmul %x, %w : (tensor<?x4096xf16>, tensor<4096x4096xf16, #sf.weight<sp24>>) -> tensor<?x4096xf16>
  return %0 : tensor<?x4096xf16>
}
