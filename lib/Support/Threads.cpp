//===- Threads.cpp - The same work on several threads ---------------------===//
//
// The caller works too, so that a system that gives no more threads still gets done.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Support/Threads.h"

#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

void sparseflow::runOnThreads(size_t count, llvm::function_ref<void()> work) {
  std::mutex mutex;
  std::exception_ptr first;
  auto guarded = [&]() noexcept {
    try {
      work();
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      if (!first)
        first = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(count);
  try {
    while (threads.size() + 1 < count)
      threads.emplace_back(guarded);
  } catch (const std::system_error &) {
  }
  guarded();
  for (std::thread &thread : threads)
    thread.join();
  if (first)
    std::rethrow_exception(first);
}
