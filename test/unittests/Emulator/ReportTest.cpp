//===- ReportTest.cpp - Every report, by a kernel that is broken on purpose -===//
//
// Each test has a correct kernel as its first half, so that a report is known to come from the
// defect alone.
//
//===----------------------------------------------------------------------===//

#include "TestKernel.h"

#include <numeric>

using namespace sparseflow::emulator;
using namespace sparseflow::emulator::test;
using Kind = Report::Kind;

namespace {

/// Runs a kernel over `%out`, an array of 4-byte words, and returns its report.
struct Execution {
  std::vector<uint32_t> out = std::vector<uint32_t>(1024, 0);
  std::vector<uint32_t> in = std::vector<uint32_t>(1024);
  std::optional<Report> report;

  explicit Execution(const std::string &body, Dim3 block = {128}, uint32_t shared = 4096,
                     LaunchOptions options = {}, Dim3 grid = {}) {
    std::iota(in.begin(), in.end(), 100);
    auto module = compileOrFail(makeKernel("%out: !llvm.ptr<1>, %in: !llvm.ptr<1>", body));
    if (module)
      report = launch(*module, grid, block, shared, {out.data(), in.data()}, options);
  }
};

// Pieces of kernels.
const std::string myWord = R"(
  %mine = llvm.getelementptr %smem[%tid64] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i32
)";
const std::string writeMine = myWord + R"(
  llvm.store %tid, %mine : i32, !llvm.ptr<3>
)";
const std::string readOther = R"(
  %c127 = llvm.mlir.constant(127 : i64) : i64
  %other64 = llvm.sub %c127, %tid64 : i64
  %other = llvm.getelementptr %smem[%other64] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i32
  %read = llvm.load %other : !llvm.ptr<3> -> i32
)";
const std::string storeRead = R"(
  %to = llvm.getelementptr %out[%tid64] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32
  llvm.store %read, %to : i32, !llvm.ptr<1>
)";
const std::string barrier = "nvvm.barrier0\n";
const std::string copy16 = R"(
  %c16 = llvm.mlir.constant(16 : i64) : i64
  %bytes = llvm.mul %tid64, %c16 : i64
  %to16 = llvm.getelementptr %smem[%bytes] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i8
  %from16 = llvm.getelementptr %in[%bytes] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i8
  nvvm.cp.async.shared.global %to16, %from16, 16, cache = cg : !llvm.ptr<3>, !llvm.ptr<1>
)";
const std::string commit = "nvvm.cp.async.commit.group\n";

//===----------------------------------------------------------------------===//
// Barriers between threads
//===----------------------------------------------------------------------===//

TEST(Report, exchange_through_shared_memory) {
  Execution run(writeMine + barrier + readOther + storeRead);
  expectNoReport(run.report);
  for (unsigned i = 0; i != 128; ++i)
    EXPECT_EQ(run.out[i], 127 - i);
}

TEST(Report, dropped_barrier_is_a_race) {
  // Lanes run in order, so half of the reads would even find their data.
  Execution run(writeMine + readOther + storeRead, {128}, 4096);
  ASSERT_TRUE(run.report);
  EXPECT_TRUE(run.report->kind == Kind::SharedRace ||
              run.report->kind == Kind::UninitializedShared);
}

TEST(Report, dropped_barrier_between_write_and_read) {
  Execution run(writeMine + barrier + R"(
    %again = llvm.mlir.constant(7 : i32) : i32
    llvm.store %again, %mine : i32, !llvm.ptr<3>
  )" + readOther +
                storeRead);
  expectReport(run.report, Kind::SharedRace, "with no barrier in between");
}

TEST(Report, dropped_barrier_between_read_and_write) {
  // The last thread to reach a barrier runs on first: it reads word 0, which thread 0 then writes.
  const std::string again = R"(
    %zero = llvm.mlir.constant(0 : i32) : i32
    %isFirst = llvm.icmp "eq" %tid, %zero : i32
    llvm.cond_br %isFirst, ^write, ^rest
  ^write:
    llvm.store %tid, %mine : i32, !llvm.ptr<3>
    llvm.br ^rest
  ^rest:
  )";
  expectNoReport(Execution(writeMine + barrier + readOther + barrier + again + storeRead).report);
  expectReport(Execution(writeMine + barrier + readOther + again + storeRead).report,
               Kind::SharedRace, "thread 0: write of 4 bytes at offset 0");
}

TEST(Report, race_detection_can_be_off) {
  LaunchOptions options;
  options.detectRaces = false;
  expectNoReport(Execution(writeMine + barrier + R"(
    %again = llvm.mlir.constant(7 : i32) : i32
    llvm.store %again, %mine : i32, !llvm.ptr<3>
  )" + readOther + storeRead,
                           {128}, 4096, options)
                     .report);
}

TEST(Report, lanes_of_a_warp_need_a_warp_barrier) {
  const std::string exchange = R"(
    %c31 = llvm.mlir.constant(31 : i64) : i64
    %other64 = llvm.sub %c31, %tid64 : i64
    %other = llvm.getelementptr %smem[%other64] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i32
    %read = llvm.load %other : !llvm.ptr<3> -> i32
  )";
  const std::string mask = "%mask = llvm.mlir.constant(-1 : i32) : i32\n";
  Execution good(writeMine + mask + "nvvm.bar.warp.sync %mask : i32\n" + exchange + storeRead,
                 {32});
  expectNoReport(good.report);
  EXPECT_EQ(good.out[3], 28u);
  Execution bad(writeMine + barrier + "llvm.store %tid, %mine : i32, !llvm.ptr<3>\n" + exchange +
                    storeRead,
                {32});
  expectReport(bad.report, Kind::SharedRace, "with no barrier in between");
}

TEST(Report, named_barrier_of_one_warp_does_not_order_another) {
  // Warps 0 and 1 meet at barrier 1, warps 2 and 3 at barrier 2; then thread t reads 127 - t.
  const std::string half = R"(
    %c6 = llvm.mlir.constant(6 : i32) : i32
    %c1 = llvm.mlir.constant(1 : i32) : i32
    %c64 = llvm.mlir.constant(64 : i32) : i32
    %h = llvm.lshr %tid, %c6 : i32
    %id = llvm.add %h, %c1 : i32
    nvvm.barrier id = %id number_of_threads = %c64
  )";
  // Within the half: t reads t ^ 63.
  const std::string readInHalf = R"(
    %c63 = llvm.mlir.constant(63 : i64) : i64
    %other64 = llvm.xor %tid64, %c63 : i64
    %other = llvm.getelementptr %smem[%other64] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i32
    %read = llvm.load %other : !llvm.ptr<3> -> i32
  )";
  Execution good(writeMine + half + readInHalf + storeRead);
  expectNoReport(good.report);
  EXPECT_EQ(good.out[70], 70u ^ 63u);
  const std::string twice = "llvm.store %tid, %mine : i32, !llvm.ptr<3>\n";
  expectReport(Execution(writeMine + barrier + twice + half + readOther + storeRead).report,
               Kind::SharedRace, "no barrier in between");
}

//===----------------------------------------------------------------------===//
// Asynchronous copies
//===----------------------------------------------------------------------===//

TEST(Report, asynchronous_copy) {
  Execution run(copy16 + commit + "nvvm.cp.async.wait.group 0\n" + barrier + readOther + storeRead);
  expectNoReport(run.report);
  for (unsigned i = 0; i != 128; ++i)
    EXPECT_EQ(run.out[i], 100 + 127 - i);
}

TEST(Report, dropped_wait_group) {
  Execution run(copy16 + commit + barrier + readOther + storeRead);
  expectReport(run.report, Kind::UnwaitedAsyncCopy, "expected cp.async.wait_group");
  EXPECT_NE(run.report->str().find("emulator: kernel 'k' block (0,0,0) thread "),
            std::string::npos);
}

TEST(Report, dropped_commit_group) {
  expectReport(
      Execution(copy16 + "nvvm.cp.async.wait.group 0\n" + barrier + readOther + storeRead).report,
      Kind::UnwaitedAsyncCopy, "no wait has covered");
  expectNoReport(Execution(copy16 +
                           "llvm.call_intrinsic \"llvm.nvvm.cp.async.wait.all\"() : () -> ()\n" +
                           barrier + readOther + storeRead)
                     .report);
}

TEST(Report, wait_that_covers_too_few_groups) {
  // Two groups: the second one may remain, and is the one that is read.
  const std::string second = R"(
    %k2048 = llvm.mlir.constant(2048 : i64) : i64
    %bytes2 = llvm.add %bytes, %k2048 : i64
    %to2 = llvm.getelementptr %smem[%bytes2] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i8
    nvvm.cp.async.shared.global %to2, %from16, 16, cache = ca : !llvm.ptr<3>, !llvm.ptr<1>
  )";
  const std::string readSecond = R"(
    %o = llvm.mlir.constant(512 : i64) : i64
    %at = llvm.add %tid64, %o : i64
    %second = llvm.getelementptr %smem[%at] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i32
    %read = llvm.load %second : !llvm.ptr<3> -> i32
  )";
  auto kernel = [&](const char *wait, const std::string &read) {
    return copy16 + commit + second + commit + wait + barrier + read + storeRead;
  };
  expectNoReport(Execution(kernel("nvvm.cp.async.wait.group 1\n", readOther)).report);
  expectNoReport(Execution(kernel("nvvm.cp.async.wait.group 0\n", readSecond)).report);
  expectReport(Execution(kernel("nvvm.cp.async.wait.group 1\n", readSecond)).report,
               Kind::UnwaitedAsyncCopy, "cp.async of thread");
}

TEST(Report, barrier_dropped_after_wait) {
  expectReport(
      Execution(copy16 + commit + barrier + "nvvm.cp.async.wait.group 0\n" + readOther + storeRead)
          .report,
      Kind::UnwaitedAsyncCopy, "");
  // A stage that is copied to again while others may still read it.
  Execution run(writeMine + barrier + copy16 + commit + "nvvm.cp.async.wait.group 0\n" + barrier +
                readOther + R"(
    nvvm.cp.async.shared.global %to16, %from16, 16, cache = cg : !llvm.ptr<3>, !llvm.ptr<1>
    nvvm.cp.async.wait.group 0
  )" + storeRead);
  expectReport(run.report, Kind::SharedRace, "expected a barrier between the read and the write");
}

TEST(Report, copy_over_a_copy) {
  expectReport(Execution(copy16 + R"(
    nvvm.cp.async.shared.global %to16, %from16, 16, cache = cg : !llvm.ptr<3>, !llvm.ptr<1>
  )")
                   .report,
               Kind::UnwaitedAsyncCopy, "between the two copies");
}

TEST(Report, zero_fill) {
  Execution run(copy16.substr(0, copy16.find("nvvm.cp")) + R"(
    %five = llvm.mlir.constant(5 : i32) : i32
    nvvm.cp.async.shared.global %to16, %from16, 16, cache = cg, %five : !llvm.ptr<3>, !llvm.ptr<1>, i32
  )" + commit + "nvvm.cp.async.wait.group 0\n" +
                barrier + readOther + storeRead);
  expectNoReport(run.report);
  for (unsigned i = 0; i != 128; ++i) {
    unsigned word = 127 - i;
    EXPECT_EQ(run.out[i], word % 4 == 0 ? 100 + word : word % 4 == 1 ? (100 + word) & 0xff : 0u);
  }
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

TEST(Report, shared_out_of_bounds) {
  expectNoReport(Execution(writeMine, {128}, 512).report);
  expectReport(
      Execution(writeMine, {128}, 508).report, Kind::SharedOutOfBounds,
      "thread 127: write of 4 bytes at offset 508 of shared memory (store); expected it to end "
      "within the block's 508 bytes");
  expectReport(Execution(R"(
    %minus = llvm.mlir.constant(-4 : i64) : i64
    %p = llvm.getelementptr %smem[%minus] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i8
    llvm.store %tid, %p : i32, !llvm.ptr<3>
  )")
                   .report,
               Kind::SharedOutOfBounds, "offset -4");
}

TEST(Report, global_out_of_bounds) {
  std::vector<uint32_t> buffer(64);
  auto module = compileOrFail(makeKernel("%out: !llvm.ptr<1>", R"(
    %to = llvm.getelementptr %out[%tid64] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32
    llvm.store %tid, %to : i32, !llvm.ptr<1>
  )"));
  ASSERT_TRUE(module);
  LaunchOptions options;
  options.ranges = {{buffer.data(), 256, "y", true}};
  expectNoReport(launch(*module, {}, {64}, 0, {buffer.data()}, options));
  options.ranges[0].bytes = 252;
  expectReport(
      launch(*module, {}, {64}, 0, {buffer.data()}, options), Kind::GlobalOutOfBounds,
      "thread 63: write of 4 bytes at offset 252 of 'y' (store); expected it to lie within its "
      "252 bytes");
  options.ranges[0] = {buffer.data(), 256, "x", false};
  expectReport(launch(*module, {}, {64}, 0, {buffer.data()}, options), Kind::GlobalOutOfBounds,
               "'x' (store), which is read-only");
}

TEST(Report, unwaited_grid) {
  std::vector<uint32_t> out(64), in(64);
  auto run = [&](const std::string &before, const std::string &after, bool isConstant) {
    auto module = compileOrFail(makeKernel("%out: !llvm.ptr<1>, %in: !llvm.ptr<1>", R"(
      %to = llvm.getelementptr %out[%tid64] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i32
    )" + before + "nvvm.griddepcontrol wait\n" + after));
    LaunchOptions options;
    options.ranges = {{out.data(), 256, "y", true}, {in.data(), 256, "x", false, isConstant}};
    return launch(*module, {}, {1}, 16, {out.data(), in.data()}, options);
  };
  const std::string store = "llvm.store %tid, %to : i32, !llvm.ptr<1>\n";
  expectNoReport(run("", store + copy16, false));
  expectReport(run(store, "", false), Kind::UnwaitedGrid,
               "write of 4 bytes of 'y' (store) before griddepcontrol.wait");
  expectReport(run(copy16, "", false), Kind::UnwaitedGrid, "read of 16 bytes of 'x'");
  // What no kernel writes need not be waited for.
  expectNoReport(run(copy16, store, true));
}

TEST(Report, misaligned) {
  const std::string vector = R"(
    %c = llvm.mlir.constant(dense<0> : vector<4xi32>) : vector<4xi32>
    %c4 = llvm.mlir.constant(4 : i64) : i64
    %p = llvm.getelementptr %smem[%c4] : (!llvm.ptr<3>, i64) -> !llvm.ptr<3>, i8
  )";
  expectReport(
      Execution(vector + "llvm.store %c, %p {alignment = 16 : i64} : vector<4xi32>, !llvm.ptr<3>",
                {1})
          .report,
      Kind::Misaligned, "write of 16 bytes at offset 4 of shared memory");
  expectNoReport(
      Execution(vector + "llvm.store %c, %p {alignment = 4 : i64} : vector<4xi32>, !llvm.ptr<3>",
                {1})
          .report);
  expectReport(Execution(R"(
    %c4 = llvm.mlir.constant(4 : i64) : i64
    %p = llvm.getelementptr %in[%c4] : (!llvm.ptr<1>, i64) -> !llvm.ptr<1>, i8
    nvvm.cp.async.shared.global %smem, %p, 16, cache = cg : !llvm.ptr<3>, !llvm.ptr<1>
  )",
                         {1})
                   .report,
               Kind::Misaligned, "16-byte cp.async");
  expectReport(Execution(writeMine + barrier + R"(
    %m = nvvm.ldmatrix %mine {num = 1 : i32, layout = #nvvm.mma_layout<row>, eltType = #nvvm.ld_st_matrix_elt_type<b16>, shape = #nvvm.ld_st_matrix_shape<m = 8, n = 8>} : (!llvm.ptr<3>) -> i32
  )")
                   .report,
               Kind::Misaligned, "(ldmatrix)");
}

TEST(Report, uninitialized_shared) {
  expectReport(Execution(readOther + storeRead).report, Kind::UninitializedShared,
               "the word at 508 was never written");
  // Each block starts anew.
  expectReport(Execution(R"(
    %block = nvvm.read.ptx.sreg.ctaid.x : i32
    %zero = llvm.mlir.constant(0 : i32) : i32
    %first = llvm.icmp "eq" %block, %zero : i32
    llvm.cond_br %first, ^write, ^read
  ^write:
  )" + writeMine + "llvm.br ^read\n^read:\n" +
                             readOther.substr(0) + storeRead,
                         {1}, 4096, {}, {2})
                   .report,
               Kind::UninitializedShared, "");
}

//===----------------------------------------------------------------------===//
// Control flow
//===----------------------------------------------------------------------===//

const std::string ifFirstHalf = R"(
    %c64i = llvm.mlir.constant(64 : i32) : i32
    %first = llvm.icmp "ult" %tid, %c64i : i32
    llvm.cond_br %first, ^yes, ^no
)";

TEST(Report, exited_threads_at_a_barrier) {
  expectReport(
      Execution(ifFirstHalf + "^no:\nllvm.return\n^yes:\n" + barrier).report,
      Kind::DivergentBarrier,
      "64 threads wait at barrier 0 for others that will not come: 64 threads have returned");
}

TEST(Report, different_barriers) {
  expectReport(Execution(R"(
    %one = llvm.mlir.constant(1 : i32) : i32
    %two = llvm.mlir.constant(2 : i32) : i32
    %all = llvm.mlir.constant(128 : i32) : i32
  )" + ifFirstHalf + R"(
  ^yes:
    nvvm.barrier id = %one number_of_threads = %all
    llvm.return
  ^no:
    nvvm.barrier id = %two number_of_threads = %all
  )")
                   .report,
               Kind::DivergentBarrier, "64 threads wait elsewhere");
}

TEST(Report, warp_divided_at_an_aligned_barrier) {
  const std::string odd = R"(
    %oneb = llvm.mlir.constant(1 : i32) : i32
    %bit = llvm.and %tid, %oneb : i32
    %isOdd = llvm.icmp "eq" %bit, %oneb : i32
    llvm.cond_br %isOdd, ^yes, ^no
  )";
  expectReport(Execution(odd + "^yes:\n" + barrier + "llvm.return\n^no:\n" + barrier).report,
               Kind::DivergentBarrier, "the same aligned barrier");
}

TEST(Report, divergent_collective) {
  const std::string shuffle = R"(
    %m = llvm.mlir.constant(-1 : i32) : i32
    %one = llvm.mlir.constant(1 : i32) : i32
    %c31 = llvm.mlir.constant(31 : i32) : i32
  )";
  const std::string half = R"(
    %c16 = llvm.mlir.constant(16 : i32) : i32
    %first = llvm.icmp "ult" %tid, %c16 : i32
    llvm.cond_br %first, ^yes, ^no
  ^yes:
  )";
  expectReport(Execution(shuffle + half + R"(
    %r = nvvm.shfl.sync bfly %m, %tid, %one, %c31 : i32 -> i32
    llvm.store %r, %out : i32, !llvm.ptr<1>
    llvm.br ^no
  ^no:
    nvvm.barrier id = %one number_of_threads = %c31
  )",
                         {32})
                   .report,
               Kind::IllegalOperand, "multiple of the warp size");
  expectReport(Execution(shuffle + half + R"(
    %r = nvvm.shfl.sync bfly %m, %tid, %one, %c31 : i32 -> i32
    llvm.store %r, %out : i32, !llvm.ptr<1>
    llvm.br ^no
  ^no:
    nvvm.barrier0
  )",
                         {32})
                   .report,
               Kind::DivergentBarrier, "16 threads wait");
}

TEST(Report, lanes_at_different_collectives) {
  // Odd lanes load a matrix, even ones multiply.
  const std::string operands = R"(
    %h = llvm.mlir.constant(dense<0.0> : vector<2xf16>) : vector<2xf16>
    %f = llvm.mlir.constant(0.0 : f32) : f32
    %oneb = llvm.mlir.constant(1 : i32) : i32
    %bit = llvm.and %tid, %oneb : i32
    %isOdd = llvm.icmp "eq" %bit, %oneb : i32
    llvm.cond_br %isOdd, ^yes, ^no
  )";
  expectReport(Execution(operands + R"(
  ^yes:
    %m = llvm.call_intrinsic "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x1.b16.p3"(%smem) : (!llvm.ptr<3>) -> i32
    llvm.return
  ^no:
    %d = llvm.call_intrinsic "llvm.nvvm.mma.m16n8k8.row.col.f32.f32"(%h, %h, %h, %f, %f, %f, %f) : (vector<2xf16>, vector<2xf16>, vector<2xf16>, f32, f32, f32, f32) -> !llvm.struct<(f32, f32, f32, f32)>
  )",
                         {32})
                   .report,
               Kind::DivergentBarrier, "expected all 32 to execute the same instruction");
}

TEST(Report, returned_lanes_at_an_aligned_collective) {
  expectReport(Execution(R"(
    %four = llvm.mlir.constant(4 : i32) : i32
    %stays = llvm.icmp "uge" %tid, %four : i32
    llvm.cond_br %stays, ^rest, ^leave
  ^leave:
    llvm.return
  ^rest:
    %m = llvm.call_intrinsic "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x1.b16.p3"(%smem) : (!llvm.ptr<3>) -> i32
  )",
                         {32})
                   .report,
               Kind::DivergentBarrier, "4 threads of the warp have returned");
}

TEST(Report, illegal_metadata_or_selector) {
  auto sparse = [](const char *metadata, int selector) {
    return "%h = llvm.mlir.constant(dense<0.0> : vector<2xf16>) : vector<2xf16>\n"
           "%f = llvm.mlir.constant(0.0 : f32) : f32\n"
           "%e = llvm.mlir.constant(" +
           std::string(metadata) + " : i32) : i32\n%s = llvm.mlir.constant(" +
           std::to_string(selector) + R"( : i32) : i32
    %d = llvm.call_intrinsic "llvm.nvvm.mma.sp.ordered.metadata.m16n8k32.row.col.f32.f32"(%h, %h, %h, %h, %h, %h, %h, %h, %f, %f, %f, %f, %e, %s) : (vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, vector<2xf16>, f32, f32, f32, f32, i32, i32) -> !llvm.struct<(f32, f32, f32, f32)>
    )";
  };
  expectNoReport(Execution(sparse("0x44444444", 1), {32}).report);
  expectReport(Execution(sparse("0x44444644", 0), {32}).report, Kind::IllegalOperand,
               "metadata 0x6 for row 0, elements 8 to 11; expected two different positions");
  expectReport(Execution(sparse("0x44444440", 0), {32}).report, Kind::IllegalOperand,
               "metadata 0x0 for row 0, elements 0 to 3");
  // LLVM itself knows the range of the selector.
  auto module = compile(makeKernel("", sparse("0x44444444", 2)));
  ASSERT_FALSE(bool(module));
  EXPECT_NE(llvm::toString(module.takeError()).find("the module is invalid"), std::string::npos);
}

TEST(Report, endless_wait) {
  LaunchOptions options;
  options.idleLoopLimit = 1 << 22;
  // Thread 0 polls a flag that nobody sets.
  const std::string poll = R"(
    %zero = llvm.mlir.constant(0 : i32) : i32
    llvm.br ^loop
  ^loop:
    %flag = llvm.load volatile %in : !llvm.ptr<1> -> i32
    %go = llvm.icmp "eq" %flag, %zero : i32
    llvm.cond_br %go, ^done, ^loop
  ^done:
  )";
  expectReport(Execution(poll, {1}, 0, options).report, Kind::Deadlock, "a loop that never ends");
  expectReport(Execution("llvm.br ^loop\n^loop:\nllvm.br ^loop\n^never:", {1}, 0, options).report,
               Kind::Deadlock, "a loop that never ends");
}

TEST(Report, polling_lets_others_run) {
  // Thread 0 waits for the flag that thread 40, of the next warp, sets.
  Execution run(R"(
    %zero = llvm.mlir.constant(0 : i32) : i32
    %c40 = llvm.mlir.constant(40 : i32) : i32
    %isFirst = llvm.icmp "eq" %tid, %zero : i32
    llvm.cond_br %isFirst, ^loop, ^set
  ^loop:
    %flag = llvm.load volatile %out : !llvm.ptr<1> -> i32
    %go = llvm.icmp "eq" %flag, %c40 : i32
    llvm.cond_br %go, ^done, ^loop
  ^set:
    %isSetter = llvm.icmp "eq" %tid, %c40 : i32
    llvm.cond_br %isSetter, ^store, ^done
  ^store:
    llvm.store volatile %tid, %out : i32, !llvm.ptr<1>
    llvm.br ^done
  ^done:
  )");
  expectNoReport(run.report);
}

TEST(Report, trap) {
  expectReport(Execution("\"llvm.intr.trap\"() : () -> ()", {1}).report, Kind::Trap, "trapped");
}

TEST(Report, first_block_is_reported) {
  // All blocks from 5 on fail; whichever worker is first, the report is block 5's.
  LaunchOptions options;
  options.workers = 4;
  for (unsigned repeat = 0; repeat != 5; ++repeat) {
    Execution run(R"(
      %block = nvvm.read.ptx.sreg.ctaid.x : i32
      %five = llvm.mlir.constant(5 : i32) : i32
      %bad = llvm.icmp "uge" %block, %five : i32
      llvm.cond_br %bad, ^trap, ^done
    ^trap:
      "llvm.intr.trap"() : () -> ()
      llvm.br ^done
    ^done:
    )",
                  {32}, 0, options, {64});
    expectReport(run.report, Kind::Trap, "block (5,0,0)");
  }
}

//===----------------------------------------------------------------------===//
// What is refused before anything runs
//===----------------------------------------------------------------------===//

void expectRefused(const std::string &text, const std::string &part) {
  auto module = compile(text);
  ASSERT_FALSE(bool(module));
  std::string message = llvm::toString(module.takeError());
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(Refusal, unknown_intrinsic) {
  expectRefused(makeKernel("", "llvm.call_intrinsic \"llvm.nvvm.tcgen05.wait.ld\"() : () -> ()"),
                "unsupported NVVM intrinsic 'llvm.nvvm.tcgen05.wait.ld' in function 'k'");
}

TEST(Refusal, inline_assembly) {
  expectRefused(makeKernel("", R"(llvm.inline_asm has_side_effects "bogus.op;", "" : () -> ())"),
                "unsupported inline assembly 'bogus.op;'");
}

TEST(Refusal, external_function) {
  expectRefused("llvm.func @system(!llvm.ptr) -> i32\n" +
                    makeKernel("%p: !llvm.ptr", "%r = llvm.call @system(%p) : (!llvm.ptr) -> i32"),
                "unknown external function 'system'");
}

TEST(Refusal, launch_arguments) {
  auto module = compileOrFail(
      "llvm.func @k(%out: !llvm.ptr<1>) attributes {gpu.kernel, nvvm.kernel, nvvm.reqntid = "
      "array<i32: 64, 1, 1>} { llvm.return }");
  ASSERT_TRUE(module);
  void *pointer = nullptr, *params[] = {&pointer};
  auto message = [&](const char *kernel, Dim3 grid, Dim3 block, uint32_t shared,
                     llvm::ArrayRef<void *> params) {
    return llvm::toString(module->launch(kernel, grid, block, shared, params));
  };
  EXPECT_EQ(message("k", {1}, {64}, 0, params), "");
  EXPECT_EQ(message("j", {1}, {64}, 0, params), "emulator: no kernel 'j'; the module holds 'k'");
  EXPECT_EQ(message("k", {1}, {64}, 0, {}), "emulator: kernel 'k': expected 1 parameters, got 0");
  EXPECT_NE(message("k", {1}, {32}, 0, params).find("64 threads along x"), std::string::npos);
  EXPECT_NE(message("k", {0}, {64}, 0, params).find("expected a grid"), std::string::npos);
  EXPECT_NE(message("k", {1}, {2048}, 0, params).find("expected a block"), std::string::npos);
  EXPECT_NE(message("k", {1}, {64}, 1 << 20, params).find("232448 bytes of shared memory"),
            std::string::npos);
}

} // namespace
