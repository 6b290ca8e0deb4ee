//===- InputChecks.h - What the compiler can take ---------------*- C++ -*-===//
//
// Said of a module as a whole, in terms of what somebody wrote, rather than by the first pass that
// stumbles over it. Private to lib/Pipelines.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_PIPELINES_INPUTCHECKS_H
#define SPARSEFLOW_LIB_PIPELINES_INPUTCHECKS_H

#include "mlir/IR/BuiltinOps.h"

namespace sparseflow {

/// Checks that there is a public function, and that its arguments and results are tensors whose
/// element types have a name at run time. Diagnostics say where they are not.
llvm::LogicalResult checkFunctions(mlir::ModuleOp module);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_PIPELINES_INPUTCHECKS_H
