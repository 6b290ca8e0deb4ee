//===- GuardedThreads.cpp - Jobs that a fatal LLVM error cannot end -------===//
//
// A parked thread keeps the shared state alive by its own reference, so the caller is free to go.
//
//===----------------------------------------------------------------------===//

#include "GuardedThreads.h"

#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Support/thread.h"
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unistd.h>

using namespace sparseflow::target;

namespace {
struct Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::function<void()>> jobs;
  /// Jobs that ended since the coordinator last looked, with the message of those that failed.
  std::vector<std::pair<size_t, std::optional<std::string>>> ended;

  void end(size_t job, std::optional<std::string> message) {
    std::lock_guard<std::mutex> lock(mutex);
    ended.emplace_back(job, std::move(message));
    changed.notify_one();
  }
};

/// The job that this thread runs, for the handler.
struct Current {
  Shared *shared = nullptr;
  size_t job = 0;
};
} // namespace

static thread_local Current current;

static void handleFatalError(void *, const char *reason, bool) {
  if (!current.shared) {
    llvm::errs() << "LLVM ERROR: " << reason << "\n";
    return;
  }
  current.shared->end(current.job, std::string(reason));
  while (true)
    pause();
}

void sparseflow::target::runGuarded(
    std::vector<std::function<void()>> jobs, unsigned maxThreads,
    llvm::function_ref<void(size_t job, std::string message)> onFatalError) {
  static std::once_flag installed;
  std::call_once(installed, [] { llvm::install_fatal_error_handler(handleFatalError); });

  // The host's limit may be small (2 MB where the stack is unlimited); LLVM recurses over values.
  constexpr unsigned stackBytes = 16u << 20;
  auto shared = std::make_shared<Shared>();
  shared->jobs = std::move(jobs);
  const size_t count = shared->jobs.size();
  std::map<size_t, llvm::thread> running;
  size_t next = 0;
  while (next < count || !running.empty()) {
    while (next < count && running.size() < std::max(1u, maxThreads)) {
      size_t job = next++;
      running.emplace(job, llvm::thread(std::optional<unsigned>(stackBytes), [shared, job] {
                        current = {shared.get(), job};
                        std::optional<std::string> failure;
                        // Nothing catches what leaves a thread: it would end the process.
                        try {
                          shared->jobs[job]();
                        } catch (const std::exception &e) {
                          failure = e.what();
                        }
                        current = {};
                        shared->end(job, std::move(failure));
                      }));
    }
    decltype(shared->ended) ended;
    {
      std::unique_lock<std::mutex> lock(shared->mutex);
      shared->changed.wait(lock, [&] { return !shared->ended.empty(); });
      ended.swap(shared->ended);
    }
    for (auto &[job, message] : ended) {
      llvm::thread thread = std::move(running.at(job));
      running.erase(job);
      if (!message) {
        thread.join();
        continue;
      }
      thread.detach();
      onFatalError(job, std::move(*message));
    }
  }
}
