//===- ChipProgram.h - One chip's part of a program -------------*- C++ -*-===//
//
// Collected from the IR after its last pass. Kernels come from there; what constants are worth
// comes from the packed weights. Private to lib/Pipelines.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_PIPELINES_CHIPPROGRAM_H
#define SPARSEFLOW_LIB_PIPELINES_CHIPPROGRAM_H

#include "Session.h"
#include "sparseflow/Runtime/Manifest.h"
#include "sparseflow/Runtime/ProgramFile.h"
#include "sparseflow/Target/Chip.h"
#include <memory>
#include <vector>

namespace sparseflow {

struct ChipProgram {
  runtime::Manifest manifest; // every function with one program
  std::vector<runtime::StoredTensor> tensors;
};

/// Kernels and constants that stand in the text; what the IR holds as resources is added by
/// addResources.
llvm::Expected<ChipProgram> buildChipProgram(Session &session, const target::Chip &chip);

/// Adds the tensors that the program's buffers name and that are resources of the packed IR, which
/// `packed` owns. Those of `lent` are copied: their memory may be lent for this compilation only.
llvm::Error addResources(ChipProgram &program, llvm::ArrayRef<ResourceConstant> resources,
                         llvm::ArrayRef<ExternalConstant> lent, std::shared_ptr<const void> packed);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_PIPELINES_CHIPPROGRAM_H
