//===- AssignRoles.cpp - sf-tile-assign-roles -----------------------------===//
//
// The instruction decides: one that reads shared memory asynchronously has consumers that only wait
// and multiply, and a producer of its own; for one that takes registers all warps do both.
//
//===----------------------------------------------------------------------===//

#include "Roles.h"

#include "sparseflow/Dialect/SF/IR/SFAttributes.h"
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

namespace sparseflow::sf_tile {
#define GEN_PASS_DEF_SFTILEASSIGNROLES
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h.inc"
} // namespace sparseflow::sf_tile

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

void sf_tile::keepLoop(scf::ForOp loop) {
  MLIRContext *context = loop.getContext();
  auto disable =
      LLVM::LoopUnrollAttr::get(context, BoolAttr::get(context, true), {}, {}, {}, {}, {}, {});
  loop->setAttr("loop_annotation",
                LLVM::LoopAnnotationAttr::get(context, {}, {}, {}, disable, {}, {}, {}, {}, {}, {},
                                              {}, {}, {}, {}, {}));
}

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
      if (failed(pipeline.hasAsynchronousProducts() ? assignSpecializedRoles(pipeline)
                                                    : assignCooperativeRoles(pipeline)))
        return signalPassFailure();
    }
    if (sf::getTarget(getOperation()).hasGridWait())
      waitForGrid(getOperation());
  }
};
} // namespace
