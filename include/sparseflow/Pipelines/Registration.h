//===- Registration.h - The dialects and passes the tools know --*- C++ -*-===//
//
// One place that says which dialects the tools can parse and which passes they can name. Only the
// upstream dialects that the compiler reads or writes are here: registerAllPasses() would double
// the size of the shipped library and invite pipelines that nobody tests.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_PIPELINES_REGISTRATION_H
#define SPARSEFLOW_PIPELINES_REGISTRATION_H

namespace mlir {
class DialectRegistry;
} // namespace mlir

namespace sparseflow {

/// Adds every dialect (and the translations to LLVM IR) that a SparseFlow program may pass through.
void registerDialects(mlir::DialectRegistry &registry);

/// Registers SparseFlow's passes, its pipelines and the upstream passes that they are made of. Safe
/// to call more than once and from several threads.
void registerPasses();

} // namespace sparseflow

#endif // SPARSEFLOW_PIPELINES_REGISTRATION_H
