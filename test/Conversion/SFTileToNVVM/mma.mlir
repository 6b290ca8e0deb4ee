// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm,cse))" | FileCheck %s

#acc = #sf_tile.layout<register = [[1, 0], [2, 0], [4, 0], [0, 1]], lane = [[0, 2], [0, 4], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, 1]>
#b = #sf_tile.layout<register = [[0, 1], [0, 8], [0, 16]], lane = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], warps = [1, 1], along = [-1, 0]>
#a = #sf_tile.layout<register = [[0, 1], [1, 0], [0, 8], [2, 0], [4, 0]], lane = [[0, 2], [0, 4], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, -1]>
#e = #sf_tile.layout<register = [[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]], lane = [[0, 4], [0, 8], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, -1]>

// 64 features are four instructions, one a block of 16, each with its own metadata register; the second half of the metadata is
// selector 1. f16 operands are <2 x half>.
// CHECK-LABEL: llvm.func @sparse
// CHECK: llvm.call_intrinsic "llvm.nvvm.mma.sp.ordered.metadata.m16n8k32.row.col.f32.f32"(%{{.*}}, %c1_i32) : (vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, f32, f32, f32, f32, i32, i32) -> !llvm.struct<(f32, f32, f32, f32)>
// CHECK-COUNT-3: llvm.call_intrinsic "llvm.nvvm.mma.sp.ordered.metadata.m16n8k32.row.col.f32.f32"
// CHECK-NOT: llvm.nvvm.mma
gpu.module @kernels {
  sf_tile.kernel @sparse(%zero: f32, %h: f16) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : i4
    %acc = sf_tile.splat %zero : f32 -> !sf_tile.tile<64x8xf32, #acc>
    %a = sf_tile.splat %h : f16 -> !sf_tile.tile<64x16xf16, #a>
    %b = sf_tile.splat %h : f16 -> !sf_tile.tile<8x32xf16, #b>
    %e = sf_tile.splat %c0 : i4 -> !sf_tile.tile<64x16xi4, #e>
    %r = sf_tile.mma <"mma_sp_m16n8k32_f16"> %a, %b, %acc metadata %e {metadata_start = 8 : i64}
      : !sf_tile.tile<64x16xf16, #a>, !sf_tile.tile<8x32xf16, #b>, !sf_tile.tile<64x8xf32, #acc>, !sf_tile.tile<64x16xi4, #e>
      -> !sf_tile.tile<64x8xf32, #acc>
    sf_tile.return
  }
}

// -----

#acc = #sf_tile.layout<register = [[1, 0], [2, 0], [4, 0], [0, 1]], lane = [[0, 2], [0, 4], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, 1]>
#b = #sf_tile.layout<register = [[0, 1], [0, 2], [0, 16]], lane = [[0, 4], [0, 8], [1, 0], [2, 0], [4, 0]], warps = [1, 1], along = [-1, 0]>
#a = #sf_tile.layout<register = [[0, 1], [0, 2], [1, 0], [0, 16], [2, 0], [4, 0]], lane = [[0, 4], [0, 8], [8, 0], [16, 0], [32, 0]], warps = [1, 1], along = [0, -1]>

// Dense bytes: registers are i32, sums i32, no metadata.
// CHECK-LABEL: llvm.func @dense
// CHECK-COUNT-4: llvm.call_intrinsic "llvm.nvvm.mma.m16n8k32.row.col.s8"({{.*}}) : (i32, i32, i32, i32, i32, i32, i32, i32, i32, i32) -> !llvm.struct<(i32, i32, i32, i32)>
gpu.module @kernels {
  sf_tile.kernel @dense(%zero: i32, %v: i8) attributes {threads = 32 : i64} {
    %acc = sf_tile.splat %zero : i32 -> !sf_tile.tile<64x8xi32, #acc>
    %a = sf_tile.splat %v : i8 -> !sf_tile.tile<64x32xi8, #a>
    %b = sf_tile.splat %v : i8 -> !sf_tile.tile<8x32xi8, #b>
    %r = sf_tile.mma <"mma_m16n8k32_s8"> %a, %b, %acc
      : !sf_tile.tile<64x32xi8, #a>, !sf_tile.tile<8x32xi8, #b>, !sf_tile.tile<64x8xi32, #acc> -> !sf_tile.tile<64x8xi32, #acc>
    sf_tile.return
  }
}
