// RUN: sparseflow-opt %s --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm))" | FileCheck %s

// A kernel that waits for the one before says so, for the launch.
// CHECK-LABEL: llvm.func @waits
// CHECK-SAME: sf.dependent_launch
// CHECK: nvvm.griddepcontrol wait
// CHECK-NEXT: nvvm.griddepcontrol launch_dependents
// CHECK-LABEL: llvm.func @does_not
// CHECK-NOT: sf.dependent_launch
// CHECK: llvm.return
gpu.module @kernels {
  sf_tile.kernel @waits() attributes {threads = 32 : i64} {
    sf_tile.grid_wait
    sf_tile.launch_dependents
    sf_tile.return
  }
  sf_tile.kernel @does_not() attributes {threads = 32 : i64} {
    sf_tile.return
  }
}
