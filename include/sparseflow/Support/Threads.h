//===- Threads.h - The same work on several threads -----------------------===//
//
// An exception that leaves a std::thread ends the process, and so does one that passes a thread
// nobody joined. Here it reaches the caller, when all threads have ended.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_SUPPORT_THREADS_H
#define SPARSEFLOW_SUPPORT_THREADS_H

#include "llvm/ADT/STLFunctionalExtras.h"
#include <cstddef>

namespace sparseflow {

/// Runs `work` on this thread and on `count - 1` others, or on fewer where the system gives no
/// more. Throws what the first that failed has thrown; `work` must not wait for another's.
void runOnThreads(size_t count, llvm::function_ref<void()> work);

} // namespace sparseflow

#endif // SPARSEFLOW_SUPPORT_THREADS_H
