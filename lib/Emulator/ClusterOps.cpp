//===- ClusterOps.cpp - Operations between the blocks of a cluster --------===//
//
// A pointer to another block's shared memory is that block's own address: mapa only exchanges the
// window. The barrier of a cluster is split in two: arriving publishes what a warp did, waiting
// takes up what all have published.
//
//===----------------------------------------------------------------------===//

#include "Cluster.h"
#include "Operations.h"

#include "llvm/Support/Compiler.h"

using namespace sparseflow::emulator;
using Kind = Report::Kind;

//===----------------------------------------------------------------------===//
// Addresses
//===----------------------------------------------------------------------===//

static Block &getOwner(Thread &thread, uint64_t address, const char *what) {
  Block *owner = thread.block->getCluster().findBlock(address);
  if (LLVM_UNLIKELY(!owner))
    thread.block->fail(thread, Kind::SharedOutOfBounds,
                       "%s of address 0x%llx; expected an address in shared memory", what,
                       static_cast<unsigned long long>(address));
  return *owner;
}

static void mapAddress(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *results) {
  Cluster &cluster = thread.block->getCluster();
  uint32_t rank = static_cast<uint32_t>(arguments[1]);
  if (LLVM_UNLIKELY(rank >= cluster.getBlockCount()))
    thread.block->fail(thread, Kind::IllegalOperand,
                       "mapa to block %u of a cluster of %u; expected a block that it has", rank,
                       cluster.getBlockCount());
  auto getBase = [](Block &block) {
    return reinterpret_cast<uint64_t>(block.getShared().getBase());
  };
  results[0] = arguments[0] - getBase(getOwner(thread, arguments[0], "mapa")) +
               getBase(cluster.getBlock(rank));
}

static void getRank(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *results) {
  results[0] = getOwner(thread, arguments[0], "getctarank").getRank();
}

//===----------------------------------------------------------------------===//
// The barrier
//===----------------------------------------------------------------------===//

void Cluster::completeBarrierIfDone() {
  if (!barrier.arrived || barrier.arrived != liveThreads)
    return;
  barrier.arrived = 0;
  ++barrier.phase;
  barrier.completed = barrier.arriving;
  for (Thread *thread : barrier.waiting)
    thread->block->wake(*thread);
  barrier.waiting.clear();
}

void Cluster::noteExit(Thread &thread) {
  --liveThreads;
  if (thread.clusterBarrierPhase == barrier.phase)
    --barrier.arrived;
  completeBarrierIfDone();
}

void Cluster::arriveAtBarrier(Thread &thread, bool publishes) {
  // The phase that a thread has arrived in, or none.
  if (LLVM_UNLIKELY(thread.clusterBarrierPhase >= 0))
    thread.block->fail(thread, Kind::DivergentBarrier,
                       "barrier.cluster.arrive, after one that the thread did not wait for; "
                       "expected barrier.cluster.wait between the two");
  thread.clusterBarrierPhase = barrier.phase;
  Warp &warp = *thread.warp;
  if (publishes)
    barrier.arriving.join(warp.clocks);
  warp.clocks.advance(warp.component);
  ++barrier.arrived;
  thread.block->noteProgress();
  completeBarrierIfDone();
}

void Cluster::waitAtBarrier(Thread &thread, uint32_t site) {
  if (LLVM_UNLIKELY(thread.clusterBarrierPhase < 0))
    thread.block->fail(thread, Kind::DivergentBarrier,
                       "barrier.cluster.wait without an arrival; expected barrier.cluster.arrive "
                       "before");
  if (thread.clusterBarrierPhase == barrier.phase) {
    barrier.waiting.push_back(&thread);
    thread.block->suspend(thread, "barrier.cluster", site);
  }
  thread.clusterBarrierPhase = -1;
  thread.warp->clocks.join(barrier.completed);
}

template <bool publishes>
static void arrive(Thread &thread, uint32_t, const uint64_t *, uint64_t *) {
  thread.block->getCluster().arriveAtBarrier(thread, publishes);
}
static void wait(Thread &thread, uint32_t site, const uint64_t *, uint64_t *) {
  thread.block->getCluster().waitAtBarrier(thread, site);
}

llvm::ArrayRef<ThreadOp> sparseflow::emulator::getClusterOps() {
  static const ThreadOp ops[] = {
      {"mapa", mapAddress},
      {"mapa.shared.cluster", mapAddress},
      {"getctarank", getRank},
      {"getctarank.shared.cluster", getRank},
      {"barrier.cluster.arrive", arrive<true>},
      {"barrier.cluster.arrive.aligned", arrive<true>},
      {"barrier.cluster.arrive.relaxed", arrive<false>},
      {"barrier.cluster.arrive.relaxed.aligned", arrive<false>},
      {"barrier.cluster.wait", wait},
      {"barrier.cluster.wait.aligned", wait},
  };
  return ops;
}
