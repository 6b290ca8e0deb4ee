// .npy files: what NumPy writes is read, what it cannot mean is a sentence, and nothing malformed
// is trusted.
#include "Npy.h"
#include "../Runtime/TestProgram.h"
#include "llvm/Support/FileSystem.h"
#include <random>

using namespace llvm;
using namespace sparseflow::capi;
using namespace sparseflow::runtime;

/// As numpy.save writes it; `version` 1 has a 16-bit header length, later ones 32 bits.
static std::string npy(std::string header, size_t dataBytes, int version = 1) {
  std::string bytes = "\x93NUMPY";
  bytes += char(version);
  bytes += '\0';
  size_t length = header.size();
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i)
    bytes += char(length >> (8 * i));
  return bytes + header + std::string(dataBytes, '\1');
}

static std::string message(const std::string &bytes) { return messageOf(parseNpy(bytes, "x.npy")); }

TEST(Npy, reads_what_numpy_writes) {
  for (int version : {1, 2, 3}) {
    NpyArray array = cantFail(parseNpy(
        npy("{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), }   \n", 24, version), "x"));
    EXPECT_EQ(array.descr, "<f2");
    EXPECT_EQ(array.shape, (std::vector<int64_t>{3, 4}));
    EXPECT_EQ(array.data.size(), 24u);
  }
  EXPECT_EQ(
      cantFail(parseNpy(npy("{'descr': '|i1', 'fortran_order': False, 'shape': (), }", 1), "x"))
          .shape.size(),
      0u);
  EXPECT_EQ(
      cantFail(parseNpy(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }", 20), "x"))
          .shape,
      std::vector<int64_t>{5});
  EXPECT_EQ(
      cantFail(parseNpy(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 7), }", 0), "x"))
          .data.size(),
      0u);
}

TEST(Npy, writes_what_it_reads) {
  SmallString<64> path;
  ASSERT_FALSE(sys::fs::createTemporaryFile("sparseflow", "npy", path));
  for (std::vector<int64_t> shape : {std::vector<int64_t>{}, {4}, {2, 3}, {0, 8}}) {
    int64_t count = 1;
    for (int64_t extent : shape)
      count *= extent;
    NpyArray array{"<u2", shape, std::vector<uint8_t>(count * 2, 9)};
    ASSERT_EQ(messageOf(writeNpy(path, array)), "");
    NpyArray back = cantFail(readNpy(path));
    EXPECT_EQ(back.descr, array.descr);
    EXPECT_EQ(back.shape, array.shape);
    EXPECT_EQ(back.data, array.data);
    uint64_t size = 0;
    ASSERT_FALSE(sys::fs::file_size(path, size));
    EXPECT_EQ((size - array.data.size()) % 64, 0u);
  }
  sys::fs::remove(path);
}

TEST(Npy, misfits_are_explained) {
  EXPECT_EQ(message("not numpy at all"),
            "x.npy: expected a .npy file, got something else; save it with numpy.save");
  EXPECT_CONTAINS(message(npy("{'descr': '<f2', 'fortran_order': True, 'shape': (3, 4), }", 24)),
                  "save numpy.ascontiguousarray(x)");
  EXPECT_CONTAINS(message(npy("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", 4)),
                  "expected little-endian numbers, got '>f4'; convert it with astype");
  EXPECT_CONTAINS(message(npy("{'descr': '<c16', 'fortran_order': False, 'shape': (1,), }", 16)),
                  "got '<c16'");
  EXPECT_CONTAINS(message(npy("{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), }", 23)),
                  "expected 24 bytes of data, got 23");
  EXPECT_CONTAINS(message(npy("{'descr': '<f8', 'fortran_order': False, 'shape': "
                              "(4611686018427387904, 4611686018427387904), }",
                              8)),
                  "expected 18446744073709551615 bytes");
  EXPECT_CONTAINS(
      message(npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", 4)),
      "a plain array's header");
  EXPECT_CONTAINS(message(npy("{'shape': (-1,), }", 4)), "a plain array's header");
  EXPECT_CONTAINS(message(npy("{}", 4, 9)), "version 1 to 3, got version 9");
  EXPECT_CONTAINS(message(npy("{'descr': '<f2'", 0).substr(0, 12)), "a truncated file");
  EXPECT_CONTAINS(messageOf(readNpy("/no/such/x.npy")), "cannot open '/no/such/x.npy'");
}

TEST(Npy, types_that_numpy_lacks_travel_as_bits) {
  EXPECT_TRUE(npyHolds("<f2", DType::F16));
  EXPECT_FALSE(npyHolds("<f2", DType::BF16));
  EXPECT_TRUE(npyHolds("<u2", DType::BF16));
  EXPECT_TRUE(npyHolds("<V2", DType::BF16));
  EXPECT_TRUE(npyHolds("|V1", DType::E4M3));
  EXPECT_TRUE(npyHolds("|u1", DType::E5M2));
  EXPECT_TRUE(npyHolds("<i1", DType::I8));
  EXPECT_FALSE(npyHolds("|u1", DType::I8));
  EXPECT_FALSE(npyHolds("", DType::F16));
}

TEST(Npy, malformed_headers_never_crash) {
  std::string sample = npy("{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), }\n", 24);
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = sample;
    for (int n = 1 + random() % 3; n > 0; --n)
      bytes[random() % bytes.size()] = char(random());
    bytes.resize(random() % 4 ? bytes.size() : random() % bytes.size());
    Expected<NpyArray> array = parseNpy(bytes, "x");
    if (array)
      EXPECT_LE(array->data.size(), bytes.size());
    else
      consumeError(array.takeError());
  }
}
