//===- Manifest.h - From launches to the runtime's manifest -----*- C++ -*-===//
//
// The programmatic form of sf-emit-manifest: the compiler wants the structs, not their JSON, and
// the constants that the manifest names.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TARGET_MANIFEST_H
#define SPARSEFLOW_TARGET_MANIFEST_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinOps.h"
#include "sparseflow/Runtime/Manifest.h"
#include "sparseflow/Target/Chip.h"

namespace sparseflow::target {

/// "sparseflow 0.1.0 (llvm 22.1.8)": in the manifest, and part of every cache key.
std::string getProducer();

/// A constant that the program's buffers name.
struct ProgramConstant {
  std::string name; // of the tensor in the file
  mlir::arith::ConstantOp op;
};

/// A module as the runtime will see it.
struct ModuleProgram {
  runtime::Manifest manifest; // every function with one program
  std::vector<ProgramConstant> constants;
};

/// Reads a module whose functions consist of launches. Problems are diagnostics.
mlir::FailureOr<ModuleProgram> buildManifest(mlir::ModuleOp module, const Chip &chip);

/// The names of the tensors that hold a kernel: "sm_80/k0.cubin".
std::string getKernelTensorName(llvm::StringRef chip, llvm::StringRef kernel, llvm::StringRef kind);

} // namespace sparseflow::target

#endif // SPARSEFLOW_TARGET_MANIFEST_H
