//===- Compiler.h - From MLIR text to a program -----------------*- C++ -*-===//
//
// The compiler as a function. It goes through text on purpose: after the passes that are the same
// for every chip the IR is printed without its constants, and that text is at once what an .sf file
// keeps, what each chip starts from (in a context of its own, so that chips compile in parallel and
// constants have the same names everywhere), and what the emulator and the reference start from
// later (FileSources.h). There is one way from source to kernels, so all of them agree.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_PIPELINES_COMPILER_H
#define SPARSEFLOW_PIPELINES_COMPILER_H

#include "sparseflow/Runtime/ProgramFile.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace sparseflow {

/// The bytes behind `dense_resource<name>` in the IR. Borrowed for the duration of the call.
struct ExternalConstant {
  std::string name;
  llvm::ArrayRef<char> data;
  /// Checked against the IR's type where given.
  std::optional<runtime::DType> dtype;
  std::optional<std::vector<int64_t>> shape;
};

/// Of a diagnostic. Notes come with the diagnostic that they belong to.
enum class Severity { Error, Warning, Remark };

/// How to compile.
struct CompileOptions {
  std::vector<std::string> targets = {"sm_80"};
  /// #sf.kernel_config<...> or #sf.library_config<...> for every matmul; empty: chosen by the
  /// compiler.
  std::string config;
  /// Path of ptxas; empty: found (see target::Ptxas::find).
  std::string ptxas;
  /// Where that search finds Python packages, beside the folder that this library is installed in.
  std::vector<std::string> packageFolders;
  /// Nothing: the default folder; "": no cache.
  std::optional<std::string> cacheDir;
  /// Path of the tuning database; nothing: the user's default one and the one that ships with the
  /// library; "": none.
  std::optional<std::string> tuning;
  /// Folder for numbered intermediate files; empty: none. Turns the cache off.
  std::string dumpDir;
  /// Where a failing pass leaves its reproducer; empty: nowhere.
  std::string reproducer;
  bool timing = false;
  /// Told every diagnostic as it comes, errors included.
  std::function<void(Severity, llvm::StringRef)> diagnostics;
  /// Asked before each group of passes and each kernel, by several threads: once it says yes the
  /// compilation ends with Status::Interrupted. Null: never.
  std::function<bool()> isCancelled;
};

/// Compiles MLIR (text or bytecode). `name` stands for it in messages.
llvm::Expected<runtime::ProgramFile::Ptr> compile(llvm::StringRef source, llvm::StringRef name,
                                                  llvm::ArrayRef<ExternalConstant> constants,
                                                  const CompileOptions &options);

/// Where compileTo stops.
enum class Stage { SF, SFTile, NVVM, LLVM, PTX, Cubin };

/// One file of compileTo.
struct StageOutput {
  std::string name; // "sm_80.mlir", "sm_80-main_matmul_0.ptx"
  std::string contents;
};

/// The IR or the kernels at some point of the way, for people: a file for each target and, from
/// LLVM IR on, for each kernel. Nothing is taken from the cache.
llvm::Expected<std::vector<StageOutput>> compileTo(Stage stage, llvm::StringRef source,
                                                   llvm::StringRef name,
                                                   llvm::ArrayRef<ExternalConstant> constants,
                                                   const CompileOptions &options);

/// The user's tuning database: in the cache's default folder; empty where there is none.
std::string getDefaultTuningPath();

} // namespace sparseflow

#endif // SPARSEFLOW_PIPELINES_COMPILER_H
