//===- ExpandNarrowFloats.cpp - Narrow floats by integer arithmetic -------===//
//
// The same algorithm as Support/NumericTypes.cpp, as IR: normal results are rounded as integers,
// subnormal ones by one addition in f32. Branches become selects, so that loops over it vectorize.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Conversion/SFToLinalg.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace sparseflow {
#define GEN_PASS_DEF_EXPANDNARROWFLOATS
#include "sparseflow/Conversion/Passes.h.inc"
} // namespace sparseflow

using namespace mlir;

namespace {

/// The parameters of a binary format of 8 or 16 bits.
struct NarrowFormat {
  unsigned exponentBits, mantissaBits;
  /// The highest exponent holds finite values, and all ones is NaN.
  bool isFiniteOnly;

  unsigned width() const { return 1 + exponentBits + mantissaBits; }
  uint32_t bias() const { return (1u << (exponentBits - 1)) - 1; }
  uint32_t shift() const { return 23 - mantissaBits; }
  uint32_t magnitude() const { return (1u << (exponentBits + mantissaBits)) - 1; }
  uint32_t overflow() const {
    return isFiniteOnly ? magnitude() : ((1u << exponentBits) - 1) << mantissaBits;
  }
  uint32_t nan() const {
    return isFiniteOnly ? magnitude() : overflow() | 1u << (mantissaBits - 1);
  }
};

std::optional<NarrowFormat> getFormat(Type type) {
  if (type.isF16())
    return NarrowFormat{5, 10, false};
  if (type.isBF16())
    return NarrowFormat{8, 7, false};
  if (isa<Float8E4M3FNType>(type))
    return NarrowFormat{4, 3, true};
  if (isa<Float8E5M2Type>(type))
    return NarrowFormat{5, 2, false};
  return std::nullopt;
}

/// i32 arithmetic, written as formulas.
class Bits : public ImplicitLocOpBuilder {
public:
  using ImplicitLocOpBuilder::ImplicitLocOpBuilder;

  Value constant(uint32_t value) {
    return arith::ConstantOp::create(*this, getI32IntegerAttr(int32_t(value)));
  }
  Value toFloat(Value bits) { return arith::BitcastOp::create(*this, getF32Type(), bits); }
  Value toBits(Value value) { return arith::BitcastOp::create(*this, getI32Type(), value); }
  Value shl(Value value, uint32_t by) { return arith::ShLIOp::create(*this, value, constant(by)); }
  Value shr(Value value, uint32_t by) { return arith::ShRUIOp::create(*this, value, constant(by)); }
  Value band(Value value, uint32_t mask) {
    return arith::AndIOp::create(*this, value, constant(mask));
  }
  Value bor(Value a, Value b) { return arith::OrIOp::create(*this, a, b); }
  Value add(Value a, Value b) { return arith::AddIOp::create(*this, a, b); }
  Value add(Value a, uint32_t b) { return add(a, constant(b)); }
  Value compare(arith::CmpIPredicate predicate, Value a, uint32_t b) {
    return arith::CmpIOp::create(*this, predicate, a, constant(b));
  }
  Value select(Value condition, Value a, Value b) {
    return arith::SelectOp::create(*this, condition, a, b);
  }
};

Value emitDecode(Bits &b, const NarrowFormat &format, Value narrow) {
  Value raw = arith::BitcastOp::create(b, b.getIntegerType(format.width()), narrow);
  Value bits = arith::ExtUIOp::create(b, b.getI32Type(), raw);
  if (format.exponentBits == 8) // bf16 is the upper half of f32
    return b.toFloat(b.shl(bits, 16));

  const uint32_t rebias = (127 - format.bias()) << 23, smallestNormal = rebias + (1u << 23);
  Value sign = b.shl(b.shr(bits, format.width() - 1), 31);
  Value magnitude = b.band(bits, format.magnitude());
  Value wide = b.shl(magnitude, format.shift());
  Value normal = b.add(wide, rebias);
  // A subnormal gets the smallest normal's exponent, and then loses the implicit one that came
  // along.
  Value lifted = arith::SubFOp::create(b, b.toFloat(b.bor(wide, b.constant(smallestNormal))),
                                       b.toFloat(b.constant(smallestNormal)));
  Value finite =
      b.select(b.compare(arith::CmpIPredicate::ult, magnitude, 1u << format.mantissaBits),
               b.toBits(lifted), normal);
  Value special =
      format.isFiniteOnly ? b.constant(0x7fc00000u) : b.bor(wide, b.constant(0x7f800000u));
  Value isSpecial = b.compare(arith::CmpIPredicate::uge, magnitude,
                              format.isFiniteOnly ? format.nan() : format.overflow());
  return b.toFloat(b.bor(b.select(isSpecial, special, finite), sign));
}

Value emitEncode(Bits &b, const NarrowFormat &format, Value value, Type type) {
  Value bits = b.toBits(value);
  Value sign = b.band(b.shr(bits, 32 - format.width()), 1u << (format.width() - 1));
  Value magnitude = b.band(bits, 0x7fffffffu);
  Value isNaN = b.compare(arith::CmpIPredicate::ugt, magnitude, 0x7f800000u);

  // Round to nearest even at the bit that will be the lowest; a carry walks into the exponent, as
  // it must.
  const uint32_t shift = format.shift(), rebias = (127 - format.bias()) << format.mantissaBits;
  Value odd = b.band(b.shr(magnitude, shift), 1);
  Value rounded = b.shr(b.add(b.add(magnitude, (1u << (shift - 1)) - 1), odd), shift);
  Value result = b.add(rounded, -rebias);
  if (format.exponentBits < 8) {
    // Adding this power of two aligns a subnormal result's lowest bit with the sum's.
    const uint32_t magic = (127 - format.bias() + shift + 1) << 23;
    const uint32_t smallestNormal = (127 - format.bias() + 1) << 23;
    Value sum = arith::AddFOp::create(b, b.toFloat(magnitude), b.toFloat(b.constant(magic)));
    result = b.select(b.compare(arith::CmpIPredicate::ult, magnitude, smallestNormal),
                      b.add(b.toBits(sum), -magic), result);
    Value isOverflow = b.compare(arith::CmpIPredicate::uge, result, format.overflow());
    result = b.select(isOverflow, b.constant(format.overflow()), result);
  }
  result = b.bor(b.select(isNaN, b.constant(format.nan()), result), sign);
  Value raw = arith::TruncIOp::create(b, b.getIntegerType(format.width()), result);
  return arith::BitcastOp::create(b, type, raw);
}

struct ExpandExtension : OpRewritePattern<arith::ExtFOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(arith::ExtFOp op, PatternRewriter &rewriter) const override {
    std::optional<NarrowFormat> format = getFormat(op.getIn().getType());
    if (!format)
      return rewriter.notifyMatchFailure(op, "not a scalar of a narrow type");
    Bits b(op.getLoc(), rewriter);
    Value wide = emitDecode(b, *format, op.getIn());
    if (getFormat(op.getType()))
      wide = arith::TruncFOp::create(b, op.getType(), wide); // exact
    else if (!op.getType().isF32())
      wide = arith::ExtFOp::create(b, op.getType(), wide);
    rewriter.replaceOp(op, wide);
    return success();
  }
};

struct ExpandTruncation : OpRewritePattern<arith::TruncFOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(arith::TruncFOp op, PatternRewriter &rewriter) const override {
    std::optional<NarrowFormat> format = getFormat(op.getType());
    if (!format)
      return rewriter.notifyMatchFailure(op, "not a scalar of a narrow type");
    std::optional<arith::RoundingMode> mode = op.getRoundingmode();
    if (mode && *mode != arith::RoundingMode::to_nearest_even)
      return rewriter.notifyMatchFailure(op, "rounds in another way");
    Bits b(op.getLoc(), rewriter);
    Value value = op.getIn();
    if (getFormat(value.getType()))
      value = arith::ExtFOp::create(b, b.getF32Type(), value);
    else if (!value.getType().isF32())
      value = arith::TruncFOp::create(b, b.getF32Type(), value);
    rewriter.replaceOp(op, emitEncode(b, *format, value, op.getType()));
    return success();
  }
};

struct ExpandNarrowFloatsPass : sparseflow::impl::ExpandNarrowFloatsBase<ExpandNarrowFloatsPass> {
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    sparseflow::populateExpandNarrowFloatsPatterns(patterns);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};

} // namespace

void sparseflow::populateExpandNarrowFloatsPatterns(RewritePatternSet &patterns) {
  patterns.add<ExpandExtension, ExpandTruncation>(patterns.getContext());
}
