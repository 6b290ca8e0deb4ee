//===- Passes.h - From kernels to binaries ----------------------*- C++ -*-===//
//
// Pass 14, and the form in which it hands its results to pass 15.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TARGET_PASSES_H
#define SPARSEFLOW_TARGET_PASSES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"
#include "sparseflow/Target/CodeGen.h"

namespace sparseflow::target {

#define GEN_PASS_DECL
#include "sparseflow/Target/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "sparseflow/Target/Passes.h.inc"

/// sf-emit-binary, which no more kernels are compiled by once `isCancelled` says yes; may be null.
std::unique_ptr<mlir::Pass> createSFEmitBinary(const SFEmitBinaryOptions &options,
                                               std::function<bool()> isCancelled);

/// Replaces a gpu.module by the gpu.binary of its kernels.
mlir::LogicalResult emitBinary(mlir::gpu::GPUModuleOp module, const CodeGenOptions &options);

/// What emitBinary left in a gpu.binary.
struct BinaryKernel {
  mlir::gpu::KernelMetadataAttr metadata;
  llvm::StringRef ptx;
  llvm::StringRef cubin; // empty: none
  int64_t number(llvm::StringRef key) const;
};
/// The kernels of a gpu.binary, in order. They point into the attribute.
std::vector<BinaryKernel> getBinaryKernels(mlir::gpu::BinaryOp binary);

/// The same for kernels that were not compiled to PTX.
std::vector<BinaryKernel> getUncompiledKernels(mlir::gpu::GPUModuleOp module);

} // namespace sparseflow::target

#endif // SPARSEFLOW_TARGET_PASSES_H
