//===- PlanPipeline.cpp - sf-tile-plan-pipeline ---------------------------===//

#include "SharedMemory.h"

#include "sparseflow/Dialect/SF/IR/PipelineDepth.h"
#include "sparseflow/Dialect/SF/IR/SFAttributes.h"
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h"

#include "mlir/IR/BuiltinOps.h"

namespace sparseflow::sf_tile {
#define GEN_PASS_DEF_SFTILEPLANPIPELINE
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h.inc"
} // namespace sparseflow::sf_tile

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {
struct PlanPipelinePass : sf_tile::impl::SFTilePlanPipelineBase<PlanPipelinePass> {
  using SFTilePlanPipelineBase::SFTilePlanPipelineBase;

  void runOnOperation() override {
    getOperation().walk([&](PipelineOp pipeline) {
      if (failed(plan(pipeline)))
        signalPassFailure();
    });
  }

private:
  LogicalResult plan(PipelineOp pipeline) {
    int64_t stageBytes = 0;
    for (Value ring : pipeline.getRings())
      stageBytes += getAlignedStageBytes(cast<RingType>(ring.getType()));
    if (stageBytes == 0)
      return pipeline.emitOpError("expected a pipeline with rings, whose stages hold whole bytes");
    sf::TargetAttr target = sf::getTarget(getOperation());
    int64_t sharedBytes = target.getSharedMemoryPerBlock() - getScratchBytes(getOperation());
    if (pipeline.hasAsynchronousProducts())
      sharedBytes -= kBarriersReserve;
    std::optional<int64_t> planned =
        sf::planPipelineDepth(stageBytes, sharedBytes, bytesInFlight, maxStages);
    if (!planned)
      return pipeline.emitOpError("expected two stages to fit in the ")
             << sharedBytes << " bytes of shared memory of " << target.getChip()
             << ", got stages of " << stageBytes << "; choose a smaller tile";

    auto config = dyn_cast_or_null<sf::KernelConfigAttr>(getOperation().getConfigAttr());
    int64_t stages = config ? config.getStages().value_or(*planned) : *planned;
    if (stages * stageBytes > sharedBytes)
      return pipeline.emitOpError("expected at most ")
             << sharedBytes / stageBytes << " stages of " << stageBytes << " bytes on "
             << target.getChip() << ", got " << stages << " in the kernel's configuration";

    pipeline.setStages(stages);
    for (Value ring : pipeline.getRings())
      ring.setType(cast<RingType>(ring.getType()).withStages(stages));
    return success();
  }
};
} // namespace
