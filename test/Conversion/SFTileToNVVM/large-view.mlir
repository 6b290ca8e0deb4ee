// RUN: sparseflow-opt %s --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm))" | FileCheck %s

// A view that begins beyond 2^28 bytes, where a constant index of a getelementptr would wrap around.
// CHECK-LABEL: llvm.func @far
// CHECK: %[[OFFSET:.*]] = arith.constant 469762048 : i64
// CHECK: llvm.getelementptr %{{.*}}[%[[OFFSET]]] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i8
#row = #sf_tile.layout<register = [[0, 1], [0, 2]], lane = [[0, 4], [0, 8], [0, 16], [1, 0], [2, 0]], warps = [1], along = [0]>
gpu.module @kernels {
  sf_tile.kernel @far(%w: memref<469762304xi8>, %y: memref<4x32xf16>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %far = sf_tile.view %w {byte_offset = 469762048 : i64} : memref<469762304xi8> to memref<4x32xf16>
    %t = sf_tile.load %far[%c0, %c0] : memref<4x32xf16> -> !sf_tile.tile<4x32xf16, #row>
    sf_tile.store %t, %y[%c0, %c0] : !sf_tile.tile<4x32xf16, #row>, memref<4x32xf16>
    sf_tile.return
  }
}
