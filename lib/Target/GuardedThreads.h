//===- GuardedThreads.h - Jobs that a fatal LLVM error cannot end -*- C++ -*-===//
//
// LLVM's code generator answers some inputs with report_fatal_error ("Cannot select"), which ends
// the process unless a handler is installed, and the handler must not return. Here the handler
// reports the message to whoever waits for the job and then parks its thread for good: the job's
// memory is lost, and nothing else is. (Jumping out of the handler would be undefined behaviour,
// exceptions are off in LLVM.)
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_TARGET_GUARDEDTHREADS_H
#define SPARSEFLOW_LIB_TARGET_GUARDEDTHREADS_H

#include "llvm/ADT/STLFunctionalExtras.h"
#include <functional>
#include <string>
#include <vector>

namespace sparseflow::target {

/// Runs the jobs, at most `maxThreads` at once, each on a thread of its own, and returns when all
/// have finished or met a fatal error. `onFatalError` is called from the calling thread. A job must
/// own what it works on, and may write elsewhere only as its last act.
void runGuarded(std::vector<std::function<void()>> jobs, unsigned maxThreads,
                llvm::function_ref<void(size_t job, std::string message)> onFatalError);

} // namespace sparseflow::target

#endif // SPARSEFLOW_LIB_TARGET_GUARDEDTHREADS_H
