//===- ChipCompiler.h - Compiling for one chip ------------------*- C++ -*-===//
//
// Choose configurations, pack weights, and then either find the kernels in the cache or make them.
// Private to lib/Pipelines.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_PIPELINES_CHIPCOMPILER_H
#define SPARSEFLOW_LIB_PIPELINES_CHIPCOMPILER_H

#include "ChipProgram.h"
#include "Session.h"
#include "sparseflow/Target/Ptxas.h"
#include <string>
#include <vector>

namespace sparseflow {

/// What all chips of one compilation start from. Read by their threads.
struct CommonInput {
  const CompileOptions &options;
  std::string source;                      // with locations
  std::vector<ExternalConstant> constants; // views of the graph session's blobs
  target::Ptxas ptxas;                     // without a path where no cubin is wanted
  std::string cacheDir;                    // "": no cache
};

/// The options of the passes from Phase::Select on.
PipelineOptions getPipelineOptions(const CommonInput &input, const target::Chip &chip);

/// Gives the session the module that the chip starts from.
llvm::Error openForChip(Session &session, const CommonInput &input, const target::Chip &chip);

/// Each kernel of a module after Phase::Lower, at LLVM IR, PTX or cubin; ptxas is needed for the
/// last alone.
llvm::Expected<std::vector<StageOutput>> translateKernels(Session &session, Stage stage,
                                                          const target::Chip &chip,
                                                          const target::Ptxas *ptxas);

/// The whole way. A product of which the chosen configuration turns out slow is given another.
llvm::Expected<ChipProgram> compileForChip(const CommonInput &input, const target::Chip &chip,
                                           Dumper &dumper, mlir::TimingScope &timing);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_PIPELINES_CHIPCOMPILER_H
