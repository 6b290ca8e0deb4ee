//===- ManifestFunction.h - A function of launches as data ------*- C++ -*-===//
//
// Private to lib/Target.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_TARGET_MANIFESTFUNCTION_H
#define SPARSEFLOW_LIB_TARGET_MANIFESTFUNCTION_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "sparseflow/Target/Manifest.h"
#include "sparseflow/Target/Passes.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSet.h"

namespace sparseflow::target {

/// What the functions of a module have in common.
struct ModuleParts {
  const Chip &chip;
  llvm::StringMap<BinaryKernel> kernels;  // by name
  llvm::StringSet<> resources;            // the names of constants that are resources
  std::vector<ProgramConstant> constants; // what the functions read, each once
};

/// The manifest's entry for a function, with one program. Adds the constants that it reads.
mlir::FailureOr<runtime::Function> buildFunction(mlir::func::FuncOp function, ModuleParts &parts);

} // namespace sparseflow::target

#endif // SPARSEFLOW_LIB_TARGET_MANIFESTFUNCTION_H
