//===- DiskCache.h - Compiled results kept between processes ----*- C++ -*-===//
//
// A folder of small files, one an entry, named by the hash of everything that the result depends
// on. It has no index and takes no locks, so nothing can be left in a bad state: an entry appears
// by rename, carries a checksum, and is deleted when the checksum is wrong. Losing an entry, or the
// whole folder, only costs time; no failure of the cache is ever a failure of the compiler.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_TARGET_DISKCACHE_H
#define SPARSEFLOW_TARGET_DISKCACHE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/BLAKE3.h"
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sparseflow::target {

/// Hashes parts so that ("ab", "c") and ("a", "bc") differ.
class CacheKey {
public:
  CacheKey &add(llvm::StringRef part);
  /// 64 hexadecimal digits.
  std::string str();

private:
  llvm::BLAKE3 hasher;
};

/// Tells builds of the compiler apart that have the same version, as a developer's do: the build ID
/// that the linker made of the contents, so that copies of one build share their entries.
const std::string &getBuildIdentity();

/// A folder of entries. Several processes and threads may use it at once; an entry that cannot be
/// read is one that is not there.
class DiskCache {
public:
  static constexpr uint64_t defaultMaxBytes = uint64_t(2) << 30;

  /// A cache that holds nothing and keeps nothing.
  DiskCache() = default;
  explicit DiskCache(std::string directory, uint64_t maxBytes = defaultMaxBytes)
      : directory(std::move(directory)), maxBytes(maxBytes) {}

  /// $SPARSEFLOW_CACHE_DIR, else ~/.cache/sparseflow; empty (no cache) when that variable is set to
  /// nothing, or there is no home.
  static std::string defaultDirectory();

  bool enabled() const { return !directory.empty(); }

  /// The fields stored under the key, or nothing.
  std::optional<std::vector<std::string>> get(llvm::StringRef key);

  /// Stores the fields. Best effort: a full disk or a read-only folder is not reported.
  void put(llvm::StringRef key, llvm::ArrayRef<llvm::StringRef> fields);

  /// Deletes the entries that were not used for the longest time until the rest fits, and what
  /// interrupted writers left behind. put() calls it now and then.
  void prune();

private:
  std::string entryPath(llvm::StringRef key) const;

  std::string directory;
  uint64_t maxBytes = defaultMaxBytes;
  std::atomic<uint64_t> writtenSincePrune{0};
};

} // namespace sparseflow::target

#endif // SPARSEFLOW_TARGET_DISKCACHE_H
