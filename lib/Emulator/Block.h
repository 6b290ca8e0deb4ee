//===- Block.h - Threads, warps and the block that schedules them -*- C++ -*-===//
//
// The state of one running thread block. One host thread runs the blocks of a cluster (see
// Cluster.h), start to end; all of their GPU threads are fibers on that host thread, so nothing
// here needs a lock.
//
// Order between threads is tracked with vector clocks, one component a warp: a warp's own component
// grows at every synchronization it takes part in, and a barrier gives each participant the maximum
// of all. An access is ordered before now if its warp's clock, at the time, is known to the
// accessing warp.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_BLOCK_H
#define SPARSEFLOW_LIB_EMULATOR_BLOCK_H

#include "BulkCopy.h"
#include "Clocks.h"
#include "Fiber.h"
#include "Mbarrier.h"
#include "SharedMemory.h"
#include "Warpgroup.h"

#include "sparseflow/Emulator/Emulator.h"

#include "llvm/ADT/STLFunctionalExtras.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

namespace sparseflow::emulator {

class Block;
class Cluster;
struct CollectiveOp;
struct Thread;
struct Warp;

constexpr unsigned warpSize = 32;
constexpr unsigned maxWarps = 32;
constexpr unsigned maxThreads = warpSize * maxWarps;
constexpr unsigned maxWarpgroups = maxThreads / warpgroupSize;
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
  /// The block's place in its cluster, the cluster's extent, its place in the grid, and the grid's
  /// extent in clusters.
  uint32_t clusterCtaid[3];
  uint32_t clusterNctaid[3];
  uint32_t clusterid[3];
  uint32_t nclusterid[3];
  uint32_t clusterCtarank;
  uint32_t clusterNctarank;
  /// The number of wgmma.fence that the thread has executed.
  uint32_t wgmmaFences;
  uint64_t sharedBase;
};

/// The entry that Retarget.cpp makes for each kernel.
using KernelEntry = void (*)(Thread *thread, void *const *params);

/// What the blocks of a launch have in common.
struct LaunchState {
  std::string kernel;
  KernelEntry entry = nullptr;
  Dim3 grid, block, cluster;
  bool waitsForGrid = false;
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
  /// Unique in the cluster: the block's rank * maxThreads + index.
  uint16_t clusterIndex;
  bool exited;
  /// What the thread waits at, for reports.
  const char *waitingAt;
  uint32_t waitingSite;
  /// The mbarrier that the thread waits for, if that is what it does.
  const Mbarrier *waitingFor;
  /// The number of threads whose predicate held at the barrier that the thread left last.
  uint32_t barrierResult;
  Fiber fiber;
  char *stackBottom, *stackTop;
  const GlobalRange *lastRange;
  AsyncCopies asyncCopies;
  BulkStores bulkStores;
  /// The phase of the cluster's barrier that the thread has arrived in and not waited for, or -1.
  int64_t clusterBarrierPhase;
  /// No kernel before this one runs any more, as far as the thread knows.
  bool hasWaitedForGrid;
  /// fence.proxy.async that the thread has executed, and those and fence.mbarrier_init together.
  uint16_t proxyFences;
  uint32_t barrierInitFences;
  /// wgmma groups that the thread has committed, and wgmmaFences when it last read accumulators.
  uint32_t wgmmaGroups;
  uint32_t wgmmaReadFences;
};

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
  /// The warp's own component of all clocks of the cluster.
  uint32_t component;
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
  Clocks arriveClocks;
};

class Block {
public:
  Block() = default;
  ~Block();
  Block(const Block &) = delete;
  Block &operator=(const Block &) = delete;

  /// Readies the block to run as `rank` of its cluster. Returns false if there is no memory.
  bool prepare(Cluster &cluster, unsigned rank, const LaunchState &launch, Dim3 ctaid);
  /// Runs until no thread of the block can continue, or to the first report.
  void resume();
  bool canRun() const { return readyWarps != 0; }
  bool isFinished() const { return liveThreads == 0; }
  std::optional<Report> takeReport() { return std::move(report); }
  Report makeReport(const Thread &thread, Report::Kind kind, std::string message) const;
  /// Why the block's threads will never continue. Not for a finished block.
  Report describeDeadlock();

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
  /// Gives the other blocks of the cluster a turn.
  void leave(Thread &thread);

  /// `thread` waits until all of its warp's lanes in the operation's mask have come.
  void meet(Thread &thread, const CollectiveOp &op, uint32_t site, const uint32_t *arguments,
            uint32_t *results);

  /// `thread` waits until all of its warpgroup have come to the instruction `site`. True for the
  /// last, who acts for all and then calls releaseWarpgroup().
  bool meetWarpgroup(Thread &thread, const char *name, uint32_t site, const uint32_t *operands);
  void releaseWarpgroup(Thread &last);

  /// Barriers.cpp. Returns the number of threads whose predicate held. A count of 0 is the whole
  /// block; a site of 0 an instruction that lanes of a warp may reach at different places.
  uint32_t barrierSync(Thread &thread, uint32_t id, uint32_t count, bool predicate, uint32_t site);
  void barrierArrive(Thread &thread, uint32_t id, uint32_t count);

  /// Orders everything that the warps in `participants` did before everything they do next.
  void synchronizeWarps(uint32_t participants, const Clocks *alsoKnown = nullptr);
  /// A fence: orders the warp after all earlier fences of the cluster, and before the later ones.
  /// Coarser than the hardware, hence it can hide a race but never invent one.
  void fence(Warp &warp);

  const LaunchState &getLaunch() const { return *launch; }
  Thread &getThread(unsigned index) { return *threads[index]; }
  Warp &getWarp(unsigned index) { return warps[index]; }
  unsigned getThreadCount() const { return threadCount; }
  unsigned getWarpCount() const { return warpCount; }
  SharedMemory &getShared() { return shared; }
  Cluster &getCluster() { return *cluster; }
  unsigned getRank() const { return rank; }
  Warpgroup &getWarpgroup(unsigned index) { return warpgroups[index]; }
  Warpgroup &getWarpgroup(const Thread &thread) { return warpgroups[thread.index / warpgroupSize]; }
  unsigned getWarpgroupCount() const { return (warpCount + 3) / 4; }
  Mbarriers &getMbarriers() { return mbarriers; }
  /// For what a reader knew while it is checked: no fiber that a report abandons owns it.
  Clocks &getReaderClocks() { return readerClocks; }
  void noteProgress() { ++progress; }
  uint64_t getProgress() const { return progress; }

private:
  static void runThread(void *argument);
  Thread *pickNext();
  void switchAway(Thread &thread);
  void completeRendezvous(Warp &warp, Rendezvous &rendezvous, Thread *last);
  void finishRendezvousOf(Warp &warp);
  void prepareThread(unsigned index, Dim3 ctaid);
  void completeBarrier(NamedBarrier &barrier);
  NamedBarrier &arriveAt(Thread &thread, uint32_t id, uint32_t count);

  const LaunchState *launch = nullptr;
  Cluster *cluster = nullptr;
  unsigned rank = 0;
  unsigned threadCount = 0, warpCount = 0;
  unsigned liveThreads = 0;
  std::vector<std::unique_ptr<Thread>> threads;
  std::array<Warp, maxWarps> warps;
  std::array<Warpgroup, maxWarpgroups> warpgroups;
  /// Warps with a lane that can run.
  uint32_t readyWarps = 0;
  unsigned currentWarp = 0;
  std::array<NamedBarrier, barrierCount> barriers;
  Mbarriers mbarriers;
  Clocks readerClocks;
  SharedMemory shared;
  FiberStacks stacks;
  Fiber host;
  std::optional<Report> report;
  uint64_t progress = 0, progressSeen = 0, idleTurns = 0;
  std::chrono::steady_clock::time_point deadline;
};

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_BLOCK_H
