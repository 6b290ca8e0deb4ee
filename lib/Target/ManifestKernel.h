//===- ManifestKernel.h - A kernel as data ----------------------*- C++ -*-===//
//
// Private to lib/Target.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_TARGET_MANIFESTKERNEL_H
#define SPARSEFLOW_LIB_TARGET_MANIFESTKERNEL_H

#include "TensorSpecs.h"
#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"
#include "sparseflow/Target/Chip.h"
#include "sparseflow/Target/Passes.h"

namespace sparseflow::target {

/// The manifest's entry for a kernel: its grid is the launch's, the rest is known since it was
/// compiled.
runtime::Kernel describeKernel(sf_tile::LaunchOp launch, const BinaryKernel &compiled,
                               const Chip &chip, const RowSymbols &symbols);

} // namespace sparseflow::target

#endif // SPARSEFLOW_LIB_TARGET_MANIFESTKERNEL_H
