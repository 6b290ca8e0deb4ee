//===- SharedMemory.h - What a kernel keeps in shared memory ----*- C++ -*-===//
//
// Rings, stage by stage, then the scratch of reductions, then barriers. sf-tile-plan-pipeline asks
// what a stage and the scratch take; sf-tile-allocate-smem places them.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_DIALECT_SFTILE_TRANSFORMS_SHAREDMEMORY_H
#define SPARSEFLOW_LIB_DIALECT_SFTILE_TRANSFORMS_SHAREDMEMORY_H

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

#include "llvm/Support/MathExtras.h"

namespace sparseflow::sf_tile {

/// The swizzle permutes 16-byte pieces inside 8 rows of 128 bytes; a stage that starts at its
/// period keeps the proof of sf-tile-assign-layouts.
constexpr int64_t kRingAlignment = 1024;

/// Bytes that one stage of `ring` takes.
inline int64_t getAlignedStageBytes(RingType ring) {
  return llvm::alignTo(ring.getStageBytes(), kRingAlignment);
}

/// Bytes kept for the barriers of a pipeline whose depth is not known yet: those of 16 stages and
/// an inbox.
constexpr int64_t kBarriersReserve = 264;

/// Bytes of scratch for the reductions of `kernel`, one after the other: 4 for each thread and
/// register of the result where warps must combine theirs. Layouts are assigned.
inline int64_t getReduceBytes(KernelOp kernel) {
  int64_t bytes = 0;
  kernel.walk([&](ReduceOp reduce) {
    if (!reduce.crossesWarps())
      return;
    int64_t registers = reduce.getResult().getType().getLayout().getNumRegisters();
    bytes = std::max<int64_t>(bytes, registers * 4 * kernel.getThreads());
  });
  return bytes;
}

/// All scratch of `kernel`. What other blocks write has a place of its own: they may be ahead.
inline int64_t getScratchBytes(KernelOp kernel) {
  int64_t bytes = getReduceBytes(kernel);
  kernel.walk([&](ReduceScatterOp scatter) { bytes += scatter.getScratchBytes(); });
  return bytes;
}

} // namespace sparseflow::sf_tile

#endif // SPARSEFLOW_LIB_DIALECT_SFTILE_TRANSFORMS_SHAREDMEMORY_H
