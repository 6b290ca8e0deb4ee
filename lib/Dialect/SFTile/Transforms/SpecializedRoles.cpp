//===- SpecializedRoles.cpp - A producer and its consumers ----------------===//
//
// The producer, one thread, runs ahead of the consumers by as many stages as there are:
//
//   producer, for each step:          consumers, for each step k:
//     wait until the stage is empty     wait until the stage is full
//     announce its bytes                read metadata, then issue the products as one group
//     issue the copies                  wait until the group of step k-1 is done
//                                       say that the stage of step k-1 is empty
//
// One group stays in flight while the next is issued. An instruction reads its metadata, and its
// values where those are in registers, while it runs, so the registers of two steps alternate: the
// loop takes two steps at a time, an odd one goes first, and where the number of steps is not known
// nothing stays in flight.
//
// The last step of all is followed by the wait for everything alone. ptxas takes accumulators for
// complete behind any wait, even one that leaves their group in flight: behind a loop that ended
// with such a wait it moved the epilogue's conversions before the wait for everything.
//
// Barriers flip their parity each time around the ring: a stage's first phase, empty, counts as
// over, which is why the producer begins with the other parity than the consumers.
//
// The blocks of a cluster compute side by side along features: each copies its share of the tokens
// to all of them, so a stage is empty only when all have read it. Or they divide K: then they share
// no stage, and the consumers add up what they have at the end.
//
// Blocks stay and take one tile after the other, so the producer fills stages of the next tile
// while the consumers store this one; only where K is divided in a cluster, which is for few tiles,
// each takes one. What computes a tile's coordinates is copied into both roles; what is loaded
// before the pipeline is for the epilogue, so the consumers load it, for each tile ahead of its
// products.
//
// Where a kernel may begin while another one ends, the producer first brings the parts of a few
// stages that are constants: weights. What else belongs to them follows after the wait.
//
//===----------------------------------------------------------------------===//

#include "Roles.h"

#include "sparseflow/Dialect/SF/IR/SFAttributes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

/// Stages that get their constants ahead. To issue those of a whole ring takes the producer up to a
/// microsecond, which is lost where no kernel is ahead.
constexpr int64_t kStagesAhead = 2;

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
        ahead(std::min(stages, kStagesAhead)), consumerWarps(kernel.getThreads() / 32 - 1),
        cluster(kernel.getCluster().value_or(1)) {}

  LogicalResult run();

private:
  LogicalResult findTile();
  LogicalResult mapSources();
  /// Bytes that arrive in a stage, an i32.
  Value countStageBytes();
  void emitProducer();
  void emitConsumers();

  /// Inside of a new role, for each tile of the block: calls `emit` with the tile's values and the
  /// position in the ring, which it returns advanced. Ahead of all tiles calls `begin`.
  void emitRole(RoleKind kind, int64_t firstParity, function_ref<void(TileRangeOp)> begin,
                function_ref<RingPosition(IRMapping &tile, RingPosition)> emit);
  /// The values of the tile of that number.
  IRMapping emitTile(Value number);
  /// Issues the copies of one step, constants or others or both.
  void emitCopies(IRMapping &tile, Value step, Value stage, bool constants, bool others);
  void emitAcquire(RingPosition position);
  /// Fills stages with the constants of the block's first tile, from its first step on.
  void fillAhead(TileRangeOp range);
  /// The products of one step, issued, and the tiles in registers that they read.
  struct Group {
    SmallVector<Value> accumulators, operands;
  };
  Group issueStep(IRMapping &tile, Value step, RingPosition position, ValueRange accumulators);
  /// Waits for all groups but `pending`, and keeps registers until then.
  SmallVector<Value> wait(int64_t pending, ArrayRef<Value> registers);
  /// One step, from accumulators and position to accumulators and position, with nothing in flight
  /// before and after.
  SmallVector<Value> emitStep(IRMapping &tile, Value step, ValueRange carried);
  /// The same for an even number of steps, one of which stays in flight while the next is issued.
  SmallVector<Value> emitPairs(IRMapping &tile, Value lower, Value upper, ValueRange carried);
  /// The tiles in registers that the products of a step read.
  SmallVector<Value> getLoadedOperands();

  RingPosition advance(RingPosition position) {
    Value next = arith::AddIOp::create(b, loc, position.stage, index(1));
    Value wraps = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, next, index(stages));
    Value stage = arith::SelectOp::create(b, loc, wraps, index(0), next);
    Value flip = arith::ExtUIOp::create(b, loc, b.getI32Type(), wraps);
    return {stage, arith::XOrIOp::create(b, loc, position.parity, flip)};
  }
  RingPosition retreat(RingPosition position) {
    Value wraps = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, position.stage, index(0));
    Value before = arith::SubIOp::create(b, loc, position.stage, index(1));
    return {arith::SelectOp::create(b, loc, wraps, index(stages - 1), before), position.parity};
  }
  Value index(int64_t value) { return arith::ConstantIndexOp::create(b, loc, value); }
  Value i32(int64_t value) { return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(value)); }

  PipelineOp pipeline;
  KernelOp kernel;
  OpBuilder b;
  Location loc;
  int64_t stages, ahead, consumerWarps, cluster;
  /// Blocks of the cluster that load each other's tokens.
  int64_t sharers = 1;
  TileIdOp tileId;
  /// What depends on the tile before the pipeline, and what follows the pipeline.
  SmallVector<Operation *> coordinates, suffix;
  /// What stands before the pipeline and is the consumers' alone: loads, and what is made of them.
  llvm::SmallSetVector<Operation *, 4> loads;
  /// The producer's constants, which need not wait for the kernel before.
  SmallPtrSet<Operation *, 4> constantCopies;
  /// The barriers, and the bytes that arrive in a stage, an i32.
  Value barriers, stageBytes;
};

} // namespace

LogicalResult SpecializedRoles::run() {
  if (consumerWarps < 4 || consumerWarps % 4)
    return kernel.emitOpError("expected whole warpgroups and one warp more for the producer, got ")
           << kernel.getThreads() << " threads";
  if (failed(findTile()) || failed(mapSources()))
    return failure();
  int64_t sums = llvm::count_if(suffix, llvm::IsaPred<ReduceScatterOp>);
  if (sums > 1)
    return kernel.emitOpError(
               "expected one reduce_scatter, of all tiles: the inbox has one phase; got ")
           << sums;
  bool addsUp = sums;
  auto created = BarriersOp::create(b, loc, BarriersType::get(b.getContext(), stages),
                                    consumerWarps, IntegerAttr(), sharers, IntegerAttr());
  if (addsUp)
    created.setSenders((cluster - 1) * consumerWarps);
  barriers = created;
  emitProducer();
  emitConsumers();
  for (Operation *op : llvm::reverse(suffix))
    op->erase();
  pipeline.erase();
  for (Operation *op : llvm::reverse(loads))
    op->erase();
  for (Operation *op : llvm::reverse(coordinates))
    op->erase();
  tileId.erase();
  // There is one inbox, for one tile.
  kernel.setPersistent(!addsUp);
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
  sharers = tileId.getSplits() > 1 ? 1 : cluster;
  SmallPtrSet<Operation *, 8> dependent = {tileId};
  auto dependsOn = [](Operation &op, const auto &others) {
    return llvm::any_of(op.getOperands(),
                        [&](Value operand) { return others.contains(operand.getDefiningOp()); });
  };
  for (Operation &op : llvm::make_range(std::next(Block::iterator(tileId)), body.end())) {
    if (isa<ReturnOp>(op) || &op == pipeline)
      continue;
    if (pipeline->isBeforeInBlock(&op)) {
      suffix.push_back(&op);
    } else if (isa<LoadOp>(op) || dependsOn(op, loads)) {
      loads.insert(&op);
    } else if (dependsOn(op, dependent)) {
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
    if (copy.getOrder() == CopyOrder::Storage) {
      if (sf::getTarget(kernel).hasGridWait() && kernel.isConstant(copy.getSource()))
        constantCopies.insert(copy);
      continue;
    }
    auto argument = dyn_cast<BlockArgument>(copy.getSource());
    if (!argument || argument.getOwner()->getParentOp() != kernel)
      return copy.emitOpError("expected the source to be an argument of the kernel: its tensor map "
                              "is made before the launch");
    // The swizzle spans 128 bytes, so a box has no longer rows.
    constexpr int64_t swizzleBits = 128 * 8;
    Type element = copy.getRing().getType().getElementType();
    SmallVector<int64_t> box(copy.getSizes());
    box.back() = swizzleBits / element.getIntOrFloatBitWidth();
    // Blocks side by side compute the same tokens.
    box.front() /= sharers;
    copy.setMulticast(sharers);
    auto type = TensorMapType::get(b.getContext(), box, element, argument.getArgNumber());
    unsigned position = kernel.getNumArguments();
    if (failed(kernel.insertArgument(position, type, {}, copy.getLoc())))
      return failure();
    copy.getSourceMutable().assign(kernel.getArgument(position));
  }
  return success();
}

IRMapping SpecializedRoles::emitTile(Value number) {
  IRMapping tile;
  auto id = cast<TileIdOp>(b.clone(*tileId, tile));
  id.getNumberMutable().assign(number);
  for (Operation *op : coordinates)
    b.clone(*op, tile);
  return tile;
}

void SpecializedRoles::emitRole(RoleKind kind, int64_t firstParity,
                                function_ref<void(TileRangeOp)> begin,
                                function_ref<RingPosition(IRMapping &, RingPosition)> emit) {
  OpBuilder::InsertionGuard guard(b);
  auto role = RoleOp::create(b, loc, kind, consumerWarps);
  b.createBlock(&role.getBody());
  auto range = TileRangeOp::create(b, loc, b.getIndexType(), b.getIndexType(), b.getIndexType(),
                                   tileId.getTokens(), tileId.getFeatureTiles(),
                                   tileId.getTileTokens(), tileId.getSplits(), cluster);
  if (begin)
    begin(range);
  auto tiles = scf::ForOp::create(b, loc, range.getFirst(), range.getEnd(), range.getStep(),
                                  ValueRange{index(0), i32(firstParity)});
  keepLoop(tiles);
  b.setInsertionPointToStart(tiles.getBody());
  IRMapping tile = emitTile(tiles.getInductionVar());
  RingPosition position = emit(tile, {tiles.getRegionIterArg(0), tiles.getRegionIterArg(1)});
  b.setInsertionPointToEnd(tiles.getBody());
  scf::YieldOp::create(b, loc, position.values());
}

Value SpecializedRoles::countStageBytes() {
  int64_t fixed = 0;
  for (Value ring : pipeline.getRings())
    fixed += cast<RingType>(ring.getType()).getStageBytes();
  Value bytes = i32(fixed);
  for (auto copy : pipeline.getProducer().front().getOps<CopyAsyncOp>()) {
    auto map = dyn_cast<TensorMapType>(copy.getSource().getType());
    if (!map)
      continue;
    // A box of fewer rows brings fewer bytes of the stage.
    int64_t boxRows = map.getBox()[0],
            rowBytes = copy.getRing().getType().getStageBytes() / boxRows;
    Value rows = arith::MinSIOp::create(b, loc, tileId.getTokens(), index(boxRows));
    Value missing = arith::SubIOp::create(b, loc, index(boxRows), rows);
    Value missingBytes = arith::MulIOp::create(b, loc, missing, index(rowBytes));
    bytes = arith::SubIOp::create(b, loc, bytes,
                                  arith::IndexCastOp::create(b, loc, b.getI32Type(), missingBytes));
  }
  return bytes;
}

void SpecializedRoles::emitAcquire(RingPosition position) {
  AcquireOp::create(b, loc, barriers, position.stage, position.parity, stageBytes);
}

void SpecializedRoles::emitCopies(IRMapping &tile, Value step, Value stage, bool constants,
                                  bool others) {
  tile.map(pipeline.getProducer().getArguments(), ValueRange{step, stage});
  for (Operation &op : pipeline.getProducer().front().without_terminator()) {
    if (isa<CopyAsyncOp>(op) && !(constantCopies.contains(&op) ? constants : others))
      continue;
    if (auto copy = dyn_cast<CopyAsyncOp>(b.clone(op, tile)))
      copy.getBarriersMutable().assign(barriers);
  }
}

void SpecializedRoles::fillAhead(TileRangeOp range) {
  IRMapping tile = emitTile(range.getFirst());
  Value lower = tile.lookupOrDefault(pipeline.getLower()),
        upper = tile.lookupOrDefault(pipeline.getUpper());
  Value end =
      arith::MinSIOp::create(b, loc, arith::AddIOp::create(b, loc, lower, index(ahead)), upper);
  Value hasTile =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, range.getFirst(), range.getEnd());
  end = arith::SelectOp::create(b, loc, hasTile, end, lower);
  auto loop = scf::ForOp::create(b, loc, lower, end, index(1));
  keepLoop(loop);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  Value step = loop.getInductionVar(), stage = arith::SubIOp::create(b, loc, step, lower);
  emitAcquire({stage, i32(1)});
  emitCopies(tile, step, stage, /*constants=*/true, /*others=*/false);
}

void SpecializedRoles::emitProducer() {
  stageBytes = countStageBytes();
  Value firstTile;
  auto begin = [&](TileRangeOp range) {
    if (constantCopies.empty())
      return;
    firstTile = range.getFirst();
    fillAhead(range);
  };
  emitRole(RoleKind::Producer, /*firstParity=*/1, begin, [&](IRMapping &tile, RingPosition first) {
    Value lower = tile.lookupOrDefault(pipeline.getLower());
    auto loop = scf::ForOp::create(b, loc, lower, tile.lookupOrDefault(pipeline.getUpper()),
                                   index(1), first.values());
    b.setInsertionPointToStart(loop.getBody());
    Value step = loop.getInductionVar();
    RingPosition position = {loop.getRegionIterArg(0), loop.getRegionIterArg(1)};
    if (firstTile) {
      Value number = tile.lookup(tileId.getFeature()).getDefiningOp<TileIdOp>().getNumber();
      Value laterTile = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, number, firstTile);
      Value laterStep = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sge, step,
                                              arith::AddIOp::create(b, loc, lower, index(ahead)));
      auto notAhead = scf::IfOp::create(b, loc, arith::OrIOp::create(b, loc, laterTile, laterStep),
                                        /*withElseRegion=*/false);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(notAhead.thenBlock());
      emitAcquire(position);
      emitCopies(tile, step, position.stage, /*constants=*/true, /*others=*/false);
    } else {
      emitAcquire(position);
    }
    emitCopies(tile, step, position.stage, /*constants=*/!firstTile, /*others=*/true);
    scf::YieldOp::create(b, loc, advance(position).values());
    return RingPosition{loop.getResult(0), loop.getResult(1)};
  });
}

SmallVector<Value> SpecializedRoles::getLoadedOperands() {
  llvm::SmallSetVector<Value, 8> tiles;
  pipeline.getConsumer().walk([&](MmaOp mma) {
    if (Value metadata = mma.getMetadata())
      tiles.insert(metadata);
    if (mma.getAtom().getAtom().loadsA())
      tiles.insert(mma.getA());
  });
  return tiles.takeVector();
}

SpecializedRoles::Group SpecializedRoles::issueStep(IRMapping &tile, Value step,
                                                    RingPosition position, ValueRange carried) {
  AwaitOp::create(b, loc, barriers, position.stage, position.parity);
  Block &body = pipeline.getConsumer().front();
  tile.map(body.getArgument(0), step);
  tile.map(body.getArgument(1), position.stage);
  tile.map(body.getArguments().drop_front(2), carried);
  // Between the fence and the commit nothing but products: a register that is written there would
  // make the assembler wait for each.
  for (bool products : {false, true}) {
    if (products)
      MmaFenceOp::create(b, loc);
    for (Operation &op : body.without_terminator())
      if (isa<MmaOp>(op) == products)
        b.clone(op, tile);
  }
  MmaCommitOp::create(b, loc);
  Group group;
  for (Value value : body.getTerminator()->getOperands())
    group.accumulators.push_back(tile.lookupOrDefault(value));
  for (Value operand : getLoadedOperands())
    group.operands.push_back(tile.lookup(operand));
  return group;
}

SmallVector<Value> SpecializedRoles::wait(int64_t pending, ArrayRef<Value> registers) {
  auto done = MmaWaitOp::create(b, loc, TypeRange(ValueRange(registers)), pending, registers);
  return SmallVector<Value>(done.getResults());
}

SmallVector<Value> SpecializedRoles::emitStep(IRMapping &tile, Value step, ValueRange carried) {
  size_t numValues = pipeline.getInits().size();
  RingPosition position = {carried[numValues], carried[numValues + 1]};
  Group group = issueStep(tile, step, position, carried.take_front(numValues));
  SmallVector<Value> registers = group.accumulators;
  llvm::append_range(registers, group.operands);
  SmallVector<Value> results = wait(/*pending=*/0, registers);
  ReleaseOp::create(b, loc, barriers, position.stage, /*predicate=*/Value(), sharers);
  results.truncate(numValues);
  llvm::append_range(results, advance(position).values());
  return results;
}

SmallVector<Value> SpecializedRoles::emitPairs(IRMapping &tile, Value lower, Value upper,
                                               ValueRange carried) {
  // Step, accumulators and position; then what the older group in flight reads in registers, and
  // behind the products what the newer one does. At first there is none.
  size_t numValues = pipeline.getInits().size();
  SmallVector<Value> inits = {lower};
  llvm::append_range(inits, carried);
  for (Value operand : getLoadedOperands()) {
    auto type = cast<TileType>(operand.getType());
    Value zero = arith::ConstantOp::create(b, loc, b.getZeroAttr(type.getElementType()));
    inits.push_back(SplatOp::create(b, loc, type, zero));
  }
  size_t numOperands = inits.size() - 1 - carried.size();
  auto getPosition = [&](ValueRange values) {
    return RingPosition{values[1 + numValues], values[2 + numValues]};
  };
  auto finishOlder = [&](ValueRange operands, RingPosition position, Value predicate) {
    wait(/*pending=*/1, SmallVector<Value>(operands));
    ReleaseOp::create(b, loc, barriers, retreat(position).stage, predicate, sharers);
  };

  OpBuilder::InsertionGuard guard(b);
  SmallVector<Type> types = llvm::map_to_vector(inits, [](Value init) { return init.getType(); });
  llvm::append_range(types, ValueRange(inits).take_back(numOperands).getTypes());
  auto loop = scf::WhileOp::create(
      b, loc, types, inits,
      [&](OpBuilder &, Location, ValueRange values) {
        Value step = values[0];
        RingPosition position = getPosition(values);
        Group older = issueStep(tile, step, position, values.slice(1, numValues));
        finishOlder(values.take_back(numOperands), position,
                    arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, step, lower));
        position = advance(position);
        Value second = arith::AddIOp::create(b, loc, step, index(1));
        Group newer = issueStep(tile, second, position, older.accumulators);
        Value next = arith::AddIOp::create(b, loc, step, index(2));
        SmallVector<Value> results = {next};
        llvm::append_range(results, newer.accumulators);
        llvm::append_range(results, position.values());
        llvm::append_range(results, older.operands);
        llvm::append_range(results, newer.operands);
        Value goesOn = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ult, next, upper);
        scf::ConditionOp::create(b, loc, goesOn, results);
      },
      [&](OpBuilder &, Location, ValueRange values) {
        RingPosition position = getPosition(values);
        ValueRange operands = values.take_back(2 * numOperands);
        finishOlder(operands.take_front(numOperands), position, /*predicate=*/Value());
        SmallVector<Value> next(values.take_front(1 + numValues));
        llvm::append_range(next, advance(position).values());
        llvm::append_range(next, operands.take_back(numOperands));
        scf::YieldOp::create(b, loc, next);
      });
  b.setInsertionPointAfter(loop);
  SmallVector<Value> registers(loop.getResults().slice(1, numValues));
  llvm::append_range(registers, loop.getResults().take_back(2 * numOperands));
  SmallVector<Value> results = wait(/*pending=*/0, registers);
  RingPosition position = getPosition(loop.getResults());
  for (Value stage : {retreat(position).stage, position.stage})
    ReleaseOp::create(b, loc, barriers, stage, /*predicate=*/Value(), sharers);
  results.truncate(numValues);
  llvm::append_range(results, advance(position).values());
  return results;
}

/// Steps from `lower` to `upper`; 0 if that is not known.
static int64_t countSteps(Value lower, Value upper) {
  std::optional<int64_t> first = getConstantIntValue(lower), end = getConstantIntValue(upper);
  if (first && end)
    return *end - *first;
  auto sum = upper.getDefiningOp<arith::AddIOp>();
  if (!sum || sum.getLhs() != lower)
    return 0;
  return getConstantIntValue(sum.getRhs()).value_or(0);
}

void SpecializedRoles::emitConsumers() {
  size_t numValues = pipeline.getInits().size();
  emitRole(RoleKind::Consumer, /*firstParity=*/0, {}, [&](IRMapping &tile, RingPosition begin) {
    for (Operation *op : loads)
      b.clone(*op, tile);
    SmallVector<Value> values = llvm::map_to_vector(
        pipeline.getInits(), [&](Value init) { return tile.lookupOrDefault(init); });
    llvm::append_range(values, begin.values());
    Value lower = tile.lookupOrDefault(pipeline.getLower()),
          upper = tile.lookupOrDefault(pipeline.getUpper());
    if (int64_t steps = countSteps(lower, upper); steps > 1) {
      if (steps % 2) {
        values = emitStep(tile, lower, values);
        lower = b.createOrFold<arith::AddIOp>(loc, lower, index(1));
      }
      values = emitPairs(tile, lower, upper, values);
    } else {
      auto loop = scf::ForOp::create(b, loc, lower, upper, index(1), values);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      scf::YieldOp::create(b, loc,
                           emitStep(tile, loop.getInductionVar(), loop.getRegionIterArgs()));
      values = loop.getResults();
    }
    tile.map(pipeline.getResults(), ValueRange(values).take_front(numValues));
    for (Operation *op : suffix)
      if (auto scatter = dyn_cast<ReduceScatterOp>(b.clone(*op, tile)))
        scatter.getBarriersMutable().assign(barriers);
    return RingPosition{values[numValues], values[numValues + 1]};
  });
}

LogicalResult sf_tile::assignSpecializedRoles(PipelineOp pipeline) {
  return SpecializedRoles(pipeline).run();
}
