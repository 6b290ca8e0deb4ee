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

/// What was measured of a product and a number of tokens.
struct TunedConfig {
  /// The fastest kernel, for any number of tokens. Null: it needs too many registers.
  KernelConfigAttr config;
  double microseconds = 0;
  /// Of the dense product by cuBLASLt.
  std::optional<double> libraryMicroseconds;
};

/// The tuning databases of one run of the pass. Whatever is wrong with them is a warning.
class TunedConfigs {
public:
  /// Empty paths: no such database.
  TunedConfigs(mlir::Operation *root, llvm::StringRef user, llvm::StringRef shipped);

  /// The entries of a product for a bucket of tokens, if there is one for its kernels that it can
  /// run.
  std::optional<TunedConfig> find(MatmulOp op, TargetAttr target, int64_t bucket,
                                  int64_t maxAccumulators);

private:
  /// Nothing also where the database fails, which is said once.
  std::optional<tuning::TuningEntry> lookup(const tuning::TuningKey &key);

  mlir::Operation *root; // what warnings are about
  std::unique_ptr<tuning::TuningDatabase> database;
};

} // namespace sparseflow::sf

#endif // SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_TUNEDCONFIGS_H
