//===- ConstantTensors.h - Constants as tensors of a file -------*- C++ -*-===//
//
// How a constant of the IR lies in a program file: under its name, except that a canonical weight
// is two tensors. Private to lib/Pipelines.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_PIPELINES_CONSTANTTENSORS_H
#define SPARSEFLOW_LIB_PIPELINES_CONSTANTTENSORS_H

#include "Session.h"
#include "sparseflow/Runtime/ProgramFile.h"
#include <memory>
#include <string>
#include <vector>

namespace sparseflow {

/// The tensor with the source of a program: the `sf` IR that every chip starts from.
inline constexpr llvm::StringLiteral sourceTensorName = "source.mlir";
/// The tensor with the source of one chip: the `sf` IR after configurations were chosen.
std::string getChipSourceName(llvm::StringRef chip);

/// Whether the constant is kept as values and bitmask.
bool isCanonicalWeight(mlir::RankedTensorType type);
/// The names of those two tensors.
std::string getValuesName(llvm::StringRef constant);
std::string getBitmaskName(llvm::StringRef constant);

/// Adds what the constant is in a file. A canonical weight is two tensors, so that any safetensors
/// tool sees what it is; everything else encoded is bytes. Without an owner the bytes are copied.
void addConstant(std::vector<runtime::StoredTensor> &tensors, const ResourceConstant &constant,
                 std::shared_ptr<const void> owner);
/// Adds the constant as bytes in one piece, which is how kernels take it.
void addConstantBytes(std::vector<runtime::StoredTensor> &tensors, const ResourceConstant &constant,
                      std::shared_ptr<const void> owner);

/// Constants lie in the file beside sources and kernels, by name: a constant of such a name would
/// be taken for one, and two of one name for each other. Both are errors.
llvm::Error checkConstantNames(llvm::ArrayRef<ResourceConstant> constants);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_PIPELINES_CONSTANTTENSORS_H
