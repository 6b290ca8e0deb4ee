//===- FileSources.h - From a program file back to IR -----------*- C++ -*-===//
//
// A program file holds the IR that it was compiled from. The reference computes with it, the
// emulator compiles its kernels again, and the tuner asks it for its products.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_PIPELINES_FILESOURCES_H
#define SPARSEFLOW_PIPELINES_FILESOURCES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include "sparseflow/Runtime/ProgramFile.h"
#include "sparseflow/Tuning/TuningDatabase.h"
#include "llvm/Support/Error.h"
#include <memory>
#include <vector>

namespace sparseflow {

/// IR and the context that owns it.
struct LoadedModule {
  std::shared_ptr<mlir::MLIRContext> context;
  mlir::OwningOpRef<mlir::ModuleOp> module;
};

/// The `sf` IR of a program file with its constants bound, for the reference.
llvm::Expected<LoadedModule> loadSource(const runtime::ProgramFile &file);

/// One chip's kernels before PTX, and the manifest of the functions that launch them.
struct RecompiledProgram {
  LoadedModule kernels;
  runtime::Manifest manifest;
};

/// Compiles the programs of one chip again, up to the LLVM and NVVM dialects, for the emulator:
/// from the file's source, with the configurations that were chosen then. Nothing that the file
/// calls a kernel or a step is used, so a file that was tampered with can at worst be refused.
llvm::Expected<RecompiledProgram> recompileForEmulation(const runtime::ProgramFile &file,
                                                        llvm::StringRef target);

/// The products of one chip's programs as the tuner knows them, without numbers of tokens; each
/// once, in the order of their first use.
llvm::Expected<std::vector<tuning::TuningKey>> listProducts(const runtime::ProgramFile &file,
                                                            llvm::StringRef target);

} // namespace sparseflow

#endif // SPARSEFLOW_PIPELINES_FILESOURCES_H
