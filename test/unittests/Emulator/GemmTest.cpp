//===- GemmTest.cpp - A pipelined f16 GEMM --------------------------------===//
//
// The shape of kernel that the emulator is for: 128x128x64 tiles, eight warps, two stages filled by
// cp.async, ldmatrix, mma.sync. It checks the pieces together, that a dropped wait or barrier is
// caught where it would hurt, and how long 512x512x512 takes.
//
//===----------------------------------------------------------------------===//

#include "TestKernel.h"
#include "Writer.h"

#include "sparseflow/Support/NumericTypes.h"

#include <chrono>
#include <cmath>
#include <random>
#include <sstream>

using namespace sparseflow;
using namespace sparseflow::emulator;
using namespace sparseflow::emulator::test;
using Kind = Report::Kind;

namespace {

constexpr int size = 512, tileK = 64, stageBytes = 2 * 128 * tileK * 2;

/// C[size,size] (f32) = A[size,size] * B[size,size]^T, all row-major. Chunks of 16 bytes are
/// swizzled by row.
std::string makeGemm(bool wait, bool barrierBeforeCopy) {
  Writer w;
  std::string lane = w.mask("%tid64", 31), warp = w.shr("%tid64", 5);
  auto ctaid = [&](const char *axis) {
    return w.value("llvm.zext " +
                   w.value("nvvm.read.ptx.sreg.ctaid." + std::string(axis) + " : i32") +
                   " : i32 to i64");
  };
  std::string rowBase = w.mul(ctaid("x"), 128), columnBase = w.mul(ctaid("y"), 128);
  std::string warpRow = w.mul(w.shr(warp, 2), 64), warpColumn = w.mul(w.mask(warp, 3), 32);

  // Copies stage `step` of both operands into buffer step % 2.
  auto copy = [&](const std::string &step) {
    std::string buffer = w.mul(w.mask(step, 1), stageBytes);
    for (int operand = 0; operand != 2; ++operand)
      for (int part = 0; part != 4; ++part) {
        // 1024 chunks of 16 bytes: row = chunk / 8.
        std::string chunk = w.add("%tid64", w.constant(part * 256));
        std::string row = w.shr(chunk, 3), column = w.mask(chunk, 7);
        std::string swizzled = w.binary("xor", column, w.mask(row, 7));
        std::string to = w.add(w.add(buffer, w.constant(operand * stageBytes / 2)),
                               w.add(w.mul(row, tileK * 2), w.mul(swizzled, 16)));
        std::string from = w.add(w.mul(w.add(operand ? columnBase : rowBase, row), size * 2),
                                 w.add(w.mul(step, tileK * 2), w.mul(column, 16)));
        w.line("nvvm.cp.async.shared.global " + w.element("!llvm.ptr<3>", "%smem", to) + ", " +
               w.element("!llvm.ptr<1>", operand ? "%b" : "%a", from) +
               ", 16, cache = cg : !llvm.ptr<3>, !llvm.ptr<1>");
      }
    w.line("nvvm.cp.async.commit.group");
  };
  const std::string quad = "!llvm.struct<(i32, i32, i32, i32)>";
  auto loadMatrix = [&](const std::string &row, const std::string &chunk, const std::string &base) {
    std::string swizzled = w.binary("xor", chunk, w.mask(row, 7));
    std::string offset = w.add(base, w.add(w.mul(row, tileK * 2), w.mul(swizzled, 16)));
    std::string loaded =
        w.value("llvm.call_intrinsic \"llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16.p3\"(" +
                w.element("!llvm.ptr<3>", "%smem", offset) + ") : (!llvm.ptr<3>) -> " + quad);
    std::vector<std::string> registers;
    for (int i = 0; i != 4; ++i)
      registers.push_back(
          w.value("llvm.bitcast " +
                  w.value("llvm.extractvalue " + loaded + "[" + std::to_string(i) + "] : " + quad) +
                  " : i32 to vector<2xf16>"));
    return registers;
  };

  std::string zero = w.constant(0), steps = w.constant(size / tileK);
  std::string zeroF = w.value("llvm.mlir.constant(0.0 : f32) : f32");
  copy(zero);
  std::string blockArguments = "%step: i64", initial = zero, types = "i64";
  for (int i = 0; i != 64; ++i) {
    blockArguments += ", %acc" + std::to_string(i) + ": f32";
    initial += ", " + zeroF;
    types += ", f32";
  }
  w.line("llvm.br ^loop(" + initial + " : " + types + ")");
  w.line("^loop(" + blockArguments + "):");
  std::string next = w.add("%step", w.constant(1));
  if (barrierBeforeCopy)
    w.line("nvvm.barrier0");
  w.line("llvm.cond_br " + w.value("llvm.icmp \"ult\" " + next + ", " + steps + " : i64") +
         ", ^copy, ^compute");
  w.line("^copy:");
  copy(next);
  w.line("llvm.br ^compute\n^compute:");
  // An empty group in the last turn keeps the count uniform: one group may remain.
  w.line("llvm.cond_br " + w.value("llvm.icmp \"ult\" " + next + ", " + steps + " : i64") +
         ", ^waitone, ^waitall");
  w.line("^waitone:");
  if (wait)
    w.line("nvvm.cp.async.wait.group 1");
  w.line("llvm.br ^ready\n^waitall:");
  w.line("nvvm.cp.async.wait.group 0");
  w.line("llvm.br ^ready\n^ready:");
  w.line("nvvm.barrier0");
  std::vector<std::string> sums;
  for (int i = 0; i != 64; ++i)
    sums.push_back("%acc" + std::to_string(i));
  std::string buffer = w.mul(w.mask("%step", 1), stageBytes);
  std::string bufferB = w.add(buffer, w.constant(stageBytes / 2));
  const std::string result = "!llvm.struct<(f32, f32, f32, f32)>";
  for (int k = 0; k != tileK / 16; ++k) {
    std::vector<std::vector<std::string>> a, b;
    for (int i = 0; i != 4; ++i)
      a.push_back(loadMatrix(w.add(w.add(warpRow, w.constant(i * 16)), w.mask(lane, 15)),
                             w.add(w.shr(lane, 4), w.constant(k * 2)), buffer));
    for (int j = 0; j != 2; ++j)
      b.push_back(loadMatrix(w.add(w.add(warpColumn, w.constant(j * 16)),
                                   w.add(w.mask(lane, 7), w.mul(w.shr(lane, 4), 8))),
                             w.add(w.mask(w.shr(lane, 3), 1), w.constant(k * 2)), bufferB));
    for (int i = 0; i != 4; ++i)
      for (int j = 0; j != 4; ++j) {
        int at = (i * 4 + j) * 4;
        std::string call = "llvm.call_intrinsic \"llvm.nvvm.mma.m16n8k16.row.col.f32.f32\"(" +
                           a[i][0] + ", " + a[i][1] + ", " + a[i][2] + ", " + a[i][3] + ", " +
                           b[j / 2][j % 2 * 2] + ", " + b[j / 2][j % 2 * 2 + 1];
        for (int c = 0; c != 4; ++c)
          call += ", " + sums[at + c];
        call += ") : (vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, "
                "vector<2xf16>, f32, f32, f32, f32) -> " +
                result;
        std::string product = w.value(call);
        for (int c = 0; c != 4; ++c)
          sums[at + c] =
              w.value("llvm.extractvalue " + product + "[" + std::to_string(c) + "] : " + result);
      }
  }
  std::string carried = next;
  for (const std::string &sum : sums)
    carried += ", " + sum;
  w.line("llvm.cond_br " + w.value("llvm.icmp \"ult\" " + next + ", " + steps + " : i64") +
         ", ^loop(" + carried + " : " + types + "), ^done");
  w.line("^done:");
  std::string group = w.shr(lane, 2), pair = w.mul(w.mask(lane, 3), 2);
  for (int i = 0; i != 4; ++i)
    for (int j = 0; j != 4; ++j)
      for (int c = 0; c != 4; ++c) {
        std::string row =
            w.add(w.add(rowBase, warpRow), w.add(group, w.constant(i * 16 + c / 2 * 8)));
        std::string column =
            w.add(w.add(columnBase, warpColumn), w.add(pair, w.constant(j * 8 + c % 2)));
        std::string offset = w.mul(w.add(w.mul(row, size), column), 4);
        w.line("llvm.store " + sums[(i * 4 + j) * 4 + c] + ", " +
               w.element("!llvm.ptr<1>", "%c", offset) + " : f32, !llvm.ptr<1>");
      }
  return makeKernel("%a: !llvm.ptr<1>, %b: !llvm.ptr<1>, %c: !llvm.ptr<1>", w.text);
}

struct Gemm {
  std::vector<uint16_t> a = std::vector<uint16_t>(size * size), b = a;
  std::vector<float> c = std::vector<float>(size * size);

  Gemm() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (uint16_t &each : a)
      each = floatToF16(normal(random));
    for (uint16_t &each : b)
      each = floatToF16(normal(random));
  }
  std::optional<Report> run(const Module &module, unsigned workers = 0) {
    LaunchOptions options;
    options.workers = workers;
    options.ranges = {{a.data(), a.size() * 2, "a", false},
                      {b.data(), b.size() * 2, "b", false},
                      {c.data(), c.size() * 4, "c", true}};
    return launch(module, {size / 128, size / 128}, {256}, 2 * stageBytes,
                  {a.data(), b.data(), c.data()}, options);
  }
};

double secondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The times are recorded in the test's XML, not judged: machines differ.
TEST(Gemm, equals_float64) {
  auto start = std::chrono::steady_clock::now();
  auto module = compileOrFail(makeGemm(true, true));
  ASSERT_TRUE(module);
  Gemm gemm;
  expectNoReport(gemm.run(*module));
  RecordProperty("first_run_ms", int(secondsSince(start) * 1000));
  start = std::chrono::steady_clock::now();
  expectNoReport(gemm.run(*module));
  RecordProperty("run_ms", int(secondsSince(start) * 1000));

  std::mt19937 random(2);
  for (int sample = 0; sample != 4000; ++sample) {
    int row = random() % size, column = random() % size;
    double expected = 0;
    for (int k = 0; k != size; ++k)
      expected +=
          double(f16ToFloat(gemm.a[row * size + k])) * f16ToFloat(gemm.b[column * size + k]);
    ASSERT_NEAR(gemm.c[row * size + column], expected, 1e-3) << row << " " << column;
  }
}

TEST(Gemm, same_bits_for_any_number_of_workers) {
  auto module = compileOrFail(makeGemm(true, true));
  ASSERT_TRUE(module);
  Gemm one, many;
  expectNoReport(one.run(*module, 1));
  expectNoReport(many.run(*module, 3));
  EXPECT_EQ(one.c, many.c);
}

TEST(Gemm, dropped_wait_is_reported) {
  auto module = compileOrFail(makeGemm(/*wait=*/false, /*barrierBeforeCopy=*/true));
  ASSERT_TRUE(module);
  expectReport(Gemm().run(*module), Kind::UnwaitedAsyncCopy, "(ldmatrix)");
}

TEST(Gemm, dropped_barrier_before_the_stage_is_filled_again) {
  auto module = compileOrFail(makeGemm(/*wait=*/true, /*barrierBeforeCopy=*/false));
  ASSERT_TRUE(module);
  expectReport(Gemm().run(*module), Kind::UnwaitedAsyncCopy,
               "a barrier between the read and the copy");
}

} // namespace
