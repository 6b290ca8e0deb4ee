//===- SFToLinalg.cpp - The reference semantics of `sf` -------------------===//
//
// One pattern an operation. Correctness is the only aim but for the matmul, whose loops are ordered
// so that a compiler can vectorize the innermost one without reordering a sum: tokens, then k, then
// features, over a weight that was widened and transposed once.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Conversion/SFToLinalg.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/IR/SFScalar.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Func/Transforms/FuncConversions.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"

namespace sparseflow {
#define GEN_PASS_DEF_CONVERTSFTOLINALG
#include "sparseflow/Conversion/Passes.h.inc"
} // namespace sparseflow

using namespace mlir;
using namespace sparseflow;

namespace {

using BodyBuilder = function_ref<Value(OpBuilder &, Location, ValueRange)>;

RankedTensorType typeOf(Value value) { return cast<RankedTensorType>(value.getType()); }

//===----------------------------------------------------------------------===//
// linalg.generic, shortly
//===----------------------------------------------------------------------===//

/// A tensor of `sizes`, filled with zeros.
Value emitZeros(OpBuilder &builder, Location loc, ArrayRef<OpFoldResult> sizes, Type element) {
  Value empty = tensor::EmptyOp::create(builder, loc, sizes, element);
  Value zero = arith::ConstantOp::create(builder, loc, builder.getZeroAttr(element));
  return linalg::FillOp::create(builder, loc, zero, empty).getResult(0);
}

/// An operation over `sizes` whose output is indexed by the identity: `body` gets one element of
/// each input.
Value emitElementwise(OpBuilder &builder, Location loc, ArrayRef<OpFoldResult> sizes, Type element,
                      ValueRange inputs, ArrayRef<AffineMap> inputMaps, BodyBuilder body) {
  Value empty = tensor::EmptyOp::create(builder, loc, sizes, element);
  SmallVector<AffineMap> maps(inputMaps);
  maps.push_back(builder.getMultiDimIdentityMap(sizes.size()));
  SmallVector<utils::IteratorType> iterators(sizes.size(), utils::IteratorType::parallel);
  auto generic =
      linalg::GenericOp::create(builder, loc, empty.getType(), inputs, empty, maps, iterators,
                                [&](OpBuilder &b, Location l, ValueRange args) {
                                  linalg::YieldOp::create(b, l, body(b, l, args.drop_back()));
                                });
  return generic.getResult(0);
}

/// A reduction into `init`; `body` gets one element of each input and the running result.
Value emitReduction(OpBuilder &builder, Location loc, Value init, AffineMap outputMap,
                    ValueRange inputs, ArrayRef<AffineMap> inputMaps,
                    ArrayRef<utils::IteratorType> iterators, BodyBuilder body) {
  SmallVector<AffineMap> maps(inputMaps);
  maps.push_back(outputMap);
  auto generic =
      linalg::GenericOp::create(builder, loc, init.getType(), inputs, init, maps, iterators,
                                [&](OpBuilder &b, Location l, ValueRange args) {
                                  linalg::YieldOp::create(b, l, body(b, l, args));
                                });
  return generic.getResult(0);
}

/// The map of `results` over `rank` dimensions.
AffineMap getMap(OpBuilder &builder, unsigned rank, ArrayRef<AffineExpr> results) {
  return AffineMap::get(rank, 0, results, builder.getContext());
}

/// How a scale is indexed, given dimensions (token, k) of the data.
AffineMap getScaleMap(OpBuilder &builder, sf::ScaleGranularity granularity,
                      function_ref<int64_t()> groupSize) {
  AffineExpr m = builder.getAffineDimExpr(0), k = builder.getAffineDimExpr(1);
  AffineExpr zero = builder.getAffineConstantExpr(0);
  switch (granularity) {
  case sf::ScaleGranularity::Tensor:
    return getMap(builder, 2, {});
  case sf::ScaleGranularity::Feature:
    return getMap(builder, 2, {k});
  case sf::ScaleGranularity::Token:
    return getMap(builder, 2, {m, zero});
  case sf::ScaleGranularity::Group:
    return getMap(builder, 2, {m, k.floorDiv(groupSize())});
  }
  llvm_unreachable("unknown granularity");
}

//===----------------------------------------------------------------------===//
// Matmul
//===----------------------------------------------------------------------===//

struct MatmulLowering : OpConversionPattern<sf::MatmulOp> {
  using OpConversionPattern::OpConversionPattern;

  /// x as f64; i8 stays.
  static Value widenTokens(OpBuilder &b, Location loc, Value x) {
    if (typeOf(x).getElementType().isInteger())
      return x;
    Type f64 = b.getF64Type();
    return emitElementwise(b, loc, tensor::getMixedSizes(b, loc, x), f64, x,
                           b.getMultiDimIdentityMap(2),
                           [&](OpBuilder &b, Location l, ValueRange args) -> Value {
                             return arith::ExtFOp::create(b, l, f64, args[0]);
                           });
  }

  /// w[N,K] as [K,N], floats as f32: exact, and half the memory of f64.
  static Value transposeWeight(OpBuilder &b, Location loc, Value w) {
    SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(b, loc, w);
    Type element = typeOf(w).getElementType();
    bool isInteger = element.isInteger();
    AffineMap transposed = getMap(b, 2, {b.getAffineDimExpr(1), b.getAffineDimExpr(0)});
    return emitElementwise(b, loc, {sizes[1], sizes[0]}, isInteger ? element : b.getF32Type(), w,
                           transposed, [&](OpBuilder &b, Location l, ValueRange args) {
                             return isInteger ? args[0] : sf::emitToF32(b, l, args[0]);
                           });
  }

  /// acc[m,n] = sum over k of x[m,k] * w[k,n], in f64 or i32.
  static Value emitProduct(OpBuilder &b, Location loc, Value x, Value w) {
    bool isInteger = typeOf(x).getElementType().isInteger();
    Type sumType = isInteger ? Type(b.getI32Type()) : Type(b.getF64Type());
    OpFoldResult tokens = tensor::getMixedSize(b, loc, x, 0);
    OpFoldResult features = tensor::getMixedSize(b, loc, w, 1);
    AffineExpr m = b.getAffineDimExpr(0), k = b.getAffineDimExpr(1), n = b.getAffineDimExpr(2);
    using utils::IteratorType;
    return emitReduction(b, loc, emitZeros(b, loc, {tokens, features}, sumType),
                         getMap(b, 3, {m, n}), {x, w}, {getMap(b, 3, {m, k}), getMap(b, 3, {k, n})},
                         {IteratorType::parallel, IteratorType::reduction, IteratorType::parallel},
                         [&](OpBuilder &b, Location l, ValueRange args) -> Value {
                           if (isInteger) {
                             Value left = arith::ExtSIOp::create(b, l, sumType, args[0]);
                             Value right = arith::ExtSIOp::create(b, l, sumType, args[1]);
                             return arith::AddIOp::create(b, l, args[2],
                                                          arith::MulIOp::create(b, l, left, right));
                           }
                           // Products of two narrow floats are exact in f64, so that fusing them
                           // with the sum changes nothing.
                           auto contract = arith::FastMathFlags::contract;
                           Value right = arith::ExtFOp::create(b, l, sumType, args[1]);
                           Value product = arith::MulFOp::create(b, l, args[0], right, contract);
                           return arith::AddFOp::create(b, l, args[2], product, contract);
                         });
  }

  LogicalResult matchAndRewrite(sf::MatmulOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Location loc = op.getLoc();
    Value x = widenTokens(rewriter, loc, adaptor.getX());
    SmallVector<Value> inputs;
    for (Value weight : adaptor.getWeights())
      inputs.push_back(emitProduct(rewriter, loc, x, transposeWeight(rewriter, loc, weight)));
    SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(rewriter, loc, inputs.front());
    size_t numSums = inputs.size();

    AffineExpr m = rewriter.getAffineDimExpr(0), n = rewriter.getAffineDimExpr(1);
    SmallVector<AffineMap> maps(numSums, rewriter.getMultiDimIdentityMap(2));
    for (auto [i, operand] : llvm::enumerate(adaptor.getEpilogueOperands())) {
      inputs.push_back(operand);
      switch (op.getEpilogueBroadcast(i)) {
      case sf::Broadcast::Scalar:
        maps.push_back(getMap(rewriter, 2, {}));
        break;
      case sf::Broadcast::Feature:
        maps.push_back(getMap(rewriter, 2, {n}));
        break;
      case sf::Broadcast::Token:
        maps.push_back(getMap(rewriter, 2, {m, rewriter.getAffineConstantExpr(0)}));
        break;
      case sf::Broadcast::Full:
        maps.push_back(getMap(rewriter, 2, {m, n}));
        break;
      }
    }

    Type element = op.getResultType().getElementType(), accumulator = op.getAccumulatorType();
    Value result = emitElementwise(rewriter, loc, sizes, element, inputs, maps,
                                   [&](OpBuilder &b, Location l, ValueRange args) -> Value {
                                     SmallVector<Value> scalars(args);
                                     for (Value &sum : MutableArrayRef(scalars).take_front(numSums))
                                       if (sum.getType() != accumulator)
                                         sum = arith::TruncFOp::create(b, l, accumulator, sum);
                                     if (!op.hasEpilogue())
                                       return sf::emitCast(b, l, scalars.front(), element);
                                     Block &body = op.getEpilogue().front();
                                     IRMapping mapping;
                                     mapping.map(body.getArguments(), scalars);
                                     for (Operation &nested : body.without_terminator())
                                       b.clone(nested, mapping);
                                     return mapping.lookupOrDefault(
                                         cast<sf::YieldOp>(body.getTerminator()).getValue());
                                   });
    rewriter.replaceOp(op, result);
    return success();
  }
};

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

/// The magnitude of an element, in a type where it compares exactly.
Value emitMagnitude(OpBuilder &b, Location loc, Value element) {
  if (isa<FloatType>(element.getType()))
    return math::AbsFOp::create(b, loc, sf::emitToF32(b, loc, element));
  return math::AbsIOp::create(b, loc, sf::emitCast(b, loc, element, b.getI32Type()));
}

Value emitCompare(OpBuilder &b, Location loc, arith::CmpFPredicate floatPredicate,
                  arith::CmpIPredicate intPredicate, Value left, Value right) {
  if (isa<FloatType>(left.getType()))
    return arith::CmpFOp::create(b, loc, floatPredicate, left, right);
  return arith::CmpIOp::create(b, loc, intPredicate, left, right);
}

struct CompressLowering : OpConversionPattern<sf::CompressOp> {
  using OpConversionPattern::OpConversionPattern;

  /// `sum` of i32 values.
  static Value emitCount(OpBuilder &b, Location loc, ArrayRef<Value> conditions) {
    Value count;
    for (Value condition : conditions) {
      Value one = arith::ExtUIOp::create(b, loc, b.getI32Type(), condition);
      count = count ? arith::AddIOp::create(b, loc, count, one).getResult() : one;
    }
    return count;
  }

  static Value emitI32(OpBuilder &b, Location loc, int32_t value) {
    return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(value));
  }

  /// Counts the groups that break the operation's precondition, and asserts that there are none.
  static void emitCheck(OpBuilder &b, sf::CompressOp op, Value groups,
                        ArrayRef<AffineMap> elementMaps) {
    Location loc = op.getLoc();
    bool isVerify = op.getMode() == sf::CompressMode::Verify;
    bool isFloat = isa<FloatType>(typeOf(groups).getElementType());
    if (!isVerify && !isFloat)
      return;
    using utils::IteratorType;
    // The identity map lets linalg infer the loops; the reduction looks at each group from each of
    // its elements.
    SmallVector<AffineMap> maps(elementMaps);
    maps.push_back(b.getMultiDimIdentityMap(3));
    Value count = emitReduction(
        b, loc, emitZeros(b, loc, {}, b.getI32Type()), getMap(b, 3, {}),
        SmallVector<Value>(maps.size(), groups), maps,
        {IteratorType::reduction, IteratorType::reduction, IteratorType::reduction},
        [&](OpBuilder &b, Location l, ValueRange args) -> Value {
          SmallVector<Value> nonzero, special;
          for (Value element : args.take_front(4)) {
            Value magnitude = emitMagnitude(b, l, element);
            Value zero = arith::ConstantOp::create(b, l, b.getZeroAttr(magnitude.getType()));
            nonzero.push_back(emitCompare(b, l, arith::CmpFPredicate::UNE, arith::CmpIPredicate::ne,
                                          magnitude, zero));
            if (!isFloat)
              continue;
            Value infinity = arith::ConstantOp::create(
                b, l, b.getFloatAttr(magnitude.getType(), std::numeric_limits<double>::infinity()));
            special.push_back(
                arith::CmpFOp::create(b, l, arith::CmpFPredicate::UEQ, magnitude, infinity));
          }
          Value offends;
          if (isVerify)
            offends = arith::CmpIOp::create(b, l, arith::CmpIPredicate::sgt,
                                            emitCount(b, l, nonzero), emitI32(b, l, 2));
          if (isFloat) {
            Value isSpecial = arith::CmpIOp::create(b, l, arith::CmpIPredicate::sgt,
                                                    emitCount(b, l, special), emitI32(b, l, 0));
            offends =
                offends ? arith::OrIOp::create(b, l, offends, isSpecial).getResult() : isSpecial;
          }
          Value one = arith::ExtUIOp::create(b, l, b.getI32Type(), offends);
          return arith::OrIOp::create(b, l, args.back(), one);
        });
    Value offences = tensor::ExtractOp::create(b, loc, count, ValueRange());
    Value isValid =
        arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, offences, emitI32(b, loc, 0));
    std::string message;
    llvm::raw_string_ostream os(message);
    os << "'sf.compress' op expected " << (isFloat ? "finite elements" : "")
       << (isVerify && isFloat ? " and " : "")
       << (isVerify ? "at most 2 nonzeros in each group of 4 along K" : "") << " of "
       << op.getInput().getType() << ", got others";
    if (isVerify)
      os << "; prune the weight first, or compress with mode = \"prune\"";
    cf::AssertOp::create(b, loc, isValid, message);
  }

  LogicalResult matchAndRewrite(sf::CompressOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Location loc = op.getLoc();
    RankedTensorType type = typeOf(adaptor.getInput());
    int64_t n = type.getDimSize(0), k = type.getDimSize(1);
    Type element = type.getElementType();
    SmallVector<ReassociationIndices> split = {{0}, {1, 2}};
    auto groupsType = RankedTensorType::get({n, k / 4, 4}, element);
    Value groups =
        tensor::ExpandShapeOp::create(rewriter, loc, groupsType, adaptor.getInput(), split);

    SmallVector<AffineMap> maps;
    for (int64_t i = 0; i < 4; ++i)
      maps.push_back(getMap(rewriter, 3,
                            {rewriter.getAffineDimExpr(0), rewriter.getAffineDimExpr(1),
                             rewriter.getAffineConstantExpr(i)}));
    emitCheck(rewriter, op, groups, maps);

    maps.push_back(rewriter.getMultiDimIdentityMap(3));
    SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(rewriter, loc, groups);
    Value kept = emitElementwise(
        rewriter, loc, sizes, element, SmallVector<Value>(5, groups), maps,
        [&](OpBuilder &b, Location l, ValueRange args) -> Value {
          Value self = emitMagnitude(b, l, args[4]);
          Value zero = arith::ConstantOp::create(b, l, b.getZeroAttr(self.getType()));
          Value isNonzero =
              emitCompare(b, l, arith::CmpFPredicate::UNE, arith::CmpIPredicate::ne, self, zero);
          // Beaten by a larger magnitude, or by an equal one at a lower position.
          Value position = linalg::IndexOp::create(b, l, 2);
          SmallVector<Value> beaten;
          for (int64_t i = 0; i < 4; ++i) {
            Value other = emitMagnitude(b, l, args[i]);
            Value isLarger = emitCompare(b, l, arith::CmpFPredicate::OGT, arith::CmpIPredicate::sgt,
                                         other, self);
            Value isEqual =
                emitCompare(b, l, arith::CmpFPredicate::OEQ, arith::CmpIPredicate::eq, other, self);
            Value index = arith::ConstantIndexOp::create(b, l, i);
            Value isBefore =
                arith::CmpIOp::create(b, l, arith::CmpIPredicate::slt, index, position);
            Value wins = arith::AndIOp::create(b, l, isEqual, isBefore);
            beaten.push_back(arith::OrIOp::create(b, l, isLarger, wins));
          }
          Value isKept = arith::CmpIOp::create(b, l, arith::CmpIPredicate::slt,
                                               emitCount(b, l, beaten), emitI32(b, l, 2));
          isKept = arith::AndIOp::create(b, l, isKept, isNonzero); // -0.0 becomes 0
          Value none = arith::ConstantOp::create(b, l, b.getZeroAttr(element));
          return arith::SelectOp::create(b, l, isKept, args[4], none);
        });
    rewriter.replaceOpWithNewOp<tensor::CollapseShapeOp>(op, type, kept, split);
    return success();
  }
};

/// The operation changes the storage of a weight, which the dense elements know nothing of.
template <typename Op> struct StorageLowering : OpConversionPattern<Op> {
  using OpConversionPattern<Op>::OpConversionPattern;

  LogicalResult matchAndRewrite(Op op, typename Op::Adaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    rewriter.replaceOp(op, adaptor.getInput());
    return success();
  }
};

struct ConstantLowering : OpConversionPattern<arith::ConstantOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(arith::ConstantOp op, OpAdaptor,
                                ConversionPatternRewriter &rewriter) const override {
    auto type = dyn_cast<RankedTensorType>(op.getType());
    if (!type || !sf::getWeightEncoding(type))
      return rewriter.notifyMatchFailure(op, "not an encoded weight");
    FailureOr<sf::ConstantData> data = sf::readConstant(op.getResult());
    if (failed(data))
      return failure();
    auto denseType = cast<RankedTensorType>(getTypeConverter()->convertType(type));
    FailureOr<arith::ConstantOp> dense = sf::createConstant(
        rewriter, op.getLoc(), denseType, sf::deriveConstantName(data->getName(), "dense"),
        [&](MutableArrayRef<char> bytes) -> LogicalResult {
          if (llvm::Error error = decodeWeight(sf::getWeightFormat(type), data->getBytes(), bytes))
            return op.emitError() << llvm::toString(std::move(error));
          return success();
        });
    if (failed(dense))
      return failure();
    rewriter.replaceOp(op, *dense);
    return success();
  }
};

//===----------------------------------------------------------------------===//
// Quantization
//===----------------------------------------------------------------------===//

struct QuantizeLowering : OpConversionPattern<sf::QuantizeOp> {
  using OpConversionPattern::OpConversionPattern;

  /// max(|x|) / limit over each group of a row, 1 where the maximum is 0.
  static Value emitScales(OpBuilder &b, sf::QuantizeOp op, Value x, double limit) {
    Location loc = op.getLoc();
    RankedTensorType type = typeOf(x);
    int64_t groups = typeOf(op.getResultScale()).getDimSize(1);
    OpFoldResult tokens = tensor::getMixedSize(b, loc, x, 0);
    SmallVector<int64_t> shape = {type.getDimSize(0), groups, type.getDimSize(1) / groups};
    SmallVector<OpFoldResult> sizes = {tokens, b.getIndexAttr(shape[1]), b.getIndexAttr(shape[2])};
    SmallVector<ReassociationIndices> split = {{0}, {1, 2}};
    Value grouped = tensor::ExpandShapeOp::create(
        b, loc, RankedTensorType::get(shape, type.getElementType()), x, split, sizes);

    using utils::IteratorType;
    Type f32 = b.getF32Type();
    Value maxima =
        emitReduction(b, loc, emitZeros(b, loc, {tokens, b.getIndexAttr(groups)}, f32),
                      getMap(b, 3, {b.getAffineDimExpr(0), b.getAffineDimExpr(1)}), grouped,
                      b.getMultiDimIdentityMap(3),
                      {IteratorType::parallel, IteratorType::parallel, IteratorType::reduction},
                      [&](OpBuilder &b, Location l, ValueRange args) -> Value {
                        Value magnitude = math::AbsFOp::create(b, l, sf::emitToF32(b, l, args[0]));
                        return arith::MaximumFOp::create(b, l, args[1], magnitude);
                      });
    return emitElementwise(
        b, loc, tensor::getMixedSizes(b, loc, maxima), f32, maxima, b.getMultiDimIdentityMap(2),
        [&](OpBuilder &b, Location l, ValueRange args) -> Value {
          auto constant = [&](double value) -> Value {
            return arith::ConstantOp::create(b, l, b.getF32FloatAttr(float(value)));
          };
          Value isZero =
              arith::CmpFOp::create(b, l, arith::CmpFPredicate::OEQ, args[0], constant(0));
          Value scale = arith::DivFOp::create(b, l, args[0], constant(limit));
          return arith::SelectOp::create(b, l, isZero, constant(1), scale);
        });
  }

  LogicalResult matchAndRewrite(sf::QuantizeOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Location loc = op.getLoc();
    Value x = adaptor.getInput();
    Type element = typeOf(op.getResult()).getElementType();
    Value scales = op.isDynamic() ? emitScales(rewriter, op, x, sf::getQuantizeLimit(element))
                                  : adaptor.getScale();
    AffineMap scaleMap =
        getScaleMap(rewriter, op.getGranularity(), [&] { return op.getGroupSize(); });
    Value quantized = emitElementwise(
        rewriter, loc, tensor::getMixedSizes(rewriter, loc, x), element, {x, scales},
        {rewriter.getMultiDimIdentityMap(2), scaleMap},
        [&](OpBuilder &b, Location l, ValueRange args) {
          return sf::emitQuantize(b, l, sf::emitToF32(b, l, args[0]), args[1], element);
        });
    SmallVector<Value> results = {quantized};
    if (op.isDynamic())
      results.push_back(scales);
    rewriter.replaceOp(op, results);
    return success();
  }
};

struct DequantizeLowering : OpConversionPattern<sf::DequantizeOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(sf::DequantizeOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Location loc = op.getLoc();
    Value q = adaptor.getInput();
    Type element = typeOf(op.getResult()).getElementType();
    AffineMap scaleMap =
        getScaleMap(rewriter, op.getGranularity(), [&] { return op.getGroupSize(); });
    rewriter.replaceOp(
        op, emitElementwise(rewriter, loc, tensor::getMixedSizes(rewriter, loc, q), element,
                            {q, adaptor.getScale()}, {rewriter.getMultiDimIdentityMap(2), scaleMap},
                            [&](OpBuilder &b, Location l, ValueRange args) {
                              return sf::emitDequantize(b, l, args[0], args[1], element);
                            }));
    return success();
  }
};

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

struct ConvertSFToLinalgPass : sparseflow::impl::ConvertSFToLinalgBase<ConvertSFToLinalgPass> {
  void runOnOperation() override {
    WeightTypeConverter converter;
    RewritePatternSet patterns(&getContext());
    populateSFToLinalgPatterns(converter, patterns);
    populateFunctionOpInterfaceTypeConversionPattern<func::FuncOp>(patterns, converter);
    populateReturnOpTypeConversionPattern(patterns, converter);
    populateCallOpTypeConversionPattern(patterns, converter);

    ConversionTarget target(getContext());
    target.addIllegalDialect<sf::SFDialect>();
    target.markUnknownOpDynamicallyLegal([&](Operation *op) {
      if (auto function = dyn_cast<func::FuncOp>(op))
        return converter.isSignatureLegal(function.getFunctionType()) &&
               converter.isLegal(&function.getBody());
      return converter.isLegal(op);
    });
    if (failed(applyPartialConversion(getOperation(), target, std::move(patterns))))
      signalPassFailure();
  }
};

} // namespace

WeightTypeConverter::WeightTypeConverter() {
  addConversion([](Type type) { return type; });
  addConversion([](RankedTensorType type) -> std::optional<Type> {
    if (!sf::getWeightEncoding(type))
      return std::nullopt;
    return RankedTensorType::get(type.getShape(), type.getElementType());
  });
}

void sparseflow::populateSFToLinalgPatterns(const WeightTypeConverter &converter,
                                            RewritePatternSet &patterns) {
  patterns.add<MatmulLowering, CompressLowering, StorageLowering<sf::DecompressOp>,
               StorageLowering<sf::PackOp>, ConstantLowering, QuantizeLowering, DequantizeLowering>(
      converter, patterns.getContext());
}
