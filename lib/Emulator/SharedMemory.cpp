//===- SharedMemory.cpp - A block's shared memory and its shadow ----------===//

#include "SharedMemory.h"

#include "Block.h"

#include "llvm/Support/Compiler.h"

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

bool SharedMemory::reset(uint32_t newBytes, unsigned newWarpCount, bool newDetectRaces) {
  if (newBytes > windowBytes)
    return false;
  if (!base && !(base = mapLow(windowBytes)))
    return false;
  bytes = newBytes;
  warpCount = newWarpCount;
  detectRaces = newDetectRaces;
  size_t wordCount = (bytes + 3) / 4;
  words.assign(wordCount, Word{0, 0, 0, 0});
  if (detectRaces)
    reads.assign(wordCount * warpCount, 0);
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

bool SharedMemory::isOrdered(const Thread &thread, const Word &word) const {
  if (word.writer == thread.index)
    return true;
  unsigned writerWarp = word.writer / warpSize;
  uint32_t known = thread.warp->clocks[writerWarp];
  return writerWarp == thread.warp->index ? word.clock < known : word.clock <= known;
}

/// The bytes of word `word` that [offset, offset + size) covers, as a mask of four bits.
static uint32_t coveredBytes(uint32_t word, uint32_t offset, uint32_t size) {
  uint32_t begin = std::max(offset, word * 4) - word * 4;
  uint32_t end = std::min(offset + size, word * 4 + 4) - word * 4;
  return (1u << end) - (1u << begin);
}

void SharedMemory::checkRead(Thread &thread, uint64_t address, uint32_t size, uint32_t align,
                             AccessMode mode, const char *what) {
  uint32_t offset = checkRange(thread, address, size, align, "read", what);
  if (!size)
    return;
  Block &block = *thread.block;
  unsigned warp = thread.warp->index;
  uint32_t now = thread.warp->clocks[warp];
  uint32_t *readers = detectRaces ? reads.data() + size_t(warp) * words.size() : nullptr;
  uint32_t lane = mode == AccessMode::Warp ? laneWarp : thread.registers.laneId;
  for (uint32_t index = offset / 4, end = (offset + size + 3) / 4; index != end; ++index) {
    Word &word = words[index];
    uint32_t mask = coveredBytes(index, offset, size);
    if (LLVM_UNLIKELY(word.state & pendingBit))
      block.fail(
          thread, Kind::UnwaitedAsyncCopy,
          "read of %u bytes at offset %u of shared memory (%s), which a cp.async of thread %u "
          "writes and no wait has covered; expected cp.async.wait_group, and a barrier after it, "
          "before the read%s",
          size, offset, what, word.writer,
          word.state & mask
              ? " (or, if the older bytes were meant, a barrier between the read and the copy)"
              : "");
    if (LLVM_UNLIKELY((word.state & mask) != mask))
      block.fail(
          thread, Kind::UninitializedShared,
          "read of %u bytes at offset %u of shared memory (%s), of which the word at %u was never "
          "written; expected a store or an asynchronous copy to have filled it",
          size, offset, what, index * 4);
    if (!detectRaces || mode == AccessMode::Concurrent)
      continue;
    if (LLVM_UNLIKELY((word.lastBytes & mask) && !isOrdered(thread, word)))
      block.fail(
          thread, Kind::SharedRace,
          "read of %u bytes at offset %u of shared memory (%s), which thread %u wrote with no "
          "barrier in between; expected a barrier (for threads of one warp, bar.warp.sync) between "
          "the write and the read",
          size, offset, what, word.writer);
    uint32_t stamp = (now << 7) | (mask == 15 ? wholeBit : 0) | lane;
    uint32_t previous = readers[index];
    if (previous >> 7 == now && previous != stamp) {
      // Earlier in the same span: keep what both reads imply.
      stamp |= previous & wholeBit;
      uint32_t previousLane = previous & laneMask;
      if (previousLane != lane)
        stamp = (stamp & ~laneMask) | (lane == laneWarp           ? previousLane
                                       : previousLane == laneWarp ? lane
                                                                  : laneSeveral);
    }
    readers[index] = stamp;
  }
}

void SharedMemory::checkReaders(Thread &thread, uint32_t word, uint32_t mask, uint32_t offset,
                                uint32_t size, const char *what) {
  for (unsigned warp = 0; warp != warpCount; ++warp) {
    uint32_t stamp = reads[size_t(warp) * words.size() + word];
    if (!stamp)
      continue;
    uint32_t clock = stamp >> 7, lane = stamp & laneMask;
    uint32_t known = thread.warp->clocks[warp];
    bool ordered;
    if (warp == thread.warp->index)
      ordered = clock < known || lane == laneWarp || lane == thread.registers.laneId;
    else
      ordered = clock <= known;
    // Two accesses to parts of a word need not overlap.
    if (LLVM_LIKELY(ordered || !(mask == 15 || (stamp & wholeBit))))
      continue;
    thread.block->fail(
        thread, Kind::SharedRace,
        "write of %u bytes at offset %u of shared memory (%s), which a thread of warp %u read with "
        "no barrier in between; expected a barrier between the read and the write",
        size, offset, what, warp);
  }
}

void SharedMemory::checkWrite(Thread &thread, uint64_t address, uint32_t size, uint32_t align,
                              AccessMode mode, const char *what) {
  uint32_t offset = checkRange(thread, address, size, align, "write", what);
  if (!size)
    return;
  Block &block = *thread.block;
  uint32_t now = thread.warp->clocks[thread.warp->index];
  for (uint32_t index = offset / 4, end = (offset + size + 3) / 4; index != end; ++index) {
    Word &word = words[index];
    uint32_t mask = coveredBytes(index, offset, size);
    if (LLVM_UNLIKELY(word.state & pendingBit))
      block.fail(thread, Kind::UnwaitedAsyncCopy,
                 "write of %u bytes at offset %u of shared memory (%s), which a cp.async of thread "
                 "%u still writes; expected cp.async.wait_group before the bytes are written again",
                 size, offset, what, word.writer);
    if (detectRaces && mode != AccessMode::Concurrent) {
      if (LLVM_UNLIKELY((word.lastBytes & mask) && !isOrdered(thread, word)))
        block.fail(
            thread, Kind::SharedRace,
            "write of %u bytes at offset %u of shared memory (%s), which thread %u wrote with no "
            "barrier in between; expected a barrier between the two writes",
            size, offset, what, word.writer);
      checkReaders(thread, index, mask, offset, size, what);
    }
    bool sameSpan = word.writer == thread.index && word.clock == now;
    word.lastBytes = sameSpan ? word.lastBytes | mask : mask;
    word.clock = now;
    word.writer = thread.index;
    word.state |= mask;
  }
  block.noteProgress();
}

void SharedMemory::beginCopy(Thread &thread, uint64_t address, uint32_t size, const char *what) {
  uint32_t offset = checkRange(thread, address, size, size, "write", what);
  Block &block = *thread.block;
  for (uint32_t index = offset / 4, end = (offset + size) / 4; index != end; ++index) {
    Word &word = words[index];
    if (LLVM_UNLIKELY(word.state & pendingBit))
      block.fail(
          thread, Kind::UnwaitedAsyncCopy,
          "asynchronous copy of %u bytes to offset %u of shared memory (%s), which a cp.async of "
          "thread %u still writes; expected cp.async.wait_group between the two copies",
          size, offset, what, word.writer);
    if (detectRaces) {
      if (LLVM_UNLIKELY(word.lastBytes && !isOrdered(thread, word)))
        block.fail(thread, Kind::SharedRace,
                   "asynchronous copy of %u bytes to offset %u of shared memory (%s), which thread "
                   "%u wrote with no barrier in between; expected a barrier between the write and "
                   "the copy",
                   size, offset, what, word.writer);
      checkReaders(thread, index, 15, offset, size, what);
    }
    word.writer = thread.index;
    word.state |= pendingBit;
  }
  block.noteProgress();
}

void SharedMemory::land(Thread &thread, uint32_t offset, const uint8_t *data, uint32_t size) {
  std::memcpy(base + offset, data, size);
  uint32_t now = thread.warp->clocks[thread.warp->index];
  for (uint32_t index = offset / 4, end = (offset + size) / 4; index != end; ++index)
    words[index] = Word{now, static_cast<uint16_t>(thread.index), 15, 15};
}
