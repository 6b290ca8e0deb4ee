//===- CopyToNVVM.cpp - Rings and asynchronous copies ---------------------===//
//
// Thread t copies the pieces t, t + threads, ... of a stage, counted in storage order, so that a
// warp writes contiguous shared memory. Where a piece comes from follows from the stage's layout.
// Pieces outside of the source are filled with zeros by the instruction itself: with a source size
// of 0 it reads nothing.
//
//===----------------------------------------------------------------------===//

#include "Lowering.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/Support/MathExtras.h"

#include <map>
#include <numeric>

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

struct LowerRing : OpConversionPattern<RingOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(RingOp op, OpAdaptor,
                                ConversionPatternRewriter &rewriter) const override {
    if (!op.getOffset() || !op.getStride())
      return op.emitOpError("expected an offset; run sf-tile-allocate-smem first");
    Emitter e(rewriter, op.getLoc());
    rewriter.replaceOpWithMultiple(
        op, {SmallVector<Value>{e.i32(*op.getOffset()), e.i32(*op.getStride())}});
    return success();
  }
};

struct LowerCommit : OpConversionPattern<CommitOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(CommitOp op, OpAdaptor,
                                ConversionPatternRewriter &rewriter) const override {
    rewriter.replaceOpWithNewOp<NVVM::CpAsyncCommitGroupOp>(op);
    return success();
  }
};

struct LowerWait : OpConversionPattern<WaitOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(WaitOp op, OpAdaptor,
                                ConversionPatternRewriter &rewriter) const override {
    NVVM::CpAsyncWaitGroupOp::create(rewriter, op.getLoc(), static_cast<uint32_t>(op.getPending()));
    NVVM::Barrier0Op::create(rewriter, op.getLoc());
    rewriter.eraseOp(op);
    return success();
  }
};

/// A copy's pieces: `count` pieces of `bytes` bytes, and where in the source each comes from.
struct LowerCopyAsync : OpConversionPattern<CopyAsyncOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(CopyAsyncOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    if (op.getBarriers())
      return rewriter.notifyMatchFailure(op, "a copy by the copy engine");
    Emitter e(rewriter, op.getLoc());
    auto sourceType = cast<MemRefType>(op.getSource().getType());
    RingType ring = op.getRing().getType();
    GlobalMemory source(e, sourceType, adaptor.getSource());
    int64_t threads = op->getParentOfType<LLVM::LLVMFuncOp>()->getAttrOfType<DenseI32ArrayAttr>(
        NVVM::NVVMDialect::getReqntidAttrName())[0];

    // The widest piece that divides a row of the source.
    int64_t rowBytes = sourceType.getShape().back() * source.elementBits / 8;
    int64_t pieceBytes = std::gcd<int64_t>(16, rowBytes);
    if (pieceBytes < 4)
      return op.emitOpError("expected rows of a multiple of 4 bytes, got ") << rowBytes;
    int64_t stageBytes = ring.getStageBytes();
    // Rather narrower pieces for all threads than a branch in the pipeline's loop.
    if (pieceBytes > 4 && stageBytes / pieceBytes < threads)
      pieceBytes = std::max<int64_t>(4, stageBytes / threads);
    int64_t pieces = stageBytes / pieceBytes;

    Value stage = e.toI32(adaptor.getStage()[0]);
    Value stageBase = e.add(adaptor.getRing()[0], e.mul(stage, adaptor.getRing()[1]));
    Value thread = e.threadId();
    Value sharedBase = e.sharedPointer(e.add(stageBase, e.mul(thread, e.i32(pieceBytes))));
    PieceFinder finder(e, op, adaptor, source, thread, pieceBytes);
    SmallVector<Value> pointers, insides;
    for (int64_t first = 0; first < pieces; first += threads) {
      insides.emplace_back();
      pointers.push_back(finder.find(first, insides.back()));
    }
    SmallVector<Value> sizes = getSourceSizes(
        e, insides, op.getPredicate() ? adaptor.getPredicate()[0] : Value(), pieceBytes);
    for (auto [round, pointer] : llvm::enumerate(pointers)) {
      int64_t first = round * threads;
      // The last round may need only some of the threads.
      OpBuilder::InsertionGuard guard(rewriter);
      if (first + threads > pieces) {
        Value active = e.lessThan(thread, e.i32(pieces - first));
        auto ifOp = scf::IfOp::create(rewriter, op.getLoc(), active, /*withElseRegion=*/false);
        rewriter.setInsertionPointToStart(ifOp.thenBlock());
      }
      Value target = e.offsetPointer(sharedBase, first * pieceBytes);
      auto modifier =
          pieceBytes == 16 ? NVVM::LoadCacheModifierKind::CG : NVVM::LoadCacheModifierKind::CA;
      NVVM::CpAsyncOp::create(rewriter, op.getLoc(), target, pointer, pieceBytes, modifier,
                              sizes[round]);
    }
    rewriter.eraseOp(op);
    return success();
  }

private:
  /// The source size of each round: `pieceBytes`, or 0 where the piece lies outside or the copy is
  /// off; null where it is always whole. The chip has 7 predicate registers, and LLVM would keep
  /// one for every round over the loop: the conditions of many rounds travel as bits of one
  /// register, from which a shift and a mask make each size.
  static SmallVector<Value> getSourceSizes(Emitter &e, ArrayRef<Value> insides, Value enabled,
                                           int64_t pieceBytes) {
    SmallVector<Value> sizes;
    constexpr int64_t manyConditions = 4;
    constexpr size_t roundsPerRegister = 27; // the highest bit of 16 << 27 is the register's
    if (llvm::count_if(insides, [](Value v) { return bool(v); }) < manyConditions || !enabled) {
      for (Value inside : insides) {
        Value condition = e.both(inside, enabled);
        sizes.push_back(condition ? e.select(condition, e.i32(pieceBytes), e.i32(0)) : Value());
      }
      return sizes;
    }
    for (; !insides.empty();
         insides = insides.drop_front(std::min(insides.size(), roundsPerRegister))) {
      ArrayRef<Value> rounds = insides.take_front(roundsPerRegister);
      Value bits = e.i32(0);
      for (auto [round, inside] : llvm::enumerate(rounds)) {
        Value bit = e.i32(static_cast<int32_t>(pieceBytes << round));
        bits =
            arith::OrIOp::create(e.b, e.loc, bits, inside ? e.select(inside, bit, e.i32(0)) : bit);
      }
      bits = e.select(enabled, bits, e.i32(0));
      for (size_t round = 0; round < rounds.size(); ++round) {
        Value shifted = arith::ShRUIOp::create(e.b, e.loc, bits, e.i32(round));
        sizes.push_back(arith::AndIOp::create(e.b, e.loc, shifted, e.i32(pieceBytes)));
      }
    }
    return sizes;
  }

  /// Where in the source the piece of this thread and of a round comes from. A piece that lies
  /// outside has an address that is not read.
  class PieceFinder {
  public:
    PieceFinder(Emitter &e, CopyAsyncOp op, OneToNOpAdaptor adaptor, const GlobalMemory &source,
                Value thread, int64_t pieceBytes)
        : e(e), op(op), source(source), thread(thread),
          perPiece(pieceBytes * 8 / source.elementBits) {
      for (ValueRange offset : adaptor.getOffsets())
        offsets.push_back(e.toI64(offset[0]));
    }

    /// `inside` becomes the condition under which the piece of round `first / threads` lies inside;
    /// null if it always does.
    Value find(int64_t first, Value &inside) {
      SmallVector<int64_t> constant;
      SmallVector<Value> position = op.getOrder() == CopyOrder::Storage
                                        ? findStoragePosition(first, constant)
                                        : findLogicalPosition(first, constant);
      for (auto [dim, value] : llvm::enumerate(position)) {
        if (!mayLeave(op.getOffsets()[dim], op.getSizes()[dim], source.staticSizes[dim]))
          continue;
        Value index = e.add(offsets[dim], e.add(value, e.i64(constant[dim])));
        if (op.getClamped()) {
          Value last = arith::SubIOp::create(e.b, e.loc, source.sizes[dim], e.i64(1));
          value = arith::SubIOp::create(e.b, e.loc, e.minimum(index, last), offsets[dim]);
          constant[dim] = 0;
        } else {
          inside = e.both(inside, e.lessThan(index, source.sizes[dim]));
        }
      }
      // Further rounds differ by rows: one addition from the last address. Laundered, so that LLVM
      // does not turn the additions around and keep an address for every round in registers over
      // the whole loop.
      if (pointer && position == lastPosition &&
          ArrayRef(constant).drop_front() == ArrayRef(lastConstant).drop_front())
        pointer =
            offset(LLVM::LaunderInvariantGroupOp::create(e.b, e.loc, pointer.getType(), pointer),
                   e.i64(constant[0] - lastConstant[0]), 0);
      else
        pointer = findFirst(position, constant);
      lastPosition = position;
      lastConstant = constant;
      return pointer;
    }

  private:
    /// The sum of what does not change in the loop comes first, so that it leaves the loop.
    Value findFirst(ArrayRef<Value> position, ArrayRef<int64_t> constant) {
      auto loop = op->getParentOfType<scf::ForOp>();
      Value result = source.base;
      for (auto [dim, value] : llvm::enumerate(position))
        result = offset(result, e.add(value, e.i64(constant[dim])), dim);
      for (bool varying : {false, true})
        for (auto [dim, value] : llvm::enumerate(offsets))
          if (varying == (loop && !loop.isDefinedOutsideOfLoop(op.getOffsets()[dim])))
            result = offset(result, value, dim);
      return result;
    }

    Value offset(Value base, Value index, unsigned dim) {
      Value bytes = e.mul(e.mul(index, source.strides[dim]), e.i64(source.elementBits / 8));
      return LLVM::GEPOp::create(e.b, e.loc, base.getType(), e.b.getI8Type(), base,
                                 ArrayRef<LLVM::GEPArg>{bytes});
    }

    /// Storage order: the box, flattened, is the stage.
    SmallVector<Value> findStoragePosition(int64_t first, SmallVectorImpl<int64_t> &constant) {
      Value piece = e.add(thread, e.i32(first));
      SmallVector<Value> position;
      int64_t inner = 1, rank = op.getSizes().size();
      for (int64_t dim = rank - 1; dim >= 0; --dim) {
        int64_t unit = dim == rank - 1 ? perPiece : 1, size = op.getSizes()[dim] / unit;
        Value index = inner == 1
                          ? piece
                          : arith::DivUIOp::create(e.b, e.loc, piece, e.i32(inner)).getResult();
        if (dim)
          index = arith::RemUIOp::create(e.b, e.loc, index, e.i32(size));
        position.push_back(extend(e.mul(index, e.i32(unit))));
        inner *= size;
      }
      constant.assign(rank, 0);
      std::reverse(position.begin(), position.end());
      return position;
    }

    /// Logical order: the stage's layout says which coordinates a piece holds. What the round adds
    /// is a constant where the thread does not set the same bits.
    SmallVector<Value> findLogicalPosition(int64_t first, SmallVectorImpl<int64_t> &constant) {
      LayoutAttr layout = op.getRing().getType().getLayout();
      SmallVector<ArrayRef<int32_t>> bases = layout.getBases("offset");
      SmallVector<int32_t> round = layout.apply("offset", first * perPiece);
      constexpr size_t threadBits = 10;
      if (threadBases.empty())
        for (unsigned dim = 0; dim < layout.getRank(); ++dim) {
          auto &list = threadBases.emplace_back();
          for (ArrayRef<int32_t> basis :
               ArrayRef(bases).drop_front(llvm::Log2_64(perPiece)).take_front(threadBits))
            list.push_back(basis[dim]);
          threadPosition.push_back(e.applyLinear(thread, list));
        }
      SmallVector<Value> position;
      for (unsigned dim = 0; dim < layout.getRank(); ++dim) {
        bool disjoint =
            llvm::all_of(threadBases[dim], [&](uint32_t basis) { return !(basis & round[dim]); });
        constant.push_back(disjoint ? round[dim] : 0);
        auto &cached = positions[{dim, disjoint ? 0 : round[dim]}];
        if (!cached)
          cached = extend(e.bitXor(threadPosition[dim], e.i32(disjoint ? 0 : round[dim])));
        position.push_back(cached);
      }
      return position;
    }

    Value extend(Value value) {
      return arith::ExtUIOp::create(e.b, e.loc, e.b.getI64Type(), value);
    }

    Emitter &e;
    CopyAsyncOp op;
    const GlobalMemory &source;
    Value thread;
    int64_t perPiece;
    SmallVector<Value> offsets;
    SmallVector<SmallVector<uint32_t>> threadBases;
    SmallVector<Value> threadPosition;
    std::map<std::pair<unsigned, int32_t>, Value> positions;
    Value pointer;
    SmallVector<Value> lastPosition;
    SmallVector<int64_t> lastConstant;
  };
};

} // namespace

void sparseflow::populateCopyPatterns(const TileTypeConverter &converter,
                                      RewritePatternSet &patterns) {
  patterns.add<LowerRing, LowerCommit, LowerWait, LowerCopyAsync>(converter, patterns.getContext());
}
