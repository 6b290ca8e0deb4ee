//===- TunedConfigs.cpp - Measured configurations -------------------------===//
//
// An entry is text that anybody may have written, so it is parsed and checked against the product
// before it becomes an attribute: a damaged database costs time, never a compilation.
//
//===----------------------------------------------------------------------===//

#include "TunedConfigs.h"

#include "sparseflow/Dialect/SF/Transforms/Tuning.h"
#include "sparseflow/Support/PackedLayout.h"

#include "mlir/AsmParser/AsmParser.h"
#include "mlir/IR/Diagnostics.h"
#include "llvm/Support/FileSystem.h"

#include <cmath>

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

TunedConfigs::TunedConfigs(Operation *root, StringRef user, StringRef shipped) : root(root) {
  if (!user.empty() && !llvm::sys::fs::exists(user)) {
    root->emitWarning() << "expected a tuning database at '" << user
                        << "', got no such file; going on without it";
    user = "";
  }
  if (user.empty() && shipped.empty())
    return;
  database = tuning::TuningDatabase::openToRead(user, shipped);
  for (const std::string &warning : database->takeWarnings())
    root->emitWarning() << warning;
}

/// Null if the text is none. The parser's diagnostics would speak of a text that nobody sees.
static KernelConfigAttr parseConfig(StringRef text, MLIRContext *context) {
  ScopedDiagnosticHandler silence(context, [](Diagnostic &) { return success(); });
  return dyn_cast_or_null<KernelConfigAttr>(parseAttribute(text, context));
}

/// What is no time would not be a number in the manifest's JSON.
static bool isTime(double microseconds) { return std::isfinite(microseconds) && microseconds > 0; }

/// Whether kernels of the product can be made so.
static bool fits(const MatmulShape &shape, int64_t tokens, KernelConfigAttr config,
                 const ChipInfo &chip) {
  int64_t chunk = packedChunkInner(shape.elementBits / 8);
  int64_t featureTiles = llvm::divideCeil(shape.features, config.getTileFeatures());
  int64_t steps = llvm::divideCeil(shape.inner, config.getTileK());
  return config.isSparse() == shape.isSparse &&
         config.isWarpSpecialized() == usesWarpgroups(shape, chip) &&
         config.getTileK() % chunk == 0 &&
         (config.isWarpSpecialized() || config.getWarpTileFeatures() % kPackedChunkFeatures == 0) &&
         (config.getTileK() == chunk || llvm::isPowerOf2_64(config.getTileTokens())) &&
         featureTiles % config.getFeatureCluster() == 0 && config.getSplitK() <= steps &&
         !config.getMaxTokens() && estimateMicroseconds(shape, tokens, config, chip);
}

std::optional<tuning::TuningEntry> TunedConfigs::lookup(const tuning::TuningKey &key) {
  if (!database)
    return std::nullopt;
  llvm::Expected<std::optional<tuning::TuningEntry>> entry = database->lookup(key);
  for (const std::string &warning : database->takeWarnings())
    root->emitWarning() << warning;
  if (!entry) {
    root->emitWarning() << llvm::toString(entry.takeError()) << "; going on without it";
    database.reset();
    return std::nullopt;
  }
  if (*entry && !isTime((*entry)->microseconds)) {
    root->emitWarning() << "expected the tuning database to hold a time above 0 for " << key.tokens
                        << " tokens, got " << std::to_string((*entry)->microseconds)
                        << " us; going on without this entry";
    return std::nullopt;
  }
  return *entry;
}

std::optional<TunedConfig> TunedConfigs::find(MatmulOp op, TargetAttr target, int64_t bucket,
                                              int64_t maxAccumulators) {
  tuning::TuningKey key = getTuningKey(op, target);
  key.tokens = bucket;
  std::optional<tuning::TuningEntry> entry = lookup(key);
  if (!entry)
    return std::nullopt;
  TunedConfig tuned{parseConfig(entry->config, op.getContext()), entry->microseconds, std::nullopt};
  MatmulShape shape = getShape(op);
  if (!tuned.config || !fits(shape, bucket, tuned.config, target.getInfo())) {
    op.emitWarning() << "expected the tuning database to hold a configuration for " << bucket
                     << " tokens that this product can run, got '" << entry->config
                     << "'; the cost model chooses instead";
    return std::nullopt;
  }
  // Such a kernel was found to be slow in this product; what was measured stays true.
  if (!leavesRegisters(tuned.config, shape, maxAccumulators) || isKnownSlow(op, tuned.config))
    tuned.config = nullptr;
  if (std::optional<tuning::TuningEntry> library = lookup(getLibraryKey(key)))
    tuned.libraryMicroseconds = library->microseconds;
  return tuned;
}
