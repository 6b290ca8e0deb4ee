//===- ProductChoices.h - Which kernels products were given -----*- C++ -*-===//
//
// The configurations that were chosen for the products of a module, and the kernels of which turned
// out slow: what one try at a module tells the next, in a session of its own.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_PIPELINES_PRODUCTCHOICES_H
#define SPARSEFLOW_LIB_PIPELINES_PRODUCTCHOICES_H

#include "mlir/IR/BuiltinOps.h"
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace sparseflow {

/// What is known about the products of a module while their configurations are sought. Attributes
/// are text, which outlives their session.
struct ProductChoice {
  std::string configs;        // "" while there is something to choose
  std::string reasons;        // of each configuration; "": none are known
  std::string times;          // likewise
  std::string reason;         // why it is not what was chosen first
  std::set<std::string> slow; // configurations that were built and are slow
  bool isGiven = false;
};

/// Each product's choice as the module has it; what else is known of it stays. Products are in the
/// order of the module's text.
void readChoices(mlir::ModuleOp module, llvm::MutableArrayRef<ProductChoice> choices);
void setChoices(mlir::ModuleOp module, llvm::ArrayRef<ProductChoice> choices);

/// Marks the products by their number, so that their kernels are known later.
void numberProducts(mlir::ModuleOp module);

/// A kernel's configuration and what makes it slow.
using SlowKernel = std::pair<std::string, std::string>;

/// The slow kernels of each product that has some, by its number; -1 stands for other operations.
std::map<int64_t, std::vector<SlowKernel>> findSlowProducts(mlir::ModuleOp module);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_PIPELINES_PRODUCTCHOICES_H
