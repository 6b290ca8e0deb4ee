//===- Tuning.h - Products as the tuner sees them ----------------*- C++ -*-===//
//
// What selection and the tuner must agree on: how a product is called in the tuning database, which
// numbers of tokens are told apart, and which configurations are worth timing.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SF_TRANSFORMS_TUNING_H
#define SPARSEFLOW_DIALECT_SF_TRANSFORMS_TUNING_H

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Tuning/TuningDatabase.h"
#include "llvm/Support/Error.h"

namespace sparseflow::sf {

/// On a product, beside `configs`: a string for each, why it was chosen.
inline constexpr llvm::StringLiteral kReasonsAttrName = "sf.reasons";
/// Likewise: #sf.times for each, what was measured.
inline constexpr llvm::StringLiteral kTimesAttrName = "sf.times";
/// Configurations of kernels that were built and found slow, spilling registers say: an array on a
/// product, which sf-select-config asks.
inline constexpr llvm::StringLiteral kSlowConfigsAttrName = "sf.slow_configs";

/// The numbers of tokens that configurations are chosen for, ascending. Each stands for those from
/// the one before; the last for all larger ones too.
llvm::ArrayRef<int64_t> getTokenBuckets();
/// The one that stands for so many tokens.
int64_t getTokenBucket(int64_t tokens);

/// The entry of a product; `tokens` is left 0. What makes no difference to the time is not told
/// apart: bf16 is entered as f16 and e5m2 as e4m3, which run on the same units; and an epilogue
/// counts by the weights it takes and the bytes it moves, as it does in the cost model, not by its
/// arithmetic.
tuning::TuningKey getTuningKey(MatmulOp op, TargetAttr target);

/// The entry of the dense product that cuBLASLt computes in place of an entry's kernels.
tuning::TuningKey getLibraryKey(tuning::TuningKey key);

/// A product that somebody described, as it is entered: checked, its tokens rounded up to a bucket,
/// for this compiler.
llvm::Expected<tuning::TuningKey> normalizeKey(tuning::TuningKey key);

/// A candidate and what the cost model says of it.
struct RankedConfig {
  KernelConfigAttr config; // for any number of tokens
  double microseconds = 0; // estimated
};

/// The configurations that the compiler would choose from for an entry, fastest first by the cost
/// model.
llvm::Expected<llvm::SmallVector<RankedConfig>> rankConfigs(mlir::MLIRContext *context,
                                                            const tuning::TuningKey &key);

} // namespace sparseflow::sf

#endif // SPARSEFLOW_DIALECT_SF_TRANSFORMS_TUNING_H
