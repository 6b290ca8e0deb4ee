//===- AllocateSmem.cpp - sf-tile-allocate-smem ---------------------------===//

#include "sparseflow/Dialect/SFTile/Transforms/Passes.h"

#include "sparseflow/Dialect/SF/IR/SFAttributes.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/MathExtras.h"

namespace sparseflow::sf_tile {
#define GEN_PASS_DEF_SFTILEALLOCATESMEM
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h.inc"
} // namespace sparseflow::sf_tile

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {
/// The swizzle permutes 16-byte pieces inside 8 rows of 128 bytes; a stage that starts at its
/// period keeps the proof.
constexpr int64_t kRingAlignment = 1024;

struct AllocateSmemPass : sf_tile::impl::SFTileAllocateSmemBase<AllocateSmemPass> {
  void runOnOperation() override {
    KernelOp kernel = getOperation();
    Builder builder(&getContext());
    int64_t end = 0, scratch = 0;
    SmallVector<RingOp> rings;
    kernel.walk([&](RingOp ring) { rings.push_back(ring); });
    if (failed(checkPreconditions(kernel, rings)))
      return signalPassFailure();
    int64_t stages = 1;
    for (RingOp ring : rings) {
      ring.setOffset(end);
      end = llvm::alignTo(end + ring.getType().getStageBytes(), kRingAlignment);
      stages = std::max(stages, ring.getType().getStages());
    }
    for (RingOp ring : rings)
      ring.setStride(end);
    end *= stages;
    // 4 bytes for each thread and register of the result.
    kernel.walk([&](ReduceOp reduce) {
      reduce.setScratchOffsetAttr(builder.getI64IntegerAttr(0));
      int64_t registers = reduce.getResult().getType().getLayout().getNumRegisters();
      scratch = std::max(scratch, registers * 4 * static_cast<int64_t>(kernel.getThreads()));
    });
    int64_t bytes = std::max(end, scratch);
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
