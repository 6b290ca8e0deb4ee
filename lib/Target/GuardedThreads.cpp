//===- GuardedThreads.cpp - Jobs that a fatal LLVM error cannot end -------===//
//
// A parked thread keeps the shared state alive by its own reference, so the caller is free to go.
//
//===----------------------------------------------------------------------===//

#include "GuardedThreads.h"

#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/raw_ostream.h"
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <pthread.h>
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

/// What a thread starts with.
struct Start {
  std::shared_ptr<Shared> shared;
  size_t job;
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

static void *runJob(void *argument) {
  std::unique_ptr<Start> start(static_cast<Start *>(argument));
  current = {start->shared.get(), start->job};
  std::optional<std::string> failure;
  // Nothing catches what leaves a thread: it would end the process.
  try {
    start->shared->jobs[start->job]();
  } catch (const std::exception &e) {
    failure = e.what();
  }
  current = {};
  start->shared->end(start->job, std::move(failure));
  return nullptr;
}

/// Returns errno's kind of number. (llvm::thread and std::thread end the process or throw when the
/// system gives no thread; neither leaves a choice of the stack and of the answer.)
static int startThread(pthread_t &thread, std::unique_ptr<Start> start) {
  // The host's limit may be small (2 MB where the stack is unlimited); LLVM recurses over values.
  constexpr size_t stackBytes = 16u << 20;
  pthread_attr_t attributes;
  if (int error = pthread_attr_init(&attributes))
    return error;
  pthread_attr_setstacksize(&attributes, stackBytes);
  int error = pthread_create(&thread, &attributes, runJob, start.get());
  pthread_attr_destroy(&attributes);
  if (!error)
    start.release();
  return error;
}

void sparseflow::target::runGuarded(
    std::vector<std::function<void()>> jobs, unsigned maxThreads,
    llvm::function_ref<void(size_t job, std::string message)> onFatalError) {
  static std::once_flag installed;
  std::call_once(installed, [] { llvm::install_fatal_error_handler(handleFatalError); });

  auto shared = std::make_shared<Shared>();
  shared->jobs = std::move(jobs);
  const size_t count = shared->jobs.size();
  std::map<size_t, pthread_t> running;
  size_t next = 0;
  while (next < count || !running.empty()) {
    while (next < count && running.size() < std::max(1u, maxThreads)) {
      pthread_t thread;
      int error = startThread(thread, std::make_unique<Start>(Start{shared, next}));
      if (error && !running.empty())
        break; // wait for one that runs
      if (error)
        onFatalError(next, std::string("no thread could be started: ") + strerror(error));
      else
        running[next] = thread;
      ++next;
    }
    if (running.empty())
      continue;
    decltype(shared->ended) ended;
    {
      std::unique_lock<std::mutex> lock(shared->mutex);
      shared->changed.wait(lock, [&] { return !shared->ended.empty(); });
      ended.swap(shared->ended);
    }
    for (auto &[job, message] : ended) {
      pthread_t thread = running.at(job);
      running.erase(job);
      if (!message) {
        pthread_join(thread, nullptr);
        continue;
      }
      pthread_detach(thread);
      onFatalError(job, std::move(*message));
    }
  }
}
