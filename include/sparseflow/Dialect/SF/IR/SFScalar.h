//===- SFScalar.h - Scalar arithmetic of the `sf` operations -----*- C++ -*-===//
//
// The meaning of a cast, a quantization and a dequantization of one element, as arith and math
// operations. The reference lowering, the epilogue fusion and the kernels build from these same
// functions, so that they agree to the bit.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SF_IR_SFSCALAR_H
#define SPARSEFLOW_DIALECT_SF_IR_SFSCALAR_H

#include "mlir/IR/Builders.h"

namespace sparseflow::sf {

/// Whether a kernel can compute this operation on scalars: those of arith and math for which every
/// chip has instructions or a formula (see scalarOperationsHelp).
bool isScalarOperation(mlir::Operation *op);

/// Which those are, for messages.
inline constexpr llvm::StringLiteral scalarOperationsHelp =
    "arith, and of math absf, absi, ceil, copysign, ctlz, ctpop, cttz, erf, exp, exp2, floor, fma, "
    "fpowi, isfinite, isnan, round, roundeven, rsqrt, sqrt, tanh and trunc, on numbers of up to 64 "
    "bits (erf, exp, exp2 and tanh: 32)";

/// `limit` of sf.quantize: 127, 448 or 57344.
double getQuantizeLimit(mlir::Type elementType);

/// An element of any supported type as f32. i32 rounds to nearest even; the other types are exact.
mlir::Value emitToF32(mlir::OpBuilder &builder, mlir::Location loc, mlir::Value value);

/// What sf.matmul does to an accumulator that has no epilogue, and generally a cast to the element
/// type `type`: rounds to nearest even, saturates i8 and 8-bit floats.
mlir::Value emitCast(mlir::OpBuilder &builder, mlir::Location loc, mlir::Value value,
                     mlir::Type type);

/// `saturate(round(x / scale))`; x is f32.
mlir::Value emitQuantize(mlir::OpBuilder &builder, mlir::Location loc, mlir::Value x,
                         mlir::Value scale, mlir::Type type);

/// The scale of sf.quantize's dynamic form for a largest magnitude `maximum` (f32): `maximum /
/// limit`, 1 where that is 0.
mlir::Value emitDynamicScale(mlir::OpBuilder &builder, mlir::Location loc, mlir::Value maximum,
                             mlir::Type type);

/// `q * scale` in f32, cast to `type`.
mlir::Value emitDequantize(mlir::OpBuilder &builder, mlir::Location loc, mlir::Value q,
                           mlir::Value scale, mlir::Type type);

} // namespace sparseflow::sf

#endif // SPARSEFLOW_DIALECT_SF_IR_SFSCALAR_H
