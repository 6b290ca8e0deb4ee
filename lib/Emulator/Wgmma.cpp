//===- Wgmma.cpp - Issue, wait and accumulators of wgmma ------------------===//
//
// All 128 threads of a warpgroup meet at wgmma.mma_async and at wgmma.wait_group. The instruction
// is checked when it is issued, but reads its operands and adds its product at the wait that covers
// its group. Meeting orders nothing: what the hardware leaves to barriers is left to them here.
// With one exception: a finished wgmma has taken the registers of all four warps, so whatever they
// loaded for it has been read. Kernels rely on that when one thread of a warpgroup releases a stage
// of the ring.
//
// Registers are values here, so what the hardware demands of them is checked where it can go wrong:
// accumulators have no value before the wait (Warpgroup.h), and wgmma.fence must stand between a
// thread's last access to accumulators, or its last write to the registers of A, and the next
// wgmma on them.
//
//===----------------------------------------------------------------------===//

#include "Wgmma.h"

#include "Cluster.h"
#include "Operations.h"

#include "llvm/Support/Compiler.h"

#include <cstring>

using namespace sparseflow;
using namespace sparseflow::emulator;
using Kind = Report::Kind;

void Warpgroup::reset(unsigned newIndex, unsigned newComponent) {
  index = newIndex;
  component = newComponent;
  arrived = 0;
  pending.clear();
  retiredGroups = 0;
  lastId = 0;
  tiles.clear();
}

//===----------------------------------------------------------------------===//
// Tags
//===----------------------------------------------------------------------===//

// A tag is a NaN that no instruction of ours makes: 11 fixed bits, the wgmma's id, the register.
static constexpr uint32_t tagBits = 0x7fe00000, registerBits = 7, idBits = 14;
static constexpr uint32_t idMask = (1u << idBits) - 1, registerMask = (1u << registerBits) - 1;
/// Tiles whose tags are remembered: many more than fit the registers of a warpgroup.
static constexpr size_t maxTiles = 32;

static bool isTag(uint32_t bits) { return (bits & tagBits) == tagBits && !(bits >> 31); }
static uint32_t makeTag(uint32_t id, uint32_t index) {
  return tagBits | (id & idMask) << registerBits | index;
}
static uint32_t getId(uint32_t tag) { return tag >> registerBits & idMask; }

/// The tile that the tags of wgmma `id` name. Ids wrap, so an older tile may have the same bits.
static AccumulatorTile *findTile(Warpgroup &group, uint32_t id) {
  AccumulatorTile *latest = nullptr;
  for (const std::unique_ptr<AccumulatorTile> &tile : group.tiles)
    if ((tile->id & idMask) == id && (!latest || tile->id > latest->id))
      latest = tile.get();
  return latest;
}

/// Where register `index` of a thread's accumulators stands in a tile: lane 4g+t of warp w holds
/// columns 8j+2t and 8j+2t+1 of rows 16w+g and 16w+g+8.
static uint32_t &getElement(AccumulatorTile &tile, unsigned thread, unsigned index) {
  unsigned lane = thread % warpSize;
  unsigned row = thread / warpSize * 16 + lane / 4 + index / 2 % 2 * 8;
  unsigned column = index / 4 * 8 + lane % 4 * 2 + index % 2;
  return tile.values[row * tile.columns + column];
}

/// A new tile; of too many, it takes the place of the one that was longest without a wgmma.
static AccumulatorTile &addTile(Warpgroup &group, unsigned columns) {
  AccumulatorTile *tile = nullptr;
  if (group.tiles.size() >= maxTiles)
    for (const std::unique_ptr<AccumulatorTile> &each : group.tiles)
      if (!group.isInFlight(*each) && (!tile || each->id < tile->id))
        tile = each.get();
  if (!tile)
    tile = group.tiles.emplace_back(std::make_unique<AccumulatorTile>()).get();
  tile->columns = columns;
  tile->readFences.fill(0);
  tile->values.resize(wgmmaRows * columns);
  return *tile;
}

//===----------------------------------------------------------------------===//
// Issue
//===----------------------------------------------------------------------===//

/// The tile that the threads' accumulators name, or null if they are numbers. Those that the wgmma
/// does not add to may be anything.
static AccumulatorTile *getNamedTile(Block &block, Warpgroup &group, const WgmmaOp &op,
                                     bool isChained, bool addsToTile) {
  unsigned count = isChained ? 1 : op.getRegisterCount();
  bool isNamed = isTag(group.operands[0][0]);
  uint32_t id = getId(group.operands[0][0]);
  for (unsigned index = 0; index != warpgroupSize; ++index) {
    bool agrees = true;
    for (unsigned i = 0; i != count; ++i)
      agrees &=
          isNamed ? group.operands[index][i] == makeTag(id, i) : !isTag(group.operands[index][i]);
    if (LLVM_LIKELY(agrees))
      continue;
    if (!addsToTile)
      return nullptr;
    block.fail(block.getThread(group.index * warpgroupSize + index), Kind::IllegalOperand,
               "%s with accumulators that are not those of one wgmma for all threads, nor "
               "numbers; expected the registers of an earlier wgmma of the same shape, all and "
               "in their order",
               op.name.c_str());
  }
  if (!isNamed)
    return nullptr;
  Thread &thread = block.getThread(group.index * warpgroupSize);
  AccumulatorTile *tile = findTile(group, id);
  if (!tile && !addsToTile)
    return nullptr;
  if (LLVM_UNLIKELY(!tile))
    block.fail(thread, Kind::AccumulatorInFlight,
               "%s with the accumulators of a wgmma that a later one has changed since; expected "
               "the later one's results",
               op.name.c_str());
  if (LLVM_UNLIKELY(tile->columns != op.n))
    block.fail(thread, Kind::AccumulatorInFlight,
               "%s on the accumulators of a wgmma with N = %u; expected the same shape, or the "
               "accumulators to be read after wgmma.wait_group",
               op.name.c_str(), tile->columns);
  return tile;
}

static void checkFences(Block &block, const Warpgroup &group, const WgmmaOp &op,
                        const AccumulatorTile *tile) {
  for (unsigned index = 0; index != warpgroupSize; ++index) {
    Thread &thread = block.getThread(group.index * warpgroupSize + index);
    uint32_t fences = thread.registers.wgmmaFences;
    uint32_t lastRead = tile ? tile->readFences[index] : thread.wgmmaReadFences;
    if (LLVM_UNLIKELY(fences <= lastRead))
      block.fail(thread, Kind::MissingFence,
                 "%s with no wgmma.fence since %s; expected wgmma.fence before", op.name.c_str(),
                 fences ? "accumulators were read" : "the start of the kernel");
    if (LLVM_UNLIKELY(op.hasRegisterA && group.operands[index][op.getWriteFencesWord()] == fences))
      block.fail(thread, Kind::MissingFence,
                 "%s with no wgmma.fence since its registers of A were written; expected "
                 "wgmma.fence between",
                 op.name.c_str());
  }
}

/// What all threads have to agree on: descriptors, scale-d, and the group.
static void checkUniform(Block &block, const Warpgroup &group, const WgmmaOp &op) {
  Thread &first = block.getThread(group.index * warpgroupSize);
  const uint32_t *expected = group.operands[0];
  auto differ = [&](const uint32_t *words, unsigned begin, unsigned count) {
    return std::memcmp(words + begin, expected + begin, count * sizeof(uint32_t)) != 0;
  };
  for (unsigned index = 1; index != warpgroupSize; ++index) {
    Thread &thread = block.getThread(group.index * warpgroupSize + index);
    const uint32_t *words = group.operands[index];
    if (LLVM_UNLIKELY((!op.hasRegisterA && differ(words, op.getRegisterCount(), 2)) ||
                      differ(words, op.getBWord(), 2) || differ(words, op.getScaleWord(), 1)))
      block.fail(thread, Kind::IllegalOperand,
                 "%s with a descriptor or scale-d that differs from that of the warpgroup's first "
                 "thread; expected all 128 threads to give the same",
                 op.name.c_str());
    if (LLVM_UNLIKELY(thread.wgmmaGroups != first.wgmmaGroups))
      block.fail(thread, Kind::DivergentBarrier,
                 "%s after %u wgmma.commit_group, while the warpgroup's first thread executed %u; "
                 "expected all 128 threads to execute the same",
                 op.name.c_str(), thread.wgmmaGroups, first.wgmmaGroups);
  }
}

static uint64_t getWide(const uint32_t *words) { return words[0] | uint64_t(words[1]) << 32; }

/// What every warp of the warpgroup knew before its current span.
static const Clocks &findCommonKnowledge(Block &block, const Warpgroup &group) {
  Clocks &known = block.getReaderClocks();
  known = block.getWarp(group.index * 4).clocks;
  for (unsigned i = 1; i != 4; ++i)
    known.intersect(block.getWarp(group.index * 4 + i).clocks);
  for (unsigned i = 0; i != 4; ++i) {
    const Warp &warp = block.getWarp(group.index * 4 + i);
    if (known[warp.component] == warp.clocks[warp.component])
      known.stepBack(warp.component);
  }
  return known;
}

static uint32_t issue(Thread &last, Warpgroup &group, const WgmmaOp &op, bool isChained) {
  Block &block = *last.block;
  Thread &first = block.getThread(group.index * warpgroupSize);
  const uint32_t *words = group.operands[0];
  checkUniform(block, group, op);
  bool addsToTile = op.addsToAccumulators.value_or(words[op.getScaleWord()] & 1);
  AccumulatorTile *tile = getNamedTile(block, group, op, isChained, addsToTile);
  checkFences(block, group, op, tile);

  auto pending = std::make_unique<PendingWgmma>();
  pending->op = &op;
  pending->group = first.wgmmaGroups;
  pending->addsToTile = addsToTile;
  pending->descriptorA = op.hasRegisterA ? 0 : getWide(words + op.getRegisterCount());
  pending->descriptorB = getWide(words + op.getBWord());
  pending->selector = op.selector;
  for (unsigned index = 0; index != warpgroupSize; ++index) {
    const uint32_t *operands = group.operands[index];
    pending->metadata[index] = operands[op.getMetadataWord()];
    if (op.hasRegisterA)
      std::memcpy(pending->registersA[index].data(), operands + op.getRegisterCount(), 16);
  }
  // A failed check leaves the fiber for good: from here on, nothing is owned by its stack.
  PendingWgmma &wgmma = *group.pending.emplace_back(std::move(pending));
  checkWgmmaOperands(first, group, wgmma, findCommonKnowledge(block, group));
  if (op.sparse)
    checkWgmmaMetadata(block, group, wgmma);

  if (!tile) {
    tile = &addTile(group, op.n);
    for (unsigned index = 0; index != warpgroupSize; ++index)
      for (unsigned i = 0; i != op.getRegisterCount(); ++i)
        getElement(*tile, index, i) = group.operands[index][i];
  }
  for (unsigned i = 0; i != 4; ++i) {
    Warp &warp = block.getWarp(group.index * 4 + i);
    wgmma.issueClocks[i] = warp.clocks[warp.component];
    warp.clocks.advance(warp.component);
  }
  tile->id = ++group.lastId;
  tile->group = wgmma.group;
  wgmma.tile = tile;
  return makeTag(tile->id, 0);
}

uint32_t entry::wgmma(Thread *thread, const WgmmaOp *op, uint32_t site, const uint32_t *operands,
                      bool isChained) {
  Block &block = *thread->block;
  Warpgroup &group = block.getWarpgroup(*thread);
  if (block.meetWarpgroup(*thread, op->name.c_str(), site, operands)) {
    group.lastTag = issue(*thread, group, *op, isChained);
    block.releaseWarpgroup(*thread);
  }
  // The next wgmma waits for all threads, so this is still the same one's.
  return group.lastTag;
}

//===----------------------------------------------------------------------===//
// Wait, and what comes after it
//===----------------------------------------------------------------------===//

static void fence(Thread &thread, uint32_t, const uint64_t *, uint64_t *) {
  ++thread.registers.wgmmaFences;
}

static void commit(Thread &thread, uint32_t, const uint64_t *, uint64_t *) { ++thread.wgmmaGroups; }

static void wait(Thread &thread, uint32_t site, const uint64_t *arguments, uint64_t *) {
  Block &block = *thread.block;
  const char *what = "wgmma.wait_group";
  // The operand is part of the instruction: it is the same for all.
  uint32_t mayRemain = static_cast<uint32_t>(arguments[0]);
  if (!block.meetWarpgroup(thread, what, site, nullptr))
    return;
  Warpgroup &group = block.getWarpgroup(thread);
  uint32_t committed = block.getThread(group.index * warpgroupSize).wgmmaGroups;
  for (unsigned index = 1; index != warpgroupSize; ++index) {
    Thread &other = block.getThread(group.index * warpgroupSize + index);
    if (LLVM_UNLIKELY(other.wgmmaGroups != committed))
      block.fail(other, Kind::DivergentBarrier,
                 "%s after %u wgmma.commit_group, while the warpgroup's first thread executed %u; "
                 "expected all 128 threads to execute the same",
                 what, other.wgmmaGroups, committed);
  }
  uint32_t end = committed > mayRemain ? committed - mayRemain : 0;
  size_t done = 0;
  while (done != group.pending.size() && group.pending[done]->group < end)
    executeWgmma(block, group, *group.pending[done++]);
  group.retiredGroups = std::max(group.retiredGroups, end);
  for (unsigned i = 0; i != 4; ++i) {
    Clocks &clocks = block.getWarp(group.index * 4 + i).clocks;
    clocks.raise(group.component, group.retiredGroups);
    for (unsigned other = 0; done && other != 4; ++other)
      clocks.raise(
          block.getCluster().getReadComponent(block.getWarp(group.index * 4 + other).component),
          group.pending[done - 1]->issueClocks[other]);
  }
  group.pending.erase(group.pending.begin(), group.pending.begin() + done);
  block.releaseWarpgroup(thread);
}

void entry::readAccumulators(Thread *thread, uint32_t count, const uint32_t *operands,
                             uint32_t *results) {
  Block &block = *thread->block;
  Warpgroup &group = block.getWarpgroup(*thread);
  unsigned index = thread->index % warpgroupSize;
  AccumulatorTile *tile = nullptr;
  for (uint32_t i = 0; i != count; ++i) {
    uint32_t bits = operands[i];
    if (!isTag(bits)) {
      results[i] = bits;
      continue;
    }
    if (!tile || (tile->id & idMask) != getId(bits))
      tile = findTile(group, getId(bits));
    if (LLVM_UNLIKELY(!tile))
      block.fail(*thread, Kind::AccumulatorInFlight,
                 "accumulators of a wgmma are read, which a later one has changed since; expected "
                 "the later one's results");
    if (LLVM_UNLIKELY(group.isInFlight(*tile)))
      block.fail(*thread, Kind::AccumulatorInFlight,
                 "accumulators of a wgmma in flight are read; expected wgmma.commit_group after "
                 "it, and a wgmma.wait_group that covers its group, before");
    results[i] = getElement(*tile, index, bits & registerMask);
    tile->readFences[index] = thread->wgmmaReadFences = thread->registers.wgmmaFences;
  }
}

llvm::ArrayRef<ThreadOp> sparseflow::emulator::getWgmmaOps() {
  static const ThreadOp ops[] = {
      {"wgmma.fence.sync.aligned", fence},
      {"wgmma.commit_group.sync.aligned", commit},
      {"wgmma.wait_group.sync.aligned", wait},
  };
  return ops;
}
