//===- Mbarriers.cpp - Barriers in shared memory --------------------------===//
//
// A thread that waits for a phase sleeps until it completes, so a wait costs the host nothing, and
// a barrier that never completes leaves threads that nobody will wake: the cluster sees that and
// reports it. Arriving publishes what the thread's warp did; seeing a phase complete is to know
// what all that arrived in it did, and its copies.
//
//===----------------------------------------------------------------------===//

#include "Mbarrier.h"

#include "Cluster.h"
#include "Operations.h"

#include "llvm/Support/Compiler.h"

using namespace sparseflow::emulator;
using Kind = Report::Kind;

/// Limits of the PTX ISA, for counts of arrivals and of bytes.
static constexpr int64_t maxCount = (1 << 20) - 1;

//===----------------------------------------------------------------------===//
// Phases
//===----------------------------------------------------------------------===//

void Mbarrier::completeIfDone() {
  block->noteProgress();
  if (pending || expectedBytes)
    return;
  ++phase;
  pending = expected;
  completed = arriving;
  completed.raise(component, phase);
  // They learn what this phase published; the next one may complete before they run.
  for (Thread *thread : waiting) {
    thread->warp->clocks.join(completed);
    thread->block->wake(*thread);
  }
  waiting.clear();
}

Mbarrier &sparseflow::emulator::getMbarrier(Thread &thread, uint64_t address, const char *what) {
  Block &block = *thread.block;
  Block *owner = block.getCluster().findBlock(address);
  if (LLVM_UNLIKELY(!owner))
    block.fail(thread, Kind::SharedOutOfBounds,
               "%s at address 0x%llx; expected an address in shared memory", what,
               static_cast<unsigned long long>(address));
  if (LLVM_UNLIKELY(owner->isFinished()))
    failFinished(thread, *owner, what);
  uint32_t offset =
      owner->getShared().checkRange(thread, address, 8, 8, "use of an mbarrier", what);
  auto it = owner->getMbarriers().find(offset);
  if (LLVM_UNLIKELY(it == owner->getMbarriers().end()))
    block.fail(thread, Kind::MbarrierMisuse,
               "%s at offset %u of shared memory, where there is no mbarrier; expected "
               "mbarrier.init, and a barrier after it, before",
               what, offset);
  Mbarrier &barrier = it->second;
  if (LLVM_UNLIKELY(block.getLaunch().options->detectRaces &&
                    barrier.initThread != thread.clusterIndex &&
                    thread.warp->clocks[barrier.initComponent] <
                        barrier.initClock + (barrier.initComponent == thread.warp->component)))
    block.fail(thread, Kind::MbarrierMisuse,
               "%s of the mbarrier at offset %u, which thread %u initialized with no barrier in "
               "between; expected a barrier between mbarrier.init and the first use",
               what, offset, barrier.initThread % maxThreads);
  return barrier;
}

Mbarrier &sparseflow::emulator::getMbarrierForCopy(Thread &thread, uint64_t address,
                                                   const char *what) {
  Mbarrier &barrier = getMbarrier(thread, address, what);
  Block &block = *thread.block;
  if (LLVM_UNLIKELY(block.getCluster().getThread(barrier.initThread).barrierInitFences ==
                    barrier.initFences))
    block.fail(thread, Kind::MissingFence,
               "%s reports to the mbarrier at offset %u, whose initialization by thread %u the "
               "async proxy need not see; expected fence.mbarrier_init or fence.proxy.async by "
               "that thread after mbarrier.init, and a barrier after the fence",
               what, barrier.offset, barrier.initThread % maxThreads);
  return barrier;
}

//===----------------------------------------------------------------------===//
// Operations
//===----------------------------------------------------------------------===//

static void init(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  Block &block = *thread.block;
  SharedMemory &shared = block.getShared();
  const char *what = "mbarrier.init";
  uint32_t count = static_cast<uint32_t>(arguments[1]);
  uint32_t offset =
      static_cast<uint32_t>(arguments[0] - reinterpret_cast<uint64_t>(shared.getBase()));
  if (block.getMbarriers().count(offset))
    block.fail(thread, Kind::MbarrierMisuse,
               "%s at offset %u of shared memory, which holds an mbarrier; expected "
               "mbarrier.inval before it is initialized again",
               what, offset);
  if (count < 1 || count > maxCount)
    block.fail(thread, Kind::IllegalOperand, "%s for %u arrivals; expected 1 to %lld", what, count,
               static_cast<long long>(maxCount));
  shared.checkWrite(thread, arguments[0], 8, 8, AccessMode::Plain, what);
  shared.setBarrier(offset, true);
  Mbarrier &barrier = block.getMbarriers()[offset];
  barrier.block = &block;
  barrier.offset = offset;
  barrier.component = block.getCluster().addBarrier(offset);
  barrier.expected = barrier.pending = count;
  barrier.initThread = thread.clusterIndex;
  barrier.initComponent = thread.warp->component;
  barrier.initClock = thread.warp->clocks[barrier.initComponent];
  barrier.initFences = thread.barrierInitFences;
}

static void invalidate(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  Block &block = *thread.block;
  Mbarrier &barrier = getMbarrier(thread, arguments[0], "mbarrier.inval");
  if (!barrier.waiting.empty() || block.getCluster().isInFlight(barrier))
    block.fail(thread, Kind::MbarrierMisuse,
               "mbarrier.inval of the mbarrier at offset %u, which %zu threads and %s wait for; "
               "expected its last phase to have completed",
               barrier.offset, barrier.waiting.size(),
               block.getCluster().isInFlight(barrier) ? "copies in flight" : "no copies");
  barrier.block->getShared().setBarrier(barrier.offset, false);
  barrier.block->getMbarriers().erase(barrier.offset);
}

static void expectBytes(Thread &thread, Mbarrier &barrier, uint32_t bytes, const char *what) {
  barrier.expectedBytes += bytes;
  if (LLVM_UNLIKELY(barrier.expectedBytes > maxCount))
    thread.block->fail(thread, Kind::IllegalOperand,
                       "%s of %u bytes makes %lld outstanding on the mbarrier at offset %u; "
                       "expected no more than %lld",
                       what, bytes, static_cast<long long>(barrier.expectedBytes), barrier.offset,
                       static_cast<long long>(maxCount));
}

/// Returns the state that test_wait and try_wait take: the phase that the arrival belongs to.
static uint64_t arrive(Thread &thread, Mbarrier &barrier, uint32_t count, const char *what) {
  if (LLVM_UNLIKELY(count < 1 || count > barrier.pending))
    thread.block->fail(thread, Kind::MbarrierMisuse,
                       "%s of %u on the mbarrier at offset %u, whose phase %u lacks %u of %u "
                       "arrivals; expected 1 to that many",
                       what, count, barrier.offset, barrier.phase, barrier.pending,
                       barrier.expected);
  Warp &warp = *thread.warp;
  barrier.arriving.join(warp.clocks);
  warp.clocks.advance(warp.component);
  uint64_t state = barrier.phase;
  barrier.pending -= count;
  barrier.completeIfDone();
  return state;
}

template <bool hasCount>
static void arriveOp(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *results) {
  Mbarrier &barrier = getMbarrier(thread, arguments[0], "mbarrier.arrive");
  results[0] = arrive(thread, barrier, hasCount ? static_cast<uint32_t>(arguments[1]) : 1,
                      "mbarrier.arrive");
}

template <bool hasCount>
static void arriveDrop(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *results) {
  const char *what = "mbarrier.arrive_drop";
  Mbarrier &barrier = getMbarrier(thread, arguments[0], what);
  uint32_t count = hasCount ? static_cast<uint32_t>(arguments[1]) : 1;
  // The phases that follow take that many fewer; this one counts the arrival as usual.
  barrier.expected -= std::min(count, barrier.expected);
  results[0] = arrive(thread, barrier, count, what);
}

static void arriveExpect(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *results) {
  const char *what = "mbarrier.arrive.expect_tx";
  Mbarrier &barrier = getMbarrier(thread, arguments[0], what);
  expectBytes(thread, barrier, static_cast<uint32_t>(arguments[1]), what);
  results[0] = arrive(thread, barrier, 1, what);
}

static void expect(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  const char *what = "mbarrier.expect_tx";
  expectBytes(thread, getMbarrier(thread, arguments[0], what), static_cast<uint32_t>(arguments[1]),
              what);
}

static void complete(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  getMbarrier(thread, arguments[0], "mbarrier.complete_tx")
      .landBytes(static_cast<uint32_t>(arguments[1]));
}

/// Whether the phase that the operand names, by its parity or as a state, has completed.
template <bool byParity> static bool hasCompleted(const Mbarrier &barrier, uint64_t operand) {
  return byParity ? (barrier.phase & 1) != (operand & 1)
                  : barrier.phase != static_cast<uint32_t>(operand);
}

template <bool byParity>
static void tryWait(Thread &thread, uint32_t site, const uint64_t *arguments, uint64_t *results) {
  const char *what = "mbarrier.try_wait";
  Mbarrier &barrier = getMbarrier(thread, arguments[0], what);
  results[0] = 1;
  if (hasCompleted<byParity>(barrier, arguments[1])) {
    thread.warp->clocks.join(barrier.completed);
    return;
  }
  barrier.waiting.push_back(&thread);
  thread.waitingFor = &barrier;
  thread.block->suspend(thread, what, site);
  thread.waitingFor = nullptr;
}

template <bool byParity>
static void testWait(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *results) {
  Mbarrier &barrier = getMbarrier(thread, arguments[0], "mbarrier.test_wait");
  Block &block = *thread.block;
  if (!hasCompleted<byParity>(barrier, arguments[1])) {
    // The others get a turn; if nothing came of it, a copy lands.
    uint64_t progress = block.getProgress();
    block.yield(thread);
    if (block.getProgress() == progress)
      block.getCluster().landOne(barrier);
  }
  results[0] = hasCompleted<byParity>(barrier, arguments[1]);
  if (results[0])
    thread.warp->clocks.join(barrier.completed);
}

llvm::ArrayRef<ThreadOp> sparseflow::emulator::getMbarrierOps() {
  static const std::vector<ThreadOp> ops = [] {
    std::vector<ThreadOp> ops = {
        {"mbarrier.init", init},
        {"mbarrier.init.shared", init},
        {"mbarrier.inval", invalidate},
        {"mbarrier.inval.shared", invalidate},
        {"mbarrier.arrive", arriveOp<false>},
        {"mbarrier.arrive.shared", arriveOp<false>},
        {"mbarrier.arrive.noComplete", arriveOp<true>},
        {"mbarrier.arrive.noComplete.shared", arriveOp<true>},
        {"mbarrier.arrive.drop", arriveDrop<false>},
        {"mbarrier.arrive.drop.shared", arriveDrop<false>},
        {"mbarrier.test.wait", testWait<false>},
        {"mbarrier.test.wait.shared", testWait<false>},
    };
    // Relaxed forms order nothing, but a kernel that uses them orders by other means, of which the
    // emulator would not know: they count as the ordered ones.
    const std::pair<const char *, ThreadOp::Function> families[] = {
        {"arrive", arriveOp<true>},
        {"arrive.expect.tx", arriveExpect},
        {"arrive.drop", arriveDrop<true>},
        {"expect.tx", expect},
        {"complete.tx", complete},
        {"test.wait.parity", testWait<true>},
        {"test.wait", testWait<false>},
        {"try.wait.parity", tryWait<true>},
        {"try.wait.parity.tl", tryWait<true>},
        {"try.wait", tryWait<false>},
        {"try.wait.tl", tryWait<false>},
    };
    static std::vector<std::string> names;
    names.reserve(std::size(families) * 8);
    for (auto [family, function] : families)
      for (const char *order : {"", ".relaxed"})
        for (const char *scope : {".scope.cta", ".scope.cluster"})
          for (const char *space : {".space.cta", ".space.cluster"}) {
            names.push_back(std::string("mbarrier.") + family + order + scope + space);
            ops.push_back({names.back().c_str(), function});
          }
    return ops;
  }();
  return ops;
}
