//===- Lowering.h - From sf functions to LLVM -------------------*- C++ -*-===//
//
// The compiler half of the reference: what it takes to turn a function on tensors into one that
// reads and writes the caller's memory.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_REFERENCE_LOWERING_H
#define SPARSEFLOW_LIB_REFERENCE_LOWERING_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"

#include <string>
#include <vector>

namespace sparseflow {

/// Called by compiled code with the index of a message when an assertion fails.
constexpr llvm::StringLiteral kFailSymbol = "sparseflow_reference_fail";
/// The compiled function: takes an array of pointers to memref descriptors.
constexpr llvm::StringLiteral kEntrySymbol = "sparseflow_reference_entry";

/// The dialects and interfaces of the lowering.
void registerReferenceDialects(mlir::DialectRegistry &registry);

/// Makes every operation of the module, in which `entry` is the only function that is called from
/// outside, one of linalg, tensor, arith, math, scf or cf on scalars of f32, f64 or integers.
mlir::LogicalResult lowerToLinalg(mlir::ModuleOp module);

/// Turns the tensors that `entry` takes into memrefs, those that it returns into further arguments,
/// and assertions into calls of kFailSymbol. Matrices among the first `numStrided` arguments, and
/// results, may have rows that are apart. Returns the assertions' messages.
std::vector<std::string> exposeBuffers(mlir::func::FuncOp entry, unsigned numStrided);

/// From linalg on tensors to the LLVM dialect.
mlir::LogicalResult lowerToLLVM(mlir::ModuleOp module);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_REFERENCE_LOWERING_H
