//===- Pipelines.h - The compiler's passes, in order ------------*- C++ -*-===//
//
// The order of the passes is data (one table in Pipelines.cpp), because four users share it: the
// named pipeline of sparseflow-opt, the compiler, the emulator's recompilation, which stops before
// PTX, and --dump-intermediates, which looks between the passes.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_PIPELINES_PIPELINES_H
#define SPARSEFLOW_PIPELINES_PIPELINES_H

#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/ArrayRef.h"
#include <functional>
#include <string>

namespace sparseflow {

/// What runs together. The IR between two phases is what the compiler keeps, caches or hands out.
enum class Phase {
  Graph,    ///< Passes 1 to 4: the same for every chip. Ends in the `source` of an .sf file.
  Select,   ///< Pass 5: decides what runs. Ends in the source that the emulator recompiles.
  Pack,     ///< Pass 6: weights. Ends in what the cache is keyed by.
  Tile,     ///< Passes 7 to 11.
  Lower,    ///< Passes 12 and 13. Ends in the LLVM and NVVM dialects.
  Binary,   ///< Pass 14.
  Manifest, ///< Pass 15.
};

/// The options of all passes, each passed on to those that have it.
struct PipelineOptions {
  std::string target = "sm_80";
  std::string config;           // see CompileOptions
  std::string format = "cubin"; // see sf-emit-binary, as the next two
  std::string ptxas;
  std::string cacheDir;
  /// See sf-select-config; nothing: its default.
  std::optional<int64_t> maxAccumulators;
  /// See sf-select-config; paths, empty: none.
  std::string tuning, shippedTuning;
  bool explain = false; // see sf-select-config
  /// See sf-emit-binary.
  bool allowSlow = false;
  /// See CompileOptions.
  std::function<bool()> isCancelled;
};

/// A pass and how it is added.
struct PassEntry {
  Phase phase;
  llvm::StringLiteral name; // the pass that it is about; upstream helpers may go along
  void (*add)(mlir::OpPassManager &, const PipelineOptions &);
};

/// Passes 1 to 15 in the order in which they run.
llvm::ArrayRef<PassEntry> getPassEntries();

/// Adds the passes of the phases from `first` to `last`.
void buildPipeline(mlir::OpPassManager &manager, const PipelineOptions &options,
                   Phase first = Phase::Graph, Phase last = Phase::Manifest);

/// Registers `--sf-compile`.
void registerPipelines();

} // namespace sparseflow

#endif // SPARSEFLOW_PIPELINES_PIPELINES_H
