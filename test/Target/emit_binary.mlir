// Each kernel becomes a PTX and a cubin object whose metadata holds what ptxas reported.
// REQUIRES: ptxas
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_80" | FileCheck %s
// RUN: sparseflow-opt %s --sf-emit-binary="target=sm_90a" | FileCheck %s --check-prefix=SM90

// CHECK-LABEL: gpu.binary @kernels
// CHECK-SAME: #gpu.object<#nvvm.target<O = 3, chip = "sm_80", features = "+ptx85">
// CHECK-SAME: #gpu.kernel_metadata<"scale"
// CHECK-SAME: gpu.kernel
// CHECK-SAME: mma_sp = 0
// CHECK-SAME: nvvm.reqntid = array<i32: 128, 1, 1>
// CHECK-SAME: ptxas = "{{[0-9.]+}}"
// CHECK-SAME: registers = {{[1-9][0-9]*}}
// CHECK-SAME: spill_bytes = 0
// CHECK-SAME: assembly = "
// CHECK-SAME: .target sm_80
// CHECK-SAME: .visible .entry scale(
// CHECK-SAME: #gpu.kernel_metadata<"scale"
// CHECK-SAME: bin = "\7FELF
// CHECK-SAME: #gpu.kernel_metadata<"sparse_mma"
// CHECK-SAME: mma_sp = 1
// CHECK-SAME: assembly = "
// CHECK-SAME: mma.sp::ordered_metadata.sync.aligned.m16n8k32
// CHECK-NOT: gpu.module
// SM90: chip = "sm_90a"
gpu.module @kernels {
  llvm.func @scale(%x: !llvm.ptr<1>, %y: !llvm.ptr<1>, %n: i64) attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 128, 1, 1>, nvvm.minctasm = 1 : i32} {
    %tid = nvvm.read.ptx.sreg.tid.x : i32
    %i = llvm.sext %tid : i32 to i64
    %in = llvm.icmp "slt" %i, %n : i64
    llvm.cond_br %in, ^store, ^exit
  ^store:
    %px = llvm.getelementptr %x[%i] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, f32
    %py = llvm.getelementptr %y[%i] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, f32
    %v = llvm.load %px : !llvm.ptr<1> -> f32
    %two = llvm.mlir.constant(2.0 : f32) : f32
    %r = llvm.fmul %v, %two : f32
    llvm.store %r, %py : f32, !llvm.ptr<1>
    llvm.br ^exit
  ^exit:
    llvm.return
  }

  llvm.func @sparse_mma(%a: !llvm.ptr<1>, %b: !llvm.ptr<1>, %m: !llvm.ptr<1>, %d: !llvm.ptr<1>) attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = array<i32: 32, 1, 1>, nvvm.minctasm = 1 : i32} {
    %va = llvm.load %a : !llvm.ptr<1> -> vector<2xf16>
    %vb = llvm.load %b : !llvm.ptr<1> -> vector<2xf16>
    %meta = llvm.load %m : !llvm.ptr<1> -> i32
    %zero = llvm.mlir.constant(0.0 : f32) : f32
    %selector = llvm.mlir.constant(0 : i32) : i32
    %acc = nvvm.mma.sp.sync A[%va, %va, %va, %va] B[%vb, %vb, %vb, %vb] C[%zero, %zero, %zero, %zero] sparseMetadata[%meta] selector[%selector] {orderedMetadata, shape = #nvvm.shape<m = 16, n = 8, k = 32>} : (vector<2xf16>, vector<2xf16>, f32) -> !llvm.struct<(f32, f32, f32, f32)>
    llvm.store %acc, %d : !llvm.struct<(f32, f32, f32, f32)>, !llvm.ptr<1>
    llvm.return
  }
}
