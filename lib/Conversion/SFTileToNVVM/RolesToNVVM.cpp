//===- RolesToNVVM.cpp - Producer, consumers and their barriers -----------===//
//
// A stage's two barriers are mbarrier objects of 8 bytes: first all the full ones, then all the
// empty ones, then the inbox if there is one. PTX ISA, 9.7.13.15 "mbarrier".
//
//===----------------------------------------------------------------------===//

#include "Lowering.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

Value sparseflow::getFullBarrier(Emitter &e, Value barriers, Value stage) {
  return e.sharedPointer(e.add(barriers, e.mul(stage, e.i32(kBarrierBytes))));
}

void sparseflow::emitClusterBarrier(Emitter &e) {
  // Not aligned: the producer's warp comes in parts.
  NVVM::ClusterArriveOp::create(e.b, e.loc, /*aligned=*/UnitAttr());
  NVVM::ClusterWaitOp::create(e.b, e.loc, /*aligned=*/UnitAttr());
}

static Value getEmptyBarrier(Emitter &e, BarriersType type, Value barriers, Value stage) {
  return e.offsetPointer(getFullBarrier(e, barriers, stage), type.getStages() * kBarrierBytes);
}

Value sparseflow::getInboxBarrier(Emitter &e, BarriersType type, Value barriers) {
  return e.offsetPointer(e.sharedPointer(barriers), 2 * type.getStages() * kBarrierBytes);
}

void sparseflow::emitIf(Emitter &e, Value condition, function_ref<void()> emit) {
  OpBuilder::InsertionGuard guard(e.b);
  auto ifOp = scf::IfOp::create(e.b, e.loc, condition, /*withElseRegion=*/false);
  e.b.setInsertionPointToStart(ifOp.thenBlock());
  emit();
}

void sparseflow::emitWait(Emitter &e, Value barrier, Value parity, NVVM::MemScopeKind scope) {
  OpBuilder::InsertionGuard guard(e.b);
  auto loop = scf::WhileOp::create(e.b, e.loc, TypeRange(), ValueRange());
  e.b.createBlock(&loop.getBefore());
  // The instruction itself waits for a while.
  Value done = NVVM::MBarrierTryWaitOp::create(e.b, e.loc, e.b.getI1Type(), barrier, parity,
                                               /*ticks=*/Value(), scope);
  Value again = arith::XOrIOp::create(e.b, e.loc, done,
                                      arith::ConstantOp::create(e.b, e.loc, e.b.getBoolAttr(true)));
  scf::ConditionOp::create(e.b, e.loc, again, ValueRange());
  e.b.createBlock(&loop.getAfter());
  scf::YieldOp::create(e.b, e.loc);
}

Value sparseflow::mapToBlock(Emitter &e, Value pointer, Value rank) {
  auto type = LLVM::LLVMPointerType::get(
      e.b.getContext(), static_cast<unsigned>(NVVM::NVVMMemorySpace::SharedCluster));
  return NVVM::MapaOp::create(e.b, e.loc, type, pointer, rank);
}

namespace {

Value isEqual(Emitter &e, Value x, int64_t y) {
  return arith::CmpIOp::create(e.b, e.loc, arith::CmpIPredicate::eq, x, e.i32(y));
}

struct LowerBarriers : OpConversionPattern<BarriersOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(BarriersOp op, OpAdaptor,
                                ConversionPatternRewriter &rewriter) const override {
    if (!op.getOffset())
      return op.emitOpError("expected an offset; run sf-tile-allocate-smem first");
    Emitter e(rewriter, op.getLoc());
    BarriersType type = op.getResult().getType();
    Value barriers = e.i32(*op.getOffset());
    auto initialize = [&](Value barrier, int64_t arrivals) {
      NVVM::MBarrierInitOp::create(rewriter, e.loc, barrier, e.i32(arrivals),
                                   /*predicate=*/Value());
    };
    emitIf(e, isEqual(e, e.threadId(), 0), [&] {
      for (int64_t stage = 0; stage < type.getStages(); ++stage) {
        initialize(getFullBarrier(e, barriers, e.i32(stage)), 1);
        initialize(getEmptyBarrier(e, type, barriers, e.i32(stage)),
                   op.getConsumers() * op.getCluster());
      }
      if (std::optional<int64_t> senders = op.getSenders())
        initialize(getInboxBarrier(e, type, barriers), *senders);
      // The copy engine, too, must find them initialized.
      NVVM::FenceMbarrierInitOp::create(rewriter, e.loc);
    });
    if (op.getCluster() > 1 || op.getSenders())
      emitClusterBarrier(e);
    else
      NVVM::Barrier0Op::create(rewriter, e.loc);
    rewriter.replaceOp(op, barriers);
    return success();
  }
};

struct LowerRole : OpConversionPattern<RoleOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(RoleOp op, OpAdaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    // The consumers' condition is one that the assembler knows to be the same in a warp: in a
    // branch that may diverge it would make every product wait for the one before.
    constexpr int64_t warpThreads = 32, warpgroupWarps = 4;
    Value mine = op.getKind() == RoleKind::Producer
                     ? isEqual(e, e.threadId(), op.getConsumers() * warpThreads)
                     : e.lessThan(e.warpgroupId(), e.i32(op.getConsumers() / warpgroupWarps));
    auto ifOp = scf::IfOp::create(rewriter, e.loc, mine, /*withElseRegion=*/false);
    Block *target = ifOp.thenBlock();
    rewriter.inlineBlockBefore(&op.getBody().front(), target, target->begin());
    rewriter.eraseOp(op);
    return success();
  }
};

struct LowerAcquire : OpConversionPattern<AcquireOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(AcquireOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    Value stage = e.toI32(adaptor.getStage()), barriers = adaptor.getBarriers();
    emitWait(e, getEmptyBarrier(e, op.getBarriers().getType(), barriers, stage),
             adaptor.getParity());
    NVVM::MBarrierArriveExpectTxOp::create(
        rewriter, e.loc, /*res=*/Type(), getFullBarrier(e, barriers, stage), adaptor.getBytes(),
        NVVM::MemScopeKind::CTA, /*relaxed=*/false, /*predicate=*/Value());
    rewriter.eraseOp(op);
    return success();
  }
};

struct LowerAwait : OpConversionPattern<AwaitOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(AwaitOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    emitWait(e, getFullBarrier(e, adaptor.getBarriers(), e.toI32(adaptor.getStage())),
             adaptor.getParity());
    rewriter.eraseOp(op);
    return success();
  }
};

struct LowerRelease : OpConversionPattern<ReleaseOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ReleaseOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    // One lane speaks for all: what they read comes before.
    NVVM::SyncWarpOp::create(rewriter, e.loc, e.i32(-1));
    // Lane i tells block i.
    Value lane = e.laneId();
    Value tells = e.lessThan(lane, e.i32(op.getCluster()));
    emitIf(e, e.both(tells, adaptor.getPredicate()), [&] {
      Value barrier = getEmptyBarrier(e, op.getBarriers().getType(), adaptor.getBarriers(),
                                      e.toI32(adaptor.getStage()));
      if (op.getCluster() > 1)
        barrier = mapToBlock(e, barrier, lane);
      NVVM::MBarrierArriveOp::create(rewriter, e.loc, /*res=*/Type(), barrier, /*count=*/Value(),
                                     NVVM::MemScopeKind::CTA, /*relaxed=*/false);
    });
    rewriter.eraseOp(op);
    return success();
  }
};

} // namespace

void sparseflow::populateRolesPatterns(const TileTypeConverter &converter,
                                       RewritePatternSet &patterns) {
  patterns.add<LowerBarriers, LowerRole, LowerAcquire, LowerAwait, LowerRelease>(
      converter, patterns.getContext());
}
