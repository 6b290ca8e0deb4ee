//===- DequantizeConstant.h - Dequantized constant weights ------*- C++ -*-===//
//
// A constant weight in 8 bits that a product takes in more is computed at compile time: by
// sf-fuse-epilogue when no product takes the 8-bit form, by sf-pack-weights when that depends on
// the chip.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_DEQUANTIZECONSTANT_H
#define SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_DEQUANTIZECONSTANT_H

#include "sparseflow/Dialect/SF/IR/SFOps.h"

namespace sparseflow::sf {

/// Whether operand and scales are constants, the latter one for the tensor or one a row.
bool isConstantDequantize(DequantizeOp op);

/// Whether the elements are known at compile time: a constant, or dequantized from constants.
bool isKnownWeight(mlir::Value weight);

/// The result as a new constant in front of the operation, dense or canonical as its type says.
mlir::FailureOr<mlir::Value> foldDequantize(DequantizeOp op);

} // namespace sparseflow::sf

#endif // SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_DEQUANTIZECONSTANT_H
