//===- CollectiveTest.cpp - Shuffles, votes, reductions, matrix moves -----===//
//
// Every collective against a model that is written from its definition, one lane at a time. (The
// emulator's answers for these operations were compared with an H100's once, bit by bit.)
//
//===----------------------------------------------------------------------===//

#include "TestKernel.h"

#include "llvm/ADT/bit.h"

#include <algorithm>
#include <cmath>
#include <functional>

using namespace sparseflow::emulator;
using namespace sparseflow::emulator::test;

namespace {

using Words = std::vector<uint32_t>;

/// Runs `body` in one warp; it computes %result (i32) from %tid and %value (i32).
Words runWarp(const std::string &body, const Words &values, unsigned threads = 32) {
  auto module = compileOrFail(makeKernel("%out: !llvm.ptr<1>, %in: !llvm.ptr<1>", R"(
    %from = llvm.getelementptr %in[%tid64] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32
    %value = llvm.load %from : !llvm.ptr<1> -> i32
    %mask = llvm.mlir.constant(-1 : i32) : i32
  )" + body + R"(
    %to = llvm.getelementptr %out[%tid64] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32
    llvm.store %result, %to : i32, !llvm.ptr<1>
  )"));
  Words result(threads, 0xdeadbeef), input = values;
  if (module)
    expectNoReport(launch(*module, {}, {threads}, 0, {result.data(), input.data()}));
  return result;
}

Words someValues(unsigned count = 32) {
  Words values(count);
  for (unsigned i = 0; i != count; ++i)
    values[i] = i * 2654435761u ^ 0x5bd1e995u;
  return values;
}

std::string constant(const std::string &name, int64_t value) {
  return name + " = llvm.mlir.constant(" + std::to_string(value) + " : i32) : i32\n";
}

//===----------------------------------------------------------------------===//
// Shuffles
//===----------------------------------------------------------------------===//

/// The four modes over segments of a power of two lanes.
TEST(Collective, shuffle) {
  Words values = someValues();
  for (int width : {32, 16, 8}) {
    for (int offset : {1, 5, 9}) {
      // In up, the clamp is the first lane of a segment; in the others the last.
      int segmentMask = 32 - width;
      std::string operands = constant("%offset", offset) + constant("%up", segmentMask << 8) +
                             constant("%down", segmentMask << 8 | 31);
      auto run = [&](const char *mode, const char *clamp) {
        return runWarp(operands + "%result = nvvm.shfl.sync " + mode + " %mask, %value, %offset, " +
                           clamp + " : i32 -> i32",
                       values);
      };
      Words up = run("up", "%up"), down = run("down", "%down"), butterfly = run("bfly", "%down"),
            index = run("idx", "%down");
      for (int lane = 0; lane != 32; ++lane) {
        int segment = lane / width * width;
        auto pick = [&](int source) {
          return values[source >= segment && source < segment + width ? source : lane];
        };
        EXPECT_EQ(up[lane], pick(lane - offset));
        EXPECT_EQ(down[lane], pick(lane + offset));
        // A butterfly may reach into an earlier segment, never into a later one.
        EXPECT_EQ(butterfly[lane],
                  values[(lane ^ offset) < segment + width ? lane ^ offset : lane]);
        EXPECT_EQ(index[lane], values[segment + offset % width]);
      }
    }
  }
}

TEST(Collective, shuffle_of_floats_with_predicate) {
  Words values(32);
  for (unsigned i = 0; i != 32; ++i)
    values[i] = llvm::bit_cast<uint32_t>(i * 1.5f);
  Words result = runWarp(constant("%offset", 20) + constant("%clamp", 31) + R"(
    %f = llvm.bitcast %value : i32 to f32
    %both = nvvm.shfl.sync down %mask, %f, %offset, %clamp {return_value_and_is_valid} : f32 -> !llvm.struct<(f32, i1)>
    %moved = llvm.extractvalue %both[0] : !llvm.struct<(f32, i1)>
    %valid = llvm.extractvalue %both[1] : !llvm.struct<(f32, i1)>
    %bits = llvm.bitcast %moved : f32 to i32
    %none = llvm.mlir.constant(77 : i32) : i32
    %result = llvm.select %valid, %bits, %none : i1, i32
  )",
                         values);
  for (unsigned i = 0; i != 32; ++i)
    EXPECT_EQ(result[i], i + 20 < 32 ? values[i + 20] : 77);
}

/// Halves of a warp shuffle on their own, at different instructions.
TEST(Collective, shuffle_in_divergent_halves) {
  Words values = someValues();
  Words result = runWarp(R"(
    %c16 = llvm.mlir.constant(16 : i32) : i32
    %c31 = llvm.mlir.constant(31 : i32) : i32
    %low = llvm.mlir.constant(65535 : i32) : i32
    %high = llvm.mlir.constant(-65536 : i32) : i32
    %one = llvm.mlir.constant(1 : i32) : i32
    %two = llvm.mlir.constant(2 : i32) : i32
    %isLow = llvm.icmp "ult" %tid, %c16 : i32
    llvm.cond_br %isLow, ^low, ^high
  ^low:
    %a = nvvm.shfl.sync bfly %low, %value, %one, %c31 : i32 -> i32
    llvm.br ^join(%a : i32)
  ^high:
    %b = nvvm.shfl.sync bfly %high, %value, %two, %c31 : i32 -> i32
    llvm.br ^join(%b : i32)
  ^join(%result: i32):
  )",
                         values);
  for (unsigned i = 0; i != 32; ++i)
    EXPECT_EQ(result[i], values[i < 16 ? i ^ 1 : i ^ 2]);
}

/// Lanes that have returned no longer take part.
TEST(Collective, vote_after_some_lanes_returned) {
  Words result = runWarp(R"(
    %c8 = llvm.mlir.constant(8 : i32) : i32
    %stays = llvm.icmp "uge" %tid, %c8 : i32
    llvm.cond_br %stays, ^rest, ^leave
  ^leave:
    llvm.return
  ^rest:
    %true = llvm.mlir.constant(true) : i1
    %result = nvvm.vote.sync ballot %mask, %true -> i32
  )",
                         Words(32));
  EXPECT_EQ(result[7], 0xdeadbeefu);
  EXPECT_EQ(result[8], 0xffffff00u);
}

//===----------------------------------------------------------------------===//
// Votes, matches, reductions
//===----------------------------------------------------------------------===//

TEST(Collective, votes) {
  for (uint32_t ballot : {0u, 0x10u, 0x80f00001u, ~0u}) {
    Words values(32);
    for (unsigned i = 0; i != 32; ++i)
      values[i] = ballot >> i & 1;
    auto vote = [&](const std::string &kind, const char *type) {
      std::string convert = type == std::string("i32") ? "%result = llvm.or %r, %r : i32"
                                                       : "%result = llvm.zext %r : i1 to i32";
      return runWarp("%p = llvm.trunc %value : i32 to i1\n%r = nvvm.vote.sync " + kind +
                         " %mask, %p -> " + type + "\n" + convert,
                     values);
    };
    EXPECT_EQ(vote("ballot", "i32"), Words(32, ballot));
    EXPECT_EQ(vote("any", "i1"), Words(32, ballot != 0));
    EXPECT_EQ(vote("all", "i1"), Words(32, ballot == ~0u));
    EXPECT_EQ(vote("uni", "i1"), Words(32, ballot == ~0u || ballot == 0));
  }
}

TEST(Collective, match) {
  Words values(32);
  for (unsigned i = 0; i != 32; ++i)
    values[i] = i * i % 7;
  Words result = runWarp("%result = nvvm.match.sync any %mask, %value : i32 -> i32", values);
  for (unsigned i = 0; i != 32; ++i) {
    uint32_t expected = 0;
    for (unsigned j = 0; j != 32; ++j)
      expected |= uint32_t(values[i] == values[j]) << j;
    EXPECT_EQ(result[i], expected);
  }
  const std::string all = R"(
    %both = nvvm.match.sync all %mask, %value : i32 -> !llvm.struct<(i32, i1)>
    %result = llvm.extractvalue %both[0] : !llvm.struct<(i32, i1)>
  )";
  EXPECT_EQ(runWarp(all, values), Words(32, 0));
  EXPECT_EQ(runWarp(all, Words(32, 9)), Words(32, ~0u));
}

TEST(Collective, redux) {
  Words values = someValues();
  struct Reduction {
    const char *kind;
    std::function<uint32_t(uint32_t, uint32_t)> combine;
  };
  const Reduction reductions[] = {
      {"add", [](uint32_t a, uint32_t b) { return a + b; }},
      {"and", [](uint32_t a, uint32_t b) { return a & b; }},
      {"or", [](uint32_t a, uint32_t b) { return a | b; }},
      {"xor", [](uint32_t a, uint32_t b) { return a ^ b; }},
      {"umin", [](uint32_t a, uint32_t b) { return std::min(a, b); }},
      {"umax", [](uint32_t a, uint32_t b) { return std::max(a, b); }},
      {"min", [](uint32_t a, uint32_t b) { return uint32_t(std::min(int32_t(a), int32_t(b))); }},
      {"max", [](uint32_t a, uint32_t b) { return uint32_t(std::max(int32_t(a), int32_t(b))); }}};
  for (const Reduction &reduction : reductions) {
    uint32_t expected = values[0];
    for (unsigned i = 1; i != 32; ++i)
      expected = reduction.combine(expected, values[i]);
    EXPECT_EQ(runWarp("%result = nvvm.redux.sync " + std::string(reduction.kind) +
                          " %value, %mask : i32 -> i32",
                      values),
              Words(32, expected))
        << reduction.kind;
  }
}

TEST(Collective, elect) {
  Words result =
      runWarp("%p = nvvm.elect.sync -> i1\n%result = llvm.zext %p : i1 to i32", Words(32));
  EXPECT_EQ(std::count(result.begin(), result.end(), 1u), 1);
}

TEST(Collective, barrier_reductions) {
  // Two warps; the predicate holds in threads whose value is odd.
  Words values = someValues(64);
  unsigned odd = 0;
  for (uint32_t value : values)
    odd += value & 1;
  auto run = [&](const std::string &kind, const char *type) {
    return runWarp("%zero = llvm.mlir.constant(0 : i32) : i32\n%p = llvm.trunc %value : i32 to i1\n"
                   "%r = llvm.call_intrinsic \"llvm.nvvm.barrier.cta.red." +
                       kind + ".aligned.all\"(%zero, %p) : (i32, i1) -> " + type +
                       (type == std::string("i32") ? "\n%result = llvm.or %r, %r : i32"
                                                   : "\n%result = llvm.zext %r : i1 to i32"),
                   values, 64);
  };
  EXPECT_EQ(run("popc", "i32"), Words(64, odd));
  EXPECT_EQ(run("or", "i1"), Words(64, odd != 0));
  EXPECT_EQ(run("and", "i1"), Words(64, odd == 64));
}

TEST(Collective, special_registers) {
  auto module = compileOrFail(makeKernel("%out: !llvm.ptr<1>", R"(
    %y = nvvm.read.ptx.sreg.tid.y : i32
    %z = nvvm.read.ptx.sreg.tid.z : i32
    %nx = nvvm.read.ptx.sreg.ntid.x : i32
    %ny = nvvm.read.ptx.sreg.ntid.y : i32
    %bx = nvvm.read.ptx.sreg.ctaid.x : i32
    %by = nvvm.read.ptx.sreg.ctaid.y : i32
    %gx = nvvm.read.ptx.sreg.nctaid.x : i32
    %lane = nvvm.read.ptx.sreg.laneid : i32
    %warp = nvvm.read.ptx.sreg.warpid : i32
    %lt = nvvm.read.ptx.sreg.lanemask.lt : i32
    %a0 = llvm.mul %z, %ny : i32
    %a1 = llvm.add %a0, %y : i32
    %a2 = llvm.mul %a1, %nx : i32
    %thread = llvm.add %a2, %tid : i32
    %b0 = llvm.mul %by, %gx : i32
    %block = llvm.add %b0, %bx : i32
    %c64 = llvm.mlir.constant(64 : i32) : i32
    %i0 = llvm.mul %block, %c64 : i32
    %i1 = llvm.add %i0, %thread : i32
    %index = llvm.zext %i1 : i32 to i64
    %c32 = llvm.mlir.constant(32 : i32) : i32
    %w0 = llvm.mul %warp, %c32 : i32
    %w1 = llvm.add %w0, %lane : i32
    %r = llvm.xor %w1, %lt : i32
    %to = llvm.getelementptr %out[%index] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32
    llvm.store %r, %to : i32, !llvm.ptr<1>
  )"));
  ASSERT_TRUE(module);
  Words result(6 * 64);
  expectNoReport(launch(*module, {2, 3}, {4, 8, 2}, 0, {result.data()}));
  for (unsigned i = 0; i != result.size(); ++i)
    EXPECT_EQ(result[i], i % 64 ^ ((1u << i % 32) - 1));
}

//===----------------------------------------------------------------------===//
// Matrices
//===----------------------------------------------------------------------===//

/// Four 8x8 matrices of f16, 16 bytes a row; lane l gives the address of row l.
class MatrixMove : public testing::TestWithParam<std::tuple<int, bool>> {};

TEST_P(MatrixMove, load_and_store) {
  auto [count, transposed] = GetParam();
  std::string x = std::to_string(count), type = "i32";
  std::string suffix = x + (transposed ? ".trans" : "") + ".b16.p3";
  std::string registers, types;
  for (int i = 0; i != count; ++i) {
    registers += ", %r" + std::to_string(i);
    types += (i ? ", i32" : "i32");
  }
  std::string loaded = count == 1 ? "i32" : "!llvm.struct<(" + types + ")>";
  // Loads the matrices, stores them 512 bytes further on in the same way, and writes both out.
  std::string body = R"(
    %c16 = llvm.mlir.constant(16 : i64) : i64
    %c512 = llvm.mlir.constant(512 : i64) : i64
    %bytes = llvm.mul %tid64, %c16 : i64
    %row = llvm.getelementptr %smem[%bytes] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i8
    %from = llvm.getelementptr %in[%bytes] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i8
    %data = llvm.load %from {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xi32>
    llvm.store %data, %row {alignment = 16 : i64} : vector<4xi32>, !llvm.ptr<3>
    %copy = llvm.getelementptr %row[%c512] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i8
    llvm.store %data, %copy {alignment = 16 : i64} : vector<4xi32>, !llvm.ptr<3>
    nvvm.barrier0
    %m = llvm.call_intrinsic "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x)" +
                     suffix + "\"(%row) : (!llvm.ptr<3>) -> " + loaded + "\n";
  for (int i = 0; i != count; ++i) {
    std::string n = std::to_string(i);
    body += count == 1 ? "%r0 = llvm.or %m, %m : i32\n"
                       : "%r" + n + " = llvm.extractvalue %m[" + n + "] : " + loaded + "\n";
    body += "%o" + n + " = llvm.mlir.constant(" + std::to_string(i * 32) + " : i64) : i64\n%at" +
            n + " = llvm.add %tid64, %o" + n + " : i64\n%to" + n +
            " = llvm.getelementptr %out[%at" + n +
            "] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32\nllvm.store %r" + n + ", %to" + n +
            " : i32, !llvm.ptr<1>\n";
  }
  body += "llvm.call_intrinsic \"llvm.nvvm.stmatrix.sync.aligned.m8n8.x" + suffix + "\"(%copy" +
          registers + ") : (!llvm.ptr<3>, " + types + R"() -> ()
    nvvm.barrier0
    %again = llvm.load %copy {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xi32>
    %back = llvm.getelementptr %out[%c512] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i8
    %mine = llvm.getelementptr %back[%bytes] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i8
    llvm.store %again, %mine {alignment = 16 : i64} : vector<4xi32>, !llvm.ptr<1>
  )";
  auto module = compileOrFail(makeKernel("%out: !llvm.ptr<1>, %in: !llvm.ptr<1>", body));
  ASSERT_TRUE(module);
  // Element (matrix, row, column) is matrix * 64 + row * 8 + column.
  alignas(16) uint16_t in[256];
  for (unsigned i = 0; i != 256; ++i)
    in[i] = i;
  alignas(16) uint32_t out[256] = {};
  expectNoReport(launch(*module, {}, {32}, 1024, {out, in}));
  for (int matrix = 0; matrix != count; ++matrix)
    for (unsigned lane = 0; lane != 32; ++lane)
      for (unsigned part = 0; part != 2; ++part) {
        unsigned row = lane / 4, column = lane % 4 * 2 + part;
        if (transposed)
          std::swap(row, column);
        EXPECT_EQ(out[matrix * 32 + lane] >> (16 * part) & 0xffff, matrix * 64 + row * 8 + column);
      }
  // Stored back in the same way, the matrices are what they were.
  EXPECT_TRUE(std::equal(in, in + 256, reinterpret_cast<uint16_t *>(out + 128)));
}

INSTANTIATE_TEST_SUITE_P(Shapes, MatrixMove,
                         testing::Combine(testing::Values(1, 2, 4), testing::Bool()));

TEST(Collective, movmatrix) {
  Words values = someValues();
  Words result = runWarp(R"(
    %result = llvm.inline_asm has_side_effects "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r" %value : (i32) -> i32
  )",
                         values);
  auto element = [](const Words &words, unsigned row, unsigned column) {
    return words[row * 4 + column / 2] >> (column % 2 * 16) & 0xffff;
  };
  for (unsigned row = 0; row != 8; ++row)
    for (unsigned column = 0; column != 8; ++column)
      EXPECT_EQ(element(result, row, column), element(values, column, row));
}

} // namespace
