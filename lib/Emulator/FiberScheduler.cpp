//===- FiberScheduler.cpp - Runs the threads of a block -------------------===//
//
// A thread runs until it has to wait; then the next ready lane of the same warp continues, and when
// the warp has none left, the next warp. Whoever arrives last at a collective performs it and goes
// on, so a collective costs one switch a lane. When no thread can run and some have not returned,
// or when all of them only turn round loops, the block is dead and the report says who waits where.
//
//===----------------------------------------------------------------------===//

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

bool Block::prepare(const LaunchState &state, Dim3 ctaid) {
  launch = &state;
  threadCount = static_cast<unsigned>(state.block.count());
  warpCount = (threadCount + warpSize - 1) / warpSize;
  liveThreads = threadCount;
  report.reset();
  idleTurns = 0;
  progressSeen = progress;
  uint32_t sharedBytes = state.staticSharedBytes + state.dynamicSharedBytes;
  if (!stacks.reserve(threadCount) ||
      !shared.reset(sharedBytes, warpCount, state.options->detectRaces))
    return false;
  while (threads.size() < threadCount)
    threads.push_back(std::make_unique<Thread>());

  for (unsigned index = 0; index != warpCount; ++index) {
    Warp &warp = warps[index];
    unsigned lanes = std::min(threadCount - index * warpSize, warpSize);
    warp.block = this;
    warp.index = index;
    warp.lanes = lanes == warpSize ? ~0u : (1u << lanes) - 1;
    warp.exited = 0;
    warp.ready = warp.lanes;
    warp.lastLane = warpSize - 1;
    warp.clocks.fill(0);
    warp.clocks[index] = 1;
    warp.gatherings.clear();
  }
  readyWarps = warpCount == maxWarps ? ~0u : (1u << warpCount) - 1;
  currentWarp = 0;
  for (NamedBarrier &barrier : barriers)
    barrier = NamedBarrier();
  fenceClocks.fill(0);

  for (unsigned index = 0; index != threadCount; ++index) {
    Thread &thread = *threads[index];
    ThreadRegisters &registers = thread.registers;
    registers.tid[0] = index % state.block.x;
    registers.tid[1] = index / state.block.x % state.block.y;
    registers.tid[2] = index / state.block.x / state.block.y;
    registers.ntid[0] = state.block.x;
    registers.ntid[1] = state.block.y;
    registers.ntid[2] = state.block.z;
    registers.ctaid[0] = ctaid.x;
    registers.ctaid[1] = ctaid.y;
    registers.ctaid[2] = ctaid.z;
    registers.nctaid[0] = state.grid.x;
    registers.nctaid[1] = state.grid.y;
    registers.nctaid[2] = state.grid.z;
    registers.laneId = index % warpSize;
    registers.warpId = index / warpSize;
    registers.warpCount = warpCount;
    registers.sharedBytes = sharedBytes;
    registers.dynamicSharedBytes = state.dynamicSharedBytes;
    registers.fuel = turnsPerSlice;
    registers.sharedBase = reinterpret_cast<uint64_t>(shared.getBase());
    thread.block = this;
    thread.warp = &warps[index / warpSize];
    thread.index = index;
    thread.exited = false;
    thread.waitingAt = nullptr;
    thread.stackBottom = stacks.getBottom(index);
    thread.stackTop = stacks.getTop(index);
    thread.lastRange = nullptr;
    thread.asyncCopies.copies.clear();
    thread.asyncCopies.landed = 0;
    thread.asyncCopies.committed = 0;
    thread.fiber.start(thread.stackBottom, thread.stackTop, &Block::runThread, &thread);
  }
  deadline = std::chrono::steady_clock::now() +
             std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                 std::chrono::duration<double>(state.options->blockSeconds));
  return true;
}

/// Compiled code has no type in front of it, which the sanitizer of indirect calls would read.
LLVM_NO_SANITIZE("function") void Block::runThread(void *argument) {
  Thread &thread = *static_cast<Thread *>(argument);
  thread.fiber.finishSwitch();
  const LaunchState &launch = *thread.block->launch;
  launch.entry(&thread, launch.params);
  thread.block->exitThread(thread);
}

std::optional<Report> Block::run(const LaunchState &state, Dim3 ctaid) {
  if (!prepare(state, ctaid)) {
    Report failure;
    failure.kind = Kind::Trap;
    failure.kernel = state.kernel;
    failure.block = ctaid;
    failure.message = "no memory is left for the block's stacks and shared memory";
    return failure;
  }
  host.adoptCurrentStack();
  if (Thread *first = pickNext())
    Fiber::switchTo(host, first->fiber);
  if (!report && liveThreads)
    report = describeDeadlock();
  return std::move(report);
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

void Block::spendTurn(Thread &thread) {
  thread.registers.fuel = turnsPerSlice;
  if (progress != progressSeen) {
    progressSeen = progress;
    idleTurns = 0;
  } else {
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
}

void Block::exitThread(Thread &thread) {
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
  Clocks joined = {};
  if (alsoKnown)
    joined = *alsoKnown;
  for (unsigned index = 0; index != warpCount; ++index)
    if (participants >> index & 1)
      for (unsigned other = 0; other != warpCount; ++other)
        joined[other] = std::max(joined[other], warps[index].clocks[other]);
  for (unsigned index = 0; index != warpCount; ++index) {
    if (!(participants >> index & 1))
      continue;
    warps[index].clocks = joined;
    ++warps[index].clocks[index];
  }
}

void Block::fence(Warp &warp) {
  for (unsigned other = 0; other != warpCount; ++other) {
    uint32_t known = std::max(fenceClocks[other], warp.clocks[other]);
    fenceClocks[other] = warp.clocks[other] = known;
  }
  ++warp.clocks[warp.index];
}

//===----------------------------------------------------------------------===//
// Reports
//===----------------------------------------------------------------------===//

void Block::setReport(const Thread &thread, Kind kind, std::string message) {
  report.emplace();
  report->kind = kind;
  report->message = std::move(message);
  report->kernel = launch->kernel;
  report->block = {thread.registers.ctaid[0], thread.registers.ctaid[1], thread.registers.ctaid[2]};
  report->thread = thread.index;
}

void Block::fail(Thread &thread, Kind kind, const char *format, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof(buffer), format, arguments);
  va_end(arguments);
  setReport(thread, kind, buffer);
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
  setReport(*first, Kind::DivergentBarrier, std::move(message));
  return *report;
}
