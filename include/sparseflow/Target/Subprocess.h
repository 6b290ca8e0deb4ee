//===- Subprocess.h - Runs a program, keeps what it prints ------*- C++ -*-===//
//
// llvm::sys::ExecuteAndWait implements its timeout with SIGALRM, which is the whole process's: it
// cannot time out several ptxas at once, and would steal the alarm of a host such as Python. This
// one waits with poll() on the pipe, so any number of threads can use it.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TARGET_SUBPROCESS_H
#define SPARSEFLOW_TARGET_SUBPROCESS_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"
#include <string>

namespace sparseflow::target {

/// How a program ended.
struct SubprocessResult {
  int exitCode = 0;   // of a program that exited; 128 + signal of one that was killed
  std::string output; // stdout and stderr, interleaved as they came
};

/// Runs `arguments[0]` (a path; PATH is not searched) with nothing on its stdin. An error is a
/// program that could not be started, or one that ran past the timeout and was killed.
llvm::Expected<SubprocessResult> runSubprocess(llvm::ArrayRef<std::string> arguments,
                                               unsigned timeoutSeconds);

} // namespace sparseflow::target

#endif // SPARSEFLOW_TARGET_SUBPROCESS_H
