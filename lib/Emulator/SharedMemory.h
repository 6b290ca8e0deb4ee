//===- SharedMemory.h - A block's shared memory and its shadow --*- C++ -*-===//
//
// The bytes lie in the low 4 GiB of the host's address space, so that a pointer, a generic pointer
// and the 32-bit shared address that kernels compute with are one and the same number.
//
// Each 4-byte word has a shadow: which of its bytes were written, by whom and at which clock,
// whether an asynchronous copy still owns it, and when each warp last read it. That is enough to
// name uninitialized reads, reads of a stage that nobody waited for, and races in both directions.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_SHAREDMEMORY_H
#define SPARSEFLOW_LIB_EMULATOR_SHAREDMEMORY_H

#include <cstddef>
#include <cstdint>
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
  ~SharedMemory();
  SharedMemory() = default;
  SharedMemory(const SharedMemory &) = delete;
  SharedMemory &operator=(const SharedMemory &) = delete;

  /// Empties the memory and fits it to `bytes`. Returns false if the system gives no low memory.
  bool reset(uint32_t bytes, unsigned warpCount, bool detectRaces);

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

  /// An asynchronous copy to `address` starts: from now to land(), nobody may touch those bytes.
  void beginCopy(Thread &thread, uint64_t address, uint32_t size, const char *what);
  void land(Thread &thread, uint32_t offset, const uint8_t *data, uint32_t size);

private:
  struct Word {
    uint32_t clock;
    uint16_t writer;
    /// Bits 0-3: these bytes hold a value. Bit 4: an asynchronous copy owns the word.
    uint8_t state;
    /// The bytes that `writer` wrote last; a neighbour's bytes in the same word are not judged by
    /// it.
    uint8_t lastBytes;
  };
  static constexpr uint8_t pendingBit = 16;
  static constexpr uint32_t windowBytes = 256 * 1024;

  /// When a warp last read a word: clock << 7 | whole word << 6 | lane, where lane 32 stands for
  /// several and 33 for the warp as one.
  static constexpr uint32_t wholeBit = 64, laneMask = 63, laneSeveral = 32, laneWarp = 33;

  uint32_t checkRange(Thread &thread, uint64_t address, uint32_t size, uint32_t align,
                      const char *verb, const char *what);
  void checkReaders(Thread &thread, uint32_t word, uint32_t mask, uint32_t address, uint32_t size,
                    const char *what);
  bool isOrdered(const Thread &thread, const Word &word) const;

  uint8_t *base = nullptr;
  uint32_t bytes = 0;
  unsigned warpCount = 0;
  bool detectRaces = true;
  std::vector<Word> words;
  /// [warp][word].
  std::vector<uint32_t> reads;
};

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_SHAREDMEMORY_H
