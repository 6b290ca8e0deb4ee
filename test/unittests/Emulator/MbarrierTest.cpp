//===- MbarrierTest.cpp - Barriers in shared memory -----------------------===//

#include "Hopper.h"
#include "TestKernel.h"

#include <numeric>

using namespace sparseflow::emulator;
using namespace sparseflow::emulator::test;
using Kind = Report::Kind;

namespace {

constexpr unsigned threads = 128, barrierOffset = 1024, sharedBytes = 2048;

struct Execution {
  std::vector<uint32_t> in = std::vector<uint32_t>(256), out = std::vector<uint32_t>(256);
  std::optional<Report> report;

  explicit Execution(const HopperWriter &w, LaunchOptions options = {}) {
    std::iota(in.begin(), in.end(), 100);
    auto module = compileOrFail(makeKernel("%out: !llvm.ptr<1>, %in: !llvm.ptr<1>", w.text));
    if (module)
      report = launch(*module, {}, {threads}, sharedBytes, {out.data(), in.data()}, options);
  }
};

/// A kernel with one mbarrier, which thread 0 initializes.
class BarrierWriter : public HopperWriter {
public:
  explicit BarrierWriter(int count) {
    barrier = shared(barrierOffset);
    whenThread(0, [&] {
      initBarrier(barrier, count);
      fenceInit();
    });
    line(blockBarrier);
  }
  std::string word(const std::string &index) {
    return element("!llvm.ptr<3>", "%smem", mul(index, 4));
  }
  void storeShared(const std::string &number, const std::string &index) {
    line("llvm.store " + number + ", " + word(index) + " : i32, !llvm.ptr<3>");
  }
  std::string loadShared(const std::string &index) {
    return value("llvm.load " + word(index) + " : !llvm.ptr<3> -> i32");
  }
  void storeOut(const std::string &number) {
    line("llvm.store " + number + ", " + global("%out", "%tid64") + " : i32, !llvm.ptr<1>");
  }

  std::string barrier;
};

/// Warps 0 and 1 write, arrive, and wait for warps 2 and 3, which read in between; twice.
std::string exchange(BarrierWriter &w, bool release) {
  std::string empty = w.shared(barrierOffset + 8);
  w.whenThread(0, [&] { w.initBarrier(empty, 64); });
  w.line(blockBarrier);
  std::string isWriter = w.compare("ult", "%tid64", w.constant(64));
  std::string isReader = w.compare("uge", "%tid64", w.constant(64));
  for (int round = 0; round != 2; ++round) {
    w.when(isWriter, [&] {
      if (round && release)
        w.wait(empty, w.i32(0));
      w.storeShared(w.truncate(w.add("%tid64", w.constant(1000 * round))), "%tid64");
      w.arrive(w.barrier);
    });
    w.when(isReader, [&] {
      w.wait(w.barrier, w.i32(round));
      std::string other = w.add("%tid64", w.constant(-64));
      w.storeOut(w.loadShared(other));
      w.arrive(empty);
    });
  }
  return w.text;
}

TEST(Mbarrier, phases_order_writers_and_readers) {
  BarrierWriter w(64);
  exchange(w, true);
  Execution run(w);
  expectNoReport(run.report);
  for (unsigned thread = 64; thread != threads; ++thread)
    EXPECT_EQ(run.out[thread], 1000 + thread - 64);
}

TEST(Mbarrier, dropped_wait_for_the_readers) {
  BarrierWriter w(64);
  exchange(w, false);
  Execution run(w);
  ASSERT_TRUE(run.report);
  EXPECT_TRUE(run.report->kind == Kind::SharedRace || run.report->kind == Kind::Deadlock)
      << run.report->str();
}

TEST(Mbarrier, wait_for_a_state) {
  BarrierWriter w(threads);
  w.storeShared("%tid", "%tid64");
  std::string state =
      w.call("i64", "mbarrier.arrive.scope.cta.space.cta", {w.barrier, sharedPtr, w.i32(1), "i32"});
  w.call("i1", "mbarrier.try.wait.scope.cta.space.cta", {w.barrier, sharedPtr, state, "i64"});
  w.storeOut(w.loadShared(w.binary("sub", w.constant(127), "%tid64")));
  Execution run(w);
  expectNoReport(run.report);
  for (unsigned thread = 0; thread != threads; ++thread)
    EXPECT_EQ(run.out[thread], 127 - thread);
}

/// Thread 0 loads 512 bytes; the others see them by `wait`.
template <typename Wait> Execution loadAndRead(Wait wait) {
  BarrierWriter w(1);
  w.whenThread(0, [&] {
    w.arriveExpect(w.barrier, 512);
    w.load(w.shared(0), w.barrier, "%in", 512);
  });
  wait(w);
  w.storeOut(w.loadShared("%tid64"));
  return Execution(w);
}

TEST(Mbarrier, polling_lets_a_copy_land) {
  Execution run = loadAndRead([](BarrierWriter &w) {
    std::string spin = w.label(), done = w.label();
    w.line("llvm.br " + spin + "\n" + spin + ":");
    std::string complete = w.call("i1", "mbarrier.test.wait.parity.scope.cta.space.cta",
                                  {w.barrier, sharedPtr, w.i32(0), "i32"});
    w.line("llvm.cond_br " + complete + ", " + done + ", " + spin + "\n" + done + ":");
  });
  expectNoReport(run.report);
  EXPECT_EQ(run.out[127], 227u);
}

TEST(Mbarrier, wait_by_another_warp_is_no_wait) {
  // Two copies; warp 0 waits for the first, which is then there, and all wait for the second.
  auto kernel = [](bool allWaitForFirst, bool barrierAfter) {
    BarrierWriter w(1);
    std::string second = w.shared(barrierOffset + 8);
    w.whenThread(0, [&] {
      w.initBarrier(second, 1);
      w.fenceInit();
      w.arriveExpect(w.barrier, 512);
      w.load(w.shared(0), w.barrier, "%in", 512);
      w.arriveExpect(second, 64);
      w.load(w.shared(512), second, "%in", 64);
    });
    w.line(blockBarrier);
    w.when(w.compare("ult", "%tid64", w.constant(allWaitForFirst ? 128 : 32)),
           [&] { w.wait(w.barrier, w.i32(0)); });
    w.wait(second, w.i32(0));
    if (barrierAfter)
      w.line(blockBarrier);
    w.storeOut(w.loadShared("%tid64"));
    return Execution(w).report;
  };
  expectNoReport(kernel(true, false));
  expectReport(kernel(false, false), Kind::UnwaitedAsyncCopy,
               "which a bulk copy that reports to the mbarrier at offset 1024 wrote and whose "
               "phase the thread has not seen complete");
  // A barrier of the block hands the knowledge on.
  expectNoReport(kernel(false, true));
}

TEST(Mbarrier, too_many_arrivals) {
  BarrierWriter w(2);
  w.whenThread(5, [&] { w.arrive(w.barrier, 3); });
  expectReport(Execution(w).report, Kind::MbarrierMisuse,
               "thread 5: mbarrier.arrive of 3 on the mbarrier at offset 1024, whose phase 0 lacks "
               "2 of 2 arrivals");
}

TEST(Mbarrier, arrive_drop_lowers_what_later_phases_take) {
  BarrierWriter w(2);
  w.whenThread(0, [&] {
    w.call("i64", "mbarrier.arrive.drop.scope.cta.space.cta",
           {w.barrier, sharedPtr, w.i32(1), "i32"});
  });
  w.line(blockBarrier);
  w.whenThread(1, [&] {
    w.arrive(w.barrier);
    w.arrive(w.barrier);
  });
  w.wait(w.barrier, w.i32(1));
  expectNoReport(Execution(w).report);
}

TEST(Mbarrier, misuse) {
  BarrierWriter uninitialized(1);
  uninitialized.arrive(uninitialized.shared(64));
  expectReport(Execution(uninitialized).report, Kind::MbarrierMisuse,
               "mbarrier.arrive at offset 64 of shared memory, where there is no mbarrier");
  BarrierWriter twice(1);
  twice.whenThread(3, [&] { twice.initBarrier(twice.barrier, 1); });
  expectReport(Execution(twice).report, Kind::MbarrierMisuse, "which holds an mbarrier");
  BarrierWriter overwritten(1);
  overwritten.storeShared("%tid", overwritten.constant(barrierOffset / 4 + 1));
  expectReport(Execution(overwritten).report, Kind::MbarrierMisuse,
               "write of 4 bytes at offset 1028 of shared memory (store), which holds an mbarrier");
  BarrierWriter invalid(1);
  invalid.whenThread(0, [&] {
    invalid.Writer::call("mbarrier.inval.shared", {invalid.barrier, sharedPtr});
    invalid.arrive(invalid.barrier);
  });
  expectReport(Execution(invalid).report, Kind::MbarrierMisuse, "where there is no mbarrier");
  BarrierWriter misaligned(1);
  misaligned.arrive(misaligned.shared(barrierOffset + 4));
  expectReport(Execution(misaligned).report, Kind::Misaligned, "multiple of 8");
}

TEST(Mbarrier, phase_that_never_completes) {
  BarrierWriter w(threads + 1);
  w.arrive(w.barrier);
  w.wait(w.barrier, w.i32(0));
  expectReport(Execution(w).report, Kind::Deadlock,
               "128 threads wait at mbarrier.try_wait for phase 0 of the mbarrier at offset 1024, "
               "which will not complete: 1 of 129 arrivals and 0 bytes of copies are outstanding");
  BarrierWriter polled(1);
  std::string spin = polled.label(), done = polled.label();
  polled.line("llvm.br " + spin + "\n" + spin + ":");
  std::string complete = polled.call("i1", "mbarrier.test.wait.parity.scope.cta.space.cta",
                                     {polled.barrier, sharedPtr, polled.i32(0), "i32"});
  polled.line("llvm.cond_br " + complete + ", " + done + ", " + spin + "\n" + done + ":");
  LaunchOptions options;
  options.idleLoopLimit = 1 << 16;
  expectReport(Execution(polled, options).report, Kind::Deadlock, "a loop that never ends");
}

} // namespace
