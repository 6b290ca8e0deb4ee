//===- SFOps.h - Operations of the `sf` dialect ------------------*- C++ -*-===//
//
// The operations, and the small vocabulary that their users share: how an epilogue operand is
// broadcast, what a scale covers.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SF_IR_SFOPS_H
#define SPARSEFLOW_DIALECT_SF_IR_SFOPS_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "sparseflow/Dialect/SF/IR/SFAttributes.h"
#include "sparseflow/Dialect/SF/IR/SFDialect.h"

namespace sparseflow::sf {

/// How an operand of an epilogue meets the result [M,N]: shapes [], [N], [M,1], [M,N].
enum class Broadcast { Scalar, Feature, Token, Full };

/// What one scale covers, given a tensor [M,K]: scales of shape [], [K], [M,1], [M,K/G].
enum class ScaleGranularity { Tensor, Feature, Token, Group };

/// The encoding of a weight; null if the type is not a tensor with #sf.weight.
WeightAttr getWeightEncoding(mlir::Type type);

} // namespace sparseflow::sf

#define GET_OP_CLASSES
#include "sparseflow/Dialect/SF/IR/SFOps.h.inc"

#endif // SPARSEFLOW_DIALECT_SF_IR_SFOPS_H
