//===- WidenFloat8.h - Products of 8-bit floats in f16 ----------*- C++ -*-===//
//
// For chips whose warp-wide tensor-core instructions take no 8-bit floats. f16 holds every value of
// f8E4M3FN and f8E5M2, so only the size of the operands changes.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_WIDENFLOAT8_H
#define SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_WIDENFLOAT8_H

#include "sparseflow/Dialect/SF/IR/SFOps.h"

#include "llvm/ADT/DenseMap.h"

namespace sparseflow::sf {

class Float8Widener {
public:
  /// Gives the product operands of f16. Fails with a diagnostic on a packed weight.
  mlir::LogicalResult widen(MatmulOp op);

private:
  mlir::FailureOr<mlir::Value> widen(mlir::Value value);

  /// What several products share is converted once.
  llvm::DenseMap<mlir::Value, mlir::Value> widened;
};

} // namespace sparseflow::sf

#endif // SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_WIDENFLOAT8_H
