//===- ElementwiseToNVVM.cpp - Splats, maps and reductions ----------------===//
//
// A map's region is copied once for every element that a thread holds. What LLVM cannot do to a
// scalar (8-bit floats, exp without a device library) is replaced on the way.
//
//===----------------------------------------------------------------------===//

#include "Lowering.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

struct LowerSplat : OpConversionPattern<SplatOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(SplatOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    TileType tile = op.getResult().getType();
    Value value = adaptor.getValue();
    if (Type scalar = getScalarType(tile.getElementType()); value.getType() != scalar)
      value = rewriter.createOrFold<arith::BitcastOp>(e.loc, scalar, value);
    SmallVector<Value> scalars(getNumElements(tile), value);
    rewriter.replaceOpWithMultiple(op, {e.pack(scalars, tile.getElementType())});
    return success();
  }
};

struct LowerSlice : OpConversionPattern<SliceOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(SliceOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    SmallVector<ArrayRef<int32_t>> bases =
        op.getSource().getType().getLayout().getBases("register");
    ArrayRef<int64_t> start = op.getStart(), shape = op.getResult().getType().getShape();
    // Bits of the source's register number that the start fixes, and those that the slice has left.
    unsigned fixed = 0;
    SmallVector<unsigned> free;
    for (auto [bit, basis] : llvm::enumerate(bases)) {
      bool isFree = true, isSet = false;
      for (auto [coord, size, first] : llvm::zip_equal(basis, shape, start)) {
        isFree &= coord < size;
        isSet |= coord >= size && (first & coord);
      }
      if (isFree)
        free.push_back(bit);
      fixed |= isSet << bit;
    }
    SmallVector<Value> registers;
    for (unsigned i = 0; i < 1u << free.size(); ++i) {
      unsigned source = fixed;
      for (auto [bit, position] : llvm::enumerate(free))
        source |= (i >> bit & 1) << position;
      registers.push_back(adaptor.getSource()[source]);
    }
    rewriter.replaceOpWithMultiple(op, {registers});
    return success();
  }
};

struct LowerIota : OpConversionPattern<IotaOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(IotaOp op, OpAdaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    LayoutAttr layout = op.getResult().getType().getLayout();
    Value base = e.threadCoordinate(layout, op.getDim());
    SmallVector<Value> values;
    for (unsigned i = 0; i < layout.getNumRegisters(); ++i)
      values.push_back(e.add(base, e.i32(layout.apply("register", i)[op.getDim()])));
    rewriter.replaceOpWithMultiple(op, {values});
    return success();
  }
};

//===----------------------------------------------------------------------===//
// map
//===----------------------------------------------------------------------===//

bool isFloat8(Type type) { return isa<Float8E4M3FNType, Float8E5M2Type>(type); }

/// A float of another width as f32.
Value emitToF32(Emitter &e, Value value) {
  Type f32 = e.b.getF32Type();
  unsigned width = value.getType().getIntOrFloatBitWidth();
  if (width > 32)
    return arith::TruncFOp::create(e.b, e.loc, f32, value);
  return width < 32 ? arith::ExtFOp::create(e.b, e.loc, f32, value).getResult() : value;
}

/// A float to the bits of an 8-bit one by way of f32, saturating (PTX ISA,
/// cvt.rn.satfinite.e4m3x2.f32).
Value emitToFloat8(Emitter &e, Value value, Type type) {
  value = emitToF32(e, value);
  StringRef name =
      isa<Float8E4M3FNType>(type) ? "llvm.nvvm.ff.to.e4m3x2.rn" : "llvm.nvvm.ff.to.e5m2x2.rn";
  Value zero = arith::ConstantOp::create(e.b, e.loc, e.b.getF32FloatAttr(0));
  Value pair = e.callIntrinsic(name, e.b.getI16Type(), {zero, value});
  return arith::TruncIOp::create(e.b, e.loc, e.b.getI8Type(), pair);
}

/// The bits of an 8-bit float as a wider one; exact (PTX ISA, cvt.rn.f16x2.e4m3x2).
Value emitFromFloat8(Emitter &e, Value bits, Type type, Type result) {
  StringRef name =
      isa<Float8E4M3FNType>(type) ? "llvm.nvvm.e4m3x2.to.f16x2.rn" : "llvm.nvvm.e5m2x2.to.f16x2.rn";
  Value pair = arith::ExtUIOp::create(e.b, e.loc, e.b.getI16Type(), bits);
  Value halves = e.callIntrinsic(name, VectorType::get(2, e.b.getF16Type()), pair);
  Value half = LLVM::ExtractElementOp::create(e.b, e.loc, halves, e.i32(0));
  if (result.isF16())
    return half;
  if (!result.isBF16())
    return arith::ExtFOp::create(e.b, e.loc, result, half);
  return arith::TruncFOp::create(e.b, e.loc, result, emitToF32(e, half));
}

/// exp(x) = 2^(x log2 e), with the special-function unit (PTX ISA, ex2.approx: 2 ulp).
Value emitExp(Emitter &e, Value x) {
  Value log2e = arith::ConstantOp::create(e.b, e.loc, e.b.getF32FloatAttr(llvm::numbers::log2ef));
  Value scaled = arith::MulFOp::create(e.b, e.loc, x, log2e);
  return e.callIntrinsic("llvm.nvvm.ex2.approx.ftz.f", e.b.getF32Type(), scaled);
}

/// tanh(x) = 1 - 2 / (exp(2x) + 1): exact at both ends, where exp overflows or vanishes.
Value emitTanh(Emitter &e, Value x) {
  auto constant = [&](float value) -> Value {
    return arith::ConstantOp::create(e.b, e.loc, e.b.getF32FloatAttr(value));
  };
  Value exp = emitExp(e, arith::MulFOp::create(e.b, e.loc, x, constant(2)));
  Value quotient = arith::DivFOp::create(e.b, e.loc, constant(2),
                                         arith::AddFOp::create(e.b, e.loc, exp, constant(1)));
  return arith::SubFOp::create(e.b, e.loc, constant(1), quotient);
}

/// erf(x) = sign(x) (1 - p(t) exp(-x^2)), t = 1 / (1 + 0.3275911 |x|), within 6e-7 in f32
/// (Abramowitz, Stegun 7.1.26).
Value emitErf(Emitter &e, Value x) {
  auto constant = [&](float value) -> Value {
    return arith::ConstantOp::create(e.b, e.loc, e.b.getF32FloatAttr(value));
  };
  Value magnitude = math::AbsFOp::create(e.b, e.loc, x);
  Value denominator = math::FmaOp::create(e.b, e.loc, magnitude, constant(0.3275911f), constant(1));
  Value t = arith::DivFOp::create(e.b, e.loc, constant(1), denominator);
  Value sum = constant(1.061405429f);
  for (float coefficient : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
    sum = math::FmaOp::create(e.b, e.loc, sum, t, constant(coefficient));
  Value square =
      arith::MulFOp::create(e.b, e.loc, magnitude, arith::NegFOp::create(e.b, e.loc, magnitude));
  Value tail = arith::MulFOp::create(e.b, e.loc, arith::MulFOp::create(e.b, e.loc, sum, t),
                                     emitExp(e, square));
  return math::CopySignOp::create(e.b, e.loc, arith::SubFOp::create(e.b, e.loc, constant(1), tail),
                                  x);
}

/// The replacement of one scalar operation; null where a copy will do.
Value emitScalar(Emitter &e, Operation &op, ValueRange operands) {
  Type result = op.getResult(0).getType();
  return llvm::TypeSwitch<Operation *, Value>(&op)
      .Case([&](arith::TruncFOp) -> Value {
        return isFloat8(result) ? emitToFloat8(e, operands[0], result) : Value();
      })
      .Case([&](arith::ExtFOp ext) -> Value {
        Type source = ext.getIn().getType();
        return isFloat8(source) ? emitFromFloat8(e, operands[0], source, result) : Value();
      })
      // Of the bits that stand for an 8-bit float.
      .Case([&](arith::BitcastOp cast) {
        return isFloat8(cast.getIn().getType()) || isFloat8(result) ? operands[0] : Value();
      })
      .Case([&](math::ExpOp) { return result.isF32() ? emitExp(e, operands[0]) : Value(); })
      .Case([&](math::ErfOp) { return result.isF32() ? emitErf(e, operands[0]) : Value(); })
      .Case([&](math::TanhOp) { return result.isF32() ? emitTanh(e, operands[0]) : Value(); })
      .Default([](Operation *) { return Value(); });
}

bool isNarrowFloat(Type type) { return isFloat8(type) || type.isF16() || type.isBF16(); }

/// What chips compute in f32 alone: operations on 8-bit floats that are no plain conversions, and
/// functions of math. The reference widens the same.
bool needsF32(Operation &op) {
  auto has = [&](function_ref<bool(Type)> predicate) {
    return llvm::any_of(op.getOperandTypes(), predicate) ||
           llvm::any_of(op.getResultTypes(), predicate);
  };
  return has(isFloat8) || (isa<math::MathDialect>(op.getDialect()) && has(isNarrowFloat));
}

void emitThroughF32(Emitter &e, Operation &op, IRMapping &mapping) {
  Type f32 = e.b.getF32Type();
  auto widen = [&](Type type) { return isNarrowFloat(type) ? f32 : type; };
  OperationState state(op.getLoc(), op.getName());
  for (Value operand : op.getOperands()) {
    Value value = mapping.lookupOrDefault(operand);
    Type type = operand.getType();
    if (isFloat8(type))
      value = emitFromFloat8(e, value, type, f32);
    else if (isNarrowFloat(type))
      value = arith::ExtFOp::create(e.b, op.getLoc(), f32, value);
    state.operands.push_back(value);
  }
  llvm::append_range(state.types, llvm::map_range(op.getResultTypes(), widen));
  for (NamedAttribute attribute : op.getAttrs()) {
    if (auto number = dyn_cast<FloatAttr>(attribute.getValue());
        number && isFloat8(number.getType()))
      attribute.setValue(FloatAttr::get(f32, number.getValueAsDouble()));
    state.attributes.push_back(attribute);
  }
  Operation *wide = e.b.create(state);
  SmallVector<Value> values(wide->getResults());
  if (values.size() == 1)
    if (Value replacement = emitScalar(e, *wide, wide->getOperands())) {
      wide->erase();
      values = {replacement};
    }
  for (auto [result, value] : llvm::zip(op.getResults(), values)) {
    Type type = result.getType();
    if (isFloat8(type))
      value = emitToFloat8(e, value, type);
    else if (isNarrowFloat(type))
      value = arith::TruncFOp::create(e.b, op.getLoc(), type, value);
    mapping.map(result, value);
  }
}

/// Copies a map's region with 8-bit floats as their bits.
SmallVector<Value> emitRegion(Emitter &e, Block &body, ValueRange arguments) {
  IRMapping mapping;
  mapping.map(body.getArguments(), arguments);
  for (Operation &op : body.without_terminator()) {
    SmallVector<Value> operands =
        llvm::map_to_vector(op.getOperands(), [&](Value v) { return mapping.lookupOrDefault(v); });
    if (op.getNumResults() == 1)
      if (Value replacement = emitScalar(e, op, operands)) {
        mapping.map(op.getResult(0), replacement);
        continue;
      }
    if (needsF32(op))
      emitThroughF32(e, op, mapping);
    else
      e.b.clone(op, mapping);
  }
  return llvm::map_to_vector(body.getTerminator()->getOperands(),
                             [&](Value v) { return mapping.lookupOrDefault(v); });
}

struct LowerMap : OpConversionPattern<MapOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(MapOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    TileType first = cast<TileType>(op.getResult(0).getType());
    LayoutAttr layout = first.getLayout();
    SmallVector<SmallVector<Value>> inputs;
    SmallVector<SmallVector<unsigned>> places;
    for (auto [input, registers] : llvm::zip_equal(op.getInputs(), adaptor.getInputs())) {
      auto tile = cast<TileType>(input.getType());
      inputs.push_back(e.unpack(registers, tile.getElementType(), getNumElements(tile)));
      places.push_back(getBroadcastRegisters(layout, tile));
    }
    SmallVector<SmallVector<Value>> results(op.getNumResults());
    for (unsigned i = 0; i < layout.getNumRegisters(); ++i) {
      SmallVector<Value> arguments;
      for (auto [scalars, place] : llvm::zip_equal(inputs, places))
        arguments.push_back(scalars[place[i]]);
      for (auto [result, value] :
           llvm::zip_equal(results, emitRegion(e, op.getBody().front(), arguments)))
        result.push_back(value);
    }
    SmallVector<SmallVector<Value>> packed;
    for (auto [result, scalars] : llvm::zip_equal(op.getResults(), results))
      packed.push_back(e.pack(scalars, cast<TileType>(result.getType()).getElementType()));
    rewriter.replaceOpWithMultiple(op, std::move(packed));
    return success();
  }

private:
  /// For each register of the result, the register of an input that broadcasts.
  static SmallVector<unsigned> getBroadcastRegisters(LayoutAttr layout, TileType input) {
    SmallVector<bool> kept =
        llvm::map_to_vector(input.getShape(), [](int64_t s) { return s != 1; });
    SmallVector<unsigned> contribution;
    unsigned next = 1;
    for (ArrayRef<int32_t> basis : layout.getBases("register")) {
      bool tellsApart = false;
      for (auto [coord, keep] : llvm::zip_equal(basis, kept))
        tellsApart |= coord && keep;
      contribution.push_back(tellsApart ? next : 0);
      next <<= tellsApart;
    }
    SmallVector<unsigned> places;
    for (unsigned i = 0; i < layout.getNumRegisters(); ++i) {
      unsigned place = 0;
      for (auto [bit, value] : llvm::enumerate(contribution))
        place |= (i >> bit & 1) ? value : 0;
      places.push_back(place);
    }
    return places;
  }
};

//===----------------------------------------------------------------------===//
// compress, decompress
//===----------------------------------------------------------------------===//

/// A thread holds whole groups: four dense, two kept and one nibble in consecutive registers.
struct LowerCompress : OpConversionPattern<CompressOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(CompressOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    TileType tile = op.getInput().getType();
    Type element = tile.getElementType(), i4 = rewriter.getIntegerType(4);
    SmallVector<Value> dense = e.unpack(adaptor.getInput(), element, getNumElements(tile));
    SmallVector<Value> kept, nibbles;
    for (unsigned first = 0; first < dense.size(); first += 4) {
      ArrayRef<Value> group = ArrayRef(dense).slice(first, 4);
      SmallVector<Value> magnitudes =
          llvm::map_to_vector(group, [&](Value v) { return getMagnitude(e, v, element); });
      // An element is kept if fewer than two others beat it: larger, or equal and lower.
      SmallVector<Value> keep;
      for (unsigned i = 0; i < 4; ++i) {
        Value beaten = e.i32(0);
        for (unsigned j = 0; j < 4; ++j)
          if (j != i) {
            auto predicate = j < i ? arith::CmpIPredicate::sge : arith::CmpIPredicate::sgt;
            Value beats =
                arith::CmpIOp::create(rewriter, e.loc, predicate, magnitudes[j], magnitudes[i]);
            beaten = e.add(beaten,
                           arith::ExtUIOp::create(rewriter, e.loc, rewriter.getI32Type(), beats));
          }
        keep.push_back(e.lessThan(beaten, e.i32(2)));
      }
      // The first kept is the lowest that is kept, the second the highest.
      auto pick = [&](function_ref<Value(unsigned)> value) {
        Value low = e.select(keep[0], value(0), e.select(keep[1], value(1), value(2)));
        Value high = e.select(keep[3], value(3), e.select(keep[2], value(2), value(1)));
        return std::pair(low, high);
      };
      auto [low, high] =
          pick([&](unsigned i) { return clearNegativeZero(e, group[i], magnitudes[i]); });
      auto [lowIndex, highIndex] = pick([&](unsigned i) { return e.i32(i); });
      kept.append({low, high});
      Value nibble = arith::OrIOp::create(rewriter, e.loc, lowIndex, e.mul(highIndex, e.i32(4)));
      nibbles.push_back(arith::TruncIOp::create(rewriter, e.loc, i4, nibble));
    }
    rewriter.replaceOpWithMultiple(op, {e.pack(kept, element), e.pack(nibbles, i4)});
    return success();
  }

private:
  /// An i32 that orders like the magnitude. Floats order like their bits without the sign.
  static Value getMagnitude(Emitter &e, Value value, Type element) {
    unsigned bits = element.getIntOrFloatBitWidth();
    Type i32 = e.b.getI32Type();
    if (element.isInteger()) {
      Value wide = arith::ExtSIOp::create(e.b, e.loc, i32, value);
      return math::AbsIOp::create(e.b, e.loc, wide);
    }
    Type integer = e.b.getIntegerType(bits);
    if (value.getType() != integer)
      value = LLVM::BitcastOp::create(e.b, e.loc, integer, value);
    Value wide = arith::ExtUIOp::create(e.b, e.loc, i32, value);
    return arith::AndIOp::create(e.b, e.loc, wide, e.i32((1 << (bits - 1)) - 1));
  }

  static Value clearNegativeZero(Emitter &e, Value value, Value magnitude) {
    Value isZero = arith::CmpIOp::create(e.b, e.loc, arith::CmpIPredicate::eq, magnitude, e.i32(0));
    Value zero = arith::ConstantOp::create(e.b, e.loc, e.b.getZeroAttr(value.getType()));
    return e.select(isZero, zero, value);
  }
};

struct LowerDecompress : OpConversionPattern<DecompressOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(DecompressOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    TileType keptType = op.getKept().getType(), metadataType = op.getMetadata().getType();
    Type element = keptType.getElementType();
    SmallVector<Value> kept = e.unpack(adaptor.getKept(), element, getNumElements(keptType));
    SmallVector<Value> nibbles = e.unpack(adaptor.getMetadata(), metadataType.getElementType(),
                                          getNumElements(metadataType));
    Value zero =
        arith::ConstantOp::create(rewriter, e.loc, rewriter.getZeroAttr(getScalarType(element)));
    SmallVector<Value> dense;
    for (auto [group, nibble] : llvm::enumerate(nibbles)) {
      Value bits = arith::ExtUIOp::create(rewriter, e.loc, rewriter.getI32Type(), nibble);
      Value low = arith::AndIOp::create(rewriter, e.loc, bits, e.i32(3));
      Value high = arith::ShRUIOp::create(rewriter, e.loc, bits, e.i32(2));
      for (unsigned i = 0; i < 4; ++i) {
        auto isHere = [&](Value index) {
          return arith::CmpIOp::create(rewriter, e.loc, arith::CmpIPredicate::eq, index, e.i32(i));
        };
        dense.push_back(e.select(isHere(low), kept[2 * group],
                                 e.select(isHere(high), kept[2 * group + 1], zero)));
      }
    }
    rewriter.replaceOpWithMultiple(op, {e.pack(dense, element)});
    return success();
  }
};

//===----------------------------------------------------------------------===//
// reduce
//===----------------------------------------------------------------------===//

/// In registers, then across lanes by shuffles, then across warps through shared memory: a fixed
/// tree.
struct LowerReduce : OpConversionPattern<ReduceOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ReduceOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    TileType tile = op.getInput().getType();
    Type element = tile.getElementType();
    if (element.getIntOrFloatBitWidth() != 32)
      return op.emitOpError("expected 32-bit elements, got ") << element;
    if (op.crossesWarps() && !op.getScratchOffset())
      return op.emitOpError("expected a scratch_offset; run sf-tile-allocate-smem first");
    LayoutAttr layout = tile.getLayout();
    unsigned dim = op.getDim();
    auto combine = [&](Value x, Value y) -> Value {
      bool isFloat = isa<FloatType>(element);
      if (op.getKind() == ReduceKind::Add)
        return isFloat ? arith::AddFOp::create(rewriter, e.loc, x, y).getResult()
                       : arith::AddIOp::create(rewriter, e.loc, x, y).getResult();
      return isFloat ? arith::MaximumFOp::create(rewriter, e.loc, x, y).getResult()
                     : arith::MaxSIOp::create(rewriter, e.loc, x, y).getResult();
    };

    // Registers, halving along every bit of the dimension, highest first so that the others keep
    // their order.
    SmallVector<Value> values(adaptor.getInput());
    SmallVector<ArrayRef<int32_t>> registers = layout.getBases("register");
    for (int bit = registers.size() - 1; bit >= 0; --bit) {
      if (!registers[bit][dim])
        continue;
      SmallVector<Value> halved;
      for (unsigned i = 0; i < values.size(); ++i)
        if (!(i >> bit & 1))
          halved.push_back(combine(values[i], values[i | 1u << bit]));
      values = halved;
    }
    Value fullMask = e.i32(-1), clamp = e.i32(31);
    for (auto [bit, basis] : llvm::enumerate(layout.getBases("lane")))
      if (basis[dim])
        for (Value &value : values) {
          Value other =
              NVVM::ShflOp::create(rewriter, e.loc, value.getType(), fullMask, value,
                                   e.i32(1 << bit), clamp, NVVM::ShflKind::bfly, UnitAttr());
          value = combine(value, other);
        }
    for (auto [axis, along] : llvm::enumerate(layout.getAlong()))
      if (along == int64_t(dim) && layout.getWarps()[axis] > 1)
        combineWarps(e, op, layout, axis, values, combine);
    rewriter.replaceOpWithMultiple(op, {values});
    return success();
  }

private:
  /// Every warp writes its values, [warp][register][lane], and reads those of the warps along the
  /// axis in order.
  static void combineWarps(Emitter &e, ReduceOp op, LayoutAttr layout, unsigned axis,
                           SmallVector<Value> &values, function_ref<Value(Value, Value)> combine) {
    int64_t warpBytes = values.size() * 128, stride = 1;
    for (int64_t size : layout.getWarps().drop_front(axis + 1))
      stride *= size;
    Value lane = arith::MulIOp::create(e.b, e.loc, e.laneId(), e.i32(4));
    Value warp = arith::DivUIOp::create(e.b, e.loc, e.threadId(), e.i32(32));
    Value coordinate = e.warpCoordinate(layout.getWarps(), axis);
    Value first = arith::SubIOp::create(e.b, e.loc, warp, e.mul(coordinate, e.i32(stride)));
    auto pointer = [&](Value warpIndex, unsigned i) {
      Value offset = e.add(lane, e.mul(warpIndex, e.i32(warpBytes)));
      return e.offsetPointer(e.sharedPointer(offset), *op.getScratchOffset() + i * 128);
    };
    NVVM::Barrier0Op::create(e.b, e.loc);
    for (auto [i, value] : llvm::enumerate(values))
      LLVM::StoreOp::create(e.b, e.loc, value, pointer(warp, i), 4);
    NVVM::Barrier0Op::create(e.b, e.loc);
    for (auto [i, value] : llvm::enumerate(values)) {
      Value sum;
      for (int64_t w = 0; w < layout.getWarps()[axis]; ++w) {
        Value part = LLVM::LoadOp::create(e.b, e.loc, value.getType(),
                                          pointer(e.add(first, e.i32(w * stride)), i), 4);
        sum = sum ? combine(sum, part) : part;
      }
      value = sum;
    }
  }
};

} // namespace

void sparseflow::populateElementwisePatterns(const TileTypeConverter &converter,
                                             RewritePatternSet &patterns) {
  patterns.add<LowerSplat, LowerSlice, LowerIota, LowerMap, LowerCompress, LowerDecompress,
               LowerReduce>(converter, patterns.getContext());
}
