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
// Blocks stay and take one tile after the other, so the producer fills stages of the next tile
// while the consumers store this one. What computes a tile's coordinates is copied into both roles.
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
  LogicalResult findTile();
  LogicalResult mapSources();
  void emitProducer();
  void emitConsumers();

  /// Inside of a new role, for each tile of the block: calls `emit` with the tile's values and the
  /// position in the ring, which it returns advanced.
  void emitRole(RoleKind kind, int64_t firstParity,
                function_ref<RingPosition(IRMapping &tile, RingPosition)> emit);
  /// A loop over the steps of a tile that carries `inits`, the builder at the start of its body.
  scf::ForOp startSteps(IRMapping &tile, ValueRange inits) {
    auto loop = scf::ForOp::create(b, loc, tile.lookupOrDefault(pipeline.getLower()),
                                   tile.lookupOrDefault(pipeline.getUpper()), index(1), inits);
    b.setInsertionPointToStart(loop.getBody());
    return loop;
  }
  RingPosition advance(RingPosition position) {
    Value next = arith::AddIOp::create(b, loc, position.stage, index(1));
    Value wraps = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, next, index(stages));
    Value stage = arith::SelectOp::create(b, loc, wraps, index(0), next);
    Value flip = arith::ExtUIOp::create(b, loc, b.getI32Type(), wraps);
    return {stage, arith::XOrIOp::create(b, loc, position.parity, flip)};
  }
  Value index(int64_t value) { return arith::ConstantIndexOp::create(b, loc, value); }
  Value i32(int64_t value) { return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(value)); }

  PipelineOp pipeline;
  KernelOp kernel;
  OpBuilder b;
  Location loc;
  int64_t stages, consumerWarps;
  TileIdOp tileId;
  /// What depends on the tile before the pipeline, and what follows the pipeline.
  SmallVector<Operation *> coordinates, suffix;
  Value barriers;
};

} // namespace

LogicalResult SpecializedRoles::run() {
  if (consumerWarps < 4 || consumerWarps % 4)
    return kernel.emitOpError("expected whole warpgroups and one warp more for the producer, got ")
           << kernel.getThreads() << " threads";
  if (failed(findTile()) || failed(mapSources()))
    return failure();
  barriers = BarriersOp::create(b, loc, BarriersType::get(b.getContext(), stages), consumerWarps,
                                IntegerAttr());
  emitProducer();
  emitConsumers();
  for (Operation *op : llvm::reverse(suffix))
    op->erase();
  pipeline.erase();
  for (Operation *op : llvm::reverse(coordinates))
    op->erase();
  tileId.erase();
  kernel.setPersistent(true);
  return success();
}

LogicalResult SpecializedRoles::findTile() {
  if (pipeline->getParentOp() != kernel)
    return pipeline.emitOpError("expected the pipeline to stand directly in the kernel");
  Block &body = kernel.getBody().front();
  auto tiles = llvm::to_vector(body.getOps<TileIdOp>());
  if (tiles.size() != 1 || !tiles[0]->isBeforeInBlock(pipeline))
    return pipeline.emitOpError("expected one tile_id before the pipeline, got ") << tiles.size();
  tileId = tiles[0];
  SmallPtrSet<Operation *, 8> dependent = {tileId};
  for (Operation &op : llvm::make_range(std::next(Block::iterator(tileId)), body.end())) {
    if (isa<ReturnOp>(op) || &op == pipeline)
      continue;
    if (pipeline->isBeforeInBlock(&op)) {
      suffix.push_back(&op);
    } else if (llvm::any_of(op.getOperands(), [&](Value operand) {
                 return dependent.contains(operand.getDefiningOp());
               })) {
      dependent.insert(&op);
      coordinates.push_back(&op);
    }
  }
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

void SpecializedRoles::emitRole(RoleKind kind, int64_t firstParity,
                                function_ref<RingPosition(IRMapping &, RingPosition)> emit) {
  OpBuilder::InsertionGuard guard(b);
  auto role = RoleOp::create(b, loc, kind, consumerWarps);
  b.createBlock(&role.getBody());
  auto range = TileRangeOp::create(b, loc, b.getIndexType(), b.getIndexType(), b.getIndexType(),
                                   tileId.getTokens(), tileId.getFeatureTiles(),
                                   tileId.getTileTokens(), tileId.getSplits());
  auto tiles = scf::ForOp::create(b, loc, range.getFirst(), range.getEnd(), range.getStep(),
                                  ValueRange{index(0), i32(firstParity)});
  b.setInsertionPointToStart(tiles.getBody());
  IRMapping tile;
  auto number = cast<TileIdOp>(b.clone(*tileId, tile));
  number.getNumberMutable().assign(tiles.getInductionVar());
  for (Operation *op : coordinates)
    b.clone(*op, tile);
  RingPosition position = emit(tile, {tiles.getRegionIterArg(0), tiles.getRegionIterArg(1)});
  b.setInsertionPointToEnd(tiles.getBody());
  scf::YieldOp::create(b, loc, position.values());
}

void SpecializedRoles::emitProducer() {
  int64_t bytes = 0;
  for (Value ring : pipeline.getRings())
    bytes += cast<RingType>(ring.getType()).getStageBytes();
  emitRole(RoleKind::Producer, /*firstParity=*/1, [&](IRMapping &tile, RingPosition begin) {
    scf::ForOp loop = startSteps(tile, begin.values());
    RingPosition position = {loop.getRegionIterArg(0), loop.getRegionIterArg(1)};
    AcquireOp::create(b, loc, barriers, position.stage, position.parity, bytes);
    tile.map(pipeline.getProducer().getArguments(),
             ValueRange{loop.getInductionVar(), position.stage});
    for (Operation &op : pipeline.getProducer().front().without_terminator())
      if (auto copy = dyn_cast<CopyAsyncOp>(b.clone(op, tile)))
        copy.getBarriersMutable().assign(barriers);
    scf::YieldOp::create(b, loc, advance(position).values());
    return RingPosition{loop.getResult(0), loop.getResult(1)};
  });
}

void SpecializedRoles::emitConsumers() {
  size_t numValues = pipeline.getInits().size();
  emitRole(RoleKind::Consumer, /*firstParity=*/0, [&](IRMapping &tile, RingPosition begin) {
    SmallVector<Value> inits = llvm::map_to_vector(
        pipeline.getInits(), [&](Value init) { return tile.lookupOrDefault(init); });
    llvm::append_range(inits, begin.values());
    scf::ForOp loop = startSteps(tile, inits);
    ValueRange carried = loop.getRegionIterArgs();
    RingPosition position = {carried[numValues], carried[numValues + 1]};
    AwaitOp::create(b, loc, barriers, position.stage, position.parity);
    Block &body = pipeline.getConsumer().front();
    tile.map(body.getArgument(0), loop.getInductionVar());
    tile.map(body.getArgument(1), position.stage);
    tile.map(body.getArguments().drop_front(2), carried.take_front(numValues));
    SmallVector<Value> registers(body.getTerminator()->getOperands());
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
          b.clone(op, tile);
    }
    for (Value &value : registers)
      value = tile.lookupOrDefault(value);
    MmaCommitOp::create(b, loc);
    auto done = MmaWaitOp::create(b, loc, TypeRange(ValueRange(registers)), 0, registers);
    ReleaseOp::create(b, loc, barriers, position.stage, /*predicate=*/Value());
    SmallVector<Value> results(done.getResults().take_front(numValues));
    llvm::append_range(results, advance(position).values());
    scf::YieldOp::create(b, loc, results);

    b.setInsertionPointAfter(loop);
    tile.map(pipeline.getResults(), loop.getResults().take_front(numValues));
    for (Operation *op : suffix)
      b.clone(*op, tile);
    return RingPosition{loop.getResult(numValues), loop.getResult(numValues + 1)};
  });
}

LogicalResult sf_tile::assignSpecializedRoles(PipelineOp pipeline) {
  return SpecializedRoles(pipeline).run();
}
