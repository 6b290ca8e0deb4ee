//===- Contraction.h - Products written in linalg ----------------*- C++ -*-===//
//
// What sf-import-sparse-tensor and sf-orient-operands share: reading a linalg operation as a
// product of two matrices, whatever its operands' orientations, and making an sf.matmul of it.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_CONTRACTION_H
#define SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_CONTRACTION_H

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/IR/PatternMatch.h"

namespace sparseflow::sf {

/// `result[r,c] = init[r,c] + sum over k of rows[r,k] * columns[c,k]`.
struct Contraction {
  struct Operand {
    mlir::Value value;
    /// Stored as [k, r] or [k, c].
    bool isTransposed = false;

    mlir::RankedTensorType getType() const {
      return mlir::cast<mlir::RankedTensorType>(value.getType());
    }
  };
  Operand rows, columns;
  mlir::Value init;
  mlir::RankedTensorType resultType;
};

/// Reads `op` as a product that sf.matmul can compute; on failure `reason` says in a few words why
/// it is none.
mlir::FailureOr<Contraction> matchContraction(mlir::linalg::LinalgOp op, std::string &reason);

/// Whether the tensor is known to be all zeros.
bool isZeroTensor(mlir::Value value);

/// The transposed matrix. Undoes an existing transposition, transposes a constant, or makes a
/// linalg.transpose; fails with a diagnostic on a constant that cannot be read.
mlir::FailureOr<mlir::Value> createTranspose(mlir::OpBuilder &builder, mlir::Location loc,
                                             mlir::Value matrix);

/// `x * weight^T + init` as an sf.matmul.
mlir::Value createMatmul(mlir::OpBuilder &builder, mlir::Location loc, mlir::Value x,
                         mlir::Value weight, mlir::Value init);

} // namespace sparseflow::sf

#endif // SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_CONTRACTION_H
