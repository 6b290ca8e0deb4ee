// The safetensors reader and writer: what they accept, what they refuse, and that files are never
// half written.
#include "TestProgram.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include <thread>

using namespace llvm;
using namespace sparseflow::runtime;

static std::string file(StringRef header, size_t dataBytes) {
  std::string bytes(8, '\0');
  support::endian::write64le(bytes.data(), header.size());
  return bytes + header.str() + std::string(dataBytes, 'd');
}

static std::string read(const std::string &bytes) {
  return messageOf(SafeTensors::fromMemory(arrayRefFromStringRef(bytes), "f.sf"));
}

static std::string written(ArrayRef<StoredTensor> tensors,
                           const SafeTensors::Metadata &metadata = {}) {
  std::string bytes;
  raw_string_ostream os(bytes);
  cantFail(writeSafeTensors(os, tensors, metadata));
  return bytes;
}

TEST(SafeTensors, round_trip_keeps_tensors_and_metadata) {
  std::vector<StoredTensor> tensors = {
      StoredTensor::own("a", DType::F16, {2, 3}, std::vector<uint8_t>(12, 1)),
      StoredTensor::own("empty", DType::F32, {0, 5}, {}),
      StoredTensor::own("scalar", DType::I32, {}, std::vector<uint8_t>(4, 2)),
      StoredTensor::own("big \"quoted\" \xc3\xa9", DType::E4M3, {64}, std::vector<uint8_t>(64, 3))};
  std::string bytes = written(tensors, {{"k", "v\n\"x\""}});
  Expected<SafeTensors> result = SafeTensors::fromMemory(arrayRefFromStringRef(bytes), "f");
  ASSERT_TRUE(bool(result)) << toString(result.takeError());
  EXPECT_EQ(result->metadata().at("k"), "v\n\"x\"");
  ASSERT_EQ(result->tensors().size(), tensors.size());
  for (const StoredTensor &tensor : tensors) {
    const StoredTensor *found = result->find(tensor.name);
    ASSERT_TRUE(found) << tensor.name;
    EXPECT_EQ(found->dtype, tensor.dtype);
    EXPECT_EQ(found->shape, tensor.shape);
    EXPECT_TRUE(found->data.equals(tensor.data));
  }
}

TEST(SafeTensors, tensors_are_aligned) {
  std::vector<StoredTensor> tensors = {
      StoredTensor::own("odd", DType::U8, {7}, std::vector<uint8_t>(7)),
      StoredTensor::own("values", DType::F16, {64}, std::vector<uint8_t>(128)),
      StoredTensor::own("bias", DType::F32, {3}, std::vector<uint8_t>(12)),
      StoredTensor::own("more", DType::I8, {192}, std::vector<uint8_t>(192))};
  std::string bytes = written(tensors);
  SafeTensors result = cantFail(SafeTensors::fromMemory(arrayRefFromStringRef(bytes), "f"));
  auto offset = [&](StringRef name) {
    return result.find(name)->data.data() - reinterpret_cast<const uint8_t *>(bytes.data());
  };
  EXPECT_EQ(offset("values") % 64, 0);
  EXPECT_EQ(offset("more") % 64, 0);
  EXPECT_EQ(offset("bias") % 4, 0);
}

TEST(SafeTensors, equal_input_gives_equal_bytes) {
  std::vector<StoredTensor> tensors = makeTensors();
  std::string first = written(tensors);
  std::reverse(tensors.begin(), tensors.end());
  EXPECT_EQ(written(tensors), first);
}

TEST(SafeTensors, writer_refuses_what_it_could_not_read) {
  auto message = [](ArrayRef<StoredTensor> tensors) {
    return messageOf(writeSafeTensors(nulls(), tensors, {}));
  };
  StoredTensor tensor = StoredTensor::own("t", DType::F16, {4}, std::vector<uint8_t>(8));
  EXPECT_CONTAINS(message({tensor, tensor}), "expected each tensor named once, got 't' twice");
  tensor.shape = {5};
  EXPECT_CONTAINS(message({tensor}), "tensor 't' expected 10 bytes for f16 [5], got 8");
  tensor.shape = {int64_t(1) << 62, 4};
  EXPECT_CONTAINS(message({tensor}), "expected fewer than 2^64 bytes");
  tensor = StoredTensor::own("__metadata__", DType::U8, {0}, {});
  EXPECT_CONTAINS(message({tensor}), "choose a plain UTF-8 name");
}

TEST(SafeTensors, damaged_files_are_refused) {
  EXPECT_CONTAINS(read(""), "expected a safetensors file of at least 8 bytes, got 0");
  EXPECT_CONTAINS(read(std::string(8, '\xff')),
                  "at most 100000000 bytes, got 18446744073709551615; it is no safetensors file");
  EXPECT_CONTAINS(read(file("{}", 0).substr(0, 9)),
                  "expected a header of 2 bytes, got 1; the file is truncated");
  EXPECT_CONTAINS(read(file("[]", 0)), "begins with '{'");
  EXPECT_CONTAINS(read(file("{\"a\":}", 0)), "syntax error");
  EXPECT_CONTAINS(read(file("{\"a\":1}", 0)), "tensor 'a' expected an object");
  EXPECT_CONTAINS(read(file("{\"__metadata__\":{\"a\":1}}", 0)),
                  "expected a string as metadata 'a'");
  EXPECT_CONTAINS(read(file("{\"__metadata__\":1}", 0)), "an object of strings");
  EXPECT_EQ(read(file("{}", 0)), "");
  EXPECT_CONTAINS(read(file("{}", 3)), "expected 0 bytes of tensors as the header says, got 3");
}

TEST(SafeTensors, hostile_tensors_are_refused) {
  auto one = [](StringRef body, size_t bytes) {
    return read(file(("{\"t\":{" + body + "}}").str(), bytes));
  };
  EXPECT_EQ(one(R"("dtype":"F16","shape":[2],"data_offsets":[0,4])", 4), "");
  EXPECT_CONTAINS(one(R"("dtype":"F13","shape":[2],"data_offsets":[0,4])", 4), "got 'F13'");
  EXPECT_CONTAINS(one(R"("shape":[2],"data_offsets":[0,4])", 4),
                  "expected a dtype that SparseFlow stores");
  EXPECT_CONTAINS(one(R"("dtype":"F16","shape":[-2],"data_offsets":[0,4])", 4),
                  "integers of at least 0");
  EXPECT_CONTAINS(one(R"("dtype":"F16","shape":[1.5],"data_offsets":[0,4])", 4),
                  "integers of at least 0");
  EXPECT_CONTAINS(one(R"("dtype":"F16","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,4])", 4),
                  "at most 8 extents, got 9");
  EXPECT_CONTAINS(one(R"("dtype":"F16","shape":[3],"data_offsets":[0,4])", 4),
                  "expected 6 bytes for f16 [3], got 4");
  EXPECT_CONTAINS(
      one(R"("dtype":"F16","shape":[4611686018427387904,4611686018427387904],"data_offsets":[0,4])",
          4),
      "fewer than 2^64");
  // 2^63 elements of 2 bytes overflow to 0.
  EXPECT_CONTAINS(one(R"("dtype":"F16","shape":[9223372036854775807,2],"data_offsets":[0,0])", 0),
                  "fewer than 2^64");
  EXPECT_CONTAINS(one(R"("dtype":"F16","shape":[2],"data_offsets":[0,4])", 3),
                  "the file is truncated");
  EXPECT_CONTAINS(one(R"("dtype":"F16","shape":[2],"data_offsets":[4,0])", 4),
                  "data_offsets [begin, end]");
  EXPECT_CONTAINS(one(R"("dtype":"F16","shape":[2],"data_offsets":[-4,0])", 4),
                  "data_offsets [begin, end]");
  EXPECT_CONTAINS(one(R"("dtype":"F16","shape":[2],"data_offsets":[4,8])", 8),
                  "begin at 0, got 4; the bytes between belong to no tensor");
  auto two = [](StringRef a, StringRef b) {
    return read(file(("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + a +
                      "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + b + "}}")
                         .str(),
                     8));
  };
  EXPECT_EQ(two("[0,4]", "[4,8]"), "");
  EXPECT_CONTAINS(two("[0,4]", "[2,6]"),
                  "tensor 'b' expected its bytes to begin at 4, got 2; it overlaps another tensor");
  EXPECT_CONTAINS(
      read(file(
          R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
          2)),
      "expected every JSON key once");
}

namespace {
class Folder : public testing::Test {
protected:
  void SetUp() override { ASSERT_FALSE(sys::fs::createUniqueDirectory("sparseflow-test", path)); }
  void TearDown() override { sys::fs::remove_directories(path); }
  std::string at(StringRef name) const { return (path + "/" + name).str(); }
  size_t count() const {
    size_t entries = 0;
    std::error_code code;
    for (sys::fs::directory_iterator i(path, code), end; i != end && !code; i.increment(code))
      ++entries;
    return entries;
  }
  static std::string contents(const std::string &path) {
    return (*MemoryBuffer::getFile(path))->getBuffer().str();
  }
  SmallString<128> path;
};
using AtomicWrite = Folder;
using SafeTensorsFile = Folder;
} // namespace

TEST_F(SafeTensorsFile, opens_by_mapping) {
  std::vector<StoredTensor> tensors = {
      StoredTensor::own("t", DType::U8, {1 << 20}, std::vector<uint8_t>(1 << 20, 7))};
  ASSERT_EQ(messageOf(writeFileAtomically(
                at("f"), [&](raw_ostream &os) { return writeSafeTensors(os, tensors, {}); })),
            "");
  Expected<SafeTensors> result = SafeTensors::open(at("f"));
  ASSERT_TRUE(bool(result));
  EXPECT_TRUE(result->find("t")->data.equals(tensors[0].data));
  EXPECT_CONTAINS(messageOf(SafeTensors::open(at("none"))), "cannot open '");
  EXPECT_CONTAINS(messageOf(SafeTensors::open("/dev/zero")), "it is no regular file");
  EXPECT_CONTAINS(messageOf(SafeTensors::open(path)), "it is no regular file");
}

TEST_F(AtomicWrite, a_failure_leaves_the_old_file_and_nothing_else) {
  auto write = [&](StringRef text, bool fail) {
    return messageOf(writeFileAtomically(at("f"), [&](raw_ostream &os) -> Error {
      os << text;
      return fail ? makeError(Status::IOError, "stop") : Error::success();
    }));
  };
  EXPECT_EQ(write("old", false), "");
  EXPECT_EQ(write("new but broken", true), "stop");
  EXPECT_EQ(contents(at("f")), "old");
  EXPECT_EQ(count(), 1u);
  EXPECT_EQ(write("new", false), "");
  EXPECT_EQ(contents(at("f")), "new");
}

TEST_F(AtomicWrite, readers_see_a_whole_file_while_writers_compete) {
  std::vector<StoredTensor> tensors = {
      StoredTensor::own("t", DType::U8, {100000}, std::vector<uint8_t>(100000, 7))};
  auto write = [&] {
    return messageOf(writeFileAtomically(
        at("f"), [&](raw_ostream &os) { return writeSafeTensors(os, tensors, {}); }));
  };
  ASSERT_EQ(write(), "");
  std::atomic<bool> done{false};
  std::vector<std::thread> writers;
  for (int t = 0; t < 3; ++t)
    writers.emplace_back([&] {
      for (int i = 0; i < 20; ++i)
        EXPECT_EQ(write(), "");
      done = true;
    });
  while (!done) {
    Expected<SafeTensors> file = SafeTensors::open(at("f"));
    ASSERT_TRUE(bool(file)) << toString(file.takeError());
    EXPECT_TRUE(file->find("t")->data.equals(tensors[0].data));
  }
  for (std::thread &writer : writers)
    writer.join();
  EXPECT_EQ(count(), 1u);
}

TEST_F(AtomicWrite, a_full_disk_is_reported) {
  // /dev/full takes no byte and is no regular file, so it must be written in place.
  if (!sys::fs::exists("/dev/full"))
    GTEST_SKIP() << "no /dev/full here";
  EXPECT_CONTAINS(messageOf(writeFileAtomically("/dev/full",
                                                [](raw_ostream &os) -> Error {
                                                  os << "text";
                                                  return Error::success();
                                                })),
                  "cannot write '/dev/full'");
  EXPECT_TRUE(sys::fs::exists("/dev/full"));
}

TEST_F(AtomicWrite, folders_are_refused) {
  auto nothing = [](raw_ostream &) { return Error::success(); };
  EXPECT_CONTAINS(messageOf(writeFileAtomically(path, nothing)), "it is a folder");
  EXPECT_CONTAINS(messageOf(writeFileAtomically(at("no/such/file"), nothing)), "cannot write");
}
