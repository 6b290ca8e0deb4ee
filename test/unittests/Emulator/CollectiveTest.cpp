//===- CollectiveTest.cpp - Shuffles, votes, reductions, matrix moves -----===//

#include "TestKernel.h"

#include <numeric>

using namespace sparseflow::emulator;
using namespace sparseflow::emulator::test;

namespace {

/// Runs `body`, which computes %result (i32) from %tid and %value (i32), in one warp.
std::vector<uint32_t> runWarp(const std::string &body, const std::vector<uint32_t> &values) {
  auto module = compileOrFail(makeKernel("%out: !llvm.ptr<1>, %in: !llvm.ptr<1>", R"(
    %from = llvm.getelementptr %in[%tid64] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32
    %value = llvm.load %from : !llvm.ptr<1> -> i32
    %mask = llvm.mlir.constant(-1 : i32) : i32
  )" + body + R"(
    %to = llvm.getelementptr %out[%tid64] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32
    llvm.store %result, %to : i32, !llvm.ptr<1>
  )"));
  std::vector<uint32_t> result(32, 0xdeadbeef), input = values;
  if (module)
    expectNoReport(launch(*module, {}, {32}, 0, {result.data(), input.data()}));
  return result;
}

std::vector<uint32_t> someValues() {
  std::vector<uint32_t> values(32);
  for (unsigned i = 0; i != 32; ++i)
    values[i] = i * 2654435761u ^ 0x5bd1e995u;
  return values;
}

TEST(Collective, shuffle_butterfly) {
  auto values = someValues();
  auto result = runWarp(R"(
    %offset = llvm.mlir.constant(5 : i32) : i32
    %clamp = llvm.mlir.constant(31 : i32) : i32
    %result = nvvm.shfl.sync bfly %mask, %value, %offset, %clamp : i32 -> i32)",
                        values);
  for (unsigned i = 0; i != 32; ++i)
    EXPECT_EQ(result[i], values[i ^ 5]);
}

} // namespace
