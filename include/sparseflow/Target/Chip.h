//===- Chip.h - The GPUs that code can be generated for ---------*- C++ -*-===//
//
// The one table of chips. It exists because the NVPTX backend aborts the process when a chip is
// asked for an instruction that the chosen PTX version does not have: every chip here is paired
// with a PTX version for which all that SparseFlow emits is known to select and assemble.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TARGET_CHIP_H
#define SPARSEFLOW_TARGET_CHIP_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <string>

namespace sparseflow::target {

struct Chip {
  llvm::StringLiteral name;     // "sm_90a"
  unsigned computeCapability;   // 90
  llvm::StringLiteral features; // "+ptx85"

  /// The PTX version in the features, times ten: 85.
  unsigned ptxVersion() const;
};

llvm::ArrayRef<Chip> knownChips();

/// Finds a chip by name; the error lists what would work.
llvm::Expected<const Chip *> findChip(llvm::StringRef name);

} // namespace sparseflow::target

#endif // SPARSEFLOW_TARGET_CHIP_H
