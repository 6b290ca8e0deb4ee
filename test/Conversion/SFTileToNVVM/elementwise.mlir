// RUN: sparseflow-opt %s --split-input-file --pass-pipeline="builtin.module(gpu.module(convert-sf-tile-to-nvvm,cse))" | FileCheck %s

#row = #sf_tile.layout<register = [[1]], lane = [[2], [4], [8], [16], [32]], warps = [1], along = [0]>

// What LLVM would need a device library for is written out: exp is the special-function unit, 8-bit floats are conversions.
// CHECK-LABEL: llvm.func @functions
// CHECK: llvm.call_intrinsic "llvm.nvvm.e4m3x2.to.f16x2.rn"
// CHECK: llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f"
// CHECK: math.copysign
// CHECK: llvm.call_intrinsic "llvm.nvvm.ff.to.e5m2x2.rn"
// CHECK-NOT: math.exp
// CHECK-NOT: math.erf
// CHECK-NOT: math.tanh
gpu.module @kernels attributes {sf.target = #sf.target<"sm_89">} {
  sf_tile.kernel @functions(%x: memref<64xf8E4M3FN>, %y: memref<64xf8E5M2>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %t = sf_tile.load %x[%c0] : memref<64xf8E4M3FN> -> !sf_tile.tile<64xf8E4M3FN, #row>
    %r = sf_tile.map %t : !sf_tile.tile<64xf8E4M3FN, #row> -> !sf_tile.tile<64xf8E5M2, #row> {
    ^bb0(%v: f8E4M3FN):
      %f = arith.extf %v : f8E4M3FN to f32
      %e = math.exp %f : f32
      %g = math.erf %e : f32
      %h = math.tanh %g : f32
      %q = arith.truncf %h : f32 to f8E5M2
      sf_tile.yield %q : f8E5M2
    }
    sf_tile.store %r, %y[%c0] : !sf_tile.tile<64xf8E5M2, #row>, memref<64xf8E5M2>
    sf_tile.return
  }
}

// -----

#full = #sf_tile.layout<register = [[0, 1], [1, 0]], lane = [[0, 2], [0, 4], [0, 8], [0, 16], [0, 32]], warps = [1], along = [0]>
#column = #sf_tile.layout<register = [[1, 0]], lane = [[0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], warps = [1], along = [0]>

// The broadcast tile has one register a row; each meets the row's two elements.
// CHECK-LABEL: llvm.func @broadcast
// CHECK-COUNT-2: llvm.bitcast %{{.*}} : i32 to f32
// CHECK-COUNT-4: arith.addf
// CHECK-NOT: arith.addf
gpu.module @kernels {
  sf_tile.kernel @broadcast(%x: memref<2x64xf32>, %y: memref<2x1xf32>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %s = sf_tile.load %y[%c0, %c0] dims [0, -1] : memref<2x1xf32> -> !sf_tile.tile<2x1xf32, #column>
    %t = sf_tile.load %x[%c0, %c0] : memref<2x64xf32> -> !sf_tile.tile<2x64xf32, #full>
    %r = sf_tile.map %t, %s : !sf_tile.tile<2x64xf32, #full>, !sf_tile.tile<2x1xf32, #column> -> !sf_tile.tile<2x64xf32, #full> {
    ^bb0(%a: f32, %b: f32):
      %v = arith.addf %a, %b : f32
      sf_tile.yield %v : f32
    }
    sf_tile.store %r, %x[%c0, %c0] : !sf_tile.tile<2x64xf32, #full>, memref<2x64xf32>
    sf_tile.return
  }
}

// -----

#dense = #sf_tile.layout<register = [[0, 1], [0, 2]], lane = [[0, 4], [0, 8], [0, 16], [0, 32], [0, 64]], warps = [1], along = [0]>
#kept = #sf_tile.layout<register = [[0, 1]], lane = [[0, 2], [0, 4], [0, 8], [0, 16], [0, 32]], warps = [1], along = [0]>
#groups = #sf_tile.layout<register = [], lane = [[0, 1], [0, 2], [0, 4], [0, 8], [0, 16]], warps = [1], along = [0]>

// Magnitudes of f16 compare as integers without the sign. Ties go to the lower position: the later one must be larger (sgt), the
// earlier one only as large (sge).
// CHECK-LABEL: llvm.func @compress
// CHECK: %[[BITS:.*]] = llvm.bitcast %{{.*}} : f16 to i16
// CHECK: %[[WIDE:.*]] = arith.extui %[[BITS]] : i16 to i32
// CHECK: arith.andi %[[WIDE]], %c32767_i32
// CHECK-COUNT-3: arith.cmpi sgt
// CHECK: arith.cmpi sge
gpu.module @kernels {
  sf_tile.kernel @compress(%x: memref<1x128xf16>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %t = sf_tile.load %x[%c0, %c0] : memref<1x128xf16> -> !sf_tile.tile<1x128xf16, #dense>
    %k, %m = sf_tile.compress %t : !sf_tile.tile<1x128xf16, #dense> -> !sf_tile.tile<1x64xf16, #kept>, !sf_tile.tile<1x32xi4, #groups>
    sf_tile.return
  }
}

// -----

#whole = #sf_tile.layout<register = [[1, 0], [0, 1], [0, 8]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [1, 1], along = [0, 1]>
#part = #sf_tile.layout<register = [[1, 0], [0, 1]], lane = [[0, 2], [0, 4], [2, 0], [4, 0], [8, 0]], warps = [1, 1], along = [0, 1]>

// A slice moves nothing: of 8 registers the upper 4 hold columns 8 to 15.
// CHECK-LABEL: llvm.func @slice
// CHECK: %[[LOADED:.*]]:8 = scf.if
// CHECK-NOT: arith.addf
// CHECK: arith.addf %[[LOADED]]#4,
// CHECK: arith.addf %[[LOADED]]#5,
// CHECK: arith.addf %[[LOADED]]#6,
// CHECK: arith.addf %[[LOADED]]#7,
// CHECK-NOT: arith.addf
gpu.module @kernels {
  sf_tile.kernel @slice(%x: f32, %y: memref<16x16xf32>, %on: i1) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %zero = arith.constant 0.0 : f32
    %a = sf_tile.splat %x : f32 -> !sf_tile.tile<16x16xf32, #whole>
    %b = sf_tile.splat %zero : f32 -> !sf_tile.tile<16x16xf32, #whole>
    %t = scf.if %on -> !sf_tile.tile<16x16xf32, #whole> {
      scf.yield %a : !sf_tile.tile<16x16xf32, #whole>
    } else {
      scf.yield %b : !sf_tile.tile<16x16xf32, #whole>
    }
    %s = sf_tile.slice %t[0, 8] : !sf_tile.tile<16x16xf32, #whole> -> !sf_tile.tile<16x8xf32, #part>
    %r = sf_tile.map %s : !sf_tile.tile<16x8xf32, #part> -> !sf_tile.tile<16x8xf32, #part> {
    ^bb0(%v: f32):
      %w = arith.addf %v, %x : f32
      sf_tile.yield %w : f32
    }
    sf_tile.store %r, %y[%c0, %c0] : !sf_tile.tile<16x8xf32, #part>, memref<16x16xf32>
    sf_tile.return
  }
}

// -----

#row = #sf_tile.layout<register = [[1]], lane = [[2], [4], [8], [16], [32]], warps = [1], along = [0]>

// Functions of math are those of f32, whatever the type: no chip has them for 16 bits.
// CHECK-LABEL: llvm.func @narrow_functions
// CHECK: arith.extf {{.*}} : bf16 to f32
// CHECK: llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f"
// CHECK: arith.truncf {{.*}} : f32 to bf16
// CHECK-NOT: math.exp
// CHECK-NOT: math.tanh
gpu.module @kernels {
  sf_tile.kernel @narrow_functions(%x: memref<64xbf16>, %y: memref<64xbf16>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %t = sf_tile.load %x[%c0] : memref<64xbf16> -> !sf_tile.tile<64xbf16, #row>
    %r = sf_tile.map %t : !sf_tile.tile<64xbf16, #row> -> !sf_tile.tile<64xbf16, #row> {
    ^bb0(%v: bf16):
      %e = math.exp %v : bf16
      %h = math.tanh %e : bf16
      sf_tile.yield %h : bf16
    }
    sf_tile.store %r, %y[%c0] : !sf_tile.tile<64xbf16, #row>, memref<64xbf16>
    sf_tile.return
  }
}

// -----

#bytes = #sf_tile.layout<register = [[0, 1], [0, 2]], lane = [[0, 4], [0, 8], [1, 0], [2, 0], [4, 0]], warps = [1], along = [0]>

// An 8-bit float is its bits.
// CHECK-LABEL: llvm.func @splat_of_float8
// CHECK: %[[ONE:.*]] = arith.constant 56 : i8
// CHECK-COUNT-4: llvm.insertelement %[[ONE]], %{{.*}} : vector<4xi8>
gpu.module @kernels {
  sf_tile.kernel @splat_of_float8(%y: memref<8x16xf8E4M3FN>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %one = arith.constant 1.0 : f8E4M3FN
    %t = sf_tile.splat %one : f8E4M3FN -> !sf_tile.tile<8x16xf8E4M3FN, #bytes>
    sf_tile.store %t, %y[%c0, %c0] : !sf_tile.tile<8x16xf8E4M3FN, #bytes>, memref<8x16xf8E4M3FN>
    sf_tile.return
  }
}

// -----

#row = #sf_tile.layout<register = [[1]], lane = [[2], [4], [8], [16], [32]], warps = [1], along = [0]>

// Bits are not converted; f64 is narrowed through f32.
// CHECK-LABEL: llvm.func @float8_as_bits_and_as_f64
// CHECK-NOT: arith.bitcast
// CHECK: %[[HALF:.*]] = llvm.extractelement %{{.*}} : vector<2xf16>
// CHECK: %[[WIDE:.*]] = arith.extf %[[HALF]] : f16 to f64
// CHECK: %[[SQUARE:.*]] = arith.mulf %[[WIDE]], %[[WIDE]] : f64
// CHECK: %[[F32:.*]] = arith.truncf %[[SQUARE]] : f64 to f32
// CHECK: llvm.call_intrinsic "llvm.nvvm.ff.to.e5m2x2.rn"(%{{.*}}, %[[F32]])
gpu.module @kernels attributes {sf.target = #sf.target<"sm_89">} {
  sf_tile.kernel @float8_as_bits_and_as_f64(%x: memref<64xi8>, %y: memref<64xi8>) attributes {threads = 32 : i64} {
    %c0 = arith.constant 0 : index
    %t = sf_tile.load %x[%c0] : memref<64xi8> -> !sf_tile.tile<64xi8, #row>
    %r = sf_tile.map %t : !sf_tile.tile<64xi8, #row> -> !sf_tile.tile<64xi8, #row> {
    ^bb0(%v: i8):
      %b = arith.bitcast %v : i8 to f8E4M3FN
      %w = arith.extf %b : f8E4M3FN to f64
      %m = arith.mulf %w, %w : f64
      %q = arith.truncf %m : f64 to f8E5M2
      %bits = arith.bitcast %q : f8E5M2 to i8
      sf_tile.yield %bits : i8
    }
    sf_tile.store %r, %y[%c0] : !sf_tile.tile<64xi8, #row>, memref<64xi8>
    sf_tile.return
  }
}
