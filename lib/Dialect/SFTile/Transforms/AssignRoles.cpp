//===- AssignRoles.cpp - sf-tile-assign-roles -----------------------------===//
//
// Cooperative roles. With S stages, step k waits for all groups but S - 2, which leaves exactly the groups of steps k + 1 to
// k + S - 2 in flight; the barrier in the wait also says that every warp is done with step k - 1, so its stage can
// take step k + S - 1.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SFTile/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"

namespace sparseflow::sf_tile {
#define GEN_PASS_DEF_SFTILEASSIGNROLES
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h.inc"
} // namespace sparseflow::sf_tile

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

struct AssignRolesPass : sf_tile::impl::SFTileAssignRolesBase<AssignRolesPass> {
  void runOnOperation() override {
    SmallVector<PipelineOp> pipelines;
    getOperation().walk([&](PipelineOp pipeline) { pipelines.push_back(pipeline); });
    for (PipelineOp pipeline : pipelines) {
      if (!pipeline.getStages() || *pipeline.getStages() < 2) {
        pipeline.emitOpError("expected at least two stages; run sf-tile-plan-pipeline first");
        return signalPassFailure();
      }
      makeCooperative(pipeline);
    }
  }

private:
  /// Issues the copies of `step` into `stage` if the step exists, and commits their group.
  static void produce(OpBuilder &b, PipelineOp pipeline, Value step, Value stage) {
    Location loc = pipeline.getLoc();
    Value exists = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, step, pipeline.getUpper());
    auto ifOp = scf::IfOp::create(b, loc, exists, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(ifOp.thenBlock());
      cloneBody(b, pipeline.getProducer().front(), {step, stage});
    }
    CommitOp::create(b, loc);
  }

  static SmallVector<Value> cloneBody(OpBuilder &b, Block &body, ValueRange arguments) {
    IRMapping mapping;
    mapping.map(body.getArguments(), arguments);
    for (Operation &op : body.without_terminator())
      b.clone(op, mapping);
    return llvm::map_to_vector(body.getTerminator()->getOperands(),
                               [&](Value v) { return mapping.lookupOrDefault(v); });
  }

  static void makeCooperative(PipelineOp pipeline) {
    OpBuilder b(pipeline);
    Location loc = pipeline.getLoc();
    int64_t stages = *pipeline.getStages();
    auto index = [&](int64_t i) -> Value { return arith::ConstantIndexOp::create(b, loc, i); };
    auto add = [&](Value x, Value y) -> Value { return arith::AddIOp::create(b, loc, x, y); };
    Value one = index(1), zero = index(0), depth = index(stages);
    auto next = [&](Value stage) -> Value {
      Value following = add(stage, one);
      Value wraps = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, following, depth);
      return arith::SelectOp::create(b, loc, wraps, zero, following);
    };

    for (int64_t i = 0; i + 1 < stages; ++i)
      produce(b, pipeline, add(pipeline.getLower(), index(i)), index(i));

    // Carried: the stage to read, the stage to fill, and the pipeline's own values.
    SmallVector<Value> inits = {zero, index(stages - 1)};
    llvm::append_range(inits, pipeline.getInits());
    auto loop = scf::ForOp::create(b, loc, pipeline.getLower(), pipeline.getUpper(), one, inits);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value step = loop.getInductionVar();
      Value read = loop.getRegionIterArg(0), fill = loop.getRegionIterArg(1);
      WaitOp::create(b, loc, stages - 2);
      produce(b, pipeline, add(step, index(stages - 1)), fill);
      SmallVector<Value> arguments = {step, read};
      llvm::append_range(arguments, loop.getRegionIterArgs().drop_front(2));
      SmallVector<Value> results = {next(read), next(fill)};
      llvm::append_range(results, cloneBody(b, pipeline.getConsumer().front(), arguments));
      scf::YieldOp::create(b, loc, results);
    }
    // Empty groups may be left; draining them keeps later users of the shared memory simple.
    WaitOp::create(b, loc, 0);
    pipeline.replaceAllUsesWith(loop.getResults().drop_front(2));
    pipeline.erase();
  }
};
} // namespace
