//===- EpilogueFusion.cpp - Building one epilogue out of many operations ------===//
//
// Walks backwards from the element of the result that is wanted: each operation is replaced by its
// scalar body, its operands by their elements at the place that the indexing maps give, until a
// product or something in memory is reached.
//
// Inside an epilogue f16 and bf16 values are held in f32, and the roundings between fused
// operations disappear: that is faster, closer to the exact result, and the kernels need no
// half-precision arithmetic. Roundings to 8 bits are quantizations and stay.
//
//===----------------------------------------------------------------------===//

#include "EpilogueFusion.h"

#include "sparseflow/Dialect/SF/IR/SFScalar.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Utils/ReshapeOpsUtils.h"
#include "mlir/IR/DialectResourceBlobManager.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

//===----------------------------------------------------------------------===//
// Recognition
//===----------------------------------------------------------------------===//

/// Dequantization by scales that are a factor of the product: one for the tensor or for a row.
static DequantizeOp getFactoredDequantize(Value value) {
  auto dequantize = value.getDefiningOp<DequantizeOp>();
  if (!dequantize)
    return {};
  ScaleGranularity granularity = dequantize.getGranularity();
  bool isFactor = granularity == ScaleGranularity::Tensor || granularity == ScaleGranularity::Token;
  return isFactor ? dequantize : DequantizeOp();
}

Product Product::get(MatmulOp op) {
  Product plain{op.getX(), {}, llvm::to_vector(op.getWeights()), {}};
  DequantizeOp x = getFactoredDequantize(op.getX());
  if (!x)
    return plain;
  Product quantized{x.getInput(), x.getScale(), {}, {}};
  for (Value weight : op.getWeights()) {
    DequantizeOp dequantize = getFactoredDequantize(weight);
    if (!dequantize || getElementTypeOrSelf(dequantize.getInput().getType()) !=
                           getElementTypeOrSelf(x.getInput().getType()))
      return plain;
    quantized.weights.push_back(dequantize.getInput());
    quantized.weightScales.push_back(dequantize.getScale());
  }
  return quantized;
}

bool Product::canShareKernel(const Product &other) const {
  return x == other.x && xScale == other.xScale &&
         weights.front().getType() == other.weights.front().getType();
}

/// Types that the scalars of an epilogue may have.
static bool isScalarType(Type type) {
  return type.isF16() || type.isBF16() || type.isF32() ||
         isa<Float8E4M3FNType, Float8E5M2Type>(type) ||
         (type.isSignlessInteger() && type.getIntOrFloatBitWidth() <= 32);
}

static bool isFloat8Type(Type type) {
  return isa<Float8E4M3FNType, Float8E5M2Type>(getElementTypeOrSelf(type));
}

/// What is done in 16 bits can be done in f32. Not so reinterpreted bits and arithmetic in 8-bit
/// floats.
static bool canWiden(Operation *op) {
  if (isa<arith::ExtFOp, arith::TruncFOp, arith::ConstantOp>(op))
    return true;
  return !isa<arith::BitcastOp>(op) && llvm::none_of(op->getOperandTypes(), isFloat8Type) &&
         llvm::none_of(op->getResultTypes(), isFloat8Type);
}

static bool isFusibleScalar(Operation *op) {
  return canWiden(op) &&
         isa_and_nonnull<arith::ArithDialect, math::MathDialect>(op->getDialect()) &&
         op->getNumResults() == 1 && op->getNumRegions() == 0 &&
         llvm::all_of(op->getOperandTypes(), isScalarType) &&
         llvm::all_of(op->getResultTypes(), isScalarType);
}

static bool isElementwiseLinalg(linalg::LinalgOp op) {
  if (!op.hasPureTensorSemantics() || op.getNumParallelLoops() != op.getNumLoops() ||
      op.getNumDpsInits() != 1 || op->getNumResults() != 1 ||
      !op.getIndexingMapsArray().back().isPermutation())
    return false;
  return llvm::all_of(op.getBlock()->without_terminator(),
                      [](Operation &nested) { return isFusibleScalar(&nested); });
}

/// An operation of arith or math on whole tensors.
static bool isElementwiseTensorOp(Operation *op) {
  auto isTensor = [](Type type) {
    auto tensor = dyn_cast<RankedTensorType>(type);
    return tensor && !tensor.getEncoding() && isScalarType(tensor.getElementType());
  };
  return canWiden(op) &&
         isa_and_nonnull<arith::ArithDialect, math::MathDialect>(op->getDialect()) &&
         op->hasTrait<OpTrait::Elementwise>() && op->getNumResults() == 1 &&
         llvm::all_of(op->getOperandTypes(), isTensor) &&
         llvm::all_of(op->getResultTypes(), isTensor);
}

bool sf::isElementwise(Operation *op) {
  if (auto linalgOp = dyn_cast<linalg::LinalgOp>(op))
    return isElementwiseLinalg(linalgOp);
  if (auto quantize = dyn_cast<QuantizeOp>(op))
    return !quantize.isDynamic() && quantize.getGranularity() != ScaleGranularity::Group;
  if (auto dequantize = dyn_cast<DequantizeOp>(op))
    return dequantize.getGranularity() != ScaleGranularity::Group &&
           !getWeightEncoding(dequantize.getType());
  return isElementwiseTensorOp(op);
}

bool sf::isBroadcast(Operation *op) {
  auto linalgOp = dyn_cast<linalg::LinalgOp>(op);
  return linalgOp && isElementwiseLinalg(linalgOp) &&
         linalgOp.getBlock()->without_terminator().empty();
}

/// The value of a tensor whose elements are all one constant; null for others.
static TypedAttr getSplatConstant(Value tensor) {
  if (auto fill = tensor.getDefiningOp<linalg::FillOp>()) {
    TypedAttr value;
    return matchPattern(fill.getInputs()[0], m_Constant(&value)) ? value : TypedAttr();
  }
  SplatElementsAttr splat;
  if (matchPattern(tensor, m_Constant(&splat)) && isScalarType(splat.getElementType()))
    return splat.getSplatValue<TypedAttr>();
  return {};
}

//===----------------------------------------------------------------------===//
// Construction
//===----------------------------------------------------------------------===//

EpilogueBuilder::EpilogueBuilder(Value sink, const llvm::SetVector<Operation *> &absorbed,
                                 ArrayRef<MatmulOp> matmuls)
    : sink(sink), absorbed(absorbed), matmuls(matmuls),
      product(Product::get(this->matmuls.front())),
      numTokens(this->matmuls.front().getXType().getDimSize(0)),
      numFeatures(this->matmuls.front().getNumFeatures()), context(sink.getContext()),
      builder(context), loc(sink.getLoc()) {
  for (MatmulOp op : ArrayRef(this->matmuls).drop_front()) {
    Product other = Product::get(op);
    llvm::append_range(product.weights, other.weights);
    llvm::append_range(product.weightScales, other.weightScales);
  }
  block = new Block;
  region.push_back(block);
  builder.setInsertionPointToEnd(block);
  bool isInteger = getElementTypeOrSelf(product.x.getType()).isInteger();
  Type accumulator = isInteger ? Type(builder.getI32Type()) : Type(builder.getF32Type());
  for (size_t i = 0; i < product.weights.size(); ++i)
    accumulators.push_back(block->addArgument(accumulator, loc));
}

AffineMap EpilogueBuilder::getMap(ArrayRef<AffineExpr> results) const {
  return AffineMap::get(/*dimCount=*/2, /*symbolCount=*/0, results, context);
}

LogicalResult EpilogueBuilder::build() {
  FailureOr<Value> element = emitElement(sink, AffineMap::getMultiDimIdentityMap(2, context));
  if (failed(element))
    return failure();
  Type type = getElementTypeOrSelf(sink.getType());
  Value result = *element;
  if (result.getType() != type)
    result = arith::TruncFOp::create(builder, loc, type, result);
  YieldOp::create(builder, loc, result);
  return success();
}

bool EpilogueBuilder::hasOperand(Value tensor) const {
  return llvm::any_of(operands, [&](const auto &operand) { return operand.first == tensor; });
}

MatmulOp EpilogueBuilder::create() {
  Operation *sinkOp = sink.getDefiningOp();
  OpBuilder at(sinkOp);
  SmallVector<Value> epilogueOperands;
  for (auto [tensor, broadcast] : operands)
    epilogueOperands.push_back(reshapeOperand(at, tensor, broadcast));
  MatmulOp first = matmuls.front();
  SmallVector<Location> locations = {first.getLoc()};
  for (Operation *op : absorbed)
    locations.push_back(op->getLoc());
  auto fused =
      MatmulOp::create(at, at.getFusedLoc(locations), sink.getType(), product.x, product.weights,
                       first.getLibraryWeights(), epilogueOperands, first.getConfigsAttr());
  fused->setDiscardableAttrs(first->getDiscardableAttrDictionary());
  fused.getEpilogue().takeBody(region);
  return fused;
}

Value EpilogueBuilder::reshapeOperand(OpBuilder &at, Value tensor, Broadcast broadcast) {
  auto type = cast<RankedTensorType>(tensor.getType());
  SmallVector<int64_t> shape;
  if (broadcast == Broadcast::Feature)
    shape = {numFeatures};
  else if (broadcast == Broadcast::Token)
    shape = {numTokens, 1};
  else if (broadcast == Broadcast::Full)
    shape = {numTokens, numFeatures};
  if (type.getShape() == ArrayRef(shape))
    return tensor;

  auto resultType = RankedTensorType::get(shape, type.getElementType());
  ElementsAttr constant;
  if (matchPattern(tensor, m_Constant(&constant))) {
    if (auto dense = dyn_cast<DenseElementsAttr>(constant))
      return arith::ConstantOp::create(at, tensor.getLoc(), dense.reshape(resultType));
    if (auto resource = dyn_cast<DenseResourceElementsAttr>(constant))
      return arith::ConstantOp::create(
          at, tensor.getLoc(), resultType,
          DenseResourceElementsAttr::get(resultType, resource.getRawHandle()));
  }
  // Without the dimensions of size 1, the shape is that of the broadcast, or a vector of tokens.
  SmallVector<int64_t> squeezed = shape;
  if (broadcast == Broadcast::Token)
    squeezed.pop_back();
  if (type.getShape() != ArrayRef(squeezed)) {
    auto squeezedType = RankedTensorType::get(squeezed, type.getElementType());
    auto reassociation = getReassociationIndicesForCollapse(type.getShape(), squeezed);
    tensor = tensor::CollapseShapeOp::create(at, loc, squeezedType, tensor,
                                             squeezed.empty() ? SmallVector<ReassociationIndices>()
                                                              : *reassociation);
  }
  if (broadcast == Broadcast::Token)
    tensor = tensor::ExpandShapeOp::create(at, loc, resultType, tensor,
                                           SmallVector<ReassociationIndices>{{0, 1}});
  return tensor;
}

//===----------------------------------------------------------------------===//
// Elements of tensors
//===----------------------------------------------------------------------===//

EpilogueBuilder::Element EpilogueBuilder::emitElement(Value tensor, AffineMap map) {
  auto it = elements.find({tensor, map});
  if (it != elements.end())
    return it->second;
  Element element = emitNewElement(tensor, map);
  if (succeeded(element))
    elements[{tensor, map}] = *element;
  return element;
}

EpilogueBuilder::Element EpilogueBuilder::emitNewElement(Value tensor, AffineMap map) {
  if (TypedAttr splat = getSplatConstant(tensor))
    return emitConstant(splat);
  Operation *op = tensor.getDefiningOp();
  if (op && absorbed.contains(op)) {
    auto matmul = dyn_cast<MatmulOp>(op);
    if (!matmul)
      return emitElementwise(op, map);
    // A kernel has the accumulators of its own tile, not those of the transposed place.
    if (!map.isIdentity())
      return failure();
    return emitMatmul(matmul);
  }
  if (op && isBroadcast(op))
    if (Element element = emitElementwise(op, map); succeeded(element))
      return element;
  return emitOperand(tensor, map);
}

EpilogueBuilder::Element EpilogueBuilder::emitMatmul(MatmulOp op) {
  size_t first = 0;
  for (MatmulOp other : matmuls) {
    if (other == op)
      break;
    first += other.getWeights().size();
  }
  AffineExpr token = builder.getAffineDimExpr(0), feature = builder.getAffineDimExpr(1);
  AffineExpr zero = builder.getAffineConstantExpr(0);

  SmallVector<Value> values;
  for (size_t i = first, e = first + op.getWeights().size(); i < e; ++i) {
    Value value = accumulators[i];
    if (product.isDequantized()) {
      // A scale's shape is [] or [rows, 1]: rows of x are tokens, rows of the weight are features.
      auto scaleElement = [&](Value scale, AffineExpr row) {
        bool isScalar = cast<RankedTensorType>(scale.getType()).getRank() == 0;
        return emitElement(scale, isScalar ? getMap({}) : getMap({row, zero}));
      };
      Element xScale = scaleElement(product.xScale, token);
      Element weightScale = scaleElement(product.weightScales[i], feature);
      if (failed(xScale) || failed(weightScale))
        return failure();
      value = emitToF32(builder, loc, value);
      value = arith::MulFOp::create(builder, loc, value, *xScale);
      value = arith::MulFOp::create(builder, loc, value, *weightScale);
    }
    values.push_back(value);
  }
  Type element = op.getResultType().getElementType();
  if (!op.hasEpilogue()) {
    if (element.isF16() || element.isBF16())
      return values.front();
    return emitCast(builder, loc, values.front(), element);
  }

  for (auto [i, operand] : llvm::enumerate(op.getEpilogueOperands())) {
    AffineMap map;
    switch (op.getEpilogueBroadcast(i)) {
    case Broadcast::Scalar:
      map = getMap({});
      break;
    case Broadcast::Feature:
      map = getMap({feature});
      break;
    case Broadcast::Token:
      map = getMap({token, zero});
      break;
    case Broadcast::Full:
      map = getMap({token, feature});
      break;
    }
    Element value = emitElement(operand, map);
    if (failed(value))
      return failure();
    values.push_back(*value);
  }
  IRMapping scalars;
  Block &body = op.getEpilogue().front();
  scalars.map(body.getArguments(), values);
  return emitBlock(body, scalars);
}

EpilogueBuilder::Element EpilogueBuilder::emitElementwise(Operation *op, AffineMap map) {
  IRMapping scalars;
  if (auto linalgOp = dyn_cast<linalg::LinalgOp>(op)) {
    SmallVector<AffineMap> maps = linalgOp.getIndexingMapsArray();
    AffineMap loops = inversePermutation(maps.back()).compose(map);
    Block &body = *linalgOp.getBlock();
    for (OpOperand &operand : op->getOpOperands()) {
      BlockArgument argument = linalgOp.getMatchingBlockArgument(&operand);
      if (argument.use_empty())
        continue;
      TypedAttr constant;
      Element element = failure();
      if (isa<RankedTensorType>(operand.get().getType()))
        element = emitElement(operand.get(), maps[operand.getOperandNumber()].compose(loops));
      else if (matchPattern(operand.get(), m_Constant(&constant)))
        element = emitConstant(constant);
      if (failed(element))
        return failure();
      scalars.map(argument, *element);
    }
    return emitBlock(body, scalars);
  }

  // The place of a scale, given the place of the element that it scales.
  auto emitScale = [&](Value scale, ScaleGranularity granularity) {
    AffineExpr row = map.getResult(0), column = map.getResult(1);
    if (granularity == ScaleGranularity::Tensor)
      return emitElement(scale, getMap({}));
    if (granularity == ScaleGranularity::Feature)
      return emitElement(scale, getMap({column}));
    return emitElement(scale, getMap({row, builder.getAffineConstantExpr(0)}));
  };
  if (auto quantize = dyn_cast<QuantizeOp>(op)) {
    Element x = emitElement(quantize.getInput(), map);
    Element scale = emitScale(quantize.getScale(), quantize.getGranularity());
    if (failed(x) || failed(scale))
      return failure();
    return emitQuantize(builder, loc, *x, *scale,
                        getElementTypeOrSelf(quantize.getResult().getType()));
  }
  if (auto dequantize = dyn_cast<DequantizeOp>(op)) {
    Element q = emitElement(dequantize.getInput(), map);
    Element scale = emitScale(dequantize.getScale(), dequantize.getGranularity());
    if (failed(q) || failed(scale))
      return failure();
    return emitDequantize(builder, loc, *q, *scale, builder.getF32Type());
  }

  // An operation on whole tensors becomes the same operation on elements.
  for (Value operand : op->getOperands()) {
    Element element = emitElement(operand, map);
    if (failed(element))
      return failure();
    scalars.map(operand, *element);
  }
  emitScalar(op, scalars);
  return scalars.lookup(op->getResult(0));
}

EpilogueBuilder::Element EpilogueBuilder::emitOperand(Value tensor, AffineMap map) {
  auto type = dyn_cast<RankedTensorType>(tensor.getType());
  if (!type || type.getEncoding() || !isScalarType(type.getElementType()))
    return failure();
  Type element = type.getElementType();
  if (element.isInteger() && !element.isInteger(8) && !element.isInteger(32))
    return failure();

  // Which of token and feature the operand is indexed by, in this order.
  SmallVector<unsigned, 2> positions;
  for (auto [size, expr] : llvm::zip(type.getShape(), map.getResults())) {
    if (size == 1)
      continue;
    auto dim = dyn_cast<AffineDimExpr>(expr);
    if (!dim || size != (dim.getPosition() == 0 ? numTokens : numFeatures))
      return failure();
    positions.push_back(dim.getPosition());
  }
  Broadcast broadcast = Broadcast::Scalar;
  // With a single token or feature several forms fit: the one that needs no reshape is best.
  bool isOrdered = llvm::is_sorted(positions);
  if (isOrdered && type.getShape() == ArrayRef({numTokens, numFeatures}))
    broadcast = Broadcast::Full;
  else if (positions == ArrayRef(0u))
    broadcast = Broadcast::Token;
  else if (positions == ArrayRef(1u))
    broadcast = Broadcast::Feature;
  else if (positions == ArrayRef({0u, 1u}))
    broadcast = Broadcast::Full;
  else if (!positions.empty())
    return failure();

  auto it = llvm::find(operands, std::pair(tensor, broadcast));
  size_t index = it - operands.begin();
  if (it == operands.end()) {
    operands.push_back({tensor, broadcast});
    block->addArgument(element, loc);
  }
  Value argument = block->getArgument(accumulators.size() + index);
  if (element.isF16() || element.isBF16())
    return emitToF32(builder, loc, argument);
  return argument;
}

//===----------------------------------------------------------------------===//
// Scalars
//===----------------------------------------------------------------------===//

static bool isHalf(Type type) { return type.isF16() || type.isBF16(); }

Value EpilogueBuilder::emitConstant(TypedAttr value) {
  auto number = dyn_cast<FloatAttr>(value);
  if (number && isHalf(number.getType()))
    value = builder.getF32FloatAttr(number.getValueAsDouble());
  return arith::ConstantOp::create(builder, loc, value);
}

Value EpilogueBuilder::emitBlock(Block &body, IRMapping &scalars) {
  for (Operation &op : body.without_terminator())
    emitScalar(&op, scalars);
  return scalars.lookup(body.getTerminator()->getOperand(0));
}

void EpilogueBuilder::emitScalar(Operation *op, IRMapping &scalars) {
  Value result = op->getResult(0);
  Type type = getElementTypeOrSelf(result.getType());
  if (auto constant = dyn_cast<arith::ConstantOp>(op)) {
    TypedAttr value = constant.getValue();
    if (auto splat = dyn_cast<SplatElementsAttr>(value))
      value = splat.getSplatValue<TypedAttr>();
    scalars.map(result, emitConstant(value));
    return;
  }
  // Casts among f16, bf16 and f32 have nothing left to do.
  if (isa<arith::ExtFOp, arith::TruncFOp>(op)) {
    Value operand = scalars.lookup(op->getOperand(0));
    if (isHalf(type) || operand.getType() == type)
      operand = emitToF32(builder, loc, operand);
    else if (isa<arith::ExtFOp>(op))
      operand = arith::ExtFOp::create(builder, loc, type, operand);
    else
      operand = arith::TruncFOp::create(builder, loc, type, operand);
    scalars.map(result, operand);
    return;
  }
  OperationState state(loc, op->getName());
  for (Value operand : op->getOperands())
    state.addOperands(scalars.lookupOrDefault(operand));
  state.addTypes(isHalf(type) ? Type(builder.getF32Type()) : type);
  state.addAttributes(op->getAttrs());
  scalars.map(result, builder.create(state)->getResult(0));
}
