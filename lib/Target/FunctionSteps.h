//===- FunctionSteps.h - What a function of launches does -------*- C++ -*-===//
//
// The steps of a function in program order, each with the ways to do it. A position is a number
// that grows along the program; the variants of a step stand side by side on the same stretch of
// positions. Private to lib/Target.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_TARGET_FUNCTIONSTEPS_H
#define SPARSEFLOW_LIB_TARGET_FUNCTIONSTEPS_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "sparseflow/Runtime/Manifest.h"

namespace sparseflow::target {

/// One launch, of a kernel or by a library, and where it stands. It reads its operands.
struct LaunchSite {
  mlir::Operation *op = nullptr;
  int64_t position = 0;
};

/// One way to do a step.
struct VariantSite {
  std::optional<int64_t> max; // rows; nothing: any number
  std::string reason;
  llvm::SmallVector<LaunchSite> launches;
  runtime::MeasuredTimes times = {};
};

struct StepSite {
  std::string label, reason;
  mlir::Value rows; // whose leading dimension chooses the variant; null: a single launch
  llvm::SmallVector<VariantSite> variants;
};

struct FunctionSteps {
  llvm::SmallVector<StepSite> list;
  llvm::DenseMap<mlir::Value, mlir::Value>
      alias; // a variant's yielded value: the dispatch's result

  /// The value that stands for this one.
  mlir::Value resolve(mlir::Value value) const {
    for (auto it = alias.find(value); it != alias.end(); it = alias.find(value))
      value = it->second;
    return value;
  }
};

/// Reads a function of one block. An operation that no kernel computes is a diagnostic.
mlir::FailureOr<FunctionSteps> collectSteps(mlir::func::FuncOp function);

} // namespace sparseflow::target

#endif // SPARSEFLOW_LIB_TARGET_FUNCTIONSTEPS_H
