//===- FiberScheduler.cpp - Runs the threads of a block -------------------===//
//
// A thread runs until it has to wait; then the next ready lane of the same warp continues, and when
// the warp has none left, the next warp. Whoever arrives last at a collective performs it and goes
// on, so a collective costs one switch a lane. When no thread can run and some have not returned,
// or when all of them only turn round loops, the block is dead and the report says who waits where.
//
//===----------------------------------------------------------------------===//

#include "Cluster.h"
#include "Operations.h"

#include "llvm/ADT/bit.h"
#include "llvm/Support/Compiler.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

using namespace sparseflow::emulator;
using Kind = Report::Kind;

/// Turns round loops between two looks at the other threads: some ten microseconds.
static constexpr uint32_t turnsPerSlice = 4096;

Block::~Block() = default;

bool Block::prepare(Cluster &newCluster, unsigned newRank, const LaunchState &state, Dim3 ctaid) {
  launch = &state;
  cluster = &newCluster;
  rank = newRank;
  threadCount = static_cast<unsigned>(state.block.count());
  warpCount = (threadCount + warpSize - 1) / warpSize;
  liveThreads = threadCount;
  report.reset();
  idleTurns = 0;
  progressSeen = progress;
  uint32_t sharedBytes = state.staticSharedBytes + state.dynamicSharedBytes;
  unsigned firstComponent = rank * cluster->getReadersPerBlock();
  if (!stacks.reserve(threadCount) ||
      !shared.reset(sharedBytes, cluster->getReaderCount(), state.options->detectRaces))
    return false;
  while (threads.size() < threadCount)
    threads.push_back(std::make_unique<Thread>());

  for (unsigned index = 0; index != warpCount; ++index) {
    Warp &warp = warps[index];
    unsigned lanes = std::min(threadCount - index * warpSize, warpSize);
    warp.block = this;
    warp.index = index;
    warp.component = firstComponent + index;
    warp.lanes = lanes == warpSize ? ~0u : (1u << lanes) - 1;
    warp.exited = 0;
    warp.ready = warp.lanes;
    warp.lastLane = warpSize - 1;
    warp.clocks.clear();
    warp.clocks.raise(warp.component, 1);
    warp.gatherings.clear();
  }
  for (unsigned index = 0; index != getWarpgroupCount(); ++index)
    warpgroups[index].reset(index, firstComponent + warpCount + index);
  readyWarps = warpCount == maxWarps ? ~0u : (1u << warpCount) - 1;
  currentWarp = 0;
  for (NamedBarrier &barrier : barriers)
    barrier = NamedBarrier();
  mbarriers.clear();
  for (unsigned index = 0; index != threadCount; ++index)
    prepareThread(index, ctaid);
  deadline = std::chrono::steady_clock::now() +
             std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                 std::chrono::duration<double>(state.options->blockSeconds));
  return true;
}

void Block::prepareThread(unsigned index, Dim3 ctaid) {
  const LaunchState &state = *launch;
  Thread &thread = *threads[index];
  ThreadRegisters &registers = thread.registers;
  auto set = [](uint32_t (&target)[3], uint32_t x, uint32_t y, uint32_t z) {
    target[0] = x;
    target[1] = y;
    target[2] = z;
  };
  const Dim3 &extent = state.cluster;
  set(registers.tid, index % state.block.x, index / state.block.x % state.block.y,
      index / state.block.x / state.block.y);
  set(registers.ntid, state.block.x, state.block.y, state.block.z);
  set(registers.ctaid, ctaid.x, ctaid.y, ctaid.z);
  set(registers.nctaid, state.grid.x, state.grid.y, state.grid.z);
  set(registers.clusterCtaid, ctaid.x % extent.x, ctaid.y % extent.y, ctaid.z % extent.z);
  set(registers.clusterNctaid, extent.x, extent.y, extent.z);
  set(registers.clusterid, ctaid.x / extent.x, ctaid.y / extent.y, ctaid.z / extent.z);
  set(registers.nclusterid, state.grid.x / extent.x, state.grid.y / extent.y,
      state.grid.z / extent.z);
  registers.clusterCtarank = rank;
  registers.clusterNctarank = static_cast<uint32_t>(extent.count());
  registers.laneId = index % warpSize;
  registers.warpId = index / warpSize;
  registers.warpCount = warpCount;
  registers.sharedBytes = shared.getBytes();
  registers.dynamicSharedBytes = state.dynamicSharedBytes;
  registers.fuel = turnsPerSlice;
  registers.wgmmaFences = 0;
  registers.sharedBase = reinterpret_cast<uint64_t>(shared.getBase());
  thread.block = this;
  thread.warp = &warps[index / warpSize];
  thread.index = index;
  thread.clusterIndex = static_cast<uint16_t>(rank * maxThreads + index);
  thread.exited = false;
  thread.waitingAt = nullptr;
  thread.waitingFor = nullptr;
  thread.stackBottom = stacks.getBottom(index);
  thread.stackTop = stacks.getTop(index);
  thread.lastRange = nullptr;
  thread.asyncCopies.copies.clear();
  thread.asyncCopies.landed = 0;
  thread.asyncCopies.committed = 0;
  thread.bulkStores.stores.clear();
  thread.bulkStores.committed = 0;
  thread.clusterBarrierPhase = -1;
  thread.hasWaitedForGrid = !state.waitsForGrid;
  thread.proxyFences = 0;
  thread.barrierInitFences = 0;
  thread.wgmmaGroups = 0;
  thread.wgmmaReadFences = 0;
  thread.fiber.start(thread.stackBottom, thread.stackTop, &Block::runThread, &thread);
}

/// Compiled code has no type in front of it, which the sanitizer of indirect calls would read.
LLVM_NO_SANITIZE("function") void Block::runThread(void *argument) {
  Thread &thread = *static_cast<Thread *>(argument);
  thread.fiber.finishSwitch();
  const LaunchState &launch = *thread.block->launch;
  launch.entry(&thread, launch.params);
  thread.block->exitThread(thread);
}

void Block::resume() {
  host.adoptCurrentStack();
  if (Thread *next = pickNext())
    Fiber::switchTo(host, next->fiber);
}

Thread *Block::pickNext() {
  if (!readyWarps)
    return nullptr;
  if (!(readyWarps >> currentWarp & 1)) {
    uint32_t later = readyWarps & ~((2u << currentWarp) - 1);
    currentWarp = llvm::countr_zero(later ? later : readyWarps);
  }
  Warp &warp = warps[currentWarp];
  uint32_t later = warp.lastLane == warpSize - 1 ? 0 : warp.ready & (~0u << (warp.lastLane + 1));
  warp.lastLane = llvm::countr_zero(later ? later : warp.ready);
  return threads[currentWarp * warpSize + warp.lastLane].get();
}

void Block::switchAway(Thread &thread) {
  Thread *next = pickNext();
  if (next == &thread)
    return;
  Fiber::switchTo(thread.fiber, next ? next->fiber : host);
}

void Block::suspend(Thread &thread, const char *waitingAt, uint32_t site) {
  Warp &warp = *thread.warp;
  thread.waitingAt = waitingAt;
  thread.waitingSite = site;
  warp.ready &= ~(1u << thread.registers.laneId);
  if (!warp.ready)
    readyWarps &= ~(1u << warp.index);
  switchAway(thread);
  thread.waitingAt = nullptr;
}

void Block::wake(Thread &thread) {
  thread.warp->ready |= 1u << thread.registers.laneId;
  readyWarps |= 1u << thread.warp->index;
}

void Block::yield(Thread &thread) {
  // Leave the warp too: what the thread hopes for may be up to another one.
  uint32_t later = readyWarps & ~((2u << currentWarp) - 1);
  currentWarp = llvm::countr_zero(later ? later : readyWarps);
  switchAway(thread);
}

void Block::leave(Thread &thread) {
  // The current warp goes on from its next lane.
  Fiber::switchTo(thread.fiber, host);
}

void Block::spendTurn(Thread &thread) {
  thread.registers.fuel = turnsPerSlice;
  if (progress != progressSeen) {
    progressSeen = progress;
    idleTurns = 0;
  } else {
    // What the loop waits for may be up to a copy in flight.
    cluster->land(/*onlyAwaited=*/false);
    idleTurns += turnsPerSlice;
    if (idleTurns > launch->options->idleLoopLimit)
      fail(thread, Kind::Deadlock,
           "a loop that never ends: %llu turns in which no thread of the block stored, waited or "
           "finished; expected another thread to store what the loop waits for",
           static_cast<unsigned long long>(idleTurns));
  }
  if (std::chrono::steady_clock::now() > deadline)
    fail(thread, Kind::Deadlock,
         "the block ran for more than %g seconds; LaunchOptions::blockSeconds allows more",
         launch->options->blockSeconds);
  yield(thread);
  if (cluster->getBlockCount() > 1)
    leave(thread);
}

void Block::exitThread(Thread &thread) {
  checkBulkStoresDone(thread);
  Warp &warp = *thread.warp;
  uint32_t bit = 1u << thread.registers.laneId;
  thread.exited = true;
  warp.exited |= bit;
  warp.ready &= ~bit;
  if (!warp.ready)
    readyWarps &= ~(1u << warp.index);
  --liveThreads;
  noteProgress();
  finishRendezvousOf(warp);
  cluster->noteExit(thread);
  switchAway(thread);
  LLVM_BUILTIN_UNREACHABLE;
}

//===----------------------------------------------------------------------===//
// Collectives of a warp
//===----------------------------------------------------------------------===//

Thread &WarpCall::getThread(unsigned lane) const {
  return warp.block->getThread(warp.index * warpSize + lane);
}

void Block::meet(Thread &thread, const CollectiveOp &op, uint32_t site, const uint32_t *arguments,
                 uint32_t *results) {
  Warp &warp = *thread.warp;
  uint32_t lane = thread.registers.laneId, bit = 1u << lane;
  uint32_t mask = op.aligned ? ~0u : arguments[op.maskOperand];
  if (op.aligned) {
    if (LLVM_UNLIKELY(warp.lanes != ~0u))
      fail(thread, Kind::DivergentBarrier,
           "%s in a warp of %d threads; expected the block's threads to be a multiple of 32",
           op.name.c_str(), llvm::popcount(warp.lanes));
    if (LLVM_UNLIKELY(warp.exited))
      fail(thread, Kind::DivergentBarrier,
           "%s, but %d threads of the warp have returned; expected all 32 to execute it",
           op.name.c_str(), llvm::popcount(warp.exited));
  } else if (LLVM_UNLIKELY(!(mask & bit) || (mask & ~warp.lanes))) {
    fail(thread, Kind::IllegalOperand,
         "%s with mask 0x%08x by lane %u; expected a mask that holds the lane itself and only "
         "lanes of the warp (0x%08x)",
         op.name.c_str(), mask, lane, warp.lanes);
  }

  Rendezvous *rendezvous = nullptr;
  for (Rendezvous &candidate : warp.gatherings) {
    if (candidate.op == &op && candidate.mask == mask && !(candidate.arrived & bit) &&
        (!op.aligned || candidate.site == site)) {
      rendezvous = &candidate;
      break;
    }
    if (LLVM_UNLIKELY(op.aligned && candidate.op->aligned))
      fail(thread, Kind::DivergentBarrier,
           "%s, while %d other threads of the warp wait at %s%s; expected all 32 to execute the "
           "same instruction",
           op.name.c_str(), llvm::popcount(candidate.arrived),
           candidate.op == &op ? "another " : "", candidate.op->name.c_str());
  }
  if (!rendezvous) {
    rendezvous = &warp.gatherings.emplace_back();
    rendezvous->op = &op;
    rendezvous->site = site;
    rendezvous->mask = mask;
  }
  rendezvous->arrived |= bit;
  rendezvous->arguments[lane] = arguments;
  rendezvous->results[lane] = results;
  if (rendezvous->arrived == (mask & ~warp.exited))
    return completeRendezvous(warp, *rendezvous, &thread);
  suspend(thread, op.name.c_str(), site);
}

void Block::completeRendezvous(Warp &warp, Rendezvous &rendezvous, Thread *last) {
  uint32_t others = rendezvous.arrived;
  if (last)
    others &= ~(1u << last->registers.laneId);
  Thread &runner =
      last ? *last : getThread(warp.index * warpSize + llvm::countr_zero(rendezvous.arrived));
  rendezvous.op->function(WarpCall{warp, *rendezvous.op, rendezvous.arrived, runner,
                                   rendezvous.arguments, rendezvous.results});
  rendezvous = std::move(warp.gatherings.back());
  warp.gatherings.pop_back();
  warp.ready |= others;
  if (warp.ready)
    readyWarps |= 1u << warp.index;
  noteProgress();
}

/// A lane has returned: that may complete collectives of masks that name it.
void Block::finishRendezvousOf(Warp &warp) {
  for (size_t i = 0; i < warp.gatherings.size();) {
    Rendezvous &rendezvous = warp.gatherings[i];
    if (!rendezvous.op->aligned && rendezvous.arrived == (rendezvous.mask & ~warp.exited))
      completeRendezvous(warp, rendezvous, nullptr);
    else
      ++i;
  }
}

//===----------------------------------------------------------------------===//
// Order between warps
//===----------------------------------------------------------------------===//

void Block::synchronizeWarps(uint32_t participants, const Clocks *alsoKnown) {
  Clocks joined;
  if (alsoKnown)
    joined = *alsoKnown;
  for (unsigned index = 0; index != warpCount; ++index)
    if (participants >> index & 1)
      joined.join(warps[index].clocks);
  for (unsigned index = 0; index != warpCount; ++index) {
    if (!(participants >> index & 1))
      continue;
    warps[index].clocks = joined;
    warps[index].clocks.advance(warps[index].component);
  }
}

void Block::fence(Warp &warp) {
  Clocks &known = cluster->getFenceClocks();
  known.join(warp.clocks);
  warp.clocks = known;
  warp.clocks.advance(warp.component);
}

//===----------------------------------------------------------------------===//
// Warpgroups
//===----------------------------------------------------------------------===//

bool Block::meetWarpgroup(Thread &thread, const char *name, uint32_t site,
                          const uint32_t *operands) {
  Warpgroup &group = getWarpgroup(thread);
  unsigned first = group.index * warpgroupSize;
  if (LLVM_UNLIKELY(threadCount < first + warpgroupSize))
    fail(thread, Kind::DivergentBarrier,
         "%s in a warpgroup of %u threads; expected the block to hold all 128 threads of it", name,
         threadCount - first);
  if (group.arrived && LLVM_UNLIKELY(group.site != site))
    fail(thread, Kind::DivergentBarrier,
         "%s, while %u other threads of the warpgroup wait at %s%s; expected all 128 to execute "
         "the same instruction",
         name, group.arrived, group.name == name ? "another " : "", group.name);
  for (unsigned warp = first / warpSize; warp != first / warpSize + 4; ++warp)
    if (LLVM_UNLIKELY(warps[warp].exited))
      fail(thread, Kind::DivergentBarrier,
           "%s, but threads of warp %u of the warpgroup have returned; expected all 128 to execute "
           "it",
           name, warp);
  group.name = name;
  group.site = site;
  group.operands[thread.index - first] = operands;
  if (++group.arrived == warpgroupSize)
    return true;
  suspend(thread, name, site);
  return false;
}

void Block::releaseWarpgroup(Thread &last) {
  Warpgroup &group = getWarpgroup(last);
  group.arrived = 0;
  for (unsigned index = 0; index != warpgroupSize; ++index) {
    Thread &thread = *threads[group.index * warpgroupSize + index];
    if (&thread != &last)
      wake(thread);
  }
  noteProgress();
}

//===----------------------------------------------------------------------===//
// Reports
//===----------------------------------------------------------------------===//

Report Block::makeReport(const Thread &thread, Kind kind, std::string message) const {
  Report made;
  made.kind = kind;
  made.message = std::move(message);
  made.kernel = launch->kernel;
  made.block = {thread.registers.ctaid[0], thread.registers.ctaid[1], thread.registers.ctaid[2]};
  made.thread = thread.index;
  return made;
}

void Block::fail(Thread &thread, Kind kind, const char *format, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof(buffer), format, arguments);
  va_end(arguments);
  report = makeReport(thread, kind, buffer);
  Fiber::switchTo(thread.fiber, host);
  LLVM_BUILTIN_UNREACHABLE;
}

Report Block::describeDeadlock() {
  // Name the place with the most waiting threads, and the first of them.
  const Thread *first = nullptr;
  unsigned most = 0, exited = 0, waiting = 0;
  for (unsigned i = 0; i != threadCount; ++i) {
    const Thread &thread = *threads[i];
    if (thread.exited) {
      ++exited;
      continue;
    }
    ++waiting;
    unsigned same = 0;
    for (unsigned j = i; j != threadCount; ++j)
      same += !threads[j]->exited && threads[j]->waitingAt == thread.waitingAt &&
              threads[j]->waitingSite == thread.waitingSite;
    if (same > most) {
      most = same;
      first = &thread;
    }
  }
  if (const Mbarrier *barrier = first->waitingFor)
    return makeReport(
        *first, Kind::Deadlock,
        llvm::formatv("{0} threads wait at {1} for phase {2} of the mbarrier at offset {3}, which "
                      "will not complete: {4} of {5} arrivals and {6} bytes of copies are "
                      "outstanding; expected every phase to get its arrivals and exactly the bytes "
                      "that expect_tx announced",
                      most, first->waitingAt, barrier->phase, barrier->offset, barrier->pending,
                      barrier->expected, barrier->expectedBytes));
  std::string message = llvm::formatv(
      "{0} threads wait at {1} for others that will not come: ", most, first->waitingAt);
  if (waiting > most)
    message += llvm::formatv("{0} threads wait elsewhere", waiting - most).str();
  if (waiting > most && exited)
    message += " and ";
  if (exited)
    message += llvm::formatv("{0} threads have returned", exited).str();
  if (waiting == most && !exited)
    message += "it expects more threads than the block has";
  message += "; expected all of them to reach the same barrier";
  return makeReport(*first, Kind::DivergentBarrier, std::move(message));
}
