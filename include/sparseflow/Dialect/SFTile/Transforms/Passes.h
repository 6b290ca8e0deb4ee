//===- Passes.h - Passes on sf_tile kernels ---------------------*- C++ -*-===//

#ifndef SPARSEFLOW_DIALECT_SFTILE_TRANSFORMS_PASSES_H
#define SPARSEFLOW_DIALECT_SFTILE_TRANSFORMS_PASSES_H

#include "sparseflow/Dialect/SF/IR/PipelineDepth.h"
#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

#include "mlir/Pass/Pass.h"

namespace sparseflow::sf_tile {

#define GEN_PASS_DECL
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h.inc"

} // namespace sparseflow::sf_tile

#endif // SPARSEFLOW_DIALECT_SFTILE_TRANSFORMS_PASSES_H
