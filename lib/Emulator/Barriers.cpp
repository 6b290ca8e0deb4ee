//===- Barriers.cpp - Named barriers and fences ---------------------------===//
//
// barrier.cta and bar.warp.sync block until the expected threads have come, and order what stands
// before them against what follows. The count is in threads, as in PTX; with none given it is the
// whole block.
//
//===----------------------------------------------------------------------===//

#include "Operations.h"

#include "llvm/Support/Compiler.h"

using namespace sparseflow::emulator;
using Kind = Report::Kind;

static const char *const barrierNames[barrierCount] = {
    "barrier 0",  "barrier 1",  "barrier 2",  "barrier 3", "barrier 4",  "barrier 5",
    "barrier 6",  "barrier 7",  "barrier 8",  "barrier 9", "barrier 10", "barrier 11",
    "barrier 12", "barrier 13", "barrier 14", "barrier 15"};

NamedBarrier &Block::arriveAt(Thread &thread, uint32_t id, uint32_t count) {
  if (LLVM_UNLIKELY(id >= barrierCount))
    fail(thread, Kind::IllegalOperand, "barrier %u; expected a number below %u", id, barrierCount);
  if (LLVM_UNLIKELY(count % warpSize != 0 && count != threadCount))
    fail(thread, Kind::IllegalOperand,
         "barrier %u for %u threads; expected a multiple of the warp size, %u", id, count,
         warpSize);
  if (LLVM_UNLIKELY(count > warpCount * warpSize))
    fail(thread, Kind::DivergentBarrier,
         "barrier %u for %u threads in a block of %u; expected no more than the block has", id,
         count, threadCount);
  NamedBarrier &barrier = barriers[id];
  if (barrier.arrived == 0)
    barrier.expected = count;
  else if (LLVM_UNLIKELY(barrier.expected != count))
    fail(thread, Kind::DivergentBarrier,
         "barrier %u for %u threads, while %u threads already wait there for %u; expected all to "
         "give the same count",
         id, count, barrier.arrived, barrier.expected);
  ++barrier.arrived;
  return barrier;
}

void Block::completeBarrier(NamedBarrier &barrier) {
  synchronizeWarps(barrier.participants, &barrier.arriveClocks);
  barrier.arriveClocks.clear();
  for (uint32_t index : barrier.waiting) {
    getThread(index).barrierResult = barrier.predicatesTrue;
    wake(getThread(index));
  }
  barrier.waiting.clear();
  barrier.arrived = barrier.participants = barrier.predicatesTrue = 0;
  noteProgress();
}

uint32_t Block::barrierSync(Thread &thread, uint32_t id, uint32_t count, bool predicate,
                            uint32_t site) {
  NamedBarrier &barrier = arriveAt(thread, id, count ? count : threadCount);
  uint32_t warp = thread.warp->index;
  if (!(barrier.participants >> warp & 1)) {
    barrier.participants |= 1u << warp;
    barrier.sites[warp] = site;
  } else if (LLVM_UNLIKELY(barrier.sites[warp] != site)) {
    fail(thread, Kind::DivergentBarrier,
         "%s, while other threads of the warp wait for it at another instruction; expected the "
         "whole warp to execute the same aligned barrier",
         barrierNames[id]);
  }
  barrier.predicatesTrue += predicate;
  if (barrier.arrived == barrier.expected) {
    uint32_t holding = barrier.predicatesTrue;
    completeBarrier(barrier);
    return holding;
  }
  barrier.waiting.push_back(thread.index);
  suspend(thread, barrierNames[id], site);
  return thread.barrierResult;
}

void Block::barrierArrive(Thread &thread, uint32_t id, uint32_t count) {
  NamedBarrier &barrier = arriveAt(thread, id, count);
  barrier.arriveClocks.join(thread.warp->clocks);
  thread.warp->clocks.advance(thread.warp->component);
  if (barrier.arrived == barrier.expected)
    completeBarrier(barrier);
}

template <bool aligned>
static void syncAll(Thread &thread, uint32_t site, const uint64_t *arguments, uint64_t *) {
  thread.block->barrierSync(thread, arguments[0], 0, false, aligned ? site : 0);
}
template <bool aligned>
static void syncCount(Thread &thread, uint32_t site, const uint64_t *arguments, uint64_t *) {
  thread.block->barrierSync(thread, arguments[0], arguments[1], false, aligned ? site : 0);
}
static void arriveCount(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  thread.block->barrierArrive(thread, arguments[0], arguments[1]);
}

enum class Reduction { Popc, And, Or };
template <Reduction reduction, bool hasCount, bool aligned>
static void syncReduce(Thread &thread, uint32_t site, const uint64_t *arguments,
                       uint64_t *results) {
  uint32_t count = hasCount ? arguments[1] : 0;
  bool predicate = arguments[hasCount ? 2 : 1] & 1;
  uint32_t holding =
      thread.block->barrierSync(thread, arguments[0], count, predicate, aligned ? site : 0);
  uint32_t expected = count ? count : thread.block->getThreadCount();
  if (reduction == Reduction::Popc)
    results[0] = holding;
  else
    results[0] = reduction == Reduction::And ? holding == expected : holding != 0;
}

static void memoryFence(Thread &thread, uint32_t, const uint64_t *, uint64_t *) {
  thread.block->fence(*thread.warp);
}
/// Orders what a proxy does, not what other threads see: no clock moves.
static void proxyFence(Thread &thread, uint32_t, const uint64_t *, uint64_t *) {
  ++thread.proxyFences;
  ++thread.barrierInitFences;
}
static void barrierInitFence(Thread &thread, uint32_t, const uint64_t *, uint64_t *) {
  ++thread.barrierInitFences;
}
/// Kernels run one after the other; what is checked is that the thread would have waited.
static void gridWait(Thread &thread, uint32_t, const uint64_t *, uint64_t *) {
  thread.hasWaitedForGrid = true;
}
static void nothing(Thread &, uint32_t, const uint64_t *, uint64_t *) {}
static void sleep(Thread &thread, uint32_t, const uint64_t *, uint64_t *) {
  thread.block->yield(thread);
}
static void exitThread(Thread &thread, uint32_t, const uint64_t *, uint64_t *) {
  thread.block->exitThread(thread);
}
/// All lanes that could meet are those that have not returned; which of them are "active" is up to
/// the hardware, so the lane itself is the one answer that is always true.
static void activeMask(Thread &thread, uint32_t, const uint64_t *, uint64_t *results) {
  results[0] = uint64_t(1) << thread.registers.laneId;
}

llvm::ArrayRef<ThreadOp> sparseflow::emulator::getBarrierOps() {
  static const ThreadOp ops[] = {
      {"barrier.cta.sync.aligned.all", syncAll<true>},
      {"barrier.cta.sync.all", syncAll<false>},
      {"barrier.cta.sync.aligned.count", syncCount<true>},
      {"barrier.cta.sync.count", syncCount<false>},
      {"barrier.cta.arrive.aligned.count", arriveCount},
      {"barrier.cta.arrive.count", arriveCount},
      {"barrier.cta.red.popc.aligned.all", syncReduce<Reduction::Popc, false, true>},
      {"barrier.cta.red.popc.all", syncReduce<Reduction::Popc, false, false>},
      {"barrier.cta.red.popc.aligned.count", syncReduce<Reduction::Popc, true, true>},
      {"barrier.cta.red.popc.count", syncReduce<Reduction::Popc, true, false>},
      {"barrier.cta.red.and.aligned.all", syncReduce<Reduction::And, false, true>},
      {"barrier.cta.red.and.all", syncReduce<Reduction::And, false, false>},
      {"barrier.cta.red.and.aligned.count", syncReduce<Reduction::And, true, true>},
      {"barrier.cta.red.and.count", syncReduce<Reduction::And, true, false>},
      {"barrier.cta.red.or.aligned.all", syncReduce<Reduction::Or, false, true>},
      {"barrier.cta.red.or.all", syncReduce<Reduction::Or, false, false>},
      {"barrier.cta.red.or.aligned.count", syncReduce<Reduction::Or, true, true>},
      {"barrier.cta.red.or.count", syncReduce<Reduction::Or, true, false>},
      {"membar.cta", memoryFence},
      {"membar.gl", memoryFence},
      {"membar.sys", memoryFence},
      {"fence.sc.cluster", memoryFence},
      {"fence.proxy.alias", memoryFence},
      {"fence.mbarrier_init.release.cluster", barrierInitFence},
      {"fence.proxy.async", proxyFence},
      {"fence.proxy.async.global", nothing},
      {"fence.proxy.async.shared_cta", proxyFence},
      {"fence.proxy.async.shared_cluster", proxyFence},
      {"griddepcontrol.wait", gridWait},
      {"griddepcontrol.launch.dependents", nothing},
      {"setmaxnreg.inc.sync.aligned.u32", nothing},
      {"setmaxnreg.dec.sync.aligned.u32", nothing},
      {"prefetch.L1", nothing},
      {"prefetch.L2", nothing},
      {"prefetch.global.L1", nothing},
      {"prefetch.global.L2", nothing},
      {"prefetch.global.L2.evict.last", nothing},
      {"prefetch.global.L2.evict.normal", nothing},
      {"prefetch.tensormap", nothing},
      {"nanosleep", sleep},
      {"exit", exitThread},
      {"activemask", activeMask},
  };
  return ops;
}
