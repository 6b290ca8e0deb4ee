//===- MatmulPipeline.h - The main loop of a matmul's kernel ----*- C++ -*-===//
//
// Private to SFToSFTile.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_CONVERSION_SFTOSFTILE_MATMULPIPELINE_H
#define SPARSEFLOW_LIB_CONVERSION_SFTOSFTILE_MATMULPIPELINE_H

#include "Schedule.h"

namespace sparseflow {

/// The accumulators of one block's tile, one for each weight, where `s` inserts. `arguments` are
/// the kernel's: x, then the weights. `firstToken` is where the tile begins, which may have moved
/// from where `tile` says.
llvm::SmallVector<mlir::Value> buildMatmulPipeline(Schedule &s, sf::MatmulOp op,
                                                   sf::KernelConfigAttr config,
                                                   mlir::ValueRange arguments,
                                                   sf_tile::TileIdOp tile, mlir::Value firstToken);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_CONVERSION_SFTOSFTILE_MATMULPIPELINE_H
