// RUN: sparseflow-opt %s --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm,cse))" | FileCheck %s

#row = #sf_tile.layout<register = [[0, 1]], lane = [[1, 0], [0, 2], [0, 4], [0, 8], [0, 16]], warps = [1, 2], along = [0, 1]>
#column = #sf_tile.layout<register = [], lane = [[1, 0], [0, 0], [0, 0], [0, 0], [0, 0]], warps = [1, 2], along = [0, -1]>

// A fixed tree: registers, then the lanes that tell columns apart (bit 0 tells rows), then the warps in their order through shared
// memory, between two barriers: what lay there before has been read, and what is read has been written.
// CHECK-LABEL: llvm.func @maximum
// CHECK: arith.maximumf
// CHECK-NOT: shfl{{.*}}, %c1_i32,
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c2_i32
// CHECK-NEXT: arith.maximumf
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c4_i32
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c8_i32
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c16_i32
// CHECK: nvvm.barrier
// CHECK: llvm.store %{{.*}} : f32, !llvm.ptr<3>
// CHECK-NEXT: nvvm.barrier
// CHECK: %[[W0:.*]] = llvm.load %{{.*}} : !llvm.ptr<3> -> f32
// CHECK: %[[W1:.*]] = llvm.load %{{.*}} : !llvm.ptr<3> -> f32
// CHECK-NEXT: arith.maximumf %[[W0]], %[[W1]]
gpu.module @kernels {
  sf_tile.kernel @maximum(%x: memref<2x64xf32>, %y: memref<2x1xf32>) attributes {threads = 64 : i64} {
    %c0 = arith.constant 0 : index
    %t = sf_tile.load %x[%c0, %c0] : memref<2x64xf32> -> !sf_tile.tile<2x64xf32, #row>
    %m = sf_tile.reduce max %t {dim = 1, scratch_offset = 0} : !sf_tile.tile<2x64xf32, #row> -> !sf_tile.tile<2x1xf32, #column>
    sf_tile.store %m, %y[%c0, %c0] dims [0, -1] : !sf_tile.tile<2x1xf32, #column>, memref<2x1xf32>
    sf_tile.return
  }
}
