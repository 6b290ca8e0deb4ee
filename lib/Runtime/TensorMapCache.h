// The tensor maps that one kernel argument had lately, by what a call changes in them.
//
// Encoding costs a call into the driver, and most calls repeat an earlier one. Readers never wait
// and never allocate: an entry is a sequence lock, whose version is odd while it is written and
// differs afterwards. Two calls that miss at once both encode; one of them keeps its result.
#ifndef SPARSEFLOW_LIB_RUNTIME_TENSORMAPCACHE_H
#define SPARSEFLOW_LIB_RUNTIME_TENSORMAPCACHE_H

#include "sparseflow/Runtime/TensorMap.h"
#include <array>
#include <atomic>
#include <cstring>

namespace sparseflow::runtime {

class TensorMapCache {
public:
  struct Key {
    uint64_t base, rows, rowStrideBytes;
  };

  /// Copies the map to `out` (tensorMapBytes). False: it is not there.
  bool find(const Key &key, void *out) const {
    const Entry &entry = entryOf(key);
    uint32_t before = entry.version.load(std::memory_order_acquire);
    if (before == 0 || before % 2 != 0)
      return false;
    Words words;
    for (size_t i = 0; i < words.size(); ++i)
      words[i] = entry.words[i].load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (entry.version.load(std::memory_order_relaxed) != before || words[mapWords] != key.base ||
        words[mapWords + 1] != key.rows || words[mapWords + 2] != key.rowStrideBytes)
      return false;
    std::memcpy(out, words.data(), tensorMapBytes);
    return true;
  }

  void insert(const Key &key, const void *map) {
    Words words = {};
    std::memcpy(words.data(), map, tensorMapBytes);
    words[mapWords] = key.base;
    words[mapWords + 1] = key.rows;
    words[mapWords + 2] = key.rowStrideBytes;
    Entry &entry = entryOf(key);
    uint32_t before = entry.version.load(std::memory_order_relaxed);
    // Somebody else is writing: theirs is as good.
    if (before % 2 != 0 ||
        !entry.version.compare_exchange_strong(before, before + 1, std::memory_order_relaxed))
      return;
    std::atomic_thread_fence(std::memory_order_release);
    for (size_t i = 0; i < words.size(); ++i)
      entry.words[i].store(words[i], std::memory_order_relaxed);
    // Zero says that the entry was never written.
    uint32_t after = before + 2;
    entry.version.store(after ? after : 2, std::memory_order_release);
  }

private:
  static constexpr size_t mapWords = tensorMapBytes / sizeof(uint64_t);
  /// A few token counts and a few tensors that take turns.
  static constexpr size_t entryCount = 8;
  using Words = std::array<uint64_t, mapWords + 3>; // the map, then its key

  struct Entry {
    std::atomic<uint32_t> version{0};
    std::array<std::atomic<uint64_t>, mapWords + 3> words{};
  };

  static size_t indexOf(const Key &key) {
    // Allocations are aligned, so that the low bits of addresses say nothing.
    uint64_t hash = (key.base >> 8) ^ (key.rows * 31) ^ key.rowStrideBytes;
    return (hash * 0x9e3779b97f4a7c15u) >> 61;
  }
  const Entry &entryOf(const Key &key) const { return entries[indexOf(key)]; }
  Entry &entryOf(const Key &key) { return entries[indexOf(key)]; }

  std::array<Entry, entryCount> entries;
  static_assert(entryCount == 8, "indexOf gives three bits");
};

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_LIB_RUNTIME_TENSORMAPCACHE_H
