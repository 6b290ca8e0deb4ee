//===- SFScalar.cpp - Scalar arithmetic of the `sf` operations --------------===//
//
// Saturation is a clamp in front of the conversion: the conversions of arith do not saturate, and
// after the clamp a saturating instruction of the device gives the same bits. The clamps let NaN
// through.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SF/IR/SFScalar.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace sparseflow;

static Value emitF32(OpBuilder &builder, Location loc, double value) {
  return arith::ConstantOp::create(builder, loc, builder.getF32FloatAttr(value));
}

static Value emitClamp(OpBuilder &builder, Location loc, Value value, double low, double high) {
  Value raised = arith::MaximumFOp::create(builder, loc, value, emitF32(builder, loc, low));
  return arith::MinimumFOp::create(builder, loc, raised, emitF32(builder, loc, high));
}

static bool isScalarType(Type type) {
  if (isa<FloatType>(type))
    return type.isF16() || type.isBF16() || type.isF32() || type.isF64() ||
           isa<Float8E4M3FNType, Float8E5M2Type>(type);
  return type.isSignlessInteger() && type.getIntOrFloatBitWidth() <= 64;
}

/// Functions for which there is a formula in f32 alone. LLVM would call a library for f64.
static bool isF32Function(Operation *op) {
  return isa<math::ErfOp, math::ExpOp, math::Exp2Op, math::TanhOp>(op);
}

bool sf::isScalarOperation(Operation *op) {
  if (isF32Function(op) && op->getResult(0).getType().isF64())
    return false;
  // Where math has more functions, LLVM would call a library that no chip has.
  bool isKnown =
      isa<math::AbsFOp, math::AbsIOp, math::CeilOp, math::CopySignOp, math::CountLeadingZerosOp,
          math::CtPopOp, math::CountTrailingZerosOp, math::ErfOp, math::ExpOp, math::Exp2Op,
          math::FloorOp, math::FmaOp, math::FPowIOp, math::IsFiniteOp, math::IsNaNOp, math::RoundOp,
          math::RoundEvenOp, math::RsqrtOp, math::SqrtOp, math::TanhOp, math::TruncOp>(op) ||
      (isa_and_nonnull<arith::ArithDialect>(op->getDialect()) &&
       !isa<arith::ScalingExtFOp, arith::ScalingTruncFOp>(op));
  return isKnown && llvm::all_of(op->getOperandTypes(), isScalarType) &&
         llvm::all_of(op->getResultTypes(), isScalarType);
}

double sf::getQuantizeLimit(Type elementType) {
  if (isa<Float8E4M3FNType>(elementType))
    return 448;
  if (isa<Float8E5M2Type>(elementType))
    return 57344;
  assert(elementType.isSignlessInteger(8) && "not a quantized element type");
  return 127;
}

Value sf::emitToF32(OpBuilder &builder, Location loc, Value value) {
  Type f32 = builder.getF32Type();
  if (value.getType() == f32)
    return value;
  if (isa<IntegerType>(value.getType()))
    return arith::SIToFPOp::create(builder, loc, f32, value);
  return arith::ExtFOp::create(builder, loc, f32, value);
}

Value sf::emitCast(OpBuilder &builder, Location loc, Value value, Type type) {
  Type source = value.getType();
  if (source == type)
    return value;
  if (source.isInteger(32) && type.isInteger(8)) {
    auto constant = [&](int64_t limit) -> Value {
      return arith::ConstantOp::create(builder, loc, builder.getI32IntegerAttr(limit));
    };
    Value raised = arith::MaxSIOp::create(builder, loc, value, constant(-128));
    Value clamped = arith::MinSIOp::create(builder, loc, raised, constant(127));
    return arith::TruncIOp::create(builder, loc, type, clamped);
  }
  if (source.isInteger(8) && type.isInteger(32))
    return arith::ExtSIOp::create(builder, loc, type, value);

  value = emitToF32(builder, loc, value);
  if (type.isF32())
    return value;
  if (type.isF16() || type.isBF16())
    return arith::TruncFOp::create(builder, loc, type, value);
  if (isa<FloatType>(type)) {
    double limit = getQuantizeLimit(type);
    return arith::TruncFOp::create(builder, loc, type,
                                   emitClamp(builder, loc, value, -limit, limit));
  }
  // The largest f32 below 2^31.
  double low = type.isInteger(8) ? -128 : -2147483648.0,
         high = type.isInteger(8) ? 127 : 2147483520.0;
  Value rounded = math::RoundEvenOp::create(builder, loc, value);
  return arith::FPToSIOp::create(builder, loc, type, emitClamp(builder, loc, rounded, low, high));
}

Value sf::emitQuantize(OpBuilder &builder, Location loc, Value x, Value scale, Type type) {
  return emitCast(builder, loc, arith::DivFOp::create(builder, loc, x, scale), type);
}

Value sf::emitDequantize(OpBuilder &builder, Location loc, Value q, Value scale, Type type) {
  Value product = arith::MulFOp::create(builder, loc, emitToF32(builder, loc, q), scale);
  return emitCast(builder, loc, product, type);
}

Value sf::emitDynamicScale(OpBuilder &builder, Location loc, Value maximum, Type type) {
  Value zero = emitF32(builder, loc, 0), one = emitF32(builder, loc, 1);
  Value scale =
      arith::DivFOp::create(builder, loc, maximum, emitF32(builder, loc, getQuantizeLimit(type)));
  Value isZero = arith::CmpFOp::create(builder, loc, arith::CmpFPredicate::OEQ, scale, zero);
  return arith::SelectOp::create(builder, loc, isZero, one, scale);
}
