// `.sf` files: references, checksums, and that every truncation and every altered byte is noticed.
#include "TestProgram.h"

using namespace llvm;
using namespace sparseflow::runtime;

static std::string bytesOf(const ProgramFile &file) {
  std::string bytes;
  raw_string_ostream os(bytes);
  cantFail(file.write(os));
  return bytes;
}

static Expected<ProgramFile::Ptr> read(const std::string &bytes, bool verify) {
  return ProgramFile::fromMemory(arrayRefFromStringRef(bytes), verify);
}

TEST(ProgramFile, round_trip) {
  std::string bytes = bytesOf(*makeProgram());
  Expected<ProgramFile::Ptr> file = read(bytes, true);
  ASSERT_TRUE(bool(file)) << toString(file.takeError());
  EXPECT_EQ((*file)->source(), "func.func @main() { return }");
  EXPECT_EQ((*file)->find("w")->shape, std::vector<int64_t>{columns});
  EXPECT_EQ(bytesOf(**file), bytes);
  EXPECT_EQ(bytes, bytesOf(*makeProgram()));
}

TEST(ProgramFile, references_must_exist) {
  auto without = [](StringRef name) {
    std::vector<StoredTensor> tensors = makeTensors();
    erase_if(tensors, [&](const StoredTensor &tensor) { return tensor.name == name; });
    return messageOf(ProgramFile::create(makeManifest(), std::move(tensors)));
  };
  EXPECT_CONTAINS(without("w"),
                  "function 'main', program 'sm_80' expected a tensor 'w' in the file, got none");
  EXPECT_CONTAINS(without("sm_80/k1.ptx"), "kernel 'k1' expected a tensor 'sm_80/k1.ptx'");
  EXPECT_CONTAINS(without("source.mlir"), "the manifest's source expected a tensor 'source.mlir'");
  std::vector<StoredTensor> tensors = makeTensors();
  for (StoredTensor &tensor : tensors)
    if (tensor.name == "sm_80/k0.cubin")
      tensor.dtype = DType::I8;
  EXPECT_CONTAINS(messageOf(ProgramFile::create(makeManifest(), tensors)), "to be u8, got i8");
}

TEST(ProgramFile, each_tensor_is_named_once) {
  std::vector<StoredTensor> tensors = makeTensors();
  tensors.push_back(tensors.front());
  EXPECT_CONTAINS(messageOf(ProgramFile::create(makeManifest(), tensors)),
                  "expected each tensor named once, got '" + tensors.front().name + "' twice");
}

TEST(ProgramFile, plain_safetensors_are_refused) {
  std::string bytes;
  raw_string_ostream os(bytes);
  cantFail(writeSafeTensors(os, makeTensors(), {}));
  EXPECT_CONTAINS(messageOf(read(bytes, false)), "it was not written by SparseFlow");
}

TEST(ProgramFile, every_truncation_is_refused) {
  std::string bytes = bytesOf(*makeProgram());
  for (size_t length = 0; length < bytes.size(); ++length)
    EXPECT_NE(messageOf(read(bytes.substr(0, length), false)), "") << length;
  EXPECT_NE(messageOf(read(bytes + "x", false)), "");
}

TEST(ProgramFile, every_altered_byte_is_noticed) {
  std::string bytes = bytesOf(*makeProgram());
  size_t header = 8 + size_t(uint8_t(bytes[0])) + (size_t(uint8_t(bytes[1])) << 8);
  for (size_t i = 0; i < bytes.size(); ++i) {
    // White space after the header's JSON carries no meaning.
    if (i >= 8 && i < header && bytes[i] == ' ' && bytes[i - 1] != '"')
      continue;
    std::string altered = bytes;
    altered[i] ^= 0x04;
    EXPECT_NE(messageOf(read(altered, true)), "") << "byte " << i;
  }
}

TEST(ProgramFile, altered_tensors_are_named_when_verified) {
  std::string bytes = bytesOf(*makeProgram());
  std::string altered = bytes;
  size_t at = altered.find(".version 8.5");
  altered[at] = '!';
  EXPECT_EQ(messageOf(read(altered, false)), "");
  EXPECT_CONTAINS(messageOf(read(altered, true)), "expected checksum");
  EXPECT_CONTAINS(messageOf(read(altered, true)), ".ptx'");
}

TEST(ProgramFile, altered_sources_are_always_refused) {
  std::string altered = bytesOf(*makeProgram());
  altered[altered.find("func.func @main")] = 'F';
  EXPECT_CONTAINS(messageOf(read(altered, false)), "tensor 'source.mlir' expected checksum");
}

TEST(ProgramFile, describe_lists_tensors) {
  json::Value value = makeProgram()->describe();
  EXPECT_EQ(value.getAsObject()->getArray("tensors")->size(), 6u);
  EXPECT_TRUE(value.getAsObject()->getArray("functions"));
}
