//===- SpecializedRoles.cpp - A producer and its consumers ----------------===//
//
// The producer, one thread, runs ahead of the consumers by as many stages as there are:
//
//   producer, for each step:          consumers, for each step:
//     wait until the stage is empty     wait until the stage is full
//     announce its bytes                read metadata, then issue the products as one group
//     issue the copies                  wait until they are done
//                                       say that the stage is empty
//
// While one warpgroup waits, another one's products run: two are enough. Barriers flip their parity
// each time around the ring: a stage's first phase, empty, counts as over, which is why the
// producer begins with the other parity than the consumers.
//
//===----------------------------------------------------------------------===//

#include "Roles.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

/// A position in the ring: the stage and the parity of its phase.
struct RingPosition {
  Value stage, parity;

  SmallVector<Value> values() const { return {stage, parity}; }
};

class SpecializedRoles {
public:
  SpecializedRoles(PipelineOp pipeline)
      : pipeline(pipeline), kernel(pipeline->getParentOfType<KernelOp>()), b(pipeline),
        loc(pipeline.getLoc()), stages(*pipeline.getStages()),
        consumerWarps(kernel.getThreads() / 32 - 1) {}

  LogicalResult run();

private:
  LogicalResult mapSources();
  void emitProducer();
  void emitConsumer();

  RoleOp startRole(RoleKind kind);
  Value index(int64_t value) { return arith::ConstantIndexOp::create(b, loc, value); }
  Value i32(int64_t value) { return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(value)); }
  Value isEqual(Value x, Value y) {
    return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, x, y);
  }
  /// A loop over the pipeline's steps that carries `inits`, the builder at the start of its body.
  scf::ForOp startSteps(ValueRange inits) {
    auto loop =
        scf::ForOp::create(b, loc, pipeline.getLower(), pipeline.getUpper(), index(1), inits);
    b.setInsertionPointToStart(loop.getBody());
    return loop;
  }
  RingPosition advance(RingPosition position) {
    Value next = arith::AddIOp::create(b, loc, position.stage, index(1));
    Value wraps = isEqual(next, index(stages));
    Value stage = arith::SelectOp::create(b, loc, wraps, index(0), next);
    Value flip = arith::ExtUIOp::create(b, loc, b.getI32Type(), wraps);
    return {stage, arith::XOrIOp::create(b, loc, position.parity, flip)};
  }

  PipelineOp pipeline;
  KernelOp kernel;
  OpBuilder b;
  Location loc;
  int64_t stages, consumerWarps;
  Value barriers;
};

} // namespace

LogicalResult SpecializedRoles::run() {
  if (consumerWarps < 4 || consumerWarps % 4)
    return kernel.emitOpError("expected whole warpgroups and one warp more for the producer, got ")
           << kernel.getThreads() << " threads";
  if (pipeline->getParentOp() != kernel)
    return pipeline.emitOpError("expected the pipeline to stand directly in the kernel");
  if (failed(mapSources()))
    return failure();
  barriers = BarriersOp::create(b, loc, BarriersType::get(b.getContext(), stages), consumerWarps,
                                IntegerAttr());
  emitProducer();
  emitConsumer();
  pipeline.erase();
  return success();
}

/// The copy engine takes matrices through tensor maps, which become arguments of the kernel.
LogicalResult SpecializedRoles::mapSources() {
  for (auto copy : pipeline.getProducer().front().getOps<CopyAsyncOp>()) {
    if (copy.getPredicate())
      return copy.emitOpError("expected a copy without a condition: the copy engine has none");
    if (copy.getOrder() == CopyOrder::Storage)
      continue;
    auto argument = dyn_cast<BlockArgument>(copy.getSource());
    if (!argument || argument.getOwner()->getParentOp() != kernel)
      return copy.emitOpError("expected the source to be an argument of the kernel: its tensor map "
                              "is made before the launch");
    // The swizzle spans 128 bytes, so a box has no longer rows.
    constexpr int64_t swizzleBits = 128 * 8;
    Type element = copy.getRing().getType().getElementType();
    SmallVector<int64_t> box(copy.getSizes());
    box.back() = swizzleBits / element.getIntOrFloatBitWidth();
    auto type = TensorMapType::get(b.getContext(), box, element, argument.getArgNumber());
    unsigned position = kernel.getNumArguments();
    if (failed(kernel.insertArgument(position, type, {}, copy.getLoc())))
      return failure();
    copy.getSourceMutable().assign(kernel.getArgument(position));
  }
  return success();
}

RoleOp SpecializedRoles::startRole(RoleKind kind) {
  auto role = RoleOp::create(b, loc, kind, consumerWarps);
  b.createBlock(&role.getBody());
  return role;
}

void SpecializedRoles::emitProducer() {
  OpBuilder::InsertionGuard guard(b);
  startRole(RoleKind::Producer);
  int64_t bytes = 0;
  for (Value ring : pipeline.getRings())
    bytes += cast<RingType>(ring.getType()).getStageBytes();
  scf::ForOp loop = startSteps({index(0), i32(1)});
  RingPosition position = {loop.getRegionIterArg(0), loop.getRegionIterArg(1)};
  AcquireOp::create(b, loc, barriers, position.stage, position.parity, bytes);
  IRMapping mapping;
  mapping.map(pipeline.getProducer().getArguments(),
              ValueRange{loop.getInductionVar(), position.stage});
  for (Operation &op : pipeline.getProducer().front().without_terminator())
    if (auto copy = dyn_cast<CopyAsyncOp>(b.clone(op, mapping)))
      copy.getBarriersMutable().assign(barriers);
  scf::YieldOp::create(b, loc, advance(position).values());
}

void SpecializedRoles::emitConsumer() {
  RoleOp role = startRole(RoleKind::Consumer);
  SmallVector<Value> inits(pipeline.getInits());
  size_t numValues = inits.size();
  inits.append({index(0), i32(0)});
  scf::ForOp loop = startSteps(inits);
  {
    OpBuilder::InsertionGuard guard(b);
    Value step = loop.getInductionVar();
    ValueRange carried = loop.getRegionIterArgs();
    RingPosition position = {carried[numValues], carried[numValues + 1]};
    AwaitOp::create(b, loc, barriers, position.stage, position.parity);
    Block &body = pipeline.getConsumer().front();
    IRMapping mapping;
    mapping.map(body.getArgument(0), step);
    mapping.map(body.getArgument(1), position.stage);
    mapping.map(body.getArguments().drop_front(2), carried.take_front(numValues));
    SmallVector<Value> registers =
        llvm::map_to_vector(body.getTerminator()->getOperands(), [&](Value v) { return v; });
    body.walk([&](MmaOp mma) {
      if (Value metadata = mma.getMetadata(); metadata && !llvm::is_contained(registers, metadata))
        registers.push_back(metadata);
    });
    // Between the fence and the commit nothing but products: a register that is written there would
    // make the assembler wait for each.
    for (bool products : {false, true}) {
      if (products)
        MmaFenceOp::create(b, loc);
      for (Operation &op : body.without_terminator())
        if (isa<MmaOp>(op) == products)
          b.clone(op, mapping);
    }
    for (Value &value : registers)
      value = mapping.lookupOrDefault(value);
    MmaCommitOp::create(b, loc);
    auto done = MmaWaitOp::create(b, loc, TypeRange(ValueRange(registers)), 0, registers);
    ReleaseOp::create(b, loc, barriers, position.stage, /*predicate=*/Value());
    SmallVector<Value> results(done.getResults().take_front(numValues));
    llvm::append_range(results, advance(position).values());
    scf::YieldOp::create(b, loc, results);
  }
  pipeline.replaceAllUsesWith(loop.getResults().take_front(numValues));
  // What follows the pipeline is the consumers' too.
  Block *body = &role.getBody().front();
  for (Operation &op : llvm::make_early_inc_range(
           llvm::make_range(std::next(Block::iterator(pipeline)), pipeline->getBlock()->end())))
    if (!isa<ReturnOp>(op))
      op.moveBefore(body, body->end());
}

LogicalResult sf_tile::assignSpecializedRoles(PipelineOp pipeline) {
  return SpecializedRoles(pipeline).run();
}
