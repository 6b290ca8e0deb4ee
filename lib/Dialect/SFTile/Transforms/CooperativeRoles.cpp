//===- CooperativeRoles.cpp - All warps produce and consume ---------------===//
//
// Fragments are read one matrix product ahead, over the border between stages too, so the tensor
// cores never wait for shared memory:
//
//   fill stages 0 .. S-1; wait for stage 0; read the fragments of its first product
//   for each step k:
//     for each product but the last:  read the next one's fragments; multiply
//     wait for stage k+1    // and a barrier: every warp has issued its last read of stage k
//     read the fragments of the first product of stage k+1; multiply
//     fill stage k again, with step k+S
//
// Of the S groups in flight the wait leaves S - 2, those after step k+1. Copies beyond the domain
// write zeros: the reads that run ahead of the last step then find a stage that was written.
//
//===----------------------------------------------------------------------===//

#include "Roles.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

/// Issues the copies of `step` into `stage`, or zeros if the step does not exist, and commits
/// their group.
static void produce(OpBuilder &b, PipelineOp pipeline, Value step, Value stage) {
  Location loc = pipeline.getLoc();
  Value exists =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, step, pipeline.getUpper());
  IRMapping mapping;
  mapping.map(pipeline.getProducer().getArguments(), ValueRange{step, stage});
  for (Operation &op : pipeline.getProducer().front().without_terminator()) {
    auto copy = dyn_cast<CopyAsyncOp>(b.clone(op, mapping));
    if (!copy)
      continue;
    Value condition = exists;
    if (Value own = copy.getPredicate()) {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPoint(copy);
      condition = arith::AndIOp::create(b, loc, own, exists);
    }
    copy.getPredicateMutable().assign(condition);
  }
  CommitOp::create(b, loc);
}

namespace {
/// The consumer, cut at its products: products[i] needs the operations of operands[i] and no later
/// ones.
struct Consumer {
  SmallVector<MmaOp> products;
  SmallVector<SmallVector<Operation *>> operands;
};
} // namespace

static bool isMetadata(Operation *op) {
  return llvm::any_of(op->getUsers(), [&](Operation *user) {
    auto mma = dyn_cast<MmaOp>(user);
    return mma && mma.getMetadata() && mma.getMetadata().getDefiningOp() == op;
  });
}

static FailureOr<Consumer> analyze(PipelineOp pipeline) {
  Consumer consumer;
  SmallVector<Operation *> pending;
  for (Operation &op : pipeline.getConsumer().front().without_terminator()) {
    if (auto mma = dyn_cast<MmaOp>(op)) {
      consumer.products.push_back(mma);
      consumer.operands.push_back(std::exchange(pending, {}));
    } else if (isa<LoadOp, arith::ConstantOp>(op)) {
      pending.push_back(&op);
    } else {
      return op.emitOpError("expected a consumer of loads and matrix products");
    }
  }
  if (consumer.products.empty() || !pending.empty())
    return pipeline.emitOpError("expected a consumer that ends in a matrix product");
  return consumer;
}

LogicalResult sf_tile::assignCooperativeRoles(PipelineOp pipeline) {
  FailureOr<Consumer> consumer = analyze(pipeline);
  if (failed(consumer))
    return failure();
  OpBuilder b(pipeline);
  Location loc = pipeline.getLoc();
  int64_t stages = *pipeline.getStages();
  auto index = [&](int64_t i) -> Value { return arith::ConstantIndexOp::create(b, loc, i); };
  auto add = [&](Value x, Value y) -> Value { return arith::AddIOp::create(b, loc, x, y); };
  Value one = index(1), zero = index(0), depth = index(stages);
  Block &body = pipeline.getConsumer().front();
  /// Copies the operand reads of product `i` and returns the values that the product may use.
  auto read = [&](
                  size_t i, Value step, Value stage, IRMapping &mapping,
                  function_ref<bool(Operation *)> wanted = [](Operation *) { return true; }) {
    mapping.map(body.getArgument(0), step);
    mapping.map(body.getArgument(1), stage);
    for (Operation *op : consumer->operands[i])
      if (wanted(op))
        b.clone(*op, mapping);
  };

  // Both loops stay loops. Unrolled, this one has the addresses of all stages in registers
  // together; ptxas unrolls the other, where it is short, into twice the registers.
  auto fill = scf::ForOp::create(b, loc, zero, depth, one);
  keepLoop(fill);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(fill.getBody());
    Value stage = fill.getInductionVar();
    produce(b, pipeline, add(pipeline.getLower(), stage), stage);
  }
  WaitOp::create(b, loc, stages - 1);
  IRMapping first;
  read(0, pipeline.getLower(), zero, first);

  // Carried: the stage to read, the pipeline's own values, the fragments of the first product.
  SmallVector<Value> ahead;
  for (Operation *op : consumer->operands[0])
    llvm::append_range(ahead, op->getResults());
  SmallVector<Value> inits = {zero};
  llvm::append_range(inits, pipeline.getInits());
  size_t numValues = inits.size();
  for (Value value : ahead)
    inits.push_back(first.lookup(value));
  auto loop = scf::ForOp::create(b, loc, pipeline.getLower(), pipeline.getUpper(), one, inits);
  keepLoop(loop);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value step = loop.getInductionVar(), stage = loop.getRegionIterArg(0);
    IRMapping mapping;
    mapping.map(body.getArguments().drop_front(2),
                loop.getRegionIterArgs().slice(1, numValues - 1));
    for (auto [value, carried] :
         llvm::zip_equal(ahead, loop.getRegionIterArgs().drop_front(numValues)))
      mapping.map(value, carried);

    // Metadata needs few registers but for long; read after the product, it takes over those of
    // its own.
    auto isFragment = [](Operation *op) { return !isMetadata(op); };
    size_t last = consumer->products.size() - 1;
    for (size_t i = 0; i < last; ++i) {
      read(i + 1, step, stage, mapping, isFragment);
      b.clone(*consumer->products[i], mapping);
      read(i + 1, step, stage, mapping, isMetadata);
    }
    WaitOp::create(b, loc, stages - 2);
    Value following = add(stage, one);
    Value wraps = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, following, depth);
    Value nextStage = arith::SelectOp::create(b, loc, wraps, zero, following);
    IRMapping next;
    read(0, add(step, one), nextStage, next, isFragment);
    b.clone(*consumer->products[last], mapping);
    read(0, add(step, one), nextStage, next, isMetadata);
    produce(b, pipeline, add(step, depth), stage);

    SmallVector<Value> results = {nextStage};
    for (Value value : body.getTerminator()->getOperands())
      results.push_back(mapping.lookupOrDefault(value));
    for (Value value : ahead)
      results.push_back(next.lookup(value));
    scf::YieldOp::create(b, loc, results);
  }
  // Groups of zeros are still in flight; draining them lets others use the shared memory.
  WaitOp::create(b, loc, 0);
  pipeline.replaceAllUsesWith(loop.getResults().slice(1, numValues - 1));
  pipeline.erase();
  return success();
}
