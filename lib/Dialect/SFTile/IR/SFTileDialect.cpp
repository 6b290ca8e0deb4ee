//===- SFTileDialect.cpp - Registration of the sf_tile dialect ------------===//

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

using namespace mlir;
using namespace sparseflow::sf_tile;

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.cpp.inc"

namespace {
/// Layouts are long and repeat: print each once.
struct LayoutAliases : OpAsmDialectInterface {
  using OpAsmDialectInterface::OpAsmDialectInterface;

  AliasResult getAlias(Attribute attribute, raw_ostream &os) const override {
    auto layout = dyn_cast<LayoutAttr>(attribute);
    if (!layout)
      return AliasResult::NoAlias;
    os << (layout.isDistributed() ? "tile" : "stage");
    return AliasResult::OverridableAlias;
  }
};
} // namespace

void SFTileDialect::initialize() {
  addInterfaces<LayoutAliases>();
  registerTypes();
  registerAttributes();
  addOperations<
#define GET_OP_LIST
#include "sparseflow/Dialect/SFTile/IR/SFTileOps.cpp.inc"
      >();
}
