//===- MemoryToNVVM.cpp - Tiles to and from memory ------------------------===//
//
// An access is as wide as the layouts allow: the low register bits that run along the last
// dimension of memory make one vector of up to 16 bytes, if the memory's rows keep it aligned.
//
//===----------------------------------------------------------------------===//

#include "Lowering.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/Support/MathExtras.h"

#include <numeric>

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

//===----------------------------------------------------------------------===//
// Stages
//===----------------------------------------------------------------------===//

struct LowerRingLoad : OpConversionPattern<LoadOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(LoadOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    if (!op.isFromRing() || op.getResult().getType().isInSharedMemory())
      return rewriter.notifyMatchFailure(op, "not from a ring to registers");
    auto ring = cast<RingType>(op.getSource().getType());
    TileType tile = op.getResult().getType();
    SmallVector<int64_t> start(tile.getRank(), 0);
    if (op.getStart())
      start.assign(op.getStart()->begin(), op.getStart()->end());
    llvm::Expected<SharedReadPlan> plan = planSharedRead(ring, tile, start);
    if (!plan)
      return op.emitOpError("cannot read the ring: ") << llvm::toString(plan.takeError());

    Emitter e(rewriter, op.getLoc());
    Value threadOffset = e.applyLinear(e.laneId(), plan->lane);
    uint32_t varying = 0;
    for (uint32_t basis : plan->lane)
      varying |= basis;
    for (auto [axis, bases] : llvm::enumerate(plan->warp)) {
      if (bases.empty() || llvm::all_of(bases, [](uint32_t b) { return b == 0; }))
        continue;
      Value coordinate = e.warpCoordinate(tile.getLayout().getWarps(), axis);
      threadOffset = e.bitXor(threadOffset, e.applyLinear(coordinate, bases));
      for (uint32_t basis : bases)
        varying |= basis;
    }
    Value stage = e.toI32(adaptor.getIndices()[0][0]);
    Value stageBase = e.add(adaptor.getSource()[0], e.mul(stage, adaptor.getSource()[1]));

    SmallVector<Value> registers;
    for (unsigned i = 0; i < 1u << plan->instruction.size(); ++i) {
      uint32_t offset = plan->start;
      for (auto [bit, basis] : llvm::enumerate(plan->instruction))
        if (i >> bit & 1)
          offset ^= basis;
      // Bits that no thread sets can be added, and so become an immediate offset.
      Value address = e.bitXor(threadOffset, e.i32(offset & varying));
      Value pointer = e.sharedPointer(e.add(stageBase, address));
      emitRead(e, *plan, e.offsetPointer(pointer, offset & ~varying), registers);
    }
    rewriter.replaceOpWithMultiple(op, {toRegisterType(e, registers, tile)});
    return success();
  }

private:
  static void emitRead(Emitter &e, const SharedReadPlan &plan, Value pointer,
                       SmallVectorImpl<Value> &registers) {
    unsigned words = plan.vectorBytes / 4;
    Type i32 = e.b.getI32Type();
    if (plan.ldmatrix) {
      Type type = words == 1 ? i32
                             : Type(LLVM::LLVMStructType::getLiteral(
                                   e.b.getContext(), SmallVector<Type>(words, i32)));
      MLIRContext *context = e.b.getContext();
      Value result = NVVM::LdMatrixOp::create(
          e.b, e.loc, type, pointer, words, NVVM::MMALayout::row,
          NVVM::LdStMatrixShapeAttr::get(context, 8, 8), NVVM::LdStMatrixEltType::B16);
      for (unsigned i = 0; i < words; ++i)
        registers.push_back(
            words == 1 ? result : LLVM::ExtractValueOp::create(e.b, e.loc, result, i).getResult());
      return;
    }
    Type type = words == 1 ? i32 : Type(VectorType::get(words, i32));
    Value result = LLVM::LoadOp::create(e.b, e.loc, type, pointer, plan.vectorBytes);
    for (unsigned i = 0; i < words; ++i)
      registers.push_back(
          words == 1 ? result
                     : LLVM::ExtractElementOp::create(e.b, e.loc, result, e.i32(i)).getResult());
  }

  /// Stages are read as i32; tiles of f32 are f32.
  static SmallVector<Value> toRegisterType(Emitter &e, ArrayRef<Value> registers, TileType tile) {
    if (!tile.getElementType().isF32())
      return SmallVector<Value>(registers);
    return llvm::map_to_vector(registers, [&](Value v) -> Value {
      return LLVM::BitcastOp::create(e.b, e.loc, e.b.getF32Type(), v);
    });
  }
};

//===----------------------------------------------------------------------===//
// Global memory
//===----------------------------------------------------------------------===//

/// How a tile's elements meet a memref: for every vector of registers its address and whether it
/// lies inside. What the slices of a tile have in common is computed apart from the constants by
/// which they differ, so that it is computed once.
class GlobalAccess {
public:
  /// `indices` are the operation's own.
  GlobalAccess(Emitter &e, ConversionPatternRewriter &rewriter, const GlobalMemory &memory,
               TileType tile, ArrayRef<int64_t> dims, ValueRange indices, bool inBounds,
               Value from = Value())
      : e(e), memory(memory), dims(dims), layout(tile.getLayout()) {
    registers = layout.getBases("register");
    for (unsigned i = 0; i < dims.size(); ++i) {
      // Subtracted again, the constant would stay for LLVM, which does not know that indices never
      // wrap.
      auto [common, part] = splitConstant(indices[i]);
      Value index = common ? e.toI64(rewriter.getRemappedValue(common)) : e.i64(0);
      bool moves = dims[i] >= 0;
      if (moves)
        index = e.add(index, arith::ExtUIOp::create(e.b, e.loc, e.b.getI64Type(),
                                                    e.threadCoordinate(layout, dims[i])));
      start.push_back(index);
      constant.push_back(part);
      bool leaves = moves && !inBounds &&
                    mayLeave(indices[i], tile.getShape()[dims[i]], memory.staticSizes[i]);
      rest.push_back(leaves ? countRest(index, memory.sizes[i]) : Value());
    }
    if (from)
      skipped = countRest(start[0], e.toI64(from));
    chooseVector();
  }

  unsigned getVectorElements() const { return vector; }

  /// The pointer to the vector that starts at register `first`. `inside` is set when it may lie
  /// outside; with `clamp` the pointer is valid all the same.
  Value getPointer(unsigned first, bool clamp, Value &inside) {
    Value whole, part;
    auto advance = [&](Value &sum, Value index, Value stride) {
      Value elements = e.mul(index, stride);
      sum = sum ? e.add(sum, elements) : elements;
    };
    for (unsigned i = 0; i < dims.size(); ++i) {
      advance(whole, start[i], memory.strides[i]);
      int64_t offset = constant[i] + (dims[i] < 0 ? 0 : layout.apply("register", first)[dims[i]]);
      if (rest[i])
        inside = e.both(inside, e.lessThan(e.i32(offset), rest[i]));
      if (skipped && i == 0)
        inside = e.both(inside, e.lessThan(skipped, e.i32(offset + 1)));
      if (rest[i] && clamp) {
        int64_t length = i + 1 == dims.size() ? vector : 1;
        Value last = e.add(rest[i], e.i32(-length));
        advance(
            part,
            arith::ExtSIOp::create(e.b, e.loc, e.b.getI64Type(), e.minimum(e.i32(offset), last)),
            memory.strides[i]);
      } else if (offset) {
        advance(part, e.i64(offset), memory.strides[i]);
      }
    }
    // Only together are they whole bytes.
    if (memory.elementBits < 8 && part) {
      whole = e.add(whole, part);
      part = Value();
    }
    Value pointer = memory.base;
    for (Value elements : {whole, part})
      if (elements)
        pointer = LLVM::GEPOp::create(e.b, e.loc, pointer.getType(), e.b.getI8Type(), pointer,
                                      ArrayRef<LLVM::GEPArg>{toBytes(elements)});
    return pointer;
  }

private:
  Value toBytes(Value elements) {
    if (memory.elementBits >= 8)
      return e.mul(elements, e.i64(memory.elementBits / 8));
    return arith::ShRUIOp::create(e.b, e.loc, elements,
                                  e.i64(llvm::Log2_32(8 / memory.elementBits)));
  }

  /// Elements from `index` to the end of a dimension as an i32; more than tiles have count as that.
  Value countRest(Value index, Value size) {
    constexpr int64_t many = 1 << 30;
    Value rest = arith::SubIOp::create(e.b, e.loc, size, index);
    return arith::TruncIOp::create(e.b, e.loc, e.b.getI32Type(), e.minimum(rest, e.i64(many)));
  }

  void chooseVector() {
    vector = 1;
    if (dims.empty() || dims.back() < 0 || memory.staticStrides.back() != 1)
      return;
    unsigned last = dims.back();
    unsigned bit = 0;
    while (bit < registers.size() && vector * memory.elementBits < 128) {
      for (unsigned dim = 0; dim < layout.getRank(); ++dim)
        if (registers[bit][dim] != (dim == last ? int32_t(vector) : 0))
          return finishVector();
      vector *= 2;
      ++bit;
    }
    finishVector();
  }
  /// Rows and outer strides keep a vector aligned when its length divides them; dynamic strides are
  /// as aligned as rows.
  void finishVector() {
    int64_t aligned = vector;
    for (auto [i, stride] : llvm::enumerate(memory.staticStrides))
      if (i + 1 < dims.size() && !ShapedType::isDynamic(stride))
        aligned = std::gcd(aligned, stride);
    aligned = ShapedType::isDynamic(memory.staticSizes.back())
                  ? 1
                  : std::gcd(aligned, memory.staticSizes.back());
    // A view may begin at any byte of the buffer that it cuts, which itself is aligned.
    if (memory.byteOffset)
      aligned = std::gcd(aligned, std::max<int64_t>(memory.byteOffset * 8 / memory.elementBits, 1));
    vector = aligned;
  }

  Emitter &e;
  const GlobalMemory &memory;
  SmallVector<int64_t> dims;
  LayoutAttr layout;
  SmallVector<ArrayRef<int32_t>> registers;
  /// For each dimension: this thread's first element, what is added to it, and how many there are
  /// from the first on, where the tile may leave the memref.
  SmallVector<Value> start;
  SmallVector<int64_t> constant;
  SmallVector<Value> rest;
  /// How many there are along the first dimension before those that are meant; null: none.
  Value skipped;
  unsigned vector = 1;
};

/// The integer or vector of 32-bit words that one access moves.
Type getAccessType(MLIRContext *context, unsigned bits) {
  if (bits <= 32)
    return IntegerType::get(context, bits);
  return VectorType::get(bits / 32, IntegerType::get(context, 32));
}

SmallVector<Value> flatten(ArrayRef<ValueRange> ranges) {
  SmallVector<Value> values;
  for (ValueRange range : ranges)
    values.push_back(range[0]);
  return values;
}

struct LowerGlobalLoad : OpConversionPattern<LoadOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(LoadOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    if (op.isFromRing())
      return rewriter.notifyMatchFailure(op, "from a ring");
    Emitter e(rewriter, op.getLoc());
    TileType tile = op.getResult().getType();
    GlobalMemory memory(e, cast<MemRefType>(op.getSource().getType()), adaptor.getSource());
    GlobalAccess access(e, rewriter, memory, tile, op.getDimMap(), op.getIndices(),
                        op.getInBounds());
    unsigned vector = access.getVectorElements(), bits = memory.elementBits;
    if (vector * bits < 8)
      return op.emitOpError("expected a thread's contiguous elements to fill whole bytes");
    Type type = getAccessType(getContext(), vector * bits);
    Type element = tile.getElementType(), scalarType = getScalarType(element);
    SmallVector<Value> scalars;
    for (unsigned first = 0; first < getNumElements(tile); first += vector) {
      Value inside;
      Value pointer = access.getPointer(first, /*clamp=*/true, inside);
      Value loaded =
          LLVM::LoadOp::create(rewriter, e.loc, type, pointer, std::max(1u, vector * bits / 8));
      if (inside)
        loaded = e.select(inside, loaded, LLVM::ZeroOp::create(rewriter, e.loc, type));
      Type elements = vector == 1 ? scalarType : Type(VectorType::get(vector, scalarType));
      if (type != elements)
        loaded = LLVM::BitcastOp::create(rewriter, e.loc, elements, loaded);
      for (unsigned i = 0; i < vector; ++i)
        scalars.push_back(
            vector == 1
                ? loaded
                : LLVM::ExtractElementOp::create(rewriter, e.loc, loaded, e.i32(i)).getResult());
    }
    rewriter.replaceOpWithMultiple(op, {e.pack(scalars, element)});
    return success();
  }
};

struct LowerStore : OpConversionPattern<StoreOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(StoreOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    TileType tile = op.getValue().getType();
    GlobalMemory memory(e, op.getDest().getType(), adaptor.getDest());
    SmallVector<Value> scalars =
        e.unpack(adaptor.getValue(), tile.getElementType(), getNumElements(tile));
    if (op.getPacking()) {
      storePacked(e, op, memory, flatten(adaptor.getIndices()), scalars);
      rewriter.eraseOp(op);
      return success();
    }
    GlobalAccess access(e, rewriter, memory, tile, op.getDimMap(), op.getIndices(),
                        op.getInBounds(), op.getFrom() ? adaptor.getFrom()[0] : Value());
    unsigned vector = access.getVectorElements(), bits = memory.elementBits;
    if (vector * bits < 8)
      return op.emitOpError("expected a thread's contiguous elements to fill whole bytes");
    Type type = getAccessType(getContext(), vector * bits);
    Value owner = getOwner(e, tile);
    for (unsigned first = 0; first < getNumElements(tile); first += vector) {
      Value inside = owner;
      Value pointer = access.getPointer(first, /*clamp=*/false, inside);
      Value value = packVector(e, ArrayRef(scalars).slice(first, vector), type);
      OpBuilder::InsertionGuard guard(rewriter);
      if (inside) {
        auto ifOp = scf::IfOp::create(rewriter, e.loc, inside, /*withElseRegion=*/false);
        rewriter.setInsertionPointToStart(ifOp.thenBlock());
      }
      LLVM::StoreOp::create(rewriter, e.loc, value, pointer, std::max(1u, vector * bits / 8));
    }
    rewriter.eraseOp(op);
    return success();
  }

private:
  /// Every element goes to the offset, from the indices on, that the packing gives its coordinates.
  static void storePacked(Emitter &e, StoreOp op, const GlobalMemory &memory,
                          ArrayRef<Value> indices, ArrayRef<Value> scalars) {
    LayoutAttr layout = op.getValue().getType().getLayout();
    LinearLayout toOffset = op.getPacking()->toLinearLayout().invert();
    auto offsetOf = [&](int64_t row, int64_t column) -> uint32_t {
      return toOffset.apply({{"dim0", uint64_t(row)}, {"dim1", uint64_t(column)}}, "offset");
    };
    auto basesOf = [&](StringRef input) {
      return llvm::map_to_vector(layout.getBases(input), [&](ArrayRef<int32_t> basis) {
        return offsetOf(basis[0], basis[1]);
      });
    };
    SmallVector<uint32_t> registers = basesOf("register");
    Value offset = e.applyLinear(e.laneId(), basesOf("lane"));
    SmallVector<int64_t> warpTile = layout.getWarpTile();
    for (auto [axis, dim] : llvm::enumerate(layout.getAlong())) {
      SmallVector<uint32_t> bases;
      for (int64_t step = 1; dim >= 0 && step < layout.getWarps()[axis]; step *= 2)
        bases.push_back(dim == 0 ? offsetOf(step * warpTile[0], 0)
                                 : offsetOf(0, step * warpTile[1]));
      if (!bases.empty())
        offset = e.bitXor(offset, e.applyLinear(e.warpCoordinate(layout.getWarps(), axis), bases));
    }
    unsigned vector = 1;
    for (unsigned bit = 0;
         bit < registers.size() && registers[bit] == vector && vector * memory.elementBits < 128;
         ++bit)
      vector *= 2;

    Value start = e.i64(0);
    for (auto [index, stride] : llvm::zip_equal(indices, memory.strides))
      start = e.add(start, e.mul(e.toI64(index), stride));
    Type type = getAccessType(e.b.getContext(), vector * memory.elementBits);
    for (unsigned first = 0; first < scalars.size(); first += vector) {
      uint32_t constant = 0;
      for (auto [bit, basis] : llvm::enumerate(registers))
        constant ^= (first >> bit & 1) ? basis : 0;
      Value element = e.add(start, arith::ExtUIOp::create(e.b, e.loc, e.b.getI64Type(),
                                                          e.bitXor(offset, e.i32(constant))));
      Value bits = e.mul(element, e.i64(memory.elementBits));
      Value bytes = arith::ShRUIOp::create(e.b, e.loc, bits, e.i64(3));
      Value pointer = LLVM::GEPOp::create(e.b, e.loc, memory.base.getType(), e.b.getI8Type(),
                                          memory.base, ArrayRef<LLVM::GEPArg>{bytes});
      LLVM::StoreOp::create(e.b, e.loc, packVector(e, scalars.slice(first, vector), type), pointer,
                            std::max(1u, vector * memory.elementBits / 8));
    }
  }

  static Value packVector(Emitter &e, ArrayRef<Value> scalars, Type type) {
    if (scalars.size() == 1)
      return scalars[0].getType() == type
                 ? scalars[0]
                 : LLVM::BitcastOp::create(e.b, e.loc, type, scalars[0]).getResult();
    auto vector = VectorType::get(scalars.size(), scalars[0].getType());
    Value elements = LLVM::PoisonOp::create(e.b, e.loc, vector);
    for (auto [i, scalar] : llvm::enumerate(scalars))
      elements = LLVM::InsertElementOp::create(e.b, e.loc, elements, scalar, e.i32(i));
    return vector == type ? elements
                          : LLVM::BitcastOp::create(e.b, e.loc, type, elements).getResult();
  }

  /// True for one of the threads that hold copies of the same elements; null when there are no
  /// copies.
  static Value getOwner(Emitter &e, TileType tile) {
    LayoutAttr layout = tile.getLayout();
    int64_t copies = 0;
    for (auto [bit, basis] : llvm::enumerate(layout.getBases("lane")))
      if (llvm::all_of(basis, [](int32_t c) { return c == 0; }))
        copies |= 1 << bit;
    Value owner;
    auto require = [&](Value value) {
      owner = e.both(owner,
                     arith::CmpIOp::create(e.b, e.loc, arith::CmpIPredicate::eq, value, e.i32(0)));
    };
    if (copies)
      require(arith::AndIOp::create(e.b, e.loc, e.laneId(), e.i32(copies)));
    for (auto [axis, dim] : llvm::enumerate(layout.getAlong()))
      if (dim < 0 && layout.getWarps()[axis] > 1)
        require(e.warpCoordinate(layout.getWarps(), axis));
    return owner;
  }
};

} // namespace

void sparseflow::populateMemoryPatterns(const TileTypeConverter &converter,
                                        RewritePatternSet &patterns) {
  patterns.add<LowerRingLoad, LowerGlobalLoad, LowerStore>(converter, patterns.getContext());
}
