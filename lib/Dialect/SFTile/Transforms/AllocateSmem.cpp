//===- AllocateSmem.cpp - sf-tile-allocate-smem ---------------------------===//

#include "SharedMemory.h"

#include "sparseflow/Dialect/SF/IR/SFAttributes.h"
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h"

#include "mlir/IR/BuiltinOps.h"

namespace sparseflow::sf_tile {
#define GEN_PASS_DEF_SFTILEALLOCATESMEM
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h.inc"
} // namespace sparseflow::sf_tile

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {
struct AllocateSmemPass : sf_tile::impl::SFTileAllocateSmemBase<AllocateSmemPass> {
  void runOnOperation() override {
    KernelOp kernel = getOperation();
    Builder builder(&getContext());
    SmallVector<RingOp> rings;
    kernel.walk([&](RingOp ring) { rings.push_back(ring); });
    if (failed(checkPreconditions(kernel, rings)))
      return signalPassFailure();
    int64_t stride = 0, stages = 1;
    for (RingOp ring : rings) {
      ring.setOffset(stride);
      stride += getAlignedStageBytes(ring.getType());
      stages = std::max(stages, ring.getType().getStages());
    }
    for (RingOp ring : rings)
      ring.setStride(stride);
    // Behind the rings: a reduction may run while stages are in flight.
    int64_t ringBytes = stages * stride;
    kernel.walk([&](ReduceOp reduce) {
      if (reduce.crossesWarps())
        reduce.setScratchOffsetAttr(builder.getI64IntegerAttr(ringBytes));
    });
    int64_t bytes = ringBytes + getReduceBytes(kernel);
    kernel.walk([&](ReduceScatterOp scatter) {
      scatter.setScratchOffset(bytes);
      bytes += scatter.getScratchBytes();
    });
    kernel.walk([&](BarriersOp barriers) {
      barriers.setOffset(bytes);
      bytes += barriers.getBytes();
    });
    sf::TargetAttr target = sf::getTarget(kernel);
    if (bytes > target.getSharedMemoryPerBlock()) {
      kernel.emitOpError("expected at most ")
          << target.getSharedMemoryPerBlock() << " bytes of shared memory on " << target.getChip()
          << ", got " << bytes << "; choose a smaller tile or fewer stages";
      return signalPassFailure();
    }
    kernel.setSharedBytes(bytes);
  }

private:
  static LogicalResult checkPreconditions(KernelOp kernel, ArrayRef<RingOp> rings) {
    for (RingOp ring : rings)
      if (ShapedType::isDynamic(ring.getType().getStages()))
        return ring->emitOpError("expected a known depth; run sf-tile-plan-pipeline first");
    WalkResult result = kernel.walk([](ReduceOp reduce) -> WalkResult {
      if (reduce.getResult().getType().getLayout())
        return success();
      return reduce.emitOpError(
          "expected layouts to be assigned; run sf-tile-assign-layouts first");
    });
    return failure(result.wasInterrupted());
  }
};
} // namespace
