//===- BulkCopyTest.cpp - The copy engine ---------------------------------===//
//
// Boxes of every swizzle, inside and over the edges of a matrix, against places computed here; and
// what a kernel can do wrong with a copy or a store.
//
//===----------------------------------------------------------------------===//

#include "Hopper.h"
#include "TestKernel.h"

#include "sparseflow/Runtime/TensorMap.h"

#include <cstring>
#include <numeric>

using namespace sparseflow;
using namespace sparseflow::emulator;
using namespace sparseflow::emulator::test;
using Kind = Report::Kind;

namespace {

constexpr unsigned threads = 128, barrierOffset = 32768, sharedBytes = 32768 + 64;

struct Box {
  unsigned rows, columns, elementBytes, swizzle;
  int row, column;

  unsigned rowBytes() const { return columns * elementBytes; }
  unsigned bytes() const { return rows * rowBytes(); }
  /// Where byte `byte` of box row `r` stands in shared memory: 16-byte chunks of a row are
  /// exchanged, by a pattern that repeats every 8 rows of 128 bytes.
  unsigned place(unsigned r, unsigned byte) const {
    unsigned chunk = byte / 16;
    if (swizzle == 128)
      chunk ^= r % 8;
    else if (swizzle == 64)
      chunk ^= r / 2 % 4;
    else if (swizzle == 32)
      chunk ^= r / 4 % 2;
    return r * rowBytes() + chunk * 16 + byte % 16;
  }
};

/// A matrix whose rows are padded to a multiple of 16 bytes; the padding must not be touched.
struct Matrix {
  unsigned rows = 50, columns = 75, elementBytes;
  unsigned stride;
  std::vector<uint8_t> data;
  alignas(64) uint8_t map[128] = {};

  Matrix(const Box &box, bool filled) : elementBytes(box.elementBytes) {
    stride = (columns * elementBytes + 15) / 16 * 16;
    data.resize(rows * stride + 16);
    if (filled)
      for (size_t i = 0; i != data.size(); ++i)
        data[i] = static_cast<uint8_t>(i * 37 + i / 256 + 1);
    runtime::HostTensorMap host;
    host.base = base();
    host.rows = rows;
    host.columns = columns;
    host.rowStrideBytes = stride;
    host.elementBytes = elementBytes;
    host.boxRows = box.rows;
    host.boxColumns = box.columns;
    host.swizzleBytes = box.swizzle;
    std::memcpy(map, &host, sizeof(host));
  }
  uint8_t *base() {
    return reinterpret_cast<uint8_t *>((reinterpret_cast<uintptr_t>(data.data()) + 15) / 16 * 16);
  }
  /// The byte of the box's row, if it lies inside.
  uint8_t *find(const Box &box, unsigned r, unsigned byte) {
    int row = box.row + int(r), column = box.column + int(byte / elementBytes);
    if (row < 0 || column < 0 || row >= int(rows) || column >= int(columns))
      return nullptr;
    return base() + row * stride + column * elementBytes + byte % elementBytes;
  }
};

class BulkWriter : public HopperWriter {
public:
  BulkWriter() {
    barrier = shared(barrierOffset);
    whenThread(0, [&] {
      initBarrier(barrier, 1);
      fenceInit();
    });
    line(blockBarrier);
  }
  /// Moves `bytes` of shared memory to or from global memory, four at a time.
  void copyWords(unsigned bytes, bool toGlobal, const std::string &array) {
    for (unsigned first = 0; first < bytes / 4; first += threads)
      when(compare("ult", "%tid64", constant(bytes / 4 - first)), [&] {
        std::string index = add("%tid64", constant(first));
        std::string inShared = element("!llvm.ptr<3>", "%smem", mul(index, 4));
        std::string inGlobal = global(array, index);
        if (toGlobal)
          line("llvm.store " + value("llvm.load " + inShared + " : !llvm.ptr<3> -> i32") + ", " +
               inGlobal + " : i32, !llvm.ptr<1>");
        else
          line("llvm.store " + value("llvm.load " + inGlobal + " : !llvm.ptr<1> -> i32") + ", " +
               inShared + " : i32, !llvm.ptr<3>");
      });
  }

  std::string barrier;
};

std::string boxName(const testing::TestParamInfo<Box> &info) {
  const Box &box = info.param;
  auto sign = [](int number) { return (number < 0 ? "m" : "") + std::to_string(std::abs(number)); };
  return std::to_string(box.rows) + "x" + std::to_string(box.columns) + "_of_" +
         std::to_string(box.elementBytes) + "_swizzle" + std::to_string(box.swizzle) + "_at_" +
         sign(box.row) + "_" + sign(box.column);
}

class Boxes : public testing::TestWithParam<Box> {};

TEST_P(Boxes, load) {
  const Box &box = GetParam();
  Matrix matrix(box, true);
  BulkWriter w;
  w.whenThread(0, [&] {
    w.arriveExpect(w.barrier, box.bytes());
    w.loadBox(w.shared(0), w.barrier, "%map", w.i32(box.column), w.i32(box.row));
  });
  w.wait(w.barrier, w.i32(0));
  w.copyWords(box.bytes(), true, "%out");
  auto module = compileOrFail(makeKernel(mapParameter("map") + ", %out: !llvm.ptr<1>", w.text));
  ASSERT_TRUE(module);
  std::vector<uint8_t> out(box.bytes());
  LaunchOptions options;
  options.ranges = {{matrix.base(), matrix.rows * matrix.stride, "matrix", false},
                    {out.data(), out.size(), "out", true}};
  void *outPointer = out.data(), *params[] = {matrix.map, &outPointer};
  expectNoReport(launchWith(*module, {}, {threads}, sharedBytes, params, options));
  for (unsigned r = 0; r != box.rows; ++r)
    for (unsigned byte = 0; byte != box.rowBytes(); ++byte) {
      const uint8_t *source = matrix.find(box, r, byte);
      ASSERT_EQ(out[box.place(r, byte)], source ? *source : 0) << "row " << r << " byte " << byte;
    }
}

TEST_P(Boxes, store) {
  const Box &box = GetParam();
  Matrix matrix(box, false);
  std::vector<uint8_t> in(box.bytes());
  for (size_t i = 0; i != in.size(); ++i)
    in[i] = static_cast<uint8_t>(i % 251 + 1);
  BulkWriter w;
  w.copyWords(box.bytes(), false, "%in");
  w.fenceProxy();
  w.line(blockBarrier);
  w.whenThread(0, [&] {
    w.storeBox(w.shared(0), "%map", w.i32(box.column), w.i32(box.row));
    w.commitStores();
    w.waitStores();
  });
  auto module = compileOrFail(makeKernel(mapParameter("map") + ", %in: !llvm.ptr<1>", w.text));
  ASSERT_TRUE(module);
  void *inPointer = in.data(), *params[] = {matrix.map, &inPointer};
  expectNoReport(launchWith(*module, {}, {threads}, sharedBytes, params));
  std::vector<uint8_t> expected(matrix.data.size());
  for (unsigned r = 0; r != box.rows; ++r)
    for (unsigned byte = 0; byte != box.rowBytes(); ++byte)
      if (const uint8_t *target = matrix.find(box, r, byte))
        expected[target - matrix.data.data()] = in[box.place(r, byte)];
  EXPECT_EQ(matrix.data, expected);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Boxes,
                         testing::Values(Box{16, 64, 2, 128, 0, 0}, Box{32, 64, 2, 128, 40, 64},
                                         Box{8, 128, 1, 128, -3, -5}, Box{16, 32, 2, 64, 5, 7},
                                         Box{16, 64, 1, 64, 45, 70}, Box{24, 16, 2, 32, 30, -9},
                                         Box{16, 8, 4, 32, 49, 74}, Box{10, 24, 2, 0, 11, 13},
                                         Box{4, 64, 4, 0, 48, 60}, Box{8, 16, 1, 0, 100, 0},
                                         Box{8, 64, 2, 128, 0, 200}),
                         boxName);

//===----------------------------------------------------------------------===//
// Contiguous copies, and reports
//===----------------------------------------------------------------------===//

struct Execution {
  std::vector<uint32_t> in = std::vector<uint32_t>(256), out = std::vector<uint32_t>(256);
  Box box = {8, 64, 2, 128, 0, 0};
  Matrix matrix = Matrix(box, true);
  std::optional<Report> report;

  explicit Execution(const BulkWriter &w, unsigned swizzle = 128) {
    std::iota(in.begin(), in.end(), 100);
    runtime::HostTensorMap map;
    std::memcpy(&map, matrix.map, sizeof(map));
    map.swizzleBytes = swizzle;
    std::memcpy(matrix.map, &map, sizeof(map));
    auto module = compileOrFail(
        makeKernel("%out: !llvm.ptr<1>, %in: !llvm.ptr<1>, " + mapParameter("map"), w.text));
    if (!module)
      return;
    LaunchOptions options;
    options.ranges = {{in.data(), in.size() * 4, "in", false},
                      {out.data(), out.size() * 4, "out", true},
                      {matrix.base(), matrix.rows * matrix.stride, "matrix", false}};
    void *outPointer = out.data(), *inPointer = in.data();
    void *params[] = {&outPointer, &inPointer, matrix.map};
    report = launchWith(*module, {}, {threads}, sharedBytes, params, options);
  }
};

/// One load of thread 0, for which all wait.
template <typename Load> BulkWriter withLoad(Load load) {
  BulkWriter w;
  w.whenThread(0, [&] { load(w); });
  w.wait(w.barrier, w.i32(0));
  return w;
}

TEST(BulkCopy, store_of_contiguous_bytes) {
  BulkWriter w;
  w.copyWords(512, false, "%in");
  w.fenceProxy();
  w.line(blockBarrier);
  w.whenThread(64, [&] {
    w.call("cp.async.bulk.shared.cta.to.global",
           {w.element("!llvm.ptr<1>", "%out", w.constant(256)), "!llvm.ptr<1>", w.shared(0),
            sharedPtr, w.i32(512), "i32", w.constant(0), "i64", w.boolean(false), "i1"});
    w.commitStores();
    w.waitStores();
  });
  Execution run(w);
  expectNoReport(run.report);
  for (unsigned i = 0; i != 128; ++i)
    EXPECT_EQ(run.out[64 + i], 100 + i);
  EXPECT_EQ(run.out[63], 0u);
  EXPECT_EQ(run.out[192], 0u);
}

TEST(BulkCopy, alignment_and_size) {
  auto contiguous = [](unsigned to, unsigned from, unsigned bytes) {
    return Execution(withLoad([=](BulkWriter &w) {
             w.arriveExpect(w.barrier, bytes);
             w.load(w.shared(to), w.barrier, w.element("!llvm.ptr<1>", "%in", w.constant(from)),
                    bytes);
           }))
        .report;
  };
  expectNoReport(contiguous(16, 32, 64));
  expectReport(contiguous(16, 32, 72), Kind::Misaligned, "expected a positive multiple of 16");
  expectReport(contiguous(8, 32, 64), Kind::Misaligned, "multiple of 16");
  expectReport(contiguous(16, 8, 64), Kind::Misaligned, "of global memory (cp.async.bulk)");
  expectReport(contiguous(0, 992, 64), Kind::GlobalOutOfBounds,
               "read of 64 bytes at offset 992 of 'in'");
  expectReport(contiguous(32768, 0, 128), Kind::SharedOutOfBounds, "(cp.async.bulk)");
}

TEST(BulkCopy, box_and_map) {
  auto box = [](unsigned to, unsigned swizzle) {
    return Execution(withLoad([=](BulkWriter &w) {
                       w.arriveExpect(w.barrier, 1024);
                       w.loadBox(w.shared(to), w.barrier, "%map", w.i32(0), w.i32(0));
                     }),
                     swizzle)
        .report;
  };
  expectNoReport(box(1024, 128));
  expectReport(box(512, 128), Kind::Misaligned, "multiple of 1024");
  expectNoReport(box(128, 0));
  expectReport(box(64, 0), Kind::Misaligned, "multiple of 128");
  expectReport(box(1024, 64), Kind::IllegalOperand, "a swizzle of 64 bytes");
  expectReport(box(1024, 48), Kind::IllegalOperand, "a swizzle of 48 bytes");
}

TEST(BulkCopy, two_copies_to_one_place) {
  expectReport(Execution(withLoad([](BulkWriter &w) {
                 w.arriveExpect(w.barrier, 128);
                 w.load(w.shared(0), w.barrier, "%in", 64);
                 w.load(w.shared(48), w.barrier, "%in", 64);
               })).report,
               Kind::UnwaitedAsyncCopy,
               "which a bulk copy that reports to the mbarrier at offset "
               "32768 still writes");
}

TEST(BulkCopy, nobody_waits_for_a_copy) {
  BulkWriter w;
  w.whenThread(33, [&] {
    w.arriveExpect(w.barrier, 64);
    w.load(w.shared(16), w.barrier, "%in", 64);
  });
  expectReport(Execution(w).report, Kind::UnwaitedAsyncCopy,
               "thread 33: a copy of 64 bytes to offset 16 of shared memory is in flight when all "
               "threads have returned");
}

TEST(BulkCopy, write_to_a_copy_in_flight) {
  BulkWriter w;
  w.whenThread(0, [&] {
    w.arriveExpect(w.barrier, 64);
    w.load(w.shared(0), w.barrier, "%in", 64);
    w.line("llvm.store %tid, " + w.shared(32) + " : i32, !llvm.ptr<3>");
  });
  expectReport(Execution(w).report, Kind::UnwaitedAsyncCopy,
               "write of 4 bytes at offset 32 of shared memory (store)");
}

TEST(BulkCopy, load_over_words_that_are_still_read) {
  auto kernel = [](bool barrier) {
    BulkWriter w;
    w.copyWords(512, false, "%in");
    w.line(blockBarrier);
    w.copyWords(512, true, "%out");
    if (barrier)
      w.line(blockBarrier);
    w.whenThread(0, [&] {
      w.arriveExpect(w.barrier, 512);
      w.load(w.shared(0), w.barrier, "%in", 512);
    });
    w.wait(w.barrier, w.i32(0));
    return Execution(w).report;
  };
  expectNoReport(kernel(true));
  std::optional<Report> report = kernel(false);
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->kind == Kind::SharedRace || report->kind == Kind::UnwaitedAsyncCopy)
      << report->str();
}

TEST(BulkCopy, store_whose_source_is_overwritten) {
  auto kernel = [](bool wait, bool barrier) {
    BulkWriter w;
    w.copyWords(512, false, "%in");
    w.fenceProxy();
    w.line(blockBarrier);
    w.whenThread(0, [&] {
      w.call("cp.async.bulk.shared.cta.to.global",
             {"%out", "!llvm.ptr<1>", w.shared(0), sharedPtr, w.i32(512), "i32", w.constant(0),
              "i64", w.boolean(false), "i1"});
      w.commitStores();
      if (wait)
        w.waitStores();
    });
    if (barrier)
      w.line(blockBarrier);
    w.copyWords(512, false, "%in");
    w.whenThread(0, [&] { w.waitStores(); });
    return Execution(w).report;
  };
  expectNoReport(kernel(true, true));
  expectReport(kernel(false, true), Kind::AsyncOperandOverwritten,
               "which a bulk store still reads");
  std::optional<Report> report = kernel(true, false);
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->kind == Kind::SharedRace || report->kind == Kind::AsyncOperandOverwritten)
      << report->str();
}

} // namespace
