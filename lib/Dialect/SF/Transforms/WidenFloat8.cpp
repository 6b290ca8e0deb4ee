//===- WidenFloat8.cpp - Products of 8-bit floats in f16 --------------------===//
//
// Constants are converted at compile time, kept values and bitmask as they are; everything else by
// kernels.
//
//===----------------------------------------------------------------------===//

#include "WidenFloat8.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

/// Converts each element of a dense matrix.
static Value widenDense(OpBuilder &builder, Location loc, Value value, RankedTensorType type) {
  SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(builder, loc, value);
  Value init = tensor::EmptyOp::create(builder, loc, sizes, type.getElementType());
  SmallVector<AffineMap> maps(2, builder.getMultiDimIdentityMap(2));
  SmallVector<utils::IteratorType> iterators(2, utils::IteratorType::parallel);
  auto body = [&](OpBuilder &nested, Location nestedLoc, ValueRange arguments) {
    Value result = arith::ExtFOp::create(nested, nestedLoc, type.getElementType(), arguments[0]);
    linalg::YieldOp::create(nested, nestedLoc, result);
  };
  return linalg::GenericOp::create(builder, loc, type, value, init, maps, iterators, body)
      ->getResult(0);
}

FailureOr<Value> Float8Widener::widen(Value value) {
  if (Value known = widened.lookup(value))
    return known;
  OpBuilder builder(value.getContext());
  builder.setInsertionPointAfterValue(value);
  Location loc = value.getLoc();
  auto type = cast<RankedTensorType>(value.getType()).clone(builder.getF16Type());
  WeightAttr weight = getWeightEncoding(type);
  Value result;
  if (weight && weight.isPacked())
    return emitError(loc) << "expected a weight of 8-bit floats that is not packed, since it must "
                             "become f16 for this chip, got "
                          << value.getType() << "; pass the canonical weight";
  if (isConstantTensor(value)) {
    auto scaleType = RankedTensorType::get({}, builder.getF32Type());
    Value one = arith::ConstantOp::create(builder, loc, DenseElementsAttr::get(scaleType, 1.0f));
    result = DequantizeOp::create(builder, loc, type, value, one);
  } else if (weight) {
    auto source = cast<RankedTensorType>(value.getType()).cloneWithEncoding(Attribute());
    auto denseType = type.cloneWithEncoding(Attribute());
    Value dense = DecompressOp::create(builder, loc, source, value);
    // Pruning what is 2:4 changes nothing, and asks for no check.
    result = CompressOp::create(builder, loc, type, widenDense(builder, loc, dense, denseType),
                                CompressMode::Prune);
  } else {
    result = widenDense(builder, loc, value, type);
  }
  return widened[value] = result;
}

LogicalResult Float8Widener::widen(MatmulOp op) {
  FailureOr<Value> x = widen(op.getX());
  if (failed(x))
    return failure();
  SmallVector<Value> weights;
  for (Value weight : op.getWeights()) {
    FailureOr<Value> result = widen(weight);
    if (failed(result))
      return failure();
    weights.push_back(*result);
  }
  op.getXMutable().assign(*x);
  op.getWeightsMutable().assign(weights);
  return success();
}
