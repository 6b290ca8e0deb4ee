//===- Cluster.h - Blocks that run together ---------------------*- C++ -*-===//
//
// The blocks of a cluster are resident at once: each runs until none of its threads can continue,
// then the next one does. A launch without clusters has clusters of one block.
//
// Bulk copies are in flight here, because they may write into any block of the cluster. One lands
// when no thread can run, and somebody waits for the mbarrier that it reports to: as late as the
// hardware may be.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_CLUSTER_H
#define SPARSEFLOW_LIB_EMULATOR_CLUSTER_H

#include "Block.h"

#include <deque>
#include <memory>

namespace sparseflow::emulator {

class Cluster {
public:
  /// Runs the cluster to its end, or to its first report. Clusters are numbered along x first.
  std::optional<Report> run(const LaunchState &launch, uint64_t index);

  unsigned getBlockCount() const { return blockCount; }
  Block &getBlock(unsigned rank) { return *blocks[rank]; }
  Thread &getThread(uint16_t clusterIndex) {
    return blocks[clusterIndex / maxThreads]->getThread(clusterIndex % maxThreads);
  }
  /// The block whose shared memory holds `address`; null if none does.
  Block *findBlock(uint64_t address);

  /// Components of clocks: the warps and warpgroups of each block, which can read shared memory;
  /// the same again for their reads alone; then mbarriers as they come.
  unsigned getReadersPerBlock() const { return readersPerBlock; }
  unsigned getReaderCount() const { return readersPerBlock * blockCount; }
  /// The component that says how far the reads of `reader` are done, where nothing more is known.
  unsigned getReadComponent(unsigned reader) const { return getReaderCount() + reader; }
  unsigned addBarrier(uint32_t offset);
  uint32_t getBarrierOffset(unsigned component) const {
    return barrierOffsets[component - 2 * getReaderCount()];
  }
  /// wgmma groups that have finished of the warpgroup with this component.
  uint32_t getRetiredGroups(unsigned component) const;

  /// Adds a copy to those in flight.
  void issue(const BulkLoad &load) { loads.push_back(load); }
  /// Lands the oldest copy (that some thread waits for). False if there is none.
  bool land(bool onlyAwaited);
  /// Lands the oldest copy that reports to `barrier`. False if there is none.
  bool landOne(const Mbarrier &barrier);
  bool isInFlight(const Mbarrier &barrier) const;

  /// ClusterOps.cpp.
  void arriveAtBarrier(Thread &thread, bool publishes);
  void waitAtBarrier(Thread &thread, uint32_t site);
  /// The thread has returned.
  void noteExit(Thread &thread);

  /// What all fences so far have published.
  Clocks &getFenceClocks() { return fenceClocks; }

private:
  bool prepare(const LaunchState &launch, uint64_t index);
  void completeBarrierIfDone();
  /// A copy that nobody waited for, if there is one.
  std::optional<Report> describeCopyInFlight() const;

  std::vector<std::unique_ptr<Block>> blocks;
  unsigned blockCount = 0, readersPerBlock = 0;
  std::vector<uint32_t> barrierOffsets;
  std::deque<BulkLoad> loads;
  Clocks fenceClocks;
  /// barrier.cluster, of all threads that have not returned.
  struct {
    int64_t phase = 0;
    uint64_t arrived = 0;
    Clocks arriving, completed;
    std::vector<Thread *> waiting;
  } barrier;
  uint64_t liveThreads = 0;
};

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_CLUSTER_H
