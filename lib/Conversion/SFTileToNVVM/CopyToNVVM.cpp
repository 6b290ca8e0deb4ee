//===- CopyToNVVM.cpp - Rings and asynchronous copies ---------------------===//
//
// Thread t copies the pieces t, t + threads, ... of a stage, counted in storage order, so that a warp writes contiguous shared
// memory. Where a piece comes from follows from the stage's layout. Pieces outside of the source are filled with zeros by
// the instruction itself (a source size of 0), from an address that is clamped into the source.
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

struct LowerRing : OpConversionPattern<RingOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(RingOp op, OpAdaptor, ConversionPatternRewriter &rewriter) const override {
    if (!op.getOffset())
      return op.emitOpError("expected an offset; run sf-tile-allocate-smem first");
    rewriter.replaceOpWithNewOp<arith::ConstantOp>(op, rewriter.getI32IntegerAttr(*op.getOffset()));
    return success();
  }
};

struct LowerCommit : OpConversionPattern<CommitOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(CommitOp op, OpAdaptor, ConversionPatternRewriter &rewriter) const override {
    rewriter.replaceOpWithNewOp<NVVM::CpAsyncCommitGroupOp>(op);
    return success();
  }
};

struct LowerWait : OpConversionPattern<WaitOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(WaitOp op, OpAdaptor, ConversionPatternRewriter &rewriter) const override {
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
    Emitter e(rewriter, op.getLoc());
    auto sourceType = cast<MemRefType>(op.getSource().getType());
    RingType ring = op.getRing().getType();
    GlobalMemory source(e, sourceType, adaptor.getSource());
    int64_t threads = op->getParentOfType<LLVM::LLVMFuncOp>()
                          ->getAttrOfType<DenseI32ArrayAttr>(NVVM::NVVMDialect::getReqntidAttrName())[0];

    // The widest piece that divides a row of the source.
    int64_t rowBytes = sourceType.getShape().back() * source.elementBits / 8;
    int64_t pieceBytes = std::gcd<int64_t>(16, rowBytes);
    if (pieceBytes < 4)
      return op.emitOpError("expected rows of a multiple of 4 bytes, got ") << rowBytes;
    int64_t stageBytes = ring.getStageBytes();
    int64_t pieces = stageBytes / pieceBytes;

    Value stage = e.toI32(adaptor.getStage()[0]);
    Value stageBase = e.add(adaptor.getRing()[0], e.mul(stage, e.i32(stageBytes)));
    Value thread = e.threadId();
    Value sharedBase = e.sharedPointer(e.add(stageBase, e.mul(thread, e.i32(pieceBytes))));
    for (int64_t first = 0; first < pieces; first += threads) {
      // The last round may need only some of the threads.
      OpBuilder::InsertionGuard guard(rewriter);
      if (first + threads > pieces) {
        Value active = e.lessThan(thread, e.i32(pieces - first));
        auto ifOp = scf::IfOp::create(rewriter, op.getLoc(), active, /*withElseRegion=*/false);
        rewriter.setInsertionPointToStart(ifOp.thenBlock());
      }
      Value inside;
      Value pointer = op.getOrder() == CopyOrder::Storage
                          ? getStoragePiece(e, op, adaptor, source, thread, first, pieceBytes, inside)
                          : getLogicalPiece(e, op, adaptor, source, thread, first, pieceBytes, inside);
      if (op.getPredicate())
        inside = e.both(inside, adaptor.getPredicate()[0]);
      Value target = e.offsetPointer(sharedBase, first * pieceBytes);
      auto modifier = pieceBytes == 16 ? NVVM::LoadCacheModifierKind::CG : NVVM::LoadCacheModifierKind::CA;
      Value size = inside ? e.select(inside, e.i32(pieceBytes), e.i32(0)) : Value();
      NVVM::CpAsyncOp::create(rewriter, op.getLoc(), target, pointer, pieceBytes, modifier, size);
    }
    rewriter.eraseOp(op);
    return success();
  }

private:
  /// Adds `index` elements of dimension `dim` to an address, in elements. An index that may leave the source narrows `inside`
  /// and is clamped to `last`.
  static void addIndex(Emitter &e, const GlobalMemory &source, unsigned dim, Value index, bool mayLeave,
                       int64_t length, Value &address, Value &inside) {
    if (mayLeave) {
      inside = e.both(inside, e.lessThan(index, source.sizes[dim]));
      Value last = arith::SubIOp::create(e.b, e.loc, source.sizes[dim], e.i64(length));
      index = e.minimum(index, last);
    }
    Value scaled = e.mul(index, source.strides[dim]);
    address = address ? e.add(address, scaled) : scaled;
  }

  /// Whether a box of `size` from `offset` on can reach beyond the source. Boxes start inside of it.
  static bool mayLeave(const GlobalMemory &source, unsigned dim, Value offset, int64_t size) {
    int64_t extent = source.staticSizes[dim];
    return ShapedType::isDynamic(extent) || extent % size || getKnownDivisor(offset) % size;
  }

  static Value toPointer(Emitter &e, const GlobalMemory &source, Value elements) {
    Value bytes = e.mul(elements, e.i64(source.elementBits / 8));
    return LLVM::GEPOp::create(e.b, e.loc, source.base.getType(), e.b.getI8Type(), source.base,
                               ArrayRef<LLVM::GEPArg>{bytes});
  }

  /// Storage order: the box is [outer][inner][run] and its flattening is the stage.
  static Value getStoragePiece(Emitter &e, CopyAsyncOp op, OneToNOpAdaptor adaptor,
                               const GlobalMemory &source, Value thread, int64_t first, int64_t pieceBytes,
                               Value &inside) {
    int64_t perPiece = pieceBytes * 8 / source.elementBits;
    ArrayRef<int64_t> sizes = op.getSizes();
    // The piece's number, as a position in each dimension of the box.
    Value piece = e.add(thread, e.i32(first));
    Value address;
    int64_t inner = 1;
    for (int dim = sizes.size() - 1; dim >= 0; --dim) {
      int64_t size = dim == int(sizes.size()) - 1 ? sizes[dim] / perPiece : sizes[dim];
      int64_t unit = dim == int(sizes.size()) - 1 ? perPiece : 1;
      Value offset = e.toI64(adaptor.getOffsets()[dim][0]);
      Value position = inner == 1 ? piece : arith::DivUIOp::create(e.b, e.loc, piece, e.i32(inner)).getResult();
      if (dim)
        position = arith::RemUIOp::create(e.b, e.loc, position, e.i32(size));
      Value index = e.add(offset, e.mul(arith::ExtUIOp::create(e.b, e.loc, e.b.getI64Type(), position), e.i64(unit)));
      addIndex(e, source, dim, index, mayLeave(source, dim, op.getOffsets()[dim], sizes[dim]), unit, address,
               inside);
      inner *= size;
    }
    return toPointer(e, source, address);
  }

  /// Logical order: the stage's layout says which coordinates a piece holds.
  static Value getLogicalPiece(Emitter &e, CopyAsyncOp op, OneToNOpAdaptor adaptor,
                               const GlobalMemory &source, Value thread, int64_t first, int64_t pieceBytes,
                               Value &inside) {
    int64_t perPiece = pieceBytes * 8 / source.elementBits;
    LayoutAttr layout = op.getRing().getType().getLayout();
    SmallVector<ArrayRef<int32_t>> bases = layout.getBases("offset");
    unsigned skipped = llvm::Log2_64(perPiece);
    SmallVector<int32_t> constant = layout.apply("offset", first * perPiece);
    Value address;
    for (unsigned dim = 0; dim < layout.getRank(); ++dim) {
      SmallVector<uint32_t> threadBases;
      for (ArrayRef<int32_t> basis : ArrayRef(bases).drop_front(skipped))
        threadBases.push_back(basis[dim]);
      // Bits of the piece's number that the rounds set are constant.
      threadBases.resize(std::min<size_t>(threadBases.size(), 10), 0);
      Value position = e.bitXor(e.applyLinear(thread, threadBases), e.i32(constant[dim]));
      Value index = e.add(e.toI64(adaptor.getOffsets()[dim][0]),
                          arith::ExtUIOp::create(e.b, e.loc, e.b.getI64Type(), position));
      int64_t length = dim + 1 == layout.getRank() ? perPiece : 1;
      addIndex(e, source, dim, index, mayLeave(source, dim, op.getOffsets()[dim], op.getSizes()[dim]),
               length, address, inside);
    }
    return toPointer(e, source, address);
  }
};

} // namespace

void sparseflow::populateCopyPatterns(const TileTypeConverter &converter, RewritePatternSet &patterns) {
  patterns.add<LowerRing, LowerCommit, LowerWait, LowerCopyAsync>(converter, patterns.getContext());
}
