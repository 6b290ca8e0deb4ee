//===- UntrustedText.h - IR that anybody may have written -----------------===//
//
// MLIR's parser and printer recurse over what nests, and a file from anywhere must not exhaust the
// stack. A look over the text beforehand bounds every way to nest.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_PIPELINES_UNTRUSTEDTEXT_H
#define SPARSEFLOW_LIB_PIPELINES_UNTRUSTEDTEXT_H

#include "llvm/ADT/StringRef.h"
#include <optional>
#include <string>

namespace sparseflow {

/// Where the text nests too deeply and what was expected, "12: expected ...", if it does.
std::optional<std::string> findDeepNesting(llvm::StringRef source);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_PIPELINES_UNTRUSTEDTEXT_H
