// What cannot be compiled is a located error that names the kernel, and the process goes on: the
// second RUN line's module holds a kernel for which LLVM calls report_fatal_error.
// RUN: split-file %s %t
// RUN: not sparseflow-opt %t/good.mlir --sf-emit-binary="target=sm_75 format=ptx" 2>&1 | FileCheck %s --check-prefix=OLD
// RUN: not sparseflow-opt %t/good.mlir --sf-emit-binary="target=sm_99 format=ptx" 2>&1 | FileCheck %s --check-prefix=UNKNOWN
// RUN: not sparseflow-opt %t/good.mlir --sf-emit-binary="target=sm_80 format=sass" 2>&1 | FileCheck %s --check-prefix=FORMAT
// RUN: not sparseflow-opt %t/good.mlir --sf-emit-binary="format=ptx" 2>&1 | FileCheck %s --check-prefix=NONE
// RUN: not sparseflow-opt %t/newer.mlir --sf-emit-binary="target=sm_80 format=ptx" 2>&1 | FileCheck %s --check-prefix=SELECT
// RUN: sparseflow-opt %t/newer.mlir --sf-emit-binary="target=sm_89 format=ptx" -o /dev/null

// OLD: error: target 'sm_75' has no 2:4 sparse tensor cores; expected sm_80 or later: sm_80, sm_86
// NONE: error: expected a target, got none; give the pass target=sm_80
// UNKNOWN: error: unknown target 'sm_99'; expected one of sm_80, sm_86
// FORMAT: error: expected format to be ptx or cubin, got 'sass'
// SELECT: newer.mlir:{{[0-9]+}}:{{[0-9]+}}: error: kernel 'newer' for sm_80: LLVM's code generator gave up: Cannot select

//--- good.mlir
gpu.module @kernels {
  llvm.func @empty() attributes {gpu.kernel, nvvm.kernel} {
    llvm.return
  }
}

//--- newer.mlir
gpu.module @kernels {
  llvm.func @empty() attributes {gpu.kernel, nvvm.kernel} {
    llvm.return
  }
  llvm.func @newer(%a: i32, %d: !llvm.ptr<1>) attributes {gpu.kernel, nvvm.kernel} {
    %f = llvm.bitcast %a : i32 to f32
    %selector = llvm.mlir.constant(0 : i32) : i32
    %r = llvm.call_intrinsic "llvm.nvvm.mma.sp.ordered.metadata.m16n8k64.row.col.f32.e4m3.e4m3.f32"(%a, %a, %a, %a, %a, %a, %a, %a, %f, %f, %f, %f, %a, %selector) : (i32, i32, i32, i32, i32, i32, i32, i32, f32, f32, f32, f32, i32, i32) -> !llvm.struct<(f32, f32, f32, f32)>
    llvm.store %r, %d : !llvm.struct<(f32, f32, f32, f32)>, !llvm.ptr<1>
    llvm.return
  }
}
