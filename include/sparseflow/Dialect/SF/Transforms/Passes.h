//===- Passes.h - Passes on the `sf` dialect ---------------------*- C++ -*-===//
//
// Passes 1 to 6 of the pipeline: from what a front end wrote to matmuls with packed weights, fused
// epilogues and chosen kernel configurations. Passes.td documents them.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SF_TRANSFORMS_PASSES_H
#define SPARSEFLOW_DIALECT_SF_TRANSFORMS_PASSES_H

#include "mlir/Pass/Pass.h"

namespace sparseflow::sf {

/// Accumulators a thread that most epilogues leave room for.
inline constexpr int64_t kMostAccumulators = 128;

#define GEN_PASS_DECL
#include "sparseflow/Dialect/SF/Transforms/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "sparseflow/Dialect/SF/Transforms/Passes.h.inc"

} // namespace sparseflow::sf

#endif // SPARSEFLOW_DIALECT_SF_TRANSFORMS_PASSES_H
