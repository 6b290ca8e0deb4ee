// The tuning database: what it keeps, many writers, damage at each moment, and files of others.
#include "sparseflow/Tuning/TuningDatabase.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"
#include "gtest/gtest.h"
#include <limits>
#include <sqlite3.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace llvm;
using namespace sparseflow::tuning;

#define EXPECT_CONTAINS(text, part)                                                                \
  EXPECT_NE(std::string(text).find(part), std::string::npos) << "in: " << (text)

namespace {
class TuningDatabaseTest : public testing::Test {
protected:
  void SetUp() override {
    ASSERT_FALSE(sys::fs::createUniqueDirectory("sparseflow-tuning", folder));
    path = (folder + "/user.db").str();
    shippedPath = (folder + "/shipped.db").str();
  }
  void TearDown() override { sys::fs::remove_directories(folder); }

  std::unique_ptr<TuningDatabase> open() { return cantFail(TuningDatabase::open(path)); }
  static void write(StringRef file, StringRef bytes) {
    std::error_code error;
    raw_fd_ostream os(file, error);
    os << bytes;
  }
  std::vector<std::string> filesLike(StringRef part) const {
    std::vector<std::string> files;
    std::error_code error;
    for (sys::fs::directory_iterator it(folder, error), end; it != end && !error;
         it.increment(error))
      if (StringRef(it->path()).contains(part))
        files.push_back(it->path());
    return files;
  }

  SmallString<128> folder;
  std::string path, shippedPath;
};
} // namespace

static TuningKey makeKey(int64_t tokens = 64) {
  return {"sm_90a", "f16", "sp24", 4096, 11008, "bias gelu", tokens, "0.1.0"};
}

/// "config at microseconds", "none", or the error.
static std::string look(TuningDatabase &database, const TuningKey &key) {
  Expected<std::optional<TuningEntry>> entry = database.lookup(key);
  if (!entry)
    return "error: " + toString(entry.takeError());
  if (!*entry)
    return "none";
  std::string text;
  raw_string_ostream os(text);
  os << (*entry)->config << " at " << format("%g", (*entry)->microseconds);
  return text;
}

static std::string put(TuningDatabase &database, const TuningKey &key, StringRef config,
                       double microseconds) {
  return toString(database.record(key, config, microseconds));
}

//===-- Entries ------------------------------------------------------------------------------===//

TEST_F(TuningDatabaseTest, entries_survive) {
  EXPECT_EQ(look(*open(), makeKey()), "none");
  EXPECT_EQ(put(*open(), makeKey(), "#sf.kernel_config<a>", 12.5), "");
  EXPECT_EQ(look(*open(), makeKey()), "#sf.kernel_config<a> at 12.5");
  EXPECT_EQ(put(*open(), makeKey(), "#sf.kernel_config<b>", 13), "");
  EXPECT_EQ(look(*open(), makeKey()), "#sf.kernel_config<b> at 13");
}

TEST_F(TuningDatabaseTest, every_part_of_the_key_counts) {
  std::unique_ptr<TuningDatabase> database = open();
  ASSERT_EQ(put(*database, makeKey(), "a", 1), "");
  for (auto change : std::initializer_list<void (*)(TuningKey &)>{
           [](TuningKey &key) { key.chip = "sm_80"; }, [](TuningKey &key) { key.dtype = "bf16"; },
           [](TuningKey &key) { key.weights = ""; }, [](TuningKey &key) { key.features = 1; },
           [](TuningKey &key) { key.inner = 1; },
           [](TuningKey &key) { key.epilogue = "BIAS GELU"; },
           [](TuningKey &key) { key.tokens = 128; },
           [](TuningKey &key) { key.compiler = "0.1.1"; }}) {
    TuningKey key = makeKey();
    change(key);
    EXPECT_EQ(look(*database, key), "none");
    EXPECT_EQ(put(*database, key, "b", 2), "");
    EXPECT_EQ(look(*database, key), "b at 2");
  }
  EXPECT_EQ(look(*database, makeKey()), "a at 1");
}

TEST_F(TuningDatabaseTest, texts_may_hold_anything) {
  std::unique_ptr<TuningDatabase> database = open();
  TuningKey key = makeKey();
  key.epilogue = "'); DROP TABLE choices; --\xff\"";
  ASSERT_EQ(put(*database, key, "it's \"quoted\"", 1), "");
  EXPECT_EQ(look(*database, key), "it's \"quoted\" at 1");
}

TEST_F(TuningDatabaseTest, nonsense_is_not_recorded) {
  std::unique_ptr<TuningDatabase> database = open();
  EXPECT_EQ(put(*database, makeKey(), "", 1),
            "expected a configuration and a time above 0, got '' and 1.000000 us");
  for (double time : {0.0, -1.0, std::numeric_limits<double>::infinity(),
                      std::numeric_limits<double>::quiet_NaN()})
    EXPECT_CONTAINS(put(*database, makeKey(), "a", time), "a time above 0");
  EXPECT_EQ(look(*database, makeKey()), "none");
}

//===-- Two files ----------------------------------------------------------------------------===//

TEST_F(TuningDatabaseTest, the_users_entries_win) {
  {
    std::unique_ptr<TuningDatabase> maker = open();
    ASSERT_EQ(put(*maker, makeKey(1), "shipped 1", 1), "");
    ASSERT_EQ(put(*maker, makeKey(2), "shipped 2", 2), "");
    ASSERT_EQ(toString(maker->exportTo(shippedPath)), "");
  }
  sys::fs::remove(path);
  ASSERT_EQ(put(*open(), makeKey(2), "mine", 3), "");
  std::unique_ptr<TuningDatabase> database = TuningDatabase::openToRead(path, shippedPath);
  EXPECT_EQ(look(*database, makeKey(1)), "shipped 1 at 1");
  EXPECT_EQ(look(*database, makeKey(2)), "mine at 3");
  EXPECT_EQ(look(*database, makeKey(3)), "none");
  EXPECT_TRUE(database->takeWarnings().empty());
  // Nothing was left beside it, so that it may lie where nobody can write.
  EXPECT_EQ(filesLike("shipped.db").size(), 1u);
}

TEST_F(TuningDatabaseTest, without_a_file_of_the_users_nothing_is_recorded) {
  ASSERT_EQ(put(*open(), makeKey(), "a", 1), "");
  ASSERT_EQ(toString(open()->exportTo(shippedPath)), "");
  std::unique_ptr<TuningDatabase> database = TuningDatabase::openToRead("", shippedPath);
  EXPECT_EQ(look(*database, makeKey()), "a at 1");
  EXPECT_EQ(put(*database, makeKey(), "b", 1),
            "expected a tuning database of the user's to record in, got none");
}

TEST_F(TuningDatabaseTest, a_shipped_file_that_cannot_be_read_is_a_warning) {
  auto warning = [&] {
    std::unique_ptr<TuningDatabase> database = TuningDatabase::openToRead("", shippedPath);
    EXPECT_EQ(look(*database, makeKey()), "none");
    std::vector<std::string> warnings = database->takeWarnings();
    EXPECT_TRUE(database->takeWarnings().empty());
    return warnings.size() == 1 ? warnings[0] : "";
  };
  EXPECT_CONTAINS(warning(), "shipped.db': unable to open database file; going on without what "
                             "ships with the package");
  write(shippedPath, "");
  EXPECT_CONTAINS(warning(), "expected entries, got an empty file");
  write(shippedPath, std::string(5000, 'x'));
  EXPECT_CONTAINS(warning(), "file is not a database");
  EXPECT_EQ(filesLike("corrupt").size(), 0u);
}

TEST_F(TuningDatabaseTest, who_reads_leaves_the_files_as_they_are) {
  write(path, std::string(5000, 'x'));
  for (int i = 0; i < 2; ++i) {
    std::unique_ptr<TuningDatabase> database = TuningDatabase::openToRead(path, "");
    EXPECT_EQ(look(*database, makeKey()), "none");
    std::vector<std::string> warnings = database->takeWarnings();
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_EQ(warnings[0],
              "the tuning database '" + path + "': file is not a database; going on without it");
  }
  EXPECT_EQ(filesLike("user.db").size(), 1u);
}

TEST_F(TuningDatabaseTest, a_folder_that_cannot_be_written_can_be_read) {
  ASSERT_EQ(put(*open(), makeKey(), "a", 1), "");
  ASSERT_FALSE(sys::fs::setPermissions(path, sys::fs::owner_read));
  ASSERT_FALSE(sys::fs::setPermissions(folder, sys::fs::owner_read | sys::fs::owner_exe));
  std::unique_ptr<TuningDatabase> database = TuningDatabase::openToRead(path, "");
  EXPECT_EQ(look(*database, makeKey()), "a at 1");
  EXPECT_TRUE(database->takeWarnings().empty());
  ASSERT_FALSE(sys::fs::setPermissions(folder, sys::fs::owner_all));
}

TEST_F(TuningDatabaseTest, odd_names_are_fine) {
  path = (folder + "/new folder/100%?#.db").str();
  ASSERT_EQ(put(*open(), makeKey(), "a", 1), "");
  ASSERT_EQ(toString(open()->exportTo(path + " shipped")), "");
  EXPECT_EQ(look(*TuningDatabase::openToRead("", path + " shipped"), makeKey()), "a at 1");
}

//===-- Many at once -------------------------------------------------------------------------===//

TEST_F(TuningDatabaseTest, threads_share_a_database) {
  std::unique_ptr<TuningDatabase> database = open();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i)
        EXPECT_EQ(put(*database, makeKey(t * 100 + i), "a", 1 + i), "");
    });
  for (std::thread &thread : threads)
    thread.join();
  for (int t = 0; t < 4; ++t)
    for (int i = 0; i < 25; ++i)
      EXPECT_NE(look(*database, makeKey(t * 100 + i)), "none");
}

/// Runs `child` in processes of their own; false: one of them failed.
static bool inProcesses(int count, function_ref<bool(int)> child) {
  std::vector<pid_t> children;
  for (int p = 0; p < count; ++p) {
    pid_t pid = fork();
    if (pid == 0)
      _exit(child(p) ? 0 : 1);
    children.push_back(pid);
  }
  bool fine = true;
  for (pid_t pid : children) {
    int status = 0;
    fine &= waitpid(pid, &status, 0) == pid && status == 0;
  }
  return fine;
}

TEST_F(TuningDatabaseTest, processes_write_at_once) {
  constexpr int processes = 8, entries = 20;
  EXPECT_TRUE(inProcesses(processes, [&](int p) {
    Expected<std::unique_ptr<TuningDatabase>> database = TuningDatabase::open(path);
    if (!database)
      return false;
    for (int i = 0; i < entries; ++i)
      if (!put(**database, makeKey(p * 1000 + i), "a", 1).empty() ||
          look(**database, makeKey(p * 1000 + i)) != "a at 1")
        return false;
    return true;
  }));
  std::unique_ptr<TuningDatabase> database = open();
  for (int p = 0; p < processes; ++p)
    for (int i = 0; i < entries; ++i)
      EXPECT_EQ(look(*database, makeKey(p * 1000 + i)), "a at 1") << p << "," << i;
}

TEST_F(TuningDatabaseTest, of_processes_that_find_damage_one_sets_it_aside) {
  write(path, std::string(10000, 'x'));
  EXPECT_TRUE(inProcesses(8, [&](int p) {
    Expected<std::unique_ptr<TuningDatabase>> database = TuningDatabase::open(path);
    return database && put(**database, makeKey(p), "a", 1).empty();
  }));
  EXPECT_EQ(filesLike("user.db.corrupt-").size(), 1u);
  std::unique_ptr<TuningDatabase> database = open();
  for (int p = 0; p < 8; ++p)
    EXPECT_EQ(look(*database, makeKey(p)), "a at 1");
}

//===-- Damage -------------------------------------------------------------------------------===//

TEST_F(TuningDatabaseTest, a_damaged_file_is_set_aside_with_a_sentence) {
  write(path, "this is no database, and long enough not to be taken for an empty one");
  std::unique_ptr<TuningDatabase> database = open();
  std::vector<std::string> warnings = database->takeWarnings();
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_CONTAINS(warnings[0], "expected a tuning database in '" + path +
                                   "', got a damaged file, which is now '" + path + ".corrupt-2");
  EXPECT_CONTAINS(warnings[0], "; tune again what was in it");
  ASSERT_EQ(put(*database, makeKey(), "a", 1), "");
  EXPECT_EQ(look(*open(), makeKey()), "a at 1");
  // A second time within a second.
  database.reset();
  write(path, std::string(5000, 'y'));
  open();
  EXPECT_EQ(filesLike("user.db.corrupt-").size(), 2u);
}

TEST_F(TuningDatabaseTest, a_damaged_page_is_found_when_it_is_opened) {
  {
    std::unique_ptr<TuningDatabase> database = open();
    for (int i = 0; i < 500; ++i)
      ASSERT_EQ(put(*database, makeKey(i), std::string(100, 'c'), 1), "");
  }
  std::string bytes = (*MemoryBuffer::getFile(path))->getBuffer().str();
  ASSERT_GT(bytes.size(), 20000u);
  std::fill_n(bytes.begin() + 8192, 4096, '\x5a');
  write(path, bytes);
  std::unique_ptr<TuningDatabase> database = open();
  EXPECT_EQ(database->takeWarnings().size(), 1u);
  EXPECT_EQ(look(*database, makeKey(0)), "none");
}

TEST_F(TuningDatabaseTest, a_file_cut_short_is_damage_and_an_empty_one_is_new) {
  {
    std::unique_ptr<TuningDatabase> database = open();
    for (int i = 0; i < 500; ++i)
      ASSERT_EQ(put(*database, makeKey(i), std::string(100, 'c'), 1), "");
  }
  std::string bytes = (*MemoryBuffer::getFile(path))->getBuffer().str();
  write(path, StringRef(bytes).take_front(bytes.size() / 2));
  EXPECT_EQ(open()->takeWarnings().size(), 1u);
  write(path, "");
  std::unique_ptr<TuningDatabase> database = open();
  EXPECT_TRUE(database->takeWarnings().empty());
  EXPECT_EQ(put(*database, makeKey(), "a", 1), "");
}

TEST_F(TuningDatabaseTest, who_has_it_open_follows_when_another_sets_it_aside) {
  // Closed, so that the entry is in the file and no longer in the log.
  ASSERT_EQ(put(*open(), makeKey(1), "a", 1), "");
  std::unique_ptr<TuningDatabase> database = open();
  write(path, std::string(10000, 'x'));
  EXPECT_EQ(open()->takeWarnings().size(), 1u);
  EXPECT_EQ(put(*database, makeKey(2), "b", 2), "");
  EXPECT_EQ(look(*database, makeKey(2)), "b at 2");
  EXPECT_EQ(look(*open(), makeKey(2)), "b at 2");
}

TEST_F(TuningDatabaseTest, a_file_that_was_deleted_is_made_again) {
  std::unique_ptr<TuningDatabase> database = open();
  ASSERT_EQ(put(*database, makeKey(1), "a", 1), "");
  for (const std::string &file : filesLike("user.db"))
    sys::fs::remove(file);
  EXPECT_EQ(put(*database, makeKey(2), "b", 2), "");
  EXPECT_EQ(look(*open(), makeKey(2)), "b at 2");
  EXPECT_TRUE(database->takeWarnings().empty());
}

//===-- What is refused ----------------------------------------------------------------------===//

TEST_F(TuningDatabaseTest, a_file_that_is_no_database_is_left_alone) {
  std::string model = (folder + "/model.safetensors").str();
  write(model, std::string(5000, 'y'));
  EXPECT_EQ(toString(TuningDatabase::open(model).takeError()),
            "the tuning database '" + model +
                "': expected a tuning database, got a file of another kind; name another path");
  EXPECT_EQ(filesLike("model").size(), 1u);
}

TEST_F(TuningDatabaseTest, the_file_of_another_program_is_left_alone) {
  sqlite3 *other = nullptr;
  sqlite3_open(path.c_str(), &other);
  sqlite3_exec(other, "CREATE TABLE bookmarks (url TEXT)", nullptr, nullptr, nullptr);
  sqlite3_close(other);
  EXPECT_EQ(toString(TuningDatabase::open(path).takeError()),
            "the tuning database '" + path +
                "': expected a tuning database of this version, got another SQLite file; name "
                "another path");
  EXPECT_TRUE(sys::fs::exists(path));
}

TEST_F(TuningDatabaseTest, a_path_that_cannot_be_written_is_a_sentence) {
  write(path, "a file");
  EXPECT_CONTAINS(toString(TuningDatabase::open(path + "/below.db").takeError()),
                  "expected a folder to write to, got: ");
  EXPECT_CONTAINS(toString(open()->exportTo(shippedPath + "/below.db")),
                  "exporting the tuning database to '");
}
