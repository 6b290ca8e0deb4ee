//===- UntrustedText.h - IR that anybody may have written -----------------===//
//
// MLIR's parser takes text from a file from anywhere as its author's: some of it exhausts the stack
// or crashes. A look over the text beforehand finds that.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_PIPELINES_UNTRUSTEDTEXT_H
#define SPARSEFLOW_LIB_PIPELINES_UNTRUSTEDTEXT_H

#include "llvm/ADT/StringRef.h"
#include <optional>
#include <string>

namespace sparseflow {

/// What the parser would not survive, and on which line: "12: expected ...".
std::optional<std::string> findUnparsable(llvm::StringRef source);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_PIPELINES_UNTRUSTEDTEXT_H
