//===- TunedConfigs.h - Measured configurations ------------------*- C++ -*-===//
//
// What sf-select-config asks before it asks the cost model.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_TUNEDCONFIGS_H
#define SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_TUNEDCONFIGS_H

#include "CostModel.h"
#include "sparseflow/Tuning/TuningDatabase.h"

namespace sparseflow::sf {

/// A configuration that was measured to be the fastest.
struct TunedConfig {
  KernelConfigAttr config; // for any number of tokens
  double microseconds = 0;
};

/// The tuning databases of one run of the pass. Whatever is wrong with them is a warning.
class TunedConfigs {
public:
  /// Empty paths: no such database.
  TunedConfigs(mlir::Operation *root, llvm::StringRef user, llvm::StringRef shipped);

  /// The entry of a product for a bucket of tokens, if there is one that the product can run with
  /// at most so many accumulators a thread.
  std::optional<TunedConfig> find(MatmulOp op, TargetAttr target, int64_t bucket,
                                  int64_t maxAccumulators);

private:
  mlir::Operation *root; // what warnings are about
  std::unique_ptr<tuning::TuningDatabase> database;
};

} // namespace sparseflow::sf

#endif // SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_TUNEDCONFIGS_H
