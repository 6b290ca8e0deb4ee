//===- ProgramCache.h - Chips' programs in the cache ------------*- C++ -*-===//
//
// A program is found by the packed IR that its kernels were made from. That text names weights and
// their shapes but not their values, so a model that was trained a little more compiles in no time.
// Private to lib/Pipelines.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_PIPELINES_PROGRAMCACHE_H
#define SPARSEFLOW_LIB_PIPELINES_PROGRAMCACHE_H

#include "ChipProgram.h"
#include "sparseflow/Target/DiskCache.h"
#include "sparseflow/Target/Ptxas.h"
#include <optional>
#include <string>

namespace sparseflow {

/// `text`: the packed IR, without the bytes of constants.
std::string getProgramKey(const target::Ptxas &ptxas, const target::Chip &chip,
                          llvm::StringRef text);

/// Keeps a program, without the resources that addResources adds.
void storeProgram(target::DiskCache &cache, llvm::StringRef key, const ChipProgram &program);

/// Nothing if there is no entry, or none that can be read.
std::optional<ChipProgram> findProgram(target::DiskCache &cache, llvm::StringRef key);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_PIPELINES_PROGRAMCACHE_H
