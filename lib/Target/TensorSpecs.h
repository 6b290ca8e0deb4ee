//===- TensorSpecs.h - Values as the manifest's tensors ---------*- C++ -*-===//
//
// Shapes, element types and alignment as the runtime checks them. Private to lib/Target.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_TARGET_TENSORSPECS_H
#define SPARSEFLOW_LIB_TARGET_TENSORSPECS_H

#include "FunctionSteps.h"
#include "llvm/ADT/EquivalenceClasses.h"
#include <string>
#include <vector>

namespace sparseflow::target {

/// Whether the number of rows is only known by a call.
bool hasDynamicRows(mlir::Value value);

/// Names for the numbers of rows of a function. What meets in one launch has as many rows, and
/// therefore one symbol.
class RowSymbols {
public:
  RowSymbols() = default;
  RowSymbols(mlir::func::FuncOp function, const FunctionSteps &steps);

  /// "" where the number is known.
  std::string of(mlir::Value value) const;
  const std::vector<std::string> &list() const { return names; }

private:
  const FunctionSteps *steps = nullptr;
  llvm::EquivalenceClasses<void *> sameRows;   // values by their opaque pointer
  llvm::DenseMap<void *, std::string> symbols; // by the leader of a class
  std::vector<std::string> names;
};

/// How the runtime sees a tensor. An encoded weight is its bytes. A type that it cannot take is a
/// diagnostic.
mlir::FailureOr<runtime::TensorSpec> specOf(const RowSymbols &symbols, mlir::Value value,
                                            llvm::StringRef name);

} // namespace sparseflow::target

#endif // SPARSEFLOW_LIB_TARGET_TENSORSPECS_H
