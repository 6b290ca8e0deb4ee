//===- Block.h - Threads, warps and the block that schedules them -*- C++ -*-===//
//
// The state of one running thread block. One host thread runs one block at a time, start to end;
// all of its GPU threads are fibers on that host thread, so nothing here needs a lock.
//
// Order between threads is tracked with vector clocks, one component a warp: a warp's own component
// grows at every synchronization it takes part in, and a barrier gives each participant the maximum
// of all. An access is ordered before now if its warp's clock, at the time, is known to the
// accessing warp.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_BLOCK_H
#define SPARSEFLOW_LIB_EMULATOR_BLOCK_H

#include "Fiber.h"
#include "SharedMemory.h"

#include "sparseflow/Emulator/Emulator.h"

#include "llvm/ADT/STLFunctionalExtras.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

namespace sparseflow::emulator {

class Block;
struct CollectiveOp;
struct Thread;
struct Warp;

constexpr unsigned warpSize = 32;
constexpr unsigned maxWarps = 32;
constexpr unsigned maxThreads = warpSize * maxWarps;
constexpr unsigned barrierCount = 16;

/// The fields that generated code reads itself; Retarget.cpp bakes their offsets into it.
struct ThreadRegisters {
  uint32_t tid[3];
  uint32_t ntid[3];
  uint32_t ctaid[3];
  uint32_t nctaid[3];
  uint32_t laneId;
  uint32_t warpId;
  uint32_t warpCount;
  uint32_t sharedBytes;
  uint32_t dynamicSharedBytes;
  /// Turns round loops that are left before the thread has to let others run.
  uint32_t fuel;
  uint64_t sharedBase;
};

/// The entry that Retarget.cpp makes for each kernel.
using KernelEntry = void (*)(Thread *thread, void *const *params);

/// What the blocks of a launch have in common.
struct LaunchState {
  std::string kernel;
  KernelEntry entry = nullptr;
  Dim3 grid, block;
  uint32_t staticSharedBytes = 0;
  uint32_t dynamicSharedBytes = 0;
  void *const *params = nullptr;
  const LaunchOptions *options = nullptr;
  /// Sorted by address: the caller's ranges and the module's own globals. Empty if unchecked.
  std::vector<GlobalRange> ranges;
};

/// cp.async copies of one thread, oldest first.
struct AsyncCopies {
  struct Copy {
    uint32_t offset;
    uint32_t bytes;
    uint32_t group;
    uint8_t data[16];
  };
  std::vector<Copy> copies;
  /// Copies before this index have landed.
  size_t landed = 0;
  /// The number of groups committed so far, which is also the group of the next copy.
  uint32_t committed = 0;
};

struct Thread {
  ThreadRegisters registers;
  Block *block;
  Warp *warp;
  uint32_t index;
  bool exited;
  /// What the thread waits at, for reports.
  const char *waitingAt;
  uint32_t waitingSite;
  /// The number of threads whose predicate held at the barrier that the thread left last.
  uint32_t barrierResult;
  Fiber fiber;
  char *stackBottom, *stackTop;
  const GlobalRange *lastRange;
  AsyncCopies asyncCopies;
};

using Clocks = std::array<uint32_t, maxWarps>;

/// Lanes that gather for one collective operation.
struct Rendezvous {
  const CollectiveOp *op = nullptr;
  uint32_t site = 0;
  uint32_t mask = 0;
  uint32_t arrived = 0;
  std::array<const uint32_t *, warpSize> arguments;
  std::array<uint32_t *, warpSize> results;
};

struct Warp {
  Block *block;
  uint32_t index;
  /// Lanes that exist, that have returned, and that can run.
  uint32_t lanes, exited, ready;
  uint32_t lastLane;
  Clocks clocks;
  std::vector<Rendezvous> gatherings;
};

struct NamedBarrier {
  uint32_t expected = 0;
  uint32_t arrived = 0;
  uint32_t participants = 0;
  uint32_t predicatesTrue = 0;
  /// The instruction at which a participating warp waits, if it is an aligned one; else 0.
  std::array<uint32_t, maxWarps> sites = {};
  std::vector<uint32_t> waiting;
  Clocks arriveClocks = {};
};

class Block {
public:
  Block() = default;
  ~Block();
  Block(const Block &) = delete;
  Block &operator=(const Block &) = delete;

  /// Runs the block to its end, or to its first report.
  std::optional<Report> run(const LaunchState &launch, Dim3 ctaid);

  /// Ends the block with a report about `thread`. The message is formatted as by printf into a
  /// fixed buffer: the calling fiber is abandoned, so no destructor on its stack will run.
  [[noreturn]] __attribute__((format(printf, 4, 5))) void fail(Thread &thread, Report::Kind kind,
                                                               const char *format, ...);

  /// Stops the calling thread until something wakes it.
  void suspend(Thread &thread, const char *waitingAt, uint32_t site);
  void wake(Thread &thread);
  /// Lets the other threads run; the calling one stays ready.
  void yield(Thread &thread);
  /// Called by generated code when a thread has used up its turns round loops.
  void spendTurn(Thread &thread);
  [[noreturn]] void exitThread(Thread &thread);

  /// `thread` waits until all of its warp's lanes in the operation's mask have come.
  void meet(Thread &thread, const CollectiveOp &op, uint32_t site, const uint32_t *arguments,
            uint32_t *results);

  /// Barriers.cpp. Returns the number of threads whose predicate held. A count of 0 is the whole
  /// block; a site of 0 an instruction that lanes of a warp may reach at different places.
  uint32_t barrierSync(Thread &thread, uint32_t id, uint32_t count, bool predicate, uint32_t site);
  void barrierArrive(Thread &thread, uint32_t id, uint32_t count);

  /// Orders everything that the warps in `participants` did before everything they do next.
  void synchronizeWarps(uint32_t participants, const Clocks *alsoKnown = nullptr);
  /// A fence: orders the warp after all earlier fences of the block, and before the later ones.
  /// Coarser than the hardware, hence it can hide a race but never invent one.
  void fence(Warp &warp);

  const LaunchState &getLaunch() const { return *launch; }
  Thread &getThread(unsigned index) { return *threads[index]; }
  Warp &getWarp(unsigned index) { return warps[index]; }
  unsigned getThreadCount() const { return threadCount; }
  unsigned getWarpCount() const { return warpCount; }
  SharedMemory &getShared() { return shared; }
  void noteProgress() { ++progress; }

private:
  bool prepare(const LaunchState &launch, Dim3 ctaid);
  static void runThread(void *argument);
  Thread *pickNext();
  void switchAway(Thread &thread);
  void completeRendezvous(Warp &warp, Rendezvous &rendezvous, Thread *last);
  void finishRendezvousOf(Warp &warp);
  Report describeDeadlock();
  void setReport(const Thread &thread, Report::Kind kind, std::string message);
  void completeBarrier(NamedBarrier &barrier);
  NamedBarrier &arriveAt(Thread &thread, uint32_t id, uint32_t count);

  const LaunchState *launch = nullptr;
  unsigned threadCount = 0, warpCount = 0;
  unsigned liveThreads = 0;
  std::vector<std::unique_ptr<Thread>> threads;
  std::array<Warp, maxWarps> warps;
  /// Warps with a lane that can run.
  uint32_t readyWarps = 0;
  unsigned currentWarp = 0;
  std::array<NamedBarrier, barrierCount> barriers;
  Clocks fenceClocks = {};
  SharedMemory shared;
  FiberStacks stacks;
  Fiber host;
  std::optional<Report> report;
  uint64_t progress = 0, progressSeen = 0, idleTurns = 0;
  std::chrono::steady_clock::time_point deadline;
};

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_BLOCK_H
