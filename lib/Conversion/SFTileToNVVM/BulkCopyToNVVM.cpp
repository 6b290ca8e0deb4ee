//===- BulkCopyToNVVM.cpp - Copies by the copy engine ---------------------===//
//
// One thread issues them, and the bytes that land count on the stage's full barrier. A box in
// storage order is copied in runs that are contiguous on both sides (cp.async.bulk); a box of a
// matrix in panels of 128 bytes, which the engine swizzles (cp.async.bulk.tensor). PTX ISA,
// 9.7.9.25.
//
//===----------------------------------------------------------------------===//

#include "Lowering.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

/// The address as the engine takes it: a block's own shared memory is part of its cluster's.
Value toClusterPointer(Emitter &e, Value pointer) {
  auto type = LLVM::LLVMPointerType::get(
      e.b.getContext(), static_cast<unsigned>(NVVM::NVVMMemorySpace::SharedCluster));
  return LLVM::AddrSpaceCastOp::create(e.b, e.loc, type, pointer);
}

struct LowerBulkCopy : OpConversionPattern<CopyAsyncOp> {
  LowerBulkCopy(const TypeConverter &converter, MLIRContext *context)
      : OpConversionPattern(converter, context, /*benefit=*/2) {}

  LogicalResult matchAndRewrite(CopyAsyncOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    if (!op.getBarriers())
      return rewriter.notifyMatchFailure(op, "a copy by all threads");
    Emitter e(rewriter, op.getLoc());
    Value stage = e.toI32(adaptor.getStage()[0]);
    Value stageBase = e.add(adaptor.getRing()[0], e.mul(stage, adaptor.getRing()[1]));
    Value barrier = getFullBarrier(e, adaptor.getBarriers()[0], stage);
    if (isa<TensorMapType>(op.getSource().getType()))
      copyPanels(e, op, adaptor, stageBase, barrier);
    else if (failed(copyRuns(e, op, adaptor, stageBase, barrier)))
      return failure();
    rewriter.eraseOp(op);
    return success();
  }

private:
  static void copyPanels(Emitter &e, CopyAsyncOp op, OneToNOpAdaptor adaptor, Value stageBase,
                         Value barrier) {
    auto map = cast<TensorMapType>(op.getSource().getType());
    ArrayRef<int64_t> box = map.getBox();
    int64_t panelBytes = box[0] * box[1] * map.getElementType().getIntOrFloatBitWidth() / 8;
    Value row = e.toI32(adaptor.getOffsets()[0][0]), column = e.toI32(adaptor.getOffsets()[1][0]);
    // Each block of a cluster brings its rows of every panel, to all blocks.
    int64_t blocks = op.getMulticast();
    Value mask;
    if (blocks > 1) {
      Value rank = e.blockRank();
      row = e.add(row, e.mul(rank, e.i32(box[0])));
      stageBase = e.add(stageBase, e.mul(rank, e.i32(panelBytes)));
      mask = arith::ConstantOp::create(
          e.b, e.loc, e.b.getI16IntegerAttr(static_cast<int16_t>((1 << blocks) - 1)));
    }
    for (int64_t panel = 0; panel < op.getSizes()[1] / box[1]; ++panel) {
      Value target = e.sharedPointer(e.add(stageBase, e.i32(panel * blocks * panelBytes)));
      // Coordinates from the fastest dimension on.
      SmallVector<Value> coordinates = {e.add(column, e.i32(panel * box[1])), row};
      NVVM::CpAsyncBulkTensorGlobalToSharedClusterOp::create(
          e.b, e.loc, toClusterPointer(e, target), adaptor.getSource()[0], coordinates, barrier,
          /*im2colOffsets=*/ValueRange(), mask, /*l2CacheHint=*/Value(), NVVM::TMALoadMode::TILE,
          /*isCTAOnly=*/false, /*group=*/nullptr, /*predicate=*/Value());
    }
  }

  static LogicalResult copyRuns(Emitter &e, CopyAsyncOp op, OneToNOpAdaptor adaptor,
                                Value stageBase, Value barrier) {
    GlobalMemory source(e, cast<MemRefType>(op.getSource().getType()), adaptor.getSource());
    ArrayRef<int64_t> sizes = op.getSizes();
    auto leaves = [&](int64_t dim) {
      return mayLeave(op.getOffsets()[dim], sizes[dim], source.staticSizes[dim]);
    };
    // Dimensions from `inner` on are contiguous in the source, and the box does not reach beyond.
    int64_t rank = sizes.size(), inner = rank - 1, elements = sizes[inner];
    while (inner > 0 && sizes[inner] == source.staticSizes[inner] && !leaves(inner - 1))
      elements *= sizes[--inner];
    if (leaves(inner))
      return op.emitOpError("expected boxes that divide the source along dimension ")
             << inner << ", of " << source.staticSizes[inner] << ", got boxes of " << sizes[inner]
             << "; choose a smaller tile";
    int64_t bytes = elements * source.elementBits / 8;
    SmallVector<Value> offsets;
    for (ValueRange offset : adaptor.getOffsets())
      offsets.push_back(e.toI64(offset[0]));
    if (bytes % 16)
      return op.emitOpError("expected runs of a multiple of 16 bytes, got ") << bytes;

    int64_t runs = 1;
    for (int64_t dim = 0; dim < inner; ++dim)
      runs *= sizes[dim];
    for (int64_t run = 0; run < runs; ++run) {
      Value address = source.base;
      int64_t rest = run;
      for (int64_t dim = rank - 1; dim >= 0; --dim) {
        Value position = offsets[dim];
        if (dim < inner) {
          position = e.add(position, e.i64(rest % sizes[dim]));
          rest /= sizes[dim];
          // A run beyond the source's end belongs to rows that are not stored: any bytes will do.
          position = e.minimum(position, e.i64(source.staticSizes[dim] - 1));
        }
        Value offset = e.mul(e.mul(position, source.strides[dim]), e.i64(source.elementBits / 8));
        address = LLVM::GEPOp::create(e.b, e.loc, address.getType(), e.b.getI8Type(), address,
                                      ArrayRef<LLVM::GEPArg>{offset});
      }
      Value target = e.sharedPointer(e.add(stageBase, e.i32(run * bytes)));
      NVVM::CpAsyncBulkGlobalToSharedClusterOp::create(
          e.b, e.loc, toClusterPointer(e, target), address, barrier, e.i32(bytes),
          /*multicastMask=*/Value(), /*l2CacheHint=*/Value());
    }
    return success();
  }
};

} // namespace

void sparseflow::populateBulkCopyPatterns(const TileTypeConverter &converter,
                                          RewritePatternSet &patterns) {
  patterns.add<LowerBulkCopy>(converter, patterns.getContext());
}
