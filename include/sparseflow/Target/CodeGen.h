//===- CodeGen.h - From gpu.module to PTX and cubin -------------*- C++ -*-===//
//
// Every kernel is compiled on its own (own LLVM context, own PTX, own cubin): kernels are then
// compiled in parallel, cached one by one, and loaded one by one by the runtime.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TARGET_CODEGEN_H
#define SPARSEFLOW_TARGET_CODEGEN_H

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "sparseflow/Target/Chip.h"
#include "sparseflow/Target/Ptxas.h"
#include "llvm/ADT/SmallVector.h"
#include <functional>
#include <string>

namespace sparseflow::target {

class DiskCache;

/// What one kernel became.
struct CompiledKernel {
  std::string name;
  std::string llvmIR; // after optimization; only when asked for
  std::string ptx;
  std::string cubin; // empty when nothing was assembled
  std::string ptxasVersion;
  KernelResources resources;
  std::string serialization; // see PtxasReport
  /// Sparse tensor-core instructions in the PTX: the proof that the sparse path was generated.
  unsigned mmaSpCount = 0;

  unsigned spillBytes() const { return resources.spillStores + resources.spillLoads; }
  /// What ptxas did to the kernel that makes it run correctly and several times too slow, such as
  /// "spilled 16 bytes of registers"; empty: nothing.
  std::string getSlowness() const;
};

/// How kernels are compiled. `chip` has to be set.
struct CodeGenOptions {
  const Chip *chip = nullptr;
  /// Null: stop at PTX.
  const Ptxas *ptxas = nullptr;
  /// Null: always assemble. Holds cubins by PTX and ptxas version.
  DiskCache *cache = nullptr;
  bool keepLLVMIR = false;
  /// Accept kernels that have a slowness. For tests and for exploring configurations; it is an
  /// error otherwise, because no configuration that ships has one.
  bool allowSlow = false;
  unsigned ptxasTimeoutSeconds = 120;
  /// At most this many kernels at once; 0: as many as the machine has processors.
  unsigned maxThreads = 0;
  /// Asked before each kernel, by several threads: no more are compiled once it says yes, which is
  /// a failure. Null: never.
  std::function<bool()> isCancelled;
};

/// The kernels of a module, in order.
llvm::SmallVector<mlir::LLVM::LLVMFuncOp> getKernels(mlir::gpu::GPUModuleOp module);

/// A detached module with one kernel and what it refers to.
mlir::OwningOpRef<mlir::gpu::GPUModuleOp> isolateKernel(mlir::LLVM::LLVMFuncOp kernel);

/// Compiles every kernel of a module that is in the LLVM and NVVM dialects. Failures are
/// diagnostics at the kernel; a fatal error inside LLVM is one of them and ends nothing but the
/// thread it happened on.
mlir::FailureOr<std::vector<CompiledKernel>> compileKernels(mlir::gpu::GPUModuleOp module,
                                                            const CodeGenOptions &options);

/// Counts mma.sp and wgmma.mma_async.sp instructions.
unsigned countSparseMma(llvm::StringRef ptx);

} // namespace sparseflow::target

#endif // SPARSEFLOW_TARGET_CODEGEN_H
