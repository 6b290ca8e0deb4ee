//===- SFTileDialect.cpp - Registration of the sf_tile dialect ------------===//

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

using namespace mlir;
using namespace sparseflow::sf_tile;

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.cpp.inc"

void SFTileDialect::initialize() {
  registerTypes();
  registerAttributes();
  addOperations<
#define GET_OP_LIST
#include "sparseflow/Dialect/SFTile/IR/SFTileOps.cpp.inc"
      >();
}
