//===- Roles.h - Who waits for whom -----------------------------*- C++ -*-===//
//
// The two ways to run a pipeline, and the wait between kernels. Private to sf-tile-assign-roles.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_DIALECT_SFTILE_TRANSFORMS_ROLES_H
#define SPARSEFLOW_LIB_DIALECT_SFTILE_TRANSFORMS_ROLES_H

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

namespace sparseflow::sf_tile {

/// Keeps LLVM and ptxas from unrolling a loop.
void keepLoop(mlir::scf::ForOp loop);

/// All warps produce and consume; copies are cp.async groups.
llvm::LogicalResult assignCooperativeRoles(PipelineOp pipeline);

/// One thread produces, the other warps consume; copies are the copy engine's, and barriers in
/// shared memory keep the two in step.
llvm::LogicalResult assignSpecializedRoles(PipelineOp pipeline);

/// Makes the kernel wait for the one ahead of it on the stream before it touches global memory.
void waitForGrid(KernelOp kernel);

} // namespace sparseflow::sf_tile

#endif // SPARSEFLOW_LIB_DIALECT_SFTILE_TRANSFORMS_ROLES_H
