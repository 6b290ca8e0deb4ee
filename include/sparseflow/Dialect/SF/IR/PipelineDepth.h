//===- PipelineDepth.h - How many stages a ring gets -------------*- C++ -*-===//
//
// sf-tile-plan-pipeline decides with it, and the cost model of sf-select-config has to foresee the
// decision: the rule and its constants stand here once.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SF_IR_PIPELINEDEPTH_H
#define SPARSEFLOW_DIALECT_SF_IR_PIPELINEDEPTH_H

#include "llvm/Support/MathExtras.h"

#include <algorithm>
#include <cstdint>
#include <optional>

namespace sparseflow::sf {

/// Bytes that should be under way to one multiprocessor: 800 ns at its share of the L2's bandwidth,
/// twice over.
constexpr int64_t kBytesInFlight = 128 * 1024;
/// Deeper rings than this measured no faster.
constexpr int64_t kMaxPipelineStages = 8;
/// One stage is filled while the other is read.
constexpr int64_t kMinPipelineStages = 2;

/// The smallest number of stages, each of `stageBytes`, that keeps `bytesInFlight` under way while
/// one stage is read, and that fits in `sharedBytes`. None if not even two fit.
inline std::optional<int64_t> planPipelineDepth(int64_t stageBytes, int64_t sharedBytes,
                                                int64_t bytesInFlight = kBytesInFlight,
                                                int64_t maxStages = kMaxPipelineStages) {
  int64_t capacity = sharedBytes / stageBytes;
  if (capacity < kMinPipelineStages)
    return std::nullopt;
  int64_t wanted = llvm::divideCeil(bytesInFlight, stageBytes) + 1;
  return std::max(kMinPipelineStages, std::min({wanted, capacity, maxStages}));
}

} // namespace sparseflow::sf

#endif // SPARSEFLOW_DIALECT_SF_IR_PIPELINEDEPTH_H
