//===- LibraryProduct.h - Which products may call a library -----*- C++ -*-===//
//
// The rule that sf-select-config follows when it chooses, and that sf-pack-weights, which makes the
// weights for the library, holds everybody to.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_LIBRARYPRODUCT_H
#define SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_LIBRARYPRODUCT_H

#include "sparseflow/Dialect/SF/IR/SFOps.h"

#include <optional>
#include <string>

namespace sparseflow::sf {

/// Why the matmul must leave #sf.library_config out: "expected ..., got ..."; nothing: it may call
/// a library. One has to have such products, and to find their weights in the program.
std::optional<std::string> findLibraryFault(MatmulOp op);

} // namespace sparseflow::sf

#endif // SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_LIBRARYPRODUCT_H
