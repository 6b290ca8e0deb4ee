//===- DiskCacheTest.cpp - Entries that survive, and those that must not --===//
//
// Corruption is written into real entry files; parallel writers are threads on one folder, which
// the cache cannot tell from processes, as it keeps no state.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Target/DiskCache.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/raw_ostream.h"
#include "gtest/gtest.h"
#include <thread>

using namespace llvm;
using namespace sparseflow::target;

namespace {
class DiskCacheTest : public testing::Test {
protected:
  void SetUp() override { ASSERT_FALSE(sys::fs::createUniqueDirectory("sfcache", directory)); }
  void TearDown() override { sys::fs::remove_directories(directory); }

  std::vector<std::string> files() {
    std::vector<std::string> paths;
    std::error_code error;
    for (sys::fs::recursive_directory_iterator it(directory, error), end; it != end && !error;
         it.increment(error))
      if (it->type() == sys::fs::file_type::regular_file)
        paths.push_back(it->path());
    return paths;
  }

  static void overwrite(const std::string &path, StringRef bytes) {
    std::error_code error;
    raw_fd_ostream(path, error) << bytes;
    ASSERT_FALSE(error);
  }

  SmallString<128> directory;
};
} // namespace

static std::string keyOf(StringRef text) { return CacheKey().add(text).str(); }

TEST(CacheKey, parts_do_not_run_together) {
  EXPECT_NE(CacheKey().add("ab").add("c").str(), CacheKey().add("a").add("bc").str());
  EXPECT_NE(CacheKey().add("a").str(), CacheKey().add("a").add("").str());
  EXPECT_EQ(keyOf("a"), keyOf("a"));
  EXPECT_EQ(keyOf("a").size(), 64u);
}

TEST_F(DiskCacheTest, what_is_put_is_got) {
  DiskCache cache(directory.str().str());
  EXPECT_FALSE(cache.get(keyOf("a")));
  std::string binary("\0\x7f\xff\n", 4);
  cache.put(keyOf("a"), {"cubin", binary, ""});
  std::optional<std::vector<std::string>> fields = cache.get(keyOf("a"));
  ASSERT_TRUE(fields);
  EXPECT_EQ(*fields, (std::vector<std::string>{"cubin", binary, ""}));
  EXPECT_FALSE(cache.get(keyOf("b")));

  DiskCache other(directory.str().str());
  EXPECT_TRUE(other.get(keyOf("a")));
}

TEST_F(DiskCacheTest, off_without_a_directory) {
  DiskCache cache;
  cache.put(keyOf("a"), {"x"});
  EXPECT_FALSE(cache.enabled());
  EXPECT_FALSE(cache.get(keyOf("a")));
}

TEST_F(DiskCacheTest, an_altered_entry_is_discarded) {
  DiskCache cache(directory.str().str());
  cache.put(keyOf("a"), {"some cubin", "and numbers"});
  std::string path = files().at(0);
  std::string good = (*MemoryBuffer::getFile(path))->getBuffer().str();
  for (size_t byte = 0; byte < good.size(); ++byte) {
    std::string bad = good;
    bad[byte] ^= 1;
    overwrite(path, bad);
    EXPECT_FALSE(cache.get(keyOf("a"))) << byte;
    EXPECT_FALSE(sys::fs::exists(path)) << byte;
  }
  for (size_t size = 0; size < good.size(); ++size) {
    overwrite(path, StringRef(good).take_front(size));
    EXPECT_FALSE(cache.get(keyOf("a"))) << size;
  }
  overwrite(path, good);
  EXPECT_TRUE(cache.get(keyOf("a")));
}

TEST_F(DiskCacheTest, parallel_writers_and_readers_see_whole_entries) {
  std::vector<std::thread> threads;
  std::atomic<int> torn{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      DiskCache cache(directory.str().str());
      for (int i = 0; i < 200; ++i) {
        std::string value(1000 + t, static_cast<char>('a' + t));
        cache.put(keyOf(std::to_string(i % 5)), {value, value});
        if (auto fields = cache.get(keyOf(std::to_string((i + 1) % 5))))
          if (fields->size() != 2 || fields->at(0) != fields->at(1))
            ++torn;
      }
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(torn, 0);
  EXPECT_EQ(files().size(), 5u); // and no temporary file
}

TEST_F(DiskCacheTest, the_least_recently_used_entries_go) {
  DiskCache cache(directory.str().str(), /*maxBytes=*/10000);
  std::string kilobyte(1000, 'x');
  for (int i = 0; i < 9; ++i)
    cache.put(keyOf(std::to_string(i)), {kilobyte});
  // Ages them, entry 0 least; then 0 is used, and one more is written.
  for (const std::string &path : files()) {
    int fd;
    ASSERT_FALSE(sys::fs::openFileForWrite(path, fd, sys::fs::CD_OpenExisting));
    sys::TimePoint<> old = std::chrono::system_clock::now() - std::chrono::hours(24);
    ASSERT_FALSE(sys::fs::setLastAccessAndModificationTime(fd, old, old));
    sys::Process::SafelyCloseFileDescriptor(fd);
  }
  EXPECT_TRUE(cache.get(keyOf("0")));
  for (int i = 10; i < 15; ++i)
    cache.put(keyOf(std::to_string(i)), {kilobyte});
  cache.prune();
  uint64_t total = 0;
  for (const std::string &path : files()) {
    uint64_t size = 0;
    sys::fs::file_size(path, size);
    total += size;
  }
  EXPECT_LE(total, 10000u);
  EXPECT_TRUE(cache.get(keyOf("0")));
  EXPECT_TRUE(cache.get(keyOf("14")));
}

TEST_F(DiskCacheTest, what_interrupted_writers_left_goes_after_a_while) {
  DiskCache cache(directory.str().str());
  cache.put(keyOf("a"), {"x"});
  std::string fresh = files().at(0) + ".1234.tmp", stale = files().at(0) + ".5678.tmp";
  overwrite(fresh, "half");
  overwrite(stale, "half");
  int fd;
  ASSERT_FALSE(sys::fs::openFileForWrite(stale, fd, sys::fs::CD_OpenExisting));
  sys::TimePoint<> old = std::chrono::system_clock::now() - std::chrono::hours(2);
  ASSERT_FALSE(sys::fs::setLastAccessAndModificationTime(fd, old, old));
  sys::Process::SafelyCloseFileDescriptor(fd);
  cache.prune();
  EXPECT_TRUE(sys::fs::exists(fresh));
  EXPECT_FALSE(sys::fs::exists(stale));
  EXPECT_TRUE(cache.get(keyOf("a")));
}

TEST_F(DiskCacheTest, a_folder_that_cannot_be_written_is_no_error) {
  std::string blocker = (directory + "/file").str();
  overwrite(blocker, "not a folder");
  DiskCache cache(blocker + "/cache");
  cache.put(keyOf("a"), {"x"});
  EXPECT_FALSE(cache.get(keyOf("a")));
  cache.prune();
}

TEST(BuildIdentity, is_the_linkers_build_id) {
  EXPECT_EQ(getBuildIdentity().size(), 40u) << getBuildIdentity();
  EXPECT_EQ(StringRef(getBuildIdentity()).find_first_not_of("0123456789abcdef"), StringRef::npos);
}
