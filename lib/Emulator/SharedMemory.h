//===- SharedMemory.h - A block's shared memory and its shadow --*- C++ -*-===//
//
// The bytes lie in the low 4 GiB of the host's address space, aligned to the window, so that a
// pointer and a generic pointer are one number, and its low bits are the address within the block.
//
// Each 4-byte word has a shadow: which of its bytes were written, by whom and at which clock,
// whether a copy in flight owns it, and when each party last read it. That is enough to name
// uninitialized reads, reads of a stage that nobody waited for, operands that are overwritten while
// the matrix unit or a bulk store still reads them, and races in both directions.
//
// The async proxy (bulk copies, wgmma) sees what a thread wrote only after that thread's
// fence.proxy.async: a word keeps how many of those its writer had executed.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_SHAREDMEMORY_H
#define SPARSEFLOW_LIB_EMULATOR_SHAREDMEMORY_H

#include "Clocks.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sparseflow::emulator {

struct Thread;

/// How an access takes part in the checks.
enum class AccessMode : uint8_t {
  Plain,
  /// Made by a warp as one instruction: no lane of it can be ahead of the others.
  Warp,
  /// Atomic or volatile: meant to be concurrent, so exempt from the search for races.
  Concurrent,
};

class SharedMemory {
public:
  static constexpr uint32_t windowBytes = 256 * 1024;

  ~SharedMemory();
  SharedMemory() = default;
  SharedMemory(const SharedMemory &) = delete;
  SharedMemory &operator=(const SharedMemory &) = delete;

  /// Empties the memory and fits it to `bytes`. `readerCount` is the number of components that can
  /// read it. Returns false if the system gives no low memory.
  bool reset(uint32_t bytes, unsigned readerCount, bool detectRaces);

  uint8_t *getBase() const { return base; }
  uint32_t getBytes() const { return bytes; }
  /// Whether `address` points into the window that is reserved for shared memory, in bounds or not.
  bool contains(uint64_t address) const {
    return address - reinterpret_cast<uint64_t>(base) < windowBytes;
  }

  /// The checks end the block with a report if the access is not allowed, and record it otherwise.
  /// `what` names the instruction in reports.
  void checkRead(Thread &thread, uint64_t address, uint32_t size, uint32_t align, AccessMode mode,
                 const char *what);
  void checkWrite(Thread &thread, uint64_t address, uint32_t size, uint32_t align, AccessMode mode,
                  const char *what);
  /// Returns the offset of an access that lies within the block's memory.
  uint32_t checkRange(Thread &thread, uint64_t address, uint32_t size, uint32_t align,
                      const char *verb, const char *what);

  /// A cp.async to `address` starts: from now to land(), nobody may touch those bytes.
  void beginCopy(Thread &thread, uint64_t address, uint32_t size, const char *what);
  void land(Thread &thread, uint32_t offset, const uint8_t *data, uint32_t size);

  /// The same for a bulk copy, whose bytes become known through the mbarrier with the clock
  /// component `barrier`; landing, `clock` is the one that the current phase will end with.
  void beginBulkCopy(Thread &thread, uint32_t offset, uint32_t size, unsigned barrier,
                     const char *what);
  void landBulkCopy(uint32_t offset, uint32_t size, unsigned barrier, uint32_t clock);

  /// Checks a read by the async proxy, issued by `thread` on behalf of those that know `known`.
  void checkAsyncRead(Thread &thread, uint32_t offset, uint32_t size, const Clocks &known,
                      const char *what);
  /// Gives the words that were never written bytes that no result should have come from (0xff: NaN
  /// in every float), for a read that may see them. Whether there are any.
  bool poisonUnwritten(uint32_t offset, uint32_t size);
  /// The reader `component` will have read the bytes when its clock is `clock`.
  void recordAsyncRead(uint32_t offset, uint32_t size, unsigned component, uint32_t clock);
  /// A bulk store reads the bytes from now on until endBulkRead().
  void beginBulkRead(uint32_t offset, uint32_t size);
  void endBulkRead(Thread &thread, uint32_t offset, uint32_t size);

  /// The bytes are an mbarrier, which only its own operations may touch.
  void setBarrier(uint32_t offset, bool isBarrier);

private:
  struct Word {
    /// The last writer's clock, and whose that is: its warp's, or the mbarrier's of a bulk copy.
    uint32_t clock;
    uint16_t component;
    /// The thread of the cluster that wrote last, or bulkCopy.
    uint16_t writer;
    /// The proxy fences that the writer had executed.
    uint16_t fences;
    /// Bits 0-3: these bytes hold a value.
    uint8_t state;
    /// The bytes that `writer` wrote last; a neighbour's bytes in the same word are not judged by
    /// it.
    uint8_t lastBytes;
  };
  /// A copy in flight owns the word; the word belongs to an mbarrier.
  static constexpr uint8_t pendingBit = 16, barrierBit = 32;
  static constexpr uint16_t bulkCopy = 0xffff;

  /// When a party last read a word: clock << 7 | whole word << 6 | lane, where lane 32 stands for
  /// several and 33 for the party as one.
  static constexpr uint32_t wholeBit = 64, laneMask = 63, laneSeveral = 32, laneWarp = 33;

  bool isOrdered(const Thread &thread, const Word &word) const;
  uint32_t *getReads(unsigned component);
  void recordRead(uint32_t &previous, uint32_t stamp);
  /// What all accesses but those of an mbarrier's own operations have to respect.
  void checkOwner(Thread &thread, const Word &word, uint32_t mask, bool write, uint32_t offset,
                  uint32_t size, const char *what);
  void checkReaders(Thread &thread, uint32_t begin, uint32_t end, uint32_t mask, uint32_t offset,
                    uint32_t size, const char *what);
  void checkCopyTarget(Thread &thread, uint32_t offset, uint32_t size, const char *what);
  [[noreturn]] void failReaders(Thread &thread, unsigned component, uint32_t clock, uint32_t offset,
                                uint32_t size, const char *what);
  /// "thread 5", or the copy that wrote last or still writes.
  const char *describeWriter(const Thread &thread, const Word &word);

  uint8_t *base = nullptr;
  uint32_t bytes = 0;
  bool detectRaces = true;
  std::vector<Word> words;
  /// [component][word]; rows are cleared when they are first needed.
  std::vector<std::vector<uint32_t>> reads;
  std::vector<uint16_t> activeReaders;
  /// How many bulk stores read each word; empty until there is one.
  std::vector<uint8_t> bulkReads;
  std::string writerText;
};

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_SHAREDMEMORY_H
