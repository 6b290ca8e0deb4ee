//===- Chip.h - Which GPU code is generated for -----------------*- C++ -*-===//
//
// Chips are those of #sf.target. That the table is closed matters here: the NVPTX backend ends the
// process when a chip is asked for an instruction that the chosen PTX version does not have, so no
// name that is not in the table, with its PTX version, ever reaches it.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TARGET_CHIP_H
#define SPARSEFLOW_TARGET_CHIP_H

#include "mlir/IR/BuiltinOps.h"
#include "sparseflow/Dialect/SF/IR/SFAttributes.h"
#include "llvm/Support/Error.h"

namespace sparseflow::target {

using Chip = sf::ChipInfo;

/// Finds a chip by name; the error lists what would work.
llvm::Expected<const Chip *> findChip(llvm::StringRef name);

/// The newest chip whose kernels run on a GPU of this compute capability (major times ten plus
/// minor); null if the GPU is older than all. A GPU that is not in the table runs the cubins of its
/// own major version, and the PTX of any older one.
const Chip *findNewestRunnable(unsigned computeCapability);

/// The chip that a pass works for: the one named by its option, else the module's `sf.target`.
llvm::Expected<const Chip *> findChip(mlir::ModuleOp module, llvm::StringRef option);

} // namespace sparseflow::target

#endif // SPARSEFLOW_TARGET_CHIP_H
