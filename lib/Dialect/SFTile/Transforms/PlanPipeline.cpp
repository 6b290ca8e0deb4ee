//===- PlanPipeline.cpp - sf-tile-plan-pipeline ---------------------------===//

#include "sparseflow/Dialect/SFTile/Transforms/Passes.h"

#include "sparseflow/Dialect/SF/IR/SFAttributes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/MathExtras.h"

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
      stageBytes += cast<RingType>(ring.getType()).getStageBytes();
    if (stageBytes == 0)
      return pipeline.emitOpError("expected a pipeline with rings, whose stages hold whole bytes");
    sf::TargetAttr target = sf::getTarget(getOperation());
    int64_t capacity = target.getSharedMemoryPerBlock() / stageBytes;

    auto config = dyn_cast_or_null<sf::KernelConfigAttr>(getOperation().getConfigAttr());
    std::optional<int64_t> wanted = config ? config.getStages() : std::nullopt;
    if (wanted && *wanted > capacity)
      return pipeline.emitOpError("expected at most ")
             << capacity << " stages of " << stageBytes << " bytes on " << target.getChip()
             << ", got " << *wanted << " in the kernel's configuration";
    if (capacity < 2)
      return pipeline.emitOpError("expected two stages to fit in the ")
             << target.getSharedMemoryPerBlock() << " bytes of shared memory of "
             << target.getChip() << ", got stages of " << stageBytes << "; choose a smaller tile";
    int64_t stages =
        wanted.value_or(std::clamp<int64_t>(llvm::divideCeil(bytesInFlight, stageBytes) + 1, 2,
                                            std::min<int64_t>(capacity, maxStages)));

    pipeline.setStages(stages);
    for (Value ring : pipeline.getRings())
      ring.setType(cast<RingType>(ring.getType()).withStages(stages));
    return success();
  }
};
} // namespace
