//===- WgmmaTest.cpp - wgmma.mma_async against float64 --------------------===//
//
// Each case lays random matrices out in shared memory and registers by the figures of the PTX ISA
// (written here a second time, as "chunk c of row r goes to place p"), executes two instructions
// that add up along K, and compares with a product in float64; integers must be equal.
//
//===----------------------------------------------------------------------===//

#include "Hopper.h"
#include "TestKernel.h"

#include "sparseflow/Support/NumericTypes.h"

#include <cmath>
#include <ctime>
#include <random>

using namespace sparseflow;
using namespace sparseflow::emulator;
using namespace sparseflow::emulator::test;
using Kind = Report::Kind;

namespace {

constexpr unsigned steps = 2;

struct Case {
  DType a, b;
  unsigned n;
  bool sparse;
  /// A in registers.
  bool registers;
  /// Bytes: 0, 32, 64 or 128.
  unsigned swizzleA, swizzleB;

  unsigned elementBytes() const { return a == DType::f16 || a == DType::bf16 ? 2 : 1; }
  bool isInteger() const { return a == DType::i8; }
  unsigned kept() const { return 32 / elementBytes(); }
  unsigned k() const { return kept() * (sparse ? 2 : 1); }
  unsigned chunksB() const { return sparse ? 4 : 2; }
};

const char *nameOf(DType type) {
  switch (type) {
  case DType::f16:
    return "f16";
  case DType::bf16:
    return "bf16";
  case DType::e4m3:
    return "e4m3";
  case DType::e5m2:
    return "e5m2";
  default:
    return "s8";
  }
}

std::string caseName(const testing::TestParamInfo<Case> &info) {
  const Case &test = info.param;
  return std::string(nameOf(test.a)) + "_" + nameOf(test.b) + (test.sparse ? "_sp" : "") + "_n" +
         std::to_string(test.n) +
         (test.registers ? "_registers" : "_swizzle" + std::to_string(test.swizzleA)) + "_" +
         std::to_string(test.swizzleB);
}

/// Where 16-byte chunk `chunk` of row `row` stands in an operand of `rows` rows with `chunks`
/// chunks in all: in units of chunks.
unsigned chunkPlace(unsigned swizzle, unsigned row, unsigned chunk, unsigned rows) {
  switch (swizzle) {
  case 0:
    // Columns of chunks.
    return chunk * rows + row;
  case 32: {
    unsigned c = chunk % 2 ^ row / 4 % 2;
    return chunk / 2 * rows * 2 + row * 2 + c;
  }
  case 64: {
    unsigned c = chunk % 4 ^ row / 2 % 4;
    return chunk / 4 * rows * 4 + row * 4 + c;
  }
  default: {
    unsigned c = chunk % 8 ^ row % 8;
    return chunk / 8 * rows * 8 + row * 8 + c;
  }
  }
}

/// Bytes from one k-step's operand to the next one's, for the places above.
unsigned stepBytes(unsigned swizzle, unsigned chunks, unsigned rows) {
  return swizzle == 0 || chunks * 16 == swizzle ? chunks * rows * 16 : chunks * 16;
}

unsigned modeOf(unsigned swizzle) {
  return swizzle == 0 ? 0 : swizzle == 128 ? 1 : swizzle == 64 ? 2 : 3;
}

struct Problem {
  Case test;
  // [row][k] and [column][k], the values; zero where A was pruned.
  std::vector<double> a, b;
  std::vector<uint8_t> sharedA, sharedB;
  // [thread][step][register], and [thread][word].
  std::vector<uint32_t> registersA, metadata;

  unsigned k() const { return steps * test.k(); }

  uint32_t randomElement(DType type, std::mt19937 &random, double &value) const {
    std::normal_distribution<float> normal;
    uint32_t bits = 0;
    if (type == DType::i8)
      bits = uint8_t(random());
    else
      storeFromFloat(type, &bits, 0, normal(random));
    value = loadAsFloat(type, &bits, 0);
    return bits;
  }

  explicit Problem(const Case &test) : test(test) {
    std::mt19937 random(7);
    unsigned bytes = test.elementBytes(), kept = test.kept();
    unsigned rowBytesA = steps * 32, rowBytesB = steps * test.chunksB() * 16;
    a.assign(64 * k(), 0);
    b.resize(test.n * k());
    std::vector<uint8_t> packedA(64 * rowBytesA), packedB(test.n * rowBytesB);
    std::vector<uint8_t> nibbles(64 * k() / 4);
    for (unsigned row = 0; row != 64; ++row)
      for (unsigned i = 0; i != steps * kept; ++i) {
        unsigned position = i;
        if (test.sparse) {
          uint8_t &nibble = nibbles[row * k() / 4 + i / 2];
          if (i % 2 == 0) {
            static const uint8_t legal[] = {0x4, 0x8, 0x9, 0xc, 0xd, 0xe};
            nibble = legal[random() % 6];
          }
          position = i / 2 * 4 + (i % 2 ? nibble >> 2 : nibble & 3);
        }
        uint32_t bits = randomElement(test.a, random, a[row * k() + position]);
        std::memcpy(&packedA[row * rowBytesA + i * bytes], &bits, bytes);
      }
    for (unsigned column = 0; column != test.n; ++column)
      for (unsigned i = 0; i != k(); ++i) {
        uint32_t bits = randomElement(test.b, random, b[column * k() + i]);
        std::memcpy(&packedB[column * rowBytesB + i * bytes], &bits, bytes);
      }
    // Shared memory.
    auto place = [](const std::vector<uint8_t> &packed, unsigned rows, unsigned rowBytes,
                    unsigned swizzle) {
      // Rows of a swizzle that is longer than all of K are not full.
      std::vector<uint8_t> result(rows * std::max(rowBytes, swizzle));
      for (unsigned row = 0; row != rows; ++row)
        for (unsigned chunk = 0; chunk != rowBytes / 16; ++chunk)
          std::memcpy(&result[chunkPlace(swizzle, row, chunk, rows) * 16],
                      &packed[row * rowBytes + chunk * 16], 16);
      return result;
    };
    sharedA = place(packedA, 64, rowBytesA, test.swizzleA);
    sharedB = place(packedB, test.n, rowBytesB, test.swizzleB);
    // Registers: rows g and g + 8 alternate, then the second half of K.
    registersA.resize(128 * steps * 4);
    for (unsigned thread = 0; thread != 128; ++thread)
      for (unsigned step = 0; step != steps; ++step)
        for (unsigned r = 0; r != 4; ++r) {
          unsigned row = thread / 32 * 16 + thread % 32 / 4 + (r & 1 ? 8 : 0);
          unsigned byte = step * 32 + thread % 4 * 4 + (r & 2 ? 16 : 0);
          std::memcpy(&registersA[(thread * steps + step) * 4 + r],
                      &packedA[row * rowBytesA + byte], 4);
        }
    // Metadata. 16-bit: one word a thread, whose lanes 0 and 1 of a quad are step 0's (selector 0),
    // 2 and 3 step 1's; a lane holds 16 of K, row g in the low half. 8-bit: a word a step; lanes 0
    // and 2 hold row g, 1 and 3 row g + 8, each 32 of K.
    metadata.resize(128 * steps);
    if (!test.sparse)
      return;
    for (unsigned thread = 0; thread != 128; ++thread)
      for (unsigned step = 0; step != steps; ++step)
        for (unsigned i = 0; i != 8; ++i) {
          unsigned quad = thread % 4, row = thread / 32 * 16 + thread % 32 / 4, group;
          if (bytes == 2) {
            if (quad / 2 != step)
              continue;
            row += i / 4 * 8;
            group = step * 8 + quad % 2 * 4 + i % 4;
            metadata[thread * steps] |= uint32_t(nibbles[row * k() / 4 + group]) << (i * 4);
          } else {
            row += quad % 2 * 8;
            group = step * 16 + quad / 2 * 8 + i;
            metadata[thread * steps + step] |= uint32_t(nibbles[row * k() / 4 + group]) << (i * 4);
          }
        }
  }
};

/// What a test may leave out of the kernel below.
struct Defects {
  bool fence = true, commit = true, wait = true, read = true;
  /// wgmma.fence stands before the loads of A's registers.
  bool earlyFence = false;
  /// The accumulators are read, and added to without a new fence.
  bool addAgain = false;
  /// XORed into A's descriptor.
  uint64_t descriptorBits = 0;
  /// Of B only the first rows are copied to shared memory; 0: all.
  unsigned rowsOfB = 0;
  /// Threads store the operands, rather than that they are copied.
  bool storedOperands = false, proxyFence = true;
  /// A is overwritten before the wait.
  enum { Never, ByStore, ByCopy } overwritten = Never;
};

constexpr unsigned offsetB = 16384, offsetUnused = 81920, offsetBarrier = 2 * offsetUnused,
                   sharedBytes = offsetBarrier + 64;

std::string makeKernelText(const Problem &problem, Defects with = {}) {
  const Case &test = problem.test;
  HopperWriter w;
  std::string barrier = w.shared(offsetBarrier);
  // Rows follow each other where a swizzle is as long as one.
  size_t bytesB = with.rowsOfB ? with.rowsOfB * test.swizzleB : problem.sharedB.size();
  w.whenThread(0, [&] {
    w.initBarrier(barrier, 1);
    w.fenceInit();
    w.arriveExpect(barrier, problem.sharedA.size() + bytesB);
    // Where the threads will store, nothing else may lie; the bytes go elsewhere.
    unsigned to = with.storedOperands ? offsetUnused : 0;
    w.load(w.shared(to), barrier, "%a", problem.sharedA.size());
    w.load(w.shared(to + offsetB), barrier, "%b", bytesB);
  });
  w.line(blockBarrier);
  if (with.storedOperands) {
    auto store = [&](const char *array, unsigned offset, size_t bytes) {
      for (unsigned first = 0; first != bytes / 4; first += 128) {
        std::string index = w.add("%tid64", w.constant(first));
        std::string word =
            w.value("llvm.load " + w.global(array, index) + " : !llvm.ptr<1> -> i32");
        w.line("llvm.store " + word + ", " +
               w.element("!llvm.ptr<3>", "%smem", w.add(w.mul(index, 4), w.constant(offset))) +
               " : i32, !llvm.ptr<3>");
      }
    };
    store("%a", 0, problem.sharedA.size());
    store("%b", offsetB, problem.sharedB.size());
    if (with.proxyFence)
      w.fenceProxy();
    w.line(blockBarrier);
  }
  w.wait(barrier, w.i32(0));
  std::string type = test.isInteger() ? "i32" : "f32";
  std::vector<std::string> sums(
      test.n / 2, w.value("llvm.mlir.constant(" +
                          std::string(test.isInteger() ? "0 : i32) : i32" : "0.0 : f32) : f32")));
  auto loadWord = [&](const std::string &base, unsigned stride, unsigned index) {
    return w.value("llvm.load " +
                   w.global(base, w.add(w.mul("%tid64", stride), w.constant(index))) +
                   " : !llvm.ptr<1> -> i32");
  };
  if (with.earlyFence)
    w.fenceWgmma();
  std::vector<std::vector<std::string>> inputs(steps);
  for (unsigned step = 0; step != steps; ++step) {
    if (test.registers) {
      for (unsigned r = 0; r != 4; ++r) {
        inputs[step].push_back(loadWord("%ra", steps * 4, step * 4 + r));
        inputs[step].push_back("i32");
      }
    } else {
      // No swizzle: from one chunk column to the next; swizzles of whole rows.
      unsigned leading = test.swizzleA ? 16 : 1024,
               stride = test.swizzleA ? test.swizzleA * 8 : 128;
      std::string descriptor = w.descriptor(w.shared(step * stepBytes(test.swizzleA, 2, 64)),
                                            leading, stride, modeOf(test.swizzleA));
      inputs[step].push_back(
          w.binary("xor", descriptor, w.constant(static_cast<int64_t>(with.descriptorBits))));
      inputs[step].push_back("i64");
    }
    unsigned leading = test.swizzleB ? 16 : test.n * 16;
    inputs[step].push_back(
        w.descriptor(w.shared(offsetB + step * stepBytes(test.swizzleB, test.chunksB(), test.n)),
                     leading, test.swizzleB ? test.swizzleB * 8 : 128, modeOf(test.swizzleB)));
    inputs[step].push_back("i64");
    if (test.sparse) {
      inputs[step].push_back(loadWord("%e", steps, test.elementBytes() == 2 ? 0 : step));
      inputs[step].push_back("i32");
    }
  }
  if (with.fence && !with.earlyFence)
    w.fenceWgmma();
  std::string name = std::string("wgmma.mma_async") + (test.sparse ? ".sp" : "") +
                     ".sync.aligned.m64n" + std::to_string(test.n) + "k" +
                     std::to_string(test.k()) + (test.isInteger() ? ".s32." : ".f32.") +
                     nameOf(test.a) + "." + nameOf(test.b);
  for (unsigned step = 0; step != steps; ++step) {
    unsigned number = test.n / 2;
    auto next = [&] { return "$" + std::to_string(number++); };
    std::string operands;
    if (test.registers) {
      operands = "{" + next();
      for (unsigned r = 1; r != 4; ++r)
        operands += "," + next();
      operands += "}";
    } else {
      operands = next();
    }
    operands += ", " + next();
    if (test.sparse) {
      operands += ", " + next() + ", ";
      operands += test.elementBytes() == 2 && step == 1 ? "1" : "0";
    }
    operands += ", 1";
    if (!test.isInteger())
      operands += ", 1, 1";
    if (test.elementBytes() == 2)
      operands += test.registers ? ", 0" : ", 0, 0";
    sums = w.wgmma(name, type, sums, operands, inputs[step]);
    if (with.addAgain) {
      w.commitWgmma();
      w.waitWgmma();
      sums = w.touch(type, sums);
    }
  }
  if (with.commit)
    w.commitWgmma();
  if (with.overwritten == Defects::ByStore)
    w.whenThread(9, [&] { w.line("llvm.store %tid, " + w.shared(64) + " : i32, !llvm.ptr<3>"); });
  if (with.overwritten == Defects::ByCopy)
    w.whenThread(0, [&] {
      w.arriveExpect(barrier, 512);
      w.load(w.shared(1024), barrier, "%a", 512);
    });
  if (with.wait)
    w.waitWgmma();
  if (with.read)
    sums = w.touch(type, sums);
  for (unsigned i = 0; i != test.n / 2; ++i)
    w.line("llvm.store " + sums[i] + ", " +
           w.global("%d", w.add(w.mul("%tid64", test.n / 2), w.constant(i))) + " : " + type +
           ", !llvm.ptr<1>");
  return makeKernel("%a: !llvm.ptr<1>, %b: !llvm.ptr<1>, %ra: !llvm.ptr<1>, %e: !llvm.ptr<1>, "
                    "%d: !llvm.ptr<1>",
                    w.text);
}

struct Result {
  std::vector<uint32_t> d;
  std::optional<Report> report;

  Result(const Module &module, Problem &problem) : d(128 * problem.test.n / 2) {
    LaunchOptions options;
    options.ranges = {{problem.sharedA.data(), problem.sharedA.size(), "a", false},
                      {problem.sharedB.data(), problem.sharedB.size(), "b", false},
                      {problem.registersA.data(), problem.registersA.size() * 4, "ra", false},
                      {problem.metadata.data(), problem.metadata.size() * 4, "e", false},
                      {d.data(), d.size() * 4, "d", true}};
    report = launch(module, {}, {128}, sharedBytes,
                    {problem.sharedA.data(), problem.sharedB.data(), problem.registersA.data(),
                     problem.metadata.data(), d.data()},
                    options);
  }
};

class Wgmma : public testing::TestWithParam<Case> {};

/// `each` gets the exact sum of every element of d, the sum of its products' magnitudes, and its
/// bits.
template <typename Callable>
void forEachElement(const Problem &problem, const Result &result, Callable each) {
  const Case &test = problem.test;
  for (unsigned thread = 0; thread != 128; ++thread)
    for (unsigned i = 0; i != test.n / 2; ++i) {
      unsigned row = thread / 32 * 16 + thread % 32 / 4 + (i & 2 ? 8 : 0);
      unsigned column = i / 4 * 8 + thread % 4 * 2 + (i & 1);
      SCOPED_TRACE("row " + std::to_string(row) + " column " + std::to_string(column));
      double expected = 0, magnitude = 0;
      for (unsigned k = 0; k != problem.k(); ++k) {
        double product = problem.a[row * problem.k() + k] * problem.b[column * problem.k() + k];
        expected += product;
        magnitude += std::fabs(product);
      }
      each(column, expected, magnitude, result.d[thread * test.n / 2 + i]);
    }
}

void expectSum(const Case &test, double expected, double magnitude, uint32_t bits) {
  if (test.isInteger())
    EXPECT_EQ(int32_t(bits), expected);
  else
    EXPECT_NEAR(llvm::bit_cast<float>(bits), expected, magnitude * 1e-6);
}

TEST_P(Wgmma, equals_float64) {
  Problem problem(GetParam());
  auto module = compileOrFail(makeKernelText(problem));
  ASSERT_TRUE(module);
  Result result(*module, problem);
  ASSERT_FALSE(result.report) << result.report->str();
  forEachElement(problem, result, [&](unsigned, double expected, double magnitude, uint32_t bits) {
    expectSum(problem.test, expected, magnitude, bits);
  });
}

using D = DType;
INSTANTIATE_TEST_SUITE_P(Shapes, Wgmma,
                         testing::Values(
                             // The kernels' own forms: A in columns of chunks, B under 128 bytes.
                             Case{D::f16, D::f16, 256, true, false, 0, 128},
                             Case{D::bf16, D::bf16, 128, true, false, 0, 128},
                             Case{D::i8, D::i8, 256, true, false, 0, 128},
                             Case{D::e4m3, D::e4m3, 256, true, false, 0, 128},
                             Case{D::e5m2, D::e4m3, 64, true, false, 0, 128},
                             Case{D::f16, D::f16, 128, false, false, 128, 128},
                             Case{D::bf16, D::bf16, 64, false, false, 0, 0},
                             Case{D::i8, D::i8, 128, false, false, 128, 128},
                             Case{D::e4m3, D::e5m2, 128, false, false, 64, 64},
                             // A in registers.
                             Case{D::f16, D::f16, 256, true, true, 0, 128},
                             Case{D::bf16, D::bf16, 64, false, true, 0, 128},
                             Case{D::i8, D::i8, 64, true, true, 0, 128},
                             Case{D::e4m3, D::e4m3, 64, false, true, 0, 128},
                             // Other swizzles, and the smallest and odd N.
                             Case{D::f16, D::f16, 8, true, false, 64, 64},
                             Case{D::f16, D::f16, 24, true, false, 32, 0},
                             Case{D::i8, D::i8, 8, false, false, 32, 32},
                             Case{D::f16, D::f16, 248, false, false, 64, 32},
                             Case{D::i8, D::i8, 40, true, false, 64, 64}),
                         caseName);

const Case plain = {D::f16, D::f16, 64, true, false, 0, 128};

std::optional<Report> runWith(const Case &test, Defects defects) {
  Problem problem(test);
  auto module = compileOrFail(makeKernelText(problem, defects));
  if (!module)
    return std::nullopt;
  return Result(*module, problem).report;
}

TEST(Wgmma, rows_of_b_that_nobody_wrote_spoil_their_own_columns) {
  for (DType type : {D::f16, D::bf16, D::e4m3, D::i8}) {
    Problem problem({type, type, 64, true, false, 0, 128});
    constexpr unsigned present = 37;
    Defects defects;
    defects.rowsOfB = present;
    auto module = compileOrFail(makeKernelText(problem, defects));
    ASSERT_TRUE(module);
    Result result(*module, problem);
    ASSERT_FALSE(result.report) << result.report->str();
    unsigned spoilt = 0, integersThatDiffer = 0;
    forEachElement(problem, result,
                   [&](unsigned column, double expected, double magnitude, uint32_t bits) {
                     if (column < present)
                       expectSum(problem.test, expected, magnitude, bits);
                     else if (problem.test.isInteger())
                       integersThatDiffer += int32_t(bits) != expected;
                     else
                       spoilt += std::isnan(llvm::bit_cast<float>(bits));
                   });
    unsigned missing = 64 * (64 - present);
    if (problem.test.isInteger())
      EXPECT_GT(integersThatDiffer, missing * 9 / 10);
    else
      EXPECT_EQ(spoilt, missing);
  }
}

TEST(WgmmaReport, dropped_wgmma_fence) {
  expectNoReport(runWith(plain, {}));
  Defects defects;
  defects.fence = false;
  expectReport(runWith(plain, defects), Kind::MissingFence,
               "with no wgmma.fence since the start of the kernel");
}

TEST(WgmmaReport, dropped_wgmma_fence_after_registers_were_written) {
  const Case fromRegisters = {D::f16, D::f16, 64, true, true, 0, 128};
  expectNoReport(runWith(fromRegisters, {}));
  Defects early, again;
  early.earlyFence = true;
  expectReport(runWith(fromRegisters, early), Kind::MissingFence,
               "with no wgmma.fence since its registers of A were written");
  // Of a descriptor, no register is read.
  expectNoReport(runWith(plain, early));
  again.addAgain = true;
  expectReport(runWith(plain, again), Kind::MissingFence,
               "with no wgmma.fence since accumulators were read");
}

TEST(WgmmaReport, dropped_proxy_fence) {
  Defects stored;
  stored.storedOperands = true;
  expectNoReport(runWith(plain, stored));
  stored.proxyFence = false;
  expectReport(runWith(plain, stored), Kind::MissingFence,
               "wrote through the generic proxy; expected fence.proxy.async by that thread");
}

TEST(WgmmaReport, operand_overwritten_before_the_wait) {
  Defects store, copy;
  store.overwritten = Defects::ByStore;
  copy.overwritten = Defects::ByCopy;
  expectReport(runWith(plain, store), Kind::AsyncOperandOverwritten,
               "thread 9: write of 4 bytes at offset 64 of shared memory (store), which a "
               "wgmma.mma_async of warpgroup 0 still reads");
  expectReport(runWith(plain, copy), Kind::AsyncOperandOverwritten, "(cp.async.bulk)");
}

TEST(WgmmaReport, descriptors) {
  auto flip = [](uint64_t bits) {
    Defects defects;
    defects.descriptorBits = bits;
    return defects;
  };
  expectReport(runWith(plain, flip(uint64_t(1) << 49)), Kind::IllegalOperand,
               "expected only the fields start, leading offset, stride offset and swizzle");
  // A leading offset of 33 KiB leads behind the operand, and one of 193 KiB behind the memory.
  expectReport(runWith(plain, flip(uint64_t(0x800) << 16)), Kind::UninitializedShared, "wgmma");
  expectReport(runWith(plain, flip(uint64_t(0x3000) << 16)), Kind::SharedOutOfBounds, "wgmma");
  // 32 bytes from byte 16 on of a swizzle of 32.
  const Case narrow = {D::f16, D::f16, 64, true, false, 32, 128};
  expectNoReport(runWith(narrow, {}));
  expectReport(runWith(narrow, flip(1)), Kind::IllegalOperand,
               "reads bytes 16 to 47 of each row of A, with a swizzle of 32 bytes");
}

TEST(WgmmaReport, text) {
  auto refusal = [](const std::string &text, const std::string &part) {
    HopperWriter w;
    std::vector<std::string> sums(4, w.value("llvm.mlir.constant(0.0 : f32) : f32"));
    std::string name = text.substr(0, text.find(' ')), operands = text.substr(text.find(' ') + 1);
    std::string descriptor = w.constant(0);
    w.wgmma(name, "f32", sums, operands, {descriptor, "i64", descriptor, "i64"});
    auto module = compile(makeKernel("", w.text));
    ASSERT_FALSE(bool(module)) << text;
    std::string message = llvm::toString(module.takeError());
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  const std::string shape = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 ";
  refusal("wgmma.mma_async.sync.aligned.m64n8k32.f32.f16.f16 $4, $5, 1, 1, 1, 0, 0",
          "expected K to be 16, got 32");
  refusal("wgmma.mma_async.sync.aligned.m64n12k16.f32.f16.f16 $4, $5, 1, 1, 1, 0, 0",
          "expected N to be a multiple of 8");
  refusal("wgmma.mma_async.sync.aligned.m64n8k16.f16.f16.f16 $4, $5, 1, 1, 1, 0, 0",
          "expected f32 from two of f16");
  refusal("wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 $4, $5, 1, 1, 1, 0, 0",
          "expected a list of 8 accumulators, got 4");
  refusal(shape + "$4, $5, 1, 1, 1, 0, 1", "expected imm-trans-b to be 0");
  refusal(shape + "$4, $5, 1, 1, 1", "expected imm-trans-a to be 0");
  refusal(shape + "$4, $5, 2, 1, 1, 0, 0", "expected scale-d to be 0, 1 or a predicate");
  refusal(shape + "$4, $3, 1, 1, 1, 0, 0", "expected $3 to be an input of 64 bits");
}

TEST(WgmmaReport, dropped_commit_or_wait) {
  Defects noCommit, noWait;
  noCommit.commit = false;
  noWait.wait = false;
  expectReport(runWith(plain, noCommit), Kind::AccumulatorInFlight,
               "accumulators of a wgmma in flight are read; expected wgmma.commit_group");
  expectReport(runWith(plain, noWait), Kind::AccumulatorInFlight, "wgmma.wait_group");
}

TEST(WgmmaReport, accumulators_that_no_empty_assembly_reads) {
  Defects defects;
  defects.read = false;
  Problem problem(plain);
  auto module = compile(makeKernelText(problem, defects));
  ASSERT_FALSE(bool(module));
  std::string message = llvm::toString(module.takeError());
  EXPECT_NE(message.find("expected an empty inline assembly with tied operands"), std::string::npos)
      << message;
}

TEST(Wgmma, empty_assembly_leaves_other_registers_alone) {
  // Registers may hold any bits, those of a tag too, if no wgmma wrote them.
  HopperWriter w;
  std::string other = w.i32(0x7fe12345);
  w.line("llvm.store " + w.touch("i32", {other, "%tid"})[0] + ", %out : i32, !llvm.ptr<1>");
  auto module = compileOrFail(makeKernel("%out: !llvm.ptr<1>", w.text));
  ASSERT_TRUE(module);
  uint32_t out = 0;
  expectNoReport(launch(*module, {}, {1}, 0, {&out}));
  EXPECT_EQ(out, 0x7fe12345u);
}

TEST(WgmmaReport, illegal_metadata) {
  Problem problem(plain);
  problem.metadata[5 * steps] = 0;
  auto module = compileOrFail(makeKernelText(problem));
  ASSERT_TRUE(module);
  // Lane 5 is the second of its quad: row 1, from element 16 on.
  expectReport(Result(*module, problem).report, Kind::IllegalOperand,
               "thread 5: wgmma.mma_async.sp.sync.aligned.m64n64k32.f32.f16.f16 with metadata 0x0 "
               "for row 1, elements 16 to 19");
}

/// The time (of the processor, the launch included) is recorded in the test's XML, not judged.
TEST(Wgmma, time_of_m64n256k32) {
  Problem problem({D::f16, D::f16, 256, true, false, 0, 128});
  auto module = compileOrFail(makeKernelText(problem));
  ASSERT_TRUE(module);
  Result warm(*module, problem);
  constexpr unsigned launches = 50;
  std::clock_t start = std::clock();
  for (unsigned i = 0; i != launches; ++i)
    Result again(*module, problem);
  double seconds = double(std::clock() - start) / CLOCKS_PER_SEC;
  RecordProperty("microseconds", int(seconds / launches / steps * 1e6));
}

} // namespace
