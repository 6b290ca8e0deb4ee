// Ranking, the database and the tuning option through the C ABI. What the database itself survives
// is tested where it lives; what compiling makes of its entries, in Python and with lit.
#include "sparseflow-c/sparseflow.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "gtest/gtest.h"

using namespace llvm;

#define EXPECT_FAILS(call, status, part)                                                           \
  do {                                                                                             \
    EXPECT_EQ(call, status) << sfLastError();                                                      \
    EXPECT_NE(StringRef(sfLastError()).find(part), StringRef::npos) << sfLastError();              \
  } while (0)

/// Takes over a string of the library's.
static std::string take(char *text) {
  std::string copy = text ? text : "";
  sfFree(text);
  return copy;
}

static SfTuningKey makeKey(const char *dtype = "f16", int64_t tokens = 64) {
  SfTuningKey key;
  SF_INIT(key);
  key.target = "sm_90a";
  key.dtype = dtype;
  key.weights = "sp24";
  key.epilogue = "plain";
  key.features = 1024;
  key.inner = 4096;
  key.tokens = tokens;
  return key;
}

static json::Array rankFor(const SfTuningKey &key, size_t limit) {
  char *text = nullptr;
  EXPECT_EQ(sfTuningCandidates(&key, limit, &text), SF_OK) << sfLastError();
  return *cantFail(json::parse(take(text))).getAsArray();
}

namespace {
class CTuning : public testing::Test {
protected:
  void SetUp() override {
    ASSERT_FALSE(sys::fs::createUniqueDirectory("sparseflow-tuning", folder));
    path = (folder + "/tuning.sqlite").str();
    ASSERT_EQ(sfTuningOpen(path.c_str(), &database, nullptr), SF_OK) << sfLastError();
  }
  void TearDown() override {
    sfTuningClose(database);
    sys::fs::remove_directories(folder);
  }
  std::string lookup(const SfTuningKey &key, SfTuning *where = nullptr) {
    char *text = nullptr;
    EXPECT_EQ(sfTuningLookup(where ? where : database, &key, &text), SF_OK) << sfLastError();
    return take(text);
  }

  SmallString<128> folder;
  std::string path;
  SfTuning *database = nullptr;
};
} // namespace

TEST_F(CTuning, candidates_are_ranked_by_their_estimate) {
  json::Array ranked = rankFor(makeKey(), 6);
  ASSERT_EQ(ranked.size(), 6u);
  double previous = 0;
  for (const json::Value &candidate : ranked) {
    EXPECT_TRUE(candidate.getAsObject()->getString("config")->starts_with("#sf.kernel_config<"));
    double time = *candidate.getAsObject()->getNumber("microseconds");
    EXPECT_GE(time, previous);
    previous = time;
  }
}

TEST_F(CTuning, a_weight_packed_for_other_instructions_has_candidates_of_those) {
  SfTuningKey key = makeKey();
  key.weights = "sp24, pack = mma";
  for (const json::Value &candidate : rankFor(key, 4))
    EXPECT_TRUE(candidate.getAsObject()->getString("config")->contains("atom = mma_sp"));
}

TEST_F(CTuning, an_entry_serves_its_bucket_and_the_types_that_run_alike) {
  SfTuningKey key = makeKey("bf16", 40);
  ASSERT_EQ(sfTuningRecord(database, &key, "text", 7.5), SF_OK) << sfLastError();
  EXPECT_EQ(lookup(makeKey("f16", 64)), R"({"config":"text","microseconds":7.5})");
  EXPECT_EQ(lookup(makeKey("f16", 33)), R"({"config":"text","microseconds":7.5})");
  EXPECT_EQ(lookup(makeKey("f16", 32)), "");
  EXPECT_EQ(lookup(makeKey("i8", 64)), "");
}

TEST_F(CTuning, the_last_bucket_stands_for_all_larger_ones) {
  char *text = nullptr;
  ASSERT_EQ(sfTuningBuckets(&text), SF_OK);
  json::Value buckets = cantFail(json::parse(take(text)));
  SfTuningKey key = makeKey("f16", *buckets.getAsArray()->back().getAsInteger());
  ASSERT_EQ(sfTuningRecord(database, &key, "many", 1), SF_OK) << sfLastError();
  EXPECT_EQ(lookup(makeKey("f16", 1 << 20)), R"({"config":"many","microseconds":1})");
}

TEST_F(CTuning, entries_go_along_when_exported) {
  SfTuningKey key = makeKey();
  ASSERT_EQ(sfTuningRecord(database, &key, "text", 2), SF_OK) << sfLastError();
  std::string target = (folder + "/exported.sqlite").str();
  ASSERT_EQ(sfTuningExport(database, target.c_str()), SF_OK) << sfLastError();
  SfTuning *exported = nullptr;
  ASSERT_EQ(sfTuningOpen(target.c_str(), &exported, nullptr), SF_OK) << sfLastError();
  EXPECT_EQ(lookup(makeKey(), exported), R"({"config":"text","microseconds":2})");
  sfTuningClose(exported);
}

TEST_F(CTuning, an_entry_that_is_no_text_is_none) {
  SfTuningKey key = makeKey();
  ASSERT_EQ(sfTuningRecord(database, &key, "#sf.kernel_config<\xff>", 1), SF_OK) << sfLastError();
  EXPECT_EQ(lookup(key), "");
}

TEST_F(CTuning, damage_is_told_when_opening) {
  std::string damaged = (folder + "/damaged.sqlite").str();
  std::error_code error;
  raw_fd_ostream(damaged, error) << std::string(5000, 'x');
  SfTuning *opened = nullptr;
  char *warnings = nullptr;
  ASSERT_EQ(sfTuningOpen(damaged.c_str(), &opened, &warnings), SF_OK) << sfLastError();
  EXPECT_NE(take(warnings).find("got a damaged file"), std::string::npos);
  sfTuningClose(opened);
}

TEST_F(CTuning, what_is_not_a_product_is_refused) {
  char *text = nullptr;
  auto refuses = [&](auto change, const char *part) {
    SfTuningKey key = makeKey();
    change(key);
    EXPECT_FAILS(sfTuningCandidates(&key, 1, &text), SF_INVALID_ARGUMENT, part);
    EXPECT_FAILS(sfTuningRecord(database, &key, "text", 1), SF_INVALID_ARGUMENT, part);
    EXPECT_FAILS(sfTuningLookup(database, &key, &text), SF_INVALID_ARGUMENT, part);
  };
  refuses([](SfTuningKey &key) { key.target = "sm_1"; }, "a chip of sm_80");
  refuses([](SfTuningKey &key) { key.dtype = "f32"; }, "a dtype of f16");
  refuses([](SfTuningKey &key) { key.weights = "csr"; }, "weights of sp24, dense or cublaslt");
  refuses([](SfTuningKey &key) { key.epilogue = "plain, many bits"; }, "an epilogue such as");
  refuses([](SfTuningKey &key) { key.epilogue = "-1 weights"; }, "an epilogue such as");
  refuses([](SfTuningKey &key) { key.inner = 4098; }, "K a multiple of 4");
  refuses([](SfTuningKey &key) { key.features = 0; }, "at least 1x4");
  refuses([](SfTuningKey &key) { key.features = int64_t(1) << 40; }, "at least 1x4");
  refuses([](SfTuningKey &key) { key.tokens = 0; }, "at least 1 token");
  refuses([](SfTuningKey &key) { key.target = nullptr; }, "got NULL");
  refuses([](SfTuningKey &key) { key.struct_size = 8; }, "SF_INIT");
}

TEST_F(CTuning, misuse_is_an_error) {
  SfTuningKey key = makeKey();
  char *text = nullptr;
  EXPECT_FAILS(sfTuningRecord(database, &key, "text", 0), SF_INVALID_ARGUMENT, "a time above 0");
  EXPECT_FAILS(sfTuningRecord(nullptr, &key, "text", 1), SF_INVALID_ARGUMENT, "got NULL");
  EXPECT_FAILS(sfTuningLookup(database, nullptr, &text), SF_INVALID_ARGUMENT, "got NULL");
  EXPECT_FAILS(sfTuningExport(database, "/proc/none/file"), SF_IO_ERROR, "/proc/none/file");
  SfTuning *opened = nullptr;
  EXPECT_FAILS(sfTuningOpen("/proc/none/file", &opened, nullptr), SF_IO_ERROR, "/proc/none/file");
  sfTuningClose(nullptr);
}
