//===- SharedMemory.cpp - A block's shared memory and its shadow ----------===//

#include "SharedMemory.h"

#include "Block.h"
#include "Cluster.h"

#include "llvm/Support/Compiler.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>

using namespace sparseflow::emulator;
using Kind = Report::Kind;

SharedMemory::~SharedMemory() {
  if (base)
    munmap(base, windowBytes);
}

/// Kernels compute with 32-bit shared addresses, and XOR into them: low memory, aligned to the
/// window.
static uint8_t *mapLow(size_t bytes) {
#ifdef MAP_32BIT
  constexpr int lowFlag = MAP_32BIT;
#else
  constexpr int lowFlag = 0;
#endif
  uint8_t *memory =
      static_cast<uint8_t *>(mmap(nullptr, 2 * bytes, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | lowFlag, -1, 0));
  if (memory == MAP_FAILED)
    return nullptr;
  uint64_t start = reinterpret_cast<uint64_t>(memory);
  uint64_t aligned = (start + bytes - 1) / bytes * bytes;
  if (aligned != start)
    munmap(memory, aligned - start);
  if (aligned + bytes != start + 2 * bytes)
    munmap(reinterpret_cast<void *>(aligned + bytes), start + bytes - aligned);
  if (aligned + bytes > (uint64_t(1) << 32)) {
    munmap(reinterpret_cast<void *>(aligned), bytes);
    return nullptr;
  }
  return reinterpret_cast<uint8_t *>(aligned);
}

bool SharedMemory::reset(uint32_t newBytes, unsigned readerCount, bool newDetectRaces) {
  if (newBytes > windowBytes)
    return false;
  if (!base && !(base = mapLow(windowBytes)))
    return false;
  bytes = newBytes;
  detectRaces = newDetectRaces;
  words.assign((bytes + 3) / 4, Word{});
  if (reads.size() < readerCount)
    reads.resize(readerCount);
  for (std::vector<uint32_t> &row : reads)
    row.clear();
  activeReaders.clear();
  bulkReads.clear();
  return true;
}

uint32_t SharedMemory::checkRange(Thread &thread, uint64_t address, uint32_t size, uint32_t align,
                                  const char *verb, const char *what) {
  uint64_t offset = address - reinterpret_cast<uint64_t>(base);
  if (LLVM_UNLIKELY(offset + size > bytes || offset > bytes))
    thread.block->fail(
        thread, Kind::SharedOutOfBounds,
        "%s of %u bytes at offset %lld of shared memory (%s); expected it to end within the "
        "block's %u bytes",
        verb, size, static_cast<long long>(offset), what, bytes);
  if (LLVM_UNLIKELY(offset & (align - 1)))
    thread.block->fail(
        thread, Kind::Misaligned,
        "%s of %u bytes at offset %llu of shared memory (%s); expected an offset that is a "
        "multiple of %u",
        verb, size, static_cast<unsigned long long>(offset), what, align);
  return static_cast<uint32_t>(offset);
}

//===----------------------------------------------------------------------===//
// The last writer
//===----------------------------------------------------------------------===//

bool SharedMemory::isOrdered(const Thread &thread, const Word &word) const {
  if (word.writer == thread.clusterIndex)
    return true;
  uint32_t known = thread.warp->clocks[word.component];
  return word.component == thread.warp->component ? word.clock < known : word.clock <= known;
}

const char *SharedMemory::describeWriter(const Thread &thread, const Word &word) {
  if (word.writer == bulkCopy)
    writerText = llvm::formatv("a bulk copy that reports to the mbarrier at offset {0}",
                               thread.block->getCluster().getBarrierOffset(word.component));
  else
    writerText = llvm::formatv("{0}thread {1}", word.state & pendingBit ? "a cp.async of " : "",
                               word.writer % maxThreads);
  return writerText.c_str();
}

void SharedMemory::checkOwner(Thread &thread, const Word &word, uint32_t mask, bool write,
                              uint32_t offset, uint32_t size, const char *what) {
  Block &block = *thread.block;
  if (word.state & barrierBit)
    block.fail(thread, Kind::MbarrierMisuse,
               "%s of %u bytes at offset %u of shared memory (%s), which holds an mbarrier; "
               "expected mbarrier.inval before the bytes are used for anything else",
               write ? "write" : "read", size, offset, what);
  if (!(word.state & pendingBit))
    return;
  const char *wait =
      word.writer == bulkCopy ? "mbarrier.try_wait for the copy's phase" : "cp.async.wait_group";
  if (write)
    block.fail(thread, Kind::UnwaitedAsyncCopy,
               "write of %u bytes at offset %u of shared memory (%s), which %s still writes; "
               "expected %s before the bytes are written again",
               size, offset, what, describeWriter(thread, word), wait);
  block.fail(thread, Kind::UnwaitedAsyncCopy,
             "read of %u bytes at offset %u of shared memory (%s), which %s writes and no wait has "
             "covered; expected %s%s before the read%s",
             size, offset, what, describeWriter(thread, word), wait,
             word.writer == bulkCopy ? "" : ", and a barrier after it,",
             word.state & mask
                 ? " (or, if the older bytes were meant, a barrier between the read and the copy)"
                 : "");
}

//===----------------------------------------------------------------------===//
// The readers
//===----------------------------------------------------------------------===//

/// The bytes of word `word` that [offset, offset + size) covers, as a mask of four bits.
static uint32_t coveredBytes(uint32_t word, uint32_t offset, uint32_t size) {
  uint32_t begin = std::max(offset, word * 4) - word * 4;
  uint32_t end = std::min(offset + size, word * 4 + 4) - word * 4;
  return (1u << end) - (1u << begin);
}

uint32_t *SharedMemory::getReads(unsigned component) {
  std::vector<uint32_t> &row = reads[component];
  if (LLVM_UNLIKELY(row.empty())) {
    row.assign(words.size(), 0);
    activeReaders.push_back(component);
  }
  return row.data();
}

void SharedMemory::recordRead(uint32_t &previous, uint32_t stamp) {
  uint32_t lane = stamp & laneMask;
  if (previous >> 7 == stamp >> 7 && previous != stamp) {
    // Earlier in the same span: keep what both reads imply.
    stamp |= previous & wholeBit;
    uint32_t previousLane = previous & laneMask;
    if (previousLane != lane)
      stamp = (stamp & ~laneMask) | (lane == laneWarp           ? previousLane
                                     : previousLane == laneWarp ? lane
                                                                : laneSeveral);
  }
  previous = stamp;
}

void SharedMemory::failReaders(Thread &thread, unsigned component, uint32_t clock, uint32_t offset,
                               uint32_t size, const char *what) {
  Block &block = *thread.block;
  const Cluster &cluster = block.getCluster();
  unsigned party = component % cluster.getReadersPerBlock();
  if (party < block.getWarpCount())
    block.fail(
        thread, Kind::SharedRace,
        "write of %u bytes at offset %u of shared memory (%s), which a thread of warp %u read with "
        "no barrier in between; expected a barrier between the read and the write",
        size, offset, what, party);
  unsigned group = party - block.getWarpCount();
  if (clock > cluster.getRetiredGroups(component))
    block.fail(thread, Kind::AsyncOperandOverwritten,
               "write of %u bytes at offset %u of shared memory (%s), which a wgmma.mma_async of "
               "warpgroup %u still reads; expected wgmma.wait_group, and a barrier after it, "
               "before the operand is overwritten",
               size, offset, what, group);
  block.fail(thread, Kind::SharedRace,
             "write of %u bytes at offset %u of shared memory (%s), which a wgmma.mma_async of "
             "warpgroup %u read with no barrier in between; expected a barrier between the "
             "warpgroup's wgmma.wait_group and the write",
             size, offset, what, group);
}

/// Words [begin, end), of each of which the bytes in `mask` are to be written.
void SharedMemory::checkReaders(Thread &thread, uint32_t begin, uint32_t end, uint32_t mask,
                                uint32_t offset, uint32_t size, const char *what) {
  const Clocks &clocks = thread.warp->clocks;
  for (uint16_t component : activeReaders) {
    const uint32_t *row = reads[component].data();
    uint32_t known = clocks[component];
    bool isOwnWarp = component == thread.warp->component;
    uint32_t readsDone = clocks[thread.block->getCluster().getReadComponent(component)];
    // Most words were read long ago, if at all.
    uint32_t orderedBelow = std::max(isOwnWarp ? known : known + 1, readsDone + 1) << 7;
    for (uint32_t word = begin; word != end; ++word) {
      uint32_t stamp = row[word];
      if (LLVM_LIKELY(stamp < orderedBelow))
        continue;
      uint32_t lane = stamp & laneMask;
      if (isOwnWarp && (lane == laneWarp || lane == thread.registers.laneId))
        continue;
      // Two accesses to parts of a word need not overlap.
      if (mask == 15 || (stamp & wholeBit))
        failReaders(thread, component, stamp >> 7, offset, size, what);
    }
  }
  if (LLVM_LIKELY(bulkReads.empty()))
    return;
  for (uint32_t word = begin; word != end; ++word)
    if (LLVM_UNLIKELY(bulkReads[word]))
      thread.block->fail(thread, Kind::AsyncOperandOverwritten,
                         "write of %u bytes at offset %u of shared memory (%s), which a bulk store "
                         "still reads; expected cp.async.bulk.wait_group.read by the thread that "
                         "issued it, and a barrier after that, before the bytes are overwritten",
                         size, offset, what);
}

//===----------------------------------------------------------------------===//
// Accesses of threads
//===----------------------------------------------------------------------===//

void SharedMemory::checkRead(Thread &thread, uint64_t address, uint32_t size, uint32_t align,
                             AccessMode mode, const char *what) {
  uint32_t offset = checkRange(thread, address, size, align, "read", what);
  if (!size)
    return;
  Block &block = *thread.block;
  unsigned component = thread.warp->component;
  uint32_t now = thread.warp->clocks[component];
  bool checkRaces = detectRaces && mode != AccessMode::Concurrent;
  uint32_t *readers = checkRaces ? getReads(component) : nullptr;
  uint32_t lane = mode == AccessMode::Warp ? laneWarp : thread.registers.laneId;
  for (uint32_t index = offset / 4, end = (offset + size + 3) / 4; index != end; ++index) {
    Word &word = words[index];
    uint32_t mask = coveredBytes(index, offset, size);
    if (LLVM_UNLIKELY(word.state & (pendingBit | barrierBit)))
      checkOwner(thread, word, mask, /*write=*/false, offset, size, what);
    if (LLVM_UNLIKELY((word.state & mask) != mask))
      block.fail(
          thread, Kind::UninitializedShared,
          "read of %u bytes at offset %u of shared memory (%s), of which the word at %u was never "
          "written; expected a store or an asynchronous copy to have filled it",
          size, offset, what, index * 4);
    if (!checkRaces)
      continue;
    if (LLVM_UNLIKELY((word.lastBytes & mask) && !isOrdered(thread, word))) {
      if (word.writer == bulkCopy)
        block.fail(thread, Kind::UnwaitedAsyncCopy,
                   "read of %u bytes at offset %u of shared memory (%s), which %s wrote and whose "
                   "phase the thread has not seen complete; expected mbarrier.try_wait before the "
                   "read",
                   size, offset, what, describeWriter(thread, word));
      block.fail(
          thread, Kind::SharedRace,
          "read of %u bytes at offset %u of shared memory (%s), which %s wrote with no "
          "barrier in between; expected a barrier (for threads of one warp, bar.warp.sync) between "
          "the write and the read",
          size, offset, what, describeWriter(thread, word));
    }
    recordRead(readers[index], (now << 7) | (mask == 15 ? wholeBit : 0) | lane);
  }
}

void SharedMemory::checkWrite(Thread &thread, uint64_t address, uint32_t size, uint32_t align,
                              AccessMode mode, const char *what) {
  uint32_t offset = checkRange(thread, address, size, align, "write", what);
  if (!size)
    return;
  Block &block = *thread.block;
  unsigned component = thread.warp->component;
  uint32_t now = thread.warp->clocks[component];
  for (uint32_t index = offset / 4, end = (offset + size + 3) / 4; index != end; ++index) {
    Word &word = words[index];
    uint32_t mask = coveredBytes(index, offset, size);
    if (LLVM_UNLIKELY(word.state & (pendingBit | barrierBit)))
      checkOwner(thread, word, mask, /*write=*/true, offset, size, what);
    if (detectRaces && mode != AccessMode::Concurrent) {
      if (LLVM_UNLIKELY((word.lastBytes & mask) && !isOrdered(thread, word)))
        block.fail(thread, Kind::SharedRace,
                   "write of %u bytes at offset %u of shared memory (%s), which %s wrote with no "
                   "barrier in between; expected a barrier between the two writes",
                   size, offset, what, describeWriter(thread, word));
      checkReaders(thread, index, index + 1, mask, offset, size, what);
    }
    bool sameSpan = word.writer == thread.clusterIndex && word.clock == now;
    word.lastBytes = sameSpan ? word.lastBytes | mask : mask;
    word.clock = now;
    word.component = component;
    word.writer = thread.clusterIndex;
    word.fences = thread.proxyFences;
    word.state |= mask;
  }
  block.noteProgress();
}

//===----------------------------------------------------------------------===//
// Copies
//===----------------------------------------------------------------------===//

void SharedMemory::checkCopyTarget(Thread &thread, uint32_t offset, uint32_t size,
                                   const char *what) {
  Block &block = *thread.block;
  for (uint32_t index = offset / 4, end = (offset + size) / 4; index != end; ++index) {
    const Word &word = words[index];
    if (LLVM_UNLIKELY(word.state & pendingBit))
      block.fail(thread, Kind::UnwaitedAsyncCopy,
                 "asynchronous copy of %u bytes to offset %u of shared memory (%s), which %s still "
                 "writes; expected %s between the two copies",
                 size, offset, what, describeWriter(thread, word),
                 word.writer == bulkCopy ? "mbarrier.try_wait for the first one's phase"
                                         : "cp.async.wait_group");
    if (LLVM_UNLIKELY(word.state & barrierBit))
      checkOwner(thread, word, 15, /*write=*/true, offset, size, what);
    if (LLVM_UNLIKELY(detectRaces && word.lastBytes && !isOrdered(thread, word)))
      block.fail(thread, Kind::SharedRace,
                 "asynchronous copy of %u bytes to offset %u of shared memory (%s), which %s "
                 "wrote with no barrier in between; expected a barrier between the write and the "
                 "copy",
                 size, offset, what, describeWriter(thread, word));
  }
  if (detectRaces)
    checkReaders(thread, offset / 4, (offset + size) / 4, 15, offset, size, what);
  block.noteProgress();
}

void SharedMemory::beginCopy(Thread &thread, uint64_t address, uint32_t size, const char *what) {
  uint32_t offset = checkRange(thread, address, size, size, "write", what);
  checkCopyTarget(thread, offset, size, what);
  for (uint32_t index = offset / 4, end = (offset + size) / 4; index != end; ++index) {
    words[index].writer = thread.clusterIndex;
    words[index].state |= pendingBit;
  }
}

void SharedMemory::land(Thread &thread, uint32_t offset, const uint8_t *data, uint32_t size) {
  std::memcpy(base + offset, data, size);
  Word word = {};
  word.component = thread.warp->component;
  word.clock = thread.warp->clocks[word.component];
  word.writer = thread.clusterIndex;
  word.fences = thread.proxyFences;
  word.state = word.lastBytes = 15;
  std::fill(words.begin() + offset / 4, words.begin() + (offset + size) / 4, word);
}

void SharedMemory::beginBulkCopy(Thread &thread, uint32_t offset, uint32_t size, unsigned barrier,
                                 const char *what) {
  checkCopyTarget(thread, offset, size, what);
  for (uint32_t index = offset / 4, end = (offset + size) / 4; index != end; ++index) {
    words[index].writer = bulkCopy;
    words[index].component = barrier;
    words[index].state |= pendingBit;
  }
}

void SharedMemory::landBulkCopy(uint32_t offset, uint32_t size, unsigned barrier, uint32_t clock) {
  Word word = {};
  word.component = barrier;
  word.clock = clock;
  word.writer = bulkCopy;
  word.state = word.lastBytes = 15;
  std::fill(words.begin() + offset / 4, words.begin() + (offset + size) / 4, word);
}

//===----------------------------------------------------------------------===//
// Reads by the async proxy
//===----------------------------------------------------------------------===//

void SharedMemory::checkAsyncRead(Thread &thread, uint32_t offset, uint32_t size,
                                  const Clocks &known, const char *what) {
  Block &block = *thread.block;
  for (uint32_t index = offset / 4, end = (offset + size) / 4; index != end; ++index) {
    const Word &word = words[index];
    if (LLVM_UNLIKELY(word.state & (pendingBit | barrierBit)))
      checkOwner(thread, word, 15, /*write=*/false, offset, size, what);
    if (LLVM_UNLIKELY(word.state != 15))
      block.fail(thread, Kind::UninitializedShared,
                 "read of %u bytes at offset %u of shared memory (%s), of which the word at %u was "
                 "never written; expected a store or an asynchronous copy to have filled it",
                 size, offset, what, index * 4);
    if (word.writer == bulkCopy) {
      if (LLVM_UNLIKELY(detectRaces && word.clock > known[word.component]))
        block.fail(thread, Kind::UnwaitedAsyncCopy,
                   "read of %u bytes at offset %u of shared memory (%s), which %s wrote and whose "
                   "phase not all threads that take part have seen complete; expected each of them "
                   "to execute mbarrier.try_wait before",
                   size, offset, what, describeWriter(thread, word));
      continue;
    }
    if (LLVM_UNLIKELY(detectRaces && word.clock > known[word.component] &&
                      word.writer != thread.clusterIndex))
      block.fail(thread, Kind::SharedRace,
                 "read of %u bytes at offset %u of shared memory (%s), which %s wrote with no "
                 "barrier in between; expected a barrier of all threads that take part between the "
                 "write and the read",
                 size, offset, what, describeWriter(thread, word));
    if (LLVM_UNLIKELY(block.getCluster().getThread(word.writer).proxyFences == word.fences))
      block.fail(thread, Kind::MissingFence,
                 "read of %u bytes at offset %u of shared memory by the async proxy (%s), which %s "
                 "wrote through the generic proxy; expected fence.proxy.async by that thread after "
                 "the write, and a barrier after the fence",
                 size, offset, what, describeWriter(thread, word));
  }
}

bool SharedMemory::poisonUnwritten(uint32_t offset, uint32_t size) {
  bool found = false;
  for (uint32_t index = offset / 4, end = (offset + size) / 4; index != end; ++index)
    if (LLVM_UNLIKELY(words[index].state == 0)) {
      std::memset(base + index * 4, 0xff, 4);
      found = true;
    }
  return found;
}

void SharedMemory::recordAsyncRead(uint32_t offset, uint32_t size, unsigned component,
                                   uint32_t clock) {
  if (!detectRaces)
    return;
  uint32_t *row = getReads(component);
  std::fill(row + offset / 4, row + (offset + size) / 4, clock << 7 | wholeBit | laneWarp);
}

void SharedMemory::beginBulkRead(uint32_t offset, uint32_t size) {
  if (bulkReads.empty())
    bulkReads.resize(words.size());
  for (uint32_t index = offset / 4, end = (offset + size) / 4; index != end; ++index)
    ++bulkReads[index];
}

void SharedMemory::endBulkRead(Thread &thread, uint32_t offset, uint32_t size) {
  unsigned component = thread.warp->component;
  uint32_t now = thread.warp->clocks[component];
  uint32_t *row = detectRaces ? getReads(component) : nullptr;
  for (uint32_t index = offset / 4, end = (offset + size) / 4; index != end; ++index) {
    --bulkReads[index];
    if (row)
      recordRead(row[index], now << 7 | wholeBit | thread.registers.laneId);
  }
}

void SharedMemory::setBarrier(uint32_t offset, bool isBarrier) {
  for (Word &word : llvm::MutableArrayRef(words).slice(offset / 4, 2)) {
    word = Word{};
    word.state = isBarrier ? barrierBit : 0;
  }
}
