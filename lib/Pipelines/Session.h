//===- Session.h - A context with its diagnostics and constants -*- C++ -*-===//
//
// What every use of the compiler needs around a module: a context with the dialects, diagnostics
// turned into one message with locations, constants bound to their bytes, phases run with timing,
// dumps and a reproducer. Private to lib/Pipelines.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_PIPELINES_SESSION_H
#define SPARSEFLOW_LIB_PIPELINES_SESSION_H

#include "mlir/IR/Diagnostics.h"
#include "mlir/Support/Timing.h"
#include "sparseflow/Pipelines/Compiler.h"
#include "sparseflow/Pipelines/FileSources.h"
#include "sparseflow/Pipelines/Pipelines.h"

namespace sparseflow {

/// Numbers and writes intermediate files. Shared by the chips of one compile, so that the numbers
/// say in which order things happened.
class Dumper {
public:
  explicit Dumper(std::string directory) : directory(std::move(directory)) {}

  bool enabled() const { return !directory.empty(); }
  /// Writes DIR/<number>-<name>.
  llvm::Error dump(const llvm::Twine &name, llvm::StringRef contents);
  llvm::Error dump(const llvm::Twine &name, mlir::ModuleOp module);

private:
  std::string directory;
  unsigned next = 0;
};

/// How IR is printed.
enum class Print {
  Full,      ///< with constants, so that it can be compiled again
  Source,    ///< without the bytes of constants
  Locations, ///< without the bytes of constants, with locations
};
std::string printModule(mlir::ModuleOp module, Print how);

class Session {
public:
  /// `stem` goes before the names of dumped files: "" or "sm_80-".
  Session(const CompileOptions &options, std::string stem = "");
  ~Session();

  /// Parses text or bytecode and keeps the module.
  llvm::Error parse(llvm::StringRef source, llvm::StringRef name);
  /// Gives constants their bytes. A constant that the IR does not name, or names with another type,
  /// is an error; so is one that is left without bytes.
  llvm::Error bind(llvm::ArrayRef<ExternalConstant> constants);
  /// Runs the passes of some phases. A failure leaves a reproducer where the options say.
  llvm::Error run(Phase first, Phase last, const PipelineOptions &pipeline, Dumper &dumper,
                  mlir::TimingScope &timing);
  /// Calls something that reports failure through diagnostics.
  llvm::Error guard(llvm::function_ref<mlir::LogicalResult()> action);

  mlir::ModuleOp module() { return loaded->module.get(); }
  std::shared_ptr<LoadedModule> share() { return loaded; }

private:
  llvm::Error takeErrors(llvm::StringRef what);
  std::string writeReproducer(mlir::PassManager &manager);

  const CompileOptions &options;
  std::string stem;
  std::shared_ptr<LoadedModule> loaded;
  std::string parsedText, parsedName;
  std::optional<Phase> firstPhase;
  std::vector<ExternalConstant> bound;
  std::vector<std::string> errors;
  std::optional<mlir::DiagnosticEngine::HandlerID> handler;
};

/// The constants of a module that are resources, by name, in the order of their first use.
struct ResourceConstant {
  std::string name;
  mlir::RankedTensorType type;
  llvm::ArrayRef<char> data;
};
std::vector<ResourceConstant> getResourceConstants(mlir::ModuleOp module);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_PIPELINES_SESSION_H
