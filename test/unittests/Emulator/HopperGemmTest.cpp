//===- HopperGemmTest.cpp - A warp-specialized sparse GEMM ----------------===//
//
// The shape of kernel that the compiler makes for Hopper: a producer warp fills a ring with
// activations (a tensor map, 128-byte swizzle) and packed weights (bulk copies), two consumer
// warpgroups multiply with wgmma.mma_async.sp and keep one group in flight, and the epilogue goes
// through stmatrix and a tensor store. It checks the pieces together, at edges too, and that
// leaving out any one of the synchronizations is reported for what it is.
//
//===----------------------------------------------------------------------===//

#include "Hopper.h"
#include "TestKernel.h"

#include "sparseflow/Runtime/TensorMap.h"
#include "sparseflow/Support/NumericTypes.h"

#include <cmath>
#include <cstring>
#include <random>

using namespace sparseflow;
using namespace sparseflow::emulator;
using namespace sparseflow::emulator::test;
using Kind = Report::Kind;

namespace {

/// Y[tokens, features] = X[tokens, inner] * W[features, inner]^T, in f16.
constexpr int tokens = 100, features = 256, inner = 320;
/// A tile is 128 features (64 a warpgroup) by 64 tokens; a stage holds 64 of K.
constexpr int tileTokens = 64, stageK = 64, stages = 2, steps = inner / stageK;
/// For 64 features and one stage: values of two wgmmas, then a word of metadata a thread.
constexpr int valueBytes = 4096, weightBytes = valueBytes + 512;
constexpr int activationBytes = tileTokens * 128;
constexpr int stageBytes = activationBytes + 2 * weightBytes;
constexpr int outputOffset = stages * stageBytes, outputBytes = tileTokens * 128;
constexpr int barrierOffset = outputOffset + 2 * outputBytes, sharedBytes = barrierOffset + 64;
static_assert(stageBytes % 1024 == 0);
constexpr int threads = 288, firstProducer = 256;

enum class Defect {
  None,
  GridWait,
  InitFence,
  InitBarrier,
  FullWait,
  ExpectTx,
  ExpectTooMuch,
  EmptyWait,
  EmptyArrive,
  WgmmaFence,
  WgmmaWait,
  LastWgmmaWait,
  ProxyFence,
  StoreBarrier,
  StoreCommit,
  StoreWait,
  MisalignedBox,
};

/// Writes the kernel, but for one synchronization.
class Gemm : public HopperWriter {
public:
  explicit Gemm(Defect defect) : defect(defect) {}

  std::string write() {
    std::string warp = shr("%tid64", 5);
    tokenBase = truncate(mul(blockIndex("y"), tileTokens));
    featureBase = mul(blockIndex("x"), 128);
    initialize();
    if (has(Defect::GridWait))
      call("griddepcontrol.wait");
    else
      whenThread(firstProducer, [&] { call("griddepcontrol.wait"); });
    std::string producer = label(), consumer = label(), done = label();
    line("llvm.cond_br " + compare("uge", "%tid64", constant(firstProducer)) + ", " + producer +
         ", " + consumer);
    line(producer + ":");
    call("setmaxnreg.dec.sync.aligned.u32", {i32(40), "i32"});
    const std::string elected = "!llvm.struct<(i32, i1)>";
    std::string leader = call(elected, "elect.sync", {i32(-1), "i32"});
    when(value("llvm.extractvalue " + leader + "[1] : " + elected), [&] { produce(); });
    line("llvm.br " + done);
    line(consumer + ":");
    call("setmaxnreg.inc.sync.aligned.u32", {i32(232), "i32"});
    consume();
    call("griddepcontrol.launch.dependents");
    line("llvm.br " + done);
    line(done + ":");
    return makeKernel(mapParameter("x") + ", %w: !llvm.ptr<1>, " + mapParameter("y"), text);
  }

private:
  bool has(Defect each) const { return defect != each; }
  std::string blockIndex(const char *axis) {
    return value("llvm.zext " + value("nvvm.read.ptx.sreg.ctaid." + std::string(axis) + " : i32") +
                 " : i32 to i64");
  }
  std::string at(const std::string &byte) { return element("!llvm.ptr<3>", "%smem", byte); }
  std::string full(const std::string &slot) {
    return at(add(mul(slot, 8), constant(barrierOffset)));
  }
  std::string empty(const std::string &slot) {
    return at(add(mul(slot, 8), constant(barrierOffset + stages * 8)));
  }
  std::string slotOf(const std::string &step) { return mask(step, stages - 1); }
  std::string parityOf(const std::string &step) { return truncate(mask(shr(step, 1), 1)); }

  void initialize() {
    whenThread(0, [&] {
      for (int slot = 0; slot != stages; ++slot) {
        initBarrier(full(constant(slot)), 1);
        initBarrier(empty(constant(slot)), 2);
      }
      if (has(Defect::InitFence))
        fenceInit();
    });
    if (has(Defect::InitBarrier))
      line(blockBarrier);
  }

  void produce() {
    std::string loop = label(), after = label();
    line("llvm.br " + loop + "(" + constant(0) + " : i64)");
    line(loop + "(%pstep: i64):");
    std::string step = "%pstep", slot = slotOf(step), buffer = mul(slot, stageBytes);
    if (has(Defect::EmptyWait))
      wait(empty(slot), value("llvm.xor " + parityOf(step) + ", " + i32(1) + " : i32"));
    if (has(Defect::ExpectTx))
      arriveExpect(full(slot), stageBytes + (has(Defect::ExpectTooMuch) ? 0 : 16));
    else
      arrive(full(slot));
    std::string column = truncate(mul(step, stageK));
    std::string box = has(Defect::MisalignedBox) ? buffer : add(buffer, constant(128));
    loadBox(at(box), full(slot), "%x", column, tokenBase);
    for (int group = 0; group != 2; ++group) {
      // [features / 64][step][bytes].
      std::string chunk = add(mul(add(shr(featureBase, 6), constant(group)), steps), step);
      load(at(add(buffer, constant(activationBytes + group * weightBytes))), full(slot),
           element("!llvm.ptr<1>", "%w", mul(chunk, weightBytes)), weightBytes);
    }
    std::string next = add(step, constant(1));
    line("llvm.cond_br " + compare("ult", next, constant(steps)) + ", " + loop + "(" + next +
         " : i64), " + after);
    line(after + ":");
  }

  void consume() {
    std::string group = shr("%tid64", 7), thread = mask("%tid64", 127);
    std::string isFirst = compare("eq", thread, constant(0));
    std::string zero = value("llvm.mlir.constant(0.0 : f32) : f32");
    std::string loop = label(), after = label(), initial = constant(0), types = "i64";
    std::vector<std::string> sums;
    std::string parameters = "%step: i64";
    for (int i = 0; i != tileTokens / 2; ++i) {
      sums.push_back("%sum" + std::to_string(i));
      parameters += ", " + sums.back() + ": f32";
      initial += ", " + zero;
      types += ", f32";
    }
    line("llvm.br " + loop + "(" + initial + " : " + types + ")");
    line(loop + "(" + parameters + "):");
    std::string slot = slotOf("%step"), buffer = mul(slot, stageBytes);
    if (has(Defect::FullWait))
      wait(full(slot), parityOf("%step"));
    std::string weights = add(add(buffer, constant(activationBytes)), mul(group, weightBytes));
    std::string metadata =
        value("llvm.load " + at(add(weights, add(constant(valueBytes), mul(thread, 4)))) +
              " : !llvm.ptr<3> -> i32");
    if (has(Defect::WgmmaFence))
      fenceWgmma();
    for (int half = 0; half != 2; ++half)
      sums = wgmma("wgmma.mma_async.sp.sync.aligned.m64n64k32.f32.f16.f16", "f32", sums,
                   "$32, $33, $34, " + std::to_string(half) + ", 1, 1, 1, 0, 0",
                   {descriptor(at(add(weights, constant(half * 2048))), 1024, 128, 0), "i64",
                    descriptor(at(add(buffer, constant(half * 64))), 16, 1024, 1), "i64", metadata,
                    "i32"});
    commitWgmma();
    if (has(Defect::WgmmaWait))
      waitWgmma(1);
    std::string previous = add("%step", constant(-1));
    if (has(Defect::EmptyArrive))
      when(value("llvm.and " + isFirst + ", " + compare("ne", "%step", constant(0)) + " : i1"),
           [&] { arrive(empty(slotOf(previous))); });
    std::string next = add("%step", constant(1)), carried = next;
    for (const std::string &sum : sums)
      carried += ", " + sum;
    line("llvm.cond_br " + compare("ult", next, constant(steps)) + ", " + loop + "(" + carried +
         " : " + types + "), " + after);
    line(after + ":");
    if (has(Defect::LastWgmmaWait))
      waitWgmma(0);
    storeTile(touch("f32", sums), group, thread, isFirst);
  }

  void storeTile(const std::vector<std::string> &sums, const std::string &group,
                 const std::string &thread, const std::string &isFirst) {
    std::string output = add(mul(group, outputBytes), constant(outputOffset));
    std::string lane = mask(thread, 31), warp = shr(thread, 5);
    // Lane 8m+r gives row r (a token) of matrix m: features of half m % 2, tokens 8(2i + m/2) + r.
    std::string row = mask(lane, 7), matrix = shr(lane, 3);
    std::string chunk = add(mul(warp, 2), mask(matrix, 1));
    for (int i = 0; i != tileTokens / 16; ++i) {
      std::string token = add(add(mul(shr(matrix, 1), 8), row), constant(i * 16));
      std::string address =
          at(add(output, add(mul(token, 128), mul(binary("xor", chunk, mask(token, 7)), 16))));
      std::vector<std::string> operands = {address, "!llvm.ptr<3>"};
      for (int m = 0; m != 4; ++m) {
        // Register 4j + 2h + e: tokens 8j + 2q + e of features g + 8h.
        int first = 4 * (2 * i + m / 2) + 2 * (m % 2);
        std::string pair = value("llvm.mlir.undef : vector<2xf16>");
        for (int e = 0; e != 2; ++e)
          pair = value("llvm.insertelement " +
                       value("llvm.fptrunc " + sums[first + e] + " : f32 to f16") + ", " + pair +
                       "[" + constant(e) + " : i64] : vector<2xf16>");
        operands.push_back(value("llvm.bitcast " + pair + " : vector<2xf16> to i32"));
        operands.push_back("i32");
      }
      call("stmatrix.sync.aligned.m8n8.x4.trans.b16.p3", operands);
    }
    if (has(Defect::ProxyFence))
      fenceProxy();
    if (has(Defect::StoreBarrier))
      line("nvvm.barrier id = " + truncate(add(group, constant(1))) +
           " number_of_threads = " + i32(128));
    when(isFirst, [&] {
      storeBox(at(output), "%y", truncate(add(featureBase, mul(group, 64))), tokenBase);
      if (has(Defect::StoreCommit))
        commitStores();
      if (has(Defect::StoreWait))
        waitStores();
    });
  }

  Defect defect;
  std::string tokenBase, featureBase;
};

struct Problem {
  std::vector<uint16_t> x = std::vector<uint16_t>(tokens * inner);
  std::vector<uint16_t> y = std::vector<uint16_t>(tokens * features, 0x7e00);
  std::vector<uint8_t> w = std::vector<uint8_t>(features / 64 * steps * weightBytes);
  std::vector<double> dense = std::vector<double>(features * inner);
  alignas(64) uint8_t mapX[128] = {}, mapY[128] = {};

  Problem() {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    for (uint16_t &each : x)
      each = floatToF16(normal(random));
    for (int feature = 0; feature != features; ++feature)
      for (int group = 0; group != inner / 4; ++group) {
        static const uint8_t legal[] = {0x4, 0x8, 0x9, 0xc, 0xd, 0xe};
        uint8_t nibble = legal[random() % 6];
        int row = feature % 64, step = group * 4 / stageK, half = group / 8 % 2, within = group % 8;
        uint8_t *chunk = &w[(feature / 64 * steps + step) * weightBytes];
        for (int i = 0; i != 2; ++i) {
          uint16_t bits = floatToF16(normal(random));
          dense[feature * inner + group * 4 + (i ? nibble >> 2 : nibble & 3)] = f16ToFloat(bits);
          int kept = within * 2 + i;
          std::memcpy(chunk + half * 2048 + kept / 8 * 1024 + row / 8 * 128 + row % 8 * 16 +
                          kept % 8 * 2,
                      &bits, 2);
        }
        int thread = row / 16 * 32 + row % 8 * 4 + half * 2 + within / 4;
        chunk[valueBytes + thread * 4 + row / 8 % 2 * 2 + within % 4 / 2] |= nibble
                                                                             << (within % 2 * 4);
      }
    runtime::HostTensorMap map;
    map.base = x.data();
    map.rows = tokens;
    map.columns = inner;
    map.rowStrideBytes = inner * 2;
    map.elementBytes = 2;
    map.boxRows = tileTokens;
    map.boxColumns = 64;
    map.swizzleBytes = 128;
    std::memcpy(mapX, &map, sizeof(map));
    map.base = y.data();
    map.columns = features;
    map.rowStrideBytes = features * 2;
    std::memcpy(mapY, &map, sizeof(map));
  }

  std::optional<Report> run(const Module &module, unsigned workers = 1) {
    LaunchOptions options;
    options.workers = workers;
    options.ranges = {{x.data(), x.size() * 2, "x", false},
                      {w.data(), w.size(), "w", false},
                      {y.data(), y.size() * 2, "y", true}};
    void *weights = w.data(), *params[] = {mapX, &weights, mapY};
    return launchWith(module, {features / 128, (tokens + tileTokens - 1) / tileTokens}, {threads},
                      sharedBytes, params, options);
  }
};

TEST(HopperGemm, equals_float64) {
  auto module = compileOrFail(Gemm(Defect::None).write());
  ASSERT_TRUE(module);
  Problem problem;
  std::optional<Report> report = problem.run(*module);
  ASSERT_FALSE(report) << report->str();
  for (int token = 0; token != tokens; ++token)
    for (int feature = 0; feature != features; ++feature) {
      double expected = 0;
      for (int k = 0; k != inner; ++k)
        expected += f16ToFloat(problem.x[token * inner + k]) * problem.dense[feature * inner + k];
      ASSERT_NEAR(f16ToFloat(problem.y[token * features + feature]), expected,
                  std::fabs(expected) * 1e-3 + 1e-3)
          << "token " << token << " feature " << feature;
    }
}

TEST(HopperGemm, same_bits_for_any_number_of_workers) {
  auto module = compileOrFail(Gemm(Defect::None).write());
  ASSERT_TRUE(module);
  Problem one, many;
  expectNoReport(one.run(*module, 1));
  expectNoReport(many.run(*module, 3));
  EXPECT_EQ(one.y, many.y);
}

struct BrokenCase {
  const char *name;
  Defect defect;
  Kind kind;
  const char *part;
};

class BrokenGemm : public testing::TestWithParam<BrokenCase> {};

TEST_P(BrokenGemm, is_reported) {
  auto module = compileOrFail(Gemm(GetParam().defect).write());
  ASSERT_TRUE(module);
  Problem problem;
  expectReport(problem.run(*module), GetParam().kind, GetParam().part);
}

INSTANTIATE_TEST_SUITE_P(
    Defects, BrokenGemm,
    testing::Values(
        BrokenCase{"grid_wait", Defect::GridWait, Kind::UnwaitedGrid,
                   "'y' (bulk tensor store) before griddepcontrol.wait"},
        BrokenCase{"init_fence", Defect::InitFence, Kind::MissingFence,
                   "expected fence.mbarrier_init or fence.proxy.async by that thread"},
        BrokenCase{"init_barrier", Defect::InitBarrier, Kind::MbarrierMisuse,
                   "expected a barrier between mbarrier.init and the first use"},
        BrokenCase{"full_wait", Defect::FullWait, Kind::UnwaitedAsyncCopy,
                   "expected mbarrier.try_wait for the copy's phase before the read"},
        BrokenCase{"expect_tx", Defect::ExpectTx, Kind::UnwaitedAsyncCopy,
                   "which a bulk copy that reports to the mbarrier at offset"},
        BrokenCase{"expect_too_much", Defect::ExpectTooMuch, Kind::Deadlock,
                   "0 of 1 arrivals and 16 bytes of copies are outstanding"},
        BrokenCase{"empty_wait", Defect::EmptyWait, Kind::MbarrierMisuse, ""},
        BrokenCase{"empty_arrive", Defect::EmptyArrive, Kind::Deadlock,
                   "256 threads wait at mbarrier.try_wait for phase 1"},
        BrokenCase{"wgmma_fence", Defect::WgmmaFence, Kind::MissingFence,
                   "with no wgmma.fence since the start of the kernel"},
        BrokenCase{"wgmma_wait", Defect::WgmmaWait, Kind::AsyncOperandOverwritten,
                   "which a wgmma.mma_async of warpgroup"},
        BrokenCase{"last_wgmma_wait", Defect::LastWgmmaWait, Kind::AccumulatorInFlight,
                   "accumulators of a wgmma in flight are read"},
        BrokenCase{"proxy_fence", Defect::ProxyFence, Kind::MissingFence,
                   "expected fence.proxy.async by that thread after the write"},
        BrokenCase{"store_barrier", Defect::StoreBarrier, Kind::SharedRace, "(bulk tensor store)"},
        BrokenCase{"store_commit", Defect::StoreCommit, Kind::UnwaitedAsyncCopy,
                   "expected cp.async.bulk.commit_group and cp.async.bulk.wait_group.read 0"},
        BrokenCase{"store_wait", Defect::StoreWait, Kind::UnwaitedAsyncCopy,
                   "the thread returns while 1 of its bulk stores"},
        BrokenCase{"misaligned_box", Defect::MisalignedBox, Kind::Misaligned,
                   "expected an offset that is a multiple of 1024"}),
    [](const testing::TestParamInfo<BrokenCase> &info) { return info.param.name; });

} // namespace
