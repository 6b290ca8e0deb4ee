//===- ReduceScatterToNVVM.cpp - Sums over the blocks of a cluster --------===//
//
// Thread i of a block holds the same elements as thread i of every other, so what it sends lies in
// the receiver's scratch as vectors of 16 bytes, one behind the other for the threads: neither side
// meets a bank conflict. The block of rank r writes to block d's slot (r - d - 1) mod blocks, and a
// block adds its slots in order. PTX ISA, 5.2.3 "shared::cluster", 9.7.9.23 "mapa".
//
//===----------------------------------------------------------------------===//

#include "Lowering.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

constexpr int64_t kVectorElements = 4, kVectorBytes = 16;

struct LowerReduceScatter : OpConversionPattern<ReduceScatterOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ReduceScatterOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    if (!op.getScratchOffset() || !op.getBarriers())
      return op.emitOpError("expected barriers and scratch; run sf-tile-assign-roles and "
                            "sf-tile-allocate-smem first");
    Emitter e(rewriter, op.getLoc());
    int64_t blocks = op.getBlocks();
    Value rank = e.blockRank();
    // What this thread has for each block: all tiles' registers.
    SmallVector<SmallVector<Value>> shares(blocks);
    for (ValueRange registers : adaptor.getInputs())
      for (int64_t block = 0; block < blocks; ++block)
        llvm::append_range(shares[block], registers.slice(block * registers.size() / blocks,
                                                          registers.size() / blocks));
    int64_t vectors = shares[0].size() / kVectorElements;
    int64_t slotBytes = op.getBytesSent(), vectorStride = slotBytes / vectors;
    Value mine = e.add(e.i32(*op.getScratchOffset()), e.mul(e.threadId(), e.i32(kVectorBytes)));

    for (int64_t block = 0; block < blocks; ++block)
      emitIf(e, isNot(e, rank, block), [&] {
        Value slot = arith::AndIOp::create(e.b, e.loc, e.add(rank, e.i32(blocks - 1 - block)),
                                           e.i32(blocks - 1));
        Value target = mapToBlock(e, e.sharedPointer(e.add(mine, e.mul(slot, e.i32(slotBytes)))),
                                  e.i32(block));
        for (int64_t i = 0; i < vectors; ++i)
          store(e, ArrayRef(shares[block]).slice(i * kVectorElements, kVectorElements),
                e.offsetPointer(target, i * vectorStride));
      });
    BarriersType type = op.getBarriers().getType();
    Value inbox = getInboxBarrier(e, type, adaptor.getBarriers()[0]);
    tellOthers(e, inbox, rank, blocks);

    SmallVector<Value> sums = selectShare(e, shares, rank);
    emitWait(e, inbox, /*parity=*/e.i32(0), NVVM::MemScopeKind::CLUSTER);
    for (int64_t slot = 0; slot + 1 < blocks; ++slot)
      for (int64_t i = 0; i < vectors; ++i)
        addTo(e, MutableArrayRef(sums).slice(i * kVectorElements, kVectorElements),
              e.offsetPointer(e.sharedPointer(mine), slot * slotBytes + i * vectorStride));

    SmallVector<ValueRange> results;
    ArrayRef<Value> left = sums;
    for (ValueRange registers : adaptor.getInputs()) {
      results.push_back(left.take_front(registers.size() / blocks));
      left = left.drop_front(registers.size() / blocks);
    }
    rewriter.replaceOpWithMultiple(op, results);
    return success();
  }

private:
  static Value isNot(Emitter &e, Value rank, int64_t block) {
    return arith::CmpIOp::create(e.b, e.loc, arith::CmpIPredicate::ne, rank, e.i32(block));
  }

  static void store(Emitter &e, ArrayRef<Value> elements, Value pointer) {
    auto type = VectorType::get(kVectorElements, elements[0].getType());
    Value vector = LLVM::PoisonOp::create(e.b, e.loc, type);
    for (auto [i, element] : llvm::enumerate(elements))
      vector = LLVM::InsertElementOp::create(e.b, e.loc, vector, element, e.i32(i));
    LLVM::StoreOp::create(e.b, e.loc, vector, pointer, kVectorBytes);
  }

  /// One lane of a warp for each other block, at whose inbox it arrives when the warp has written.
  static void tellOthers(Emitter &e, Value inbox, Value rank, int64_t blocks) {
    NVVM::SyncWarpOp::create(e.b, e.loc, e.i32(-1));
    Value lane = e.laneId();
    Value isOther = arith::CmpIOp::create(e.b, e.loc, arith::CmpIPredicate::ne, lane, rank);
    emitIf(e, e.both(e.lessThan(lane, e.i32(blocks)), isOther), [&] {
      NVVM::MBarrierArriveOp::create(e.b, e.loc, /*res=*/Type(), mapToBlock(e, inbox, lane),
                                     /*count=*/Value(), NVVM::MemScopeKind::CLUSTER,
                                     /*relaxed=*/false);
    });
  }

  /// The registers of the block's own share.
  static SmallVector<Value> selectShare(Emitter &e, ArrayRef<SmallVector<Value>> shares,
                                        Value rank) {
    SmallVector<Value> own = shares.back();
    for (int64_t block = shares.size() - 2; block >= 0; --block) {
      Value isOther = isNot(e, rank, block);
      for (auto [value, share] : llvm::zip_equal(own, shares[block]))
        value = e.select(isOther, value, share);
    }
    return own;
  }

  static void addTo(Emitter &e, MutableArrayRef<Value> sums, Value pointer) {
    auto type = VectorType::get(kVectorElements, sums[0].getType());
    Value vector = LLVM::LoadOp::create(e.b, e.loc, type, pointer, kVectorBytes);
    for (auto [i, sum] : llvm::enumerate(sums)) {
      Value addend = LLVM::ExtractElementOp::create(e.b, e.loc, vector, e.i32(i));
      if (isa<FloatType>(sum.getType()))
        sum = arith::AddFOp::create(e.b, e.loc, sum, addend);
      else
        sum = e.add(sum, addend);
    }
  }
};

} // namespace

void sparseflow::populateReduceScatterPatterns(const TileTypeConverter &converter,
                                               RewritePatternSet &patterns) {
  patterns.add<LowerReduceScatter>(converter, patterns.getContext());
}
