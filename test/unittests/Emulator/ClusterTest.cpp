//===- ClusterTest.cpp - Blocks that work together ------------------------===//

#include "Hopper.h"
#include "TestKernel.h"

#include <numeric>

using namespace sparseflow::emulator;
using namespace sparseflow::emulator::test;
using Kind = Report::Kind;

namespace {

constexpr unsigned blocks = 4, words = 256, barrierOffset = 4096, sharedBytes = 8192;

class ClusterWriter : public HopperWriter {
public:
  std::string rank() {
    return value("llvm.zext " + value("nvvm.read.ptx.sreg.cluster.ctarank : i32") +
                 " : i32 to i64");
  }
  void clusterBarrier() {
    call("barrier.cluster.arrive");
    call("barrier.cluster.wait");
  }
  std::string word(const std::string &index) {
    return element("!llvm.ptr<3>", "%smem", mul(index, 4));
  }
  /// `pointer` in the block of that rank.
  std::string map(const std::string &pointer, const std::string &rank) {
    return call(clusterPtr, "mapa.shared.cluster", {pointer, sharedPtr, truncate(rank), "i32"});
  }
  /// out[block][thread] = the value.
  void storeOut(const std::string &number) {
    std::string block =
        value("llvm.zext " + value("nvvm.read.ptx.sreg.ctaid.x : i32") + " : i32 to i64");
    line("llvm.store " + number + ", " + global("%out", add(mul(block, words), "%tid64")) +
         " : i32, !llvm.ptr<1>");
  }
};

struct Execution {
  std::vector<uint32_t> in = std::vector<uint32_t>(words),
                        out = std::vector<uint32_t>(blocks * words);
  std::optional<Report> report;

  explicit Execution(const std::string &body, const std::string &clusterDim = "2, 1, 1") {
    std::iota(in.begin(), in.end(), 1000);
    std::string text = makeKernel("%out: !llvm.ptr<1>, %in: !llvm.ptr<1>", body);
    const std::string attributes = "attributes {gpu.kernel, nvvm.kernel";
    text.insert(text.find(attributes) + attributes.size(),
                ", nvvm.cluster_dim = array<i32: " + clusterDim + ">");
    auto module = compileOrFail(text);
    if (module)
      report = launch(*module, {blocks}, {words}, sharedBytes, {out.data(), in.data()});
  }
};

TEST(Cluster, registers) {
  ClusterWriter w;
  std::string rank = w.value("nvvm.read.ptx.sreg.cluster.ctarank : i32");
  std::string count = w.value("nvvm.read.ptx.sreg.cluster.nctarank : i32");
  std::string cluster = w.value("nvvm.read.ptx.sreg.clusterid.x : i32");
  std::string x = w.value("nvvm.read.ptx.sreg.cluster.ctaid.x : i32");
  std::string sum = w.i32(0);
  for (const std::string &part : {rank, count, cluster, x})
    sum = w.value("llvm.add " + w.value("llvm.mul " + sum + ", " + w.i32(10) + " : i32") + ", " +
                  part + " : i32");
  w.storeOut(sum);
  Execution run(w.text);
  expectNoReport(run.report);
  for (unsigned block = 0; block != blocks; ++block)
    EXPECT_EQ(run.out[block * words], block % 2 * 1000 + 200 + block / 2 * 10 + block % 2);
}

/// Each thread writes its number plus 1000 times its block's rank, and reads the other block's.
std::string exchange(bool before, bool after) {
  ClusterWriter w;
  std::string rank = w.rank();
  std::string mine = w.truncate(w.add(w.mul(rank, 1000), "%tid64"));
  w.line("llvm.store " + mine + ", " + w.word("%tid64") + " : i32, !llvm.ptr<3>");
  if (before)
    w.clusterBarrier();
  std::string other = w.map(w.word("%tid64"), w.binary("xor", rank, w.constant(1)));
  w.storeOut(w.value("llvm.load " + other + " : !llvm.ptr<7> -> i32"));
  if (after)
    w.clusterBarrier();
  return w.text;
}

TEST(Cluster, distributed_shared_memory) {
  Execution run(exchange(true, true));
  expectNoReport(run.report);
  for (unsigned block = 0; block != blocks; ++block)
    for (unsigned thread = 0; thread != words; ++thread)
      EXPECT_EQ(run.out[block * words + thread], (1 - block % 2) * 1000 + thread);
}

/// Each thread writes into the other block, and reads what that one wrote.
std::string send(bool between) {
  ClusterWriter w;
  std::string rank = w.rank();
  std::string mine = w.truncate(w.add(w.mul(rank, 1000), "%tid64"));
  w.clusterBarrier();
  std::string other = w.map(w.word("%tid64"), w.binary("xor", rank, w.constant(1)));
  w.line("llvm.store " + mine + ", " + other + " : i32, !llvm.ptr<7>");
  if (between)
    w.clusterBarrier();
  w.storeOut(w.value("llvm.load " + w.word("%tid64") + " : !llvm.ptr<3> -> i32"));
  w.clusterBarrier();
  return w.text;
}

TEST(Cluster, remote_writes) {
  Execution run(send(true));
  expectNoReport(run.report);
  for (unsigned block = 0; block != blocks; ++block)
    for (unsigned thread = 0; thread != words; ++thread)
      EXPECT_EQ(run.out[block * words + thread], (1 - block % 2) * 1000 + thread);
  Execution broken(send(false));
  ASSERT_TRUE(broken.report);
  EXPECT_TRUE(broken.report->kind == Kind::UninitializedShared ||
              broken.report->kind == Kind::SharedRace)
      << broken.report->str();
}

TEST(Cluster, dropped_barrier_before_a_remote_read) {
  Execution run(exchange(false, true));
  ASSERT_TRUE(run.report);
  EXPECT_TRUE(run.report->kind == Kind::UninitializedShared || run.report->kind == Kind::SharedRace)
      << run.report->str();
}

TEST(Cluster, block_that_returns_too_early) {
  expectReport(Execution(exchange(true, false)).report, Kind::SharedOutOfBounds,
               "whose threads have returned; expected a barrier.cluster");
}

TEST(Cluster, returned_threads_do_not_hold_up_the_barrier) {
  ClusterWriter w;
  std::string leave = w.label(), stay = w.label();
  w.line("llvm.cond_br " + w.compare("ult", "%tid64", w.constant(40)) + ", " + leave + ", " + stay);
  w.line(leave + ":\nllvm.return");
  w.line(stay + ":");
  w.clusterBarrier();
  expectNoReport(Execution(w.text).report);
}

enum class Defect { None, ExpectedBytes, InitBarrier, Release };

/// Each block of a pair loads half of the input into both, twice: the second time when both have
/// released the buffer.
std::string multicast(Defect defect) {
  ClusterWriter w;
  std::string rank = w.rank();
  std::string full = w.shared(barrierOffset), empty = w.shared(barrierOffset + 8);
  w.whenThread(0, [&] {
    w.initBarrier(full, 1);
    w.initBarrier(empty, 2);
    w.fenceInit();
  });
  if (defect != Defect::InitBarrier)
    w.clusterBarrier();
  std::string half = w.mul(rank, words * 2);
  std::string sum = w.i32(0);
  for (int round = 0; round != 2; ++round) {
    w.whenThread(0, [&] {
      if (round == 1 && defect != Defect::Release)
        w.wait(empty, w.i32(0));
      w.arriveExpect(full, defect == Defect::ExpectedBytes ? words * 2 : words * 4);
      w.load(w.element("!llvm.ptr<3>", "%smem", half), full, w.element("!llvm.ptr<1>", "%in", half),
             words * 2, /*mask=*/3);
    });
    w.wait(full, w.i32(round));
    std::string loaded = w.value("llvm.load " + w.word("%tid64") + " : !llvm.ptr<3> -> i32");
    sum = w.value("llvm.add " + sum + ", " + loaded + " : i32");
    w.line(blockBarrier);
    if (round == 0)
      w.whenThread(0, [&] {
        for (int target = 0; target != 2; ++target)
          w.Writer::call("mbarrier.arrive.scope.cluster.space.cluster",
                         {w.map(empty, w.constant(target)), clusterPtr, w.i32(1), "i32"});
      });
  }
  w.storeOut(sum);
  w.clusterBarrier();
  return w.text;
}

TEST(Cluster, multicast) {
  Execution run(multicast(Defect::None));
  expectNoReport(run.report);
  for (unsigned block = 0; block != blocks; ++block)
    for (unsigned thread = 0; thread != words; ++thread)
      EXPECT_EQ(run.out[block * words + thread], 2 * (1000 + thread));
}

TEST(Cluster, multicast_reports) {
  Execution bytes(multicast(Defect::ExpectedBytes));
  ASSERT_TRUE(bytes.report);
  EXPECT_TRUE(bytes.report->kind == Kind::UnwaitedAsyncCopy || bytes.report->kind == Kind::Deadlock)
      << bytes.report->str();
  expectReport(Execution(multicast(Defect::InitBarrier)).report, Kind::MbarrierMisuse,
               "there is no mbarrier");
  Execution release(multicast(Defect::Release));
  ASSERT_TRUE(release.report);
  EXPECT_TRUE(release.report->kind == Kind::SharedRace ||
              release.report->kind == Kind::UnwaitedAsyncCopy)
      << release.report->str();
}

enum class Missing { Nothing, Arrival, Wait, InitBarrier };

/// As `sf_tile.reduce_scatter` does it: each block of four sends a word of each thread to the three
/// others, whose warps wait for `senders` warps' arrivals and add what came.
std::string scatter(int senders, Missing missing = Missing::Nothing) {
  ClusterWriter w;
  std::string rank = w.rank();
  std::string inbox = w.shared(barrierOffset);
  w.whenThread(0, [&] {
    w.initBarrier(inbox, senders);
    w.fenceInit();
  });
  if (missing != Missing::InitBarrier)
    w.clusterBarrier();
  std::string number = w.add(w.mul(rank, 1000), "%tid64");
  for (int block = 0; block != blocks; ++block)
    w.when(w.compare("ne", rank, w.constant(block)), [&] {
      std::string slot = w.mask(w.add(rank, w.constant(blocks - 1 - block)), blocks - 1);
      std::string sent = w.truncate(w.add(number, w.constant(10000 * block)));
      std::string to = w.map(w.word(w.add(w.mul(slot, words), "%tid64")), w.constant(block));
      w.line("llvm.store " + sent + ", " + to + " : i32, !llvm.ptr<7>");
    });
  w.line("nvvm.bar.warp.sync " + w.i32(-1) + " : i32");
  std::string lane = w.mask("%tid64", 31);
  auto arrive = [&] {
    w.when(w.compare("ult", lane, w.constant(blocks)), [&] {
      w.when(w.compare("ne", lane, rank), [&] {
        w.Writer::call("mbarrier.arrive.scope.cluster.space.cluster",
                       {w.map(inbox, lane), clusterPtr, w.i32(1), "i32"});
      });
    });
  };
  if (missing == Missing::Arrival)
    w.when(w.compare("uge", "%tid64", w.constant(32)), arrive);
  else
    arrive();
  if (missing != Missing::Wait)
    w.wait(inbox, w.i32(0), "cluster");
  std::string sum = w.truncate(w.add(number, w.mul(rank, 10000)));
  for (unsigned slot = 0; slot + 1 != blocks; ++slot) {
    std::string got = w.value("llvm.load " + w.word(w.add(w.constant(slot * words), "%tid64")) +
                              " : !llvm.ptr<3> -> i32");
    sum = w.value("llvm.add " + sum + ", " + got + " : i32");
  }
  w.storeOut(sum);
  return w.text;
}

/// Of three blocks, each with so many warps.
constexpr int senders = (blocks - 1) * words / 32;
const char *const wholeGrid = "4, 1, 1";

TEST(Cluster, sums_without_a_barrier_at_the_end) {
  // A block waits for all that is sent to it, so nobody writes to one that has returned.
  Execution run(scatter(senders), wholeGrid);
  expectNoReport(run.report);
  for (unsigned block = 0; block != blocks; ++block)
    for (unsigned thread = 0; thread != words; ++thread)
      EXPECT_EQ(run.out[block * words + thread], 6000 + blocks * (thread + 10000 * block));
}

TEST(Cluster, a_warp_that_does_not_arrive_is_a_deadlock) {
  expectReport(Execution(scatter(senders, Missing::Arrival), wholeGrid).report, Kind::Deadlock,
               "3 of 24 arrivals and 0 bytes of copies are outstanding");
}

TEST(Cluster, wrong_number_of_senders) {
  expectReport(Execution(scatter(senders + 1), wholeGrid).report, Kind::Deadlock,
               "1 of 25 arrivals and 0 bytes of copies are outstanding");
  Execution fewer(scatter(senders - 1), wholeGrid);
  ASSERT_TRUE(fewer.report);
  EXPECT_EQ(stringifyKind(fewer.report->kind), stringifyKind(Kind::SharedRace))
      << fewer.report->str();
}

TEST(Cluster, sums_report) {
  Execution wait(scatter(senders, Missing::Wait), wholeGrid);
  ASSERT_TRUE(wait.report);
  EXPECT_TRUE(wait.report->kind == Kind::SharedRace ||
              wait.report->kind == Kind::UninitializedShared)
      << wait.report->str();
  expectReport(Execution(scatter(senders, Missing::InitBarrier), wholeGrid).report,
               Kind::MbarrierMisuse, "there is no mbarrier");
}

TEST(Cluster, grid_of_whole_clusters) {
  auto launchOf = [](const char *clusterDim) {
    auto module = compileOrFail("llvm.func @k() attributes {gpu.kernel, nvvm.kernel, "
                                "nvvm.cluster_dim = array<i32: " +
                                std::string(clusterDim) + ">} { llvm.return }");
    return module ? llvm::toString(module->launch("k", {4}, {32}, 0, {})) : "";
  };
  EXPECT_EQ(launchOf("4, 1, 1"), "");
  EXPECT_EQ(launchOf("3, 1, 1"), "emulator: kernel 'k': expected a grid of whole clusters of "
                                 "(3,1,1) blocks, got (4,1,1)");
  EXPECT_EQ(launchOf("8, 4, 1"),
            "emulator: kernel 'k': expected clusters of 1 to 16 blocks, got (8,4,1)");
}

} // namespace
