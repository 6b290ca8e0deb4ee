//===- WarpCollectives.cpp - Shuffles, votes, reductions of a warp --------===//
//
// Each function runs once for a warp, when the last of its lanes has come, and writes every lane's
// result. Registers are the intrinsic's operands in order; predicates are registers that hold 0
// or 1.
//
//===----------------------------------------------------------------------===//

#include "Operations.h"

#include "llvm/ADT/bit.h"

#include <algorithm>
#include <cmath>

using namespace sparseflow::emulator;
using Kind = Report::Kind;

template <typename Body> static void forEachLane(uint32_t mask, Body body) {
  for (uint32_t rest = mask; rest; rest &= rest - 1)
    body(static_cast<uint32_t>(llvm::countr_zero(rest)));
}

enum class Shuffle { Up, Down, Butterfly, Index };

/// Operands: mask, value, offset, clamp (the maximum lane in bits 0-4, the segment mask in bits
/// 8-12).
template <Shuffle mode> static void shuffle(const WarpCall &call) {
  forEachLane(call.mask, [&](uint32_t lane) {
    const uint32_t *operands = call.arguments[lane];
    uint32_t offset = operands[2] & 31, clamp = operands[3] & 31, segment = operands[3] >> 8 & 31;
    uint32_t maxLane = (lane & segment) | (clamp & ~segment);
    uint32_t minLane = lane & segment;
    int32_t source = 0;
    bool inside = false;
    switch (mode) {
    case Shuffle::Up:
      source = int32_t(lane) - int32_t(offset);
      inside = source >= int32_t(maxLane);
      break;
    case Shuffle::Down:
      source = lane + offset;
      inside = source <= int32_t(maxLane);
      break;
    case Shuffle::Butterfly:
      source = lane ^ offset;
      inside = source <= int32_t(maxLane);
      break;
    case Shuffle::Index:
      source = minLane | (offset & ~segment);
      inside = source <= int32_t(maxLane);
      break;
    }
    if (!inside)
      source = lane;
    if (!(call.mask >> source & 1))
      call.warp.block->fail(
          call.getThread(lane), Kind::IllegalOperand,
          "%s reads lane %d, which takes no part (mask 0x%08x); expected a lane of the mask",
          call.op.name.c_str(), source, call.mask);
    call.results[lane][0] = call.arguments[source][1];
    if (call.op.traits[0])
      call.results[lane][1] = inside;
  });
}

enum class Vote { All, Any, Uniform, Ballot };

template <Vote kind> static void vote(const WarpCall &call) {
  uint32_t ballot = 0;
  forEachLane(call.mask, [&](uint32_t lane) { ballot |= (call.arguments[lane][1] & 1) << lane; });
  uint32_t result = 0;
  switch (kind) {
  case Vote::All:
    result = ballot == call.mask;
    break;
  case Vote::Any:
    result = ballot != 0;
    break;
  case Vote::Uniform:
    result = ballot == call.mask || ballot == 0;
    break;
  case Vote::Ballot:
    result = ballot;
    break;
  }
  forEachLane(call.mask, [&](uint32_t lane) { call.results[lane][0] = result; });
}

template <bool wide> static uint64_t matchValue(const WarpCall &call, uint32_t lane) {
  uint64_t value = call.arguments[lane][1];
  return wide ? value | uint64_t(call.arguments[lane][2]) << 32 : value;
}

template <bool wide> static void matchAny(const WarpCall &call) {
  forEachLane(call.mask, [&](uint32_t lane) {
    uint32_t same = 0;
    forEachLane(call.mask, [&](uint32_t other) {
      same |= uint32_t(matchValue<wide>(call, other) == matchValue<wide>(call, lane)) << other;
    });
    call.results[lane][0] = same;
  });
}

template <bool wide> static void matchAll(const WarpCall &call) {
  uint64_t first = matchValue<wide>(call, llvm::countr_zero(call.mask));
  bool all = true;
  forEachLane(call.mask, [&](uint32_t lane) { all &= matchValue<wide>(call, lane) == first; });
  forEachLane(call.mask, [&](uint32_t lane) {
    call.results[lane][0] = all ? call.mask : 0;
    call.results[lane][1] = all;
  });
}

template <typename Combine> static void reduce(const WarpCall &call, Combine combine) {
  uint32_t result = call.arguments[llvm::countr_zero(call.mask)][0];
  forEachLane(call.mask & (call.mask - 1),
              [&](uint32_t lane) { result = combine(result, call.arguments[lane][0]); });
  forEachLane(call.mask, [&](uint32_t lane) { call.results[lane][0] = result; });
}

static void reduceAdd(const WarpCall &call) {
  reduce(call, [](uint32_t a, uint32_t b) { return a + b; });
}
static void reduceAnd(const WarpCall &call) {
  reduce(call, [](uint32_t a, uint32_t b) { return a & b; });
}
static void reduceOr(const WarpCall &call) {
  reduce(call, [](uint32_t a, uint32_t b) { return a | b; });
}
static void reduceXor(const WarpCall &call) {
  reduce(call, [](uint32_t a, uint32_t b) { return a ^ b; });
}
static void reduceMin(const WarpCall &call) {
  reduce(call, [](uint32_t a, uint32_t b) { return int32_t(a) < int32_t(b) ? a : b; });
}
static void reduceMax(const WarpCall &call) {
  reduce(call, [](uint32_t a, uint32_t b) { return int32_t(a) > int32_t(b) ? a : b; });
}
static void reduceUMin(const WarpCall &call) {
  reduce(call, [](uint32_t a, uint32_t b) { return std::min(a, b); });
}
static void reduceUMax(const WarpCall &call) {
  reduce(call, [](uint32_t a, uint32_t b) { return std::max(a, b); });
}

template <bool isMax, bool absolute, bool propagateNaN>
static void reduceFloat(const WarpCall &call) {
  reduce(call, [](uint32_t a, uint32_t b) {
    float x = llvm::bit_cast<float>(a), y = llvm::bit_cast<float>(b);
    if (absolute) {
      x = std::fabs(x);
      y = std::fabs(y);
    }
    if (propagateNaN && (std::isnan(x) || std::isnan(y)))
      return 0x7fffffffu;
    return llvm::bit_cast<uint32_t>(isMax ? std::fmax(x, y) : std::fmin(x, y));
  });
}

/// The hardware elects some lane of the mask, always the same one for the same mask; here the
/// lowest.
static void elect(const WarpCall &call) {
  uint32_t leader = llvm::countr_zero(call.mask);
  forEachLane(call.mask, [&](uint32_t lane) {
    call.results[lane][0] = leader;
    call.results[lane][1] = lane == leader;
  });
}

static void syncWarp(const WarpCall &call) {
  call.warp.block->synchronizeWarps(1u << call.warp.index);
}

static CollectiveOp masked(const char *name, CollectiveOp::Function function,
                           unsigned maskOperand = 0) {
  CollectiveOp op;
  op.name = name;
  op.function = function;
  op.maskOperand = maskOperand;
  return op;
}

llvm::ArrayRef<CollectiveOp> sparseflow::emulator::getWarpCollectiveOps() {
  static const std::vector<CollectiveOp> ops = [] {
    std::vector<CollectiveOp> ops;
    const std::pair<const char *, CollectiveOp::Function> shuffles[] = {
        {"up", shuffle<Shuffle::Up>},
        {"down", shuffle<Shuffle::Down>},
        {"bfly", shuffle<Shuffle::Butterfly>},
        {"idx", shuffle<Shuffle::Index>}};
    for (auto [mode, function] : shuffles)
      for (const char *type : {"i32", "f32", "i32p", "f32p"}) {
        std::string name = std::string("shfl.sync.") + mode + "." + type;
        CollectiveOp &op = ops.emplace_back(masked(name.c_str(), function));
        op.traits[0] = name.back() == 'p';
      }
    ops.push_back(masked("vote.all.sync", vote<Vote::All>));
    ops.push_back(masked("vote.any.sync", vote<Vote::Any>));
    ops.push_back(masked("vote.uni.sync", vote<Vote::Uniform>));
    ops.push_back(masked("vote.ballot.sync", vote<Vote::Ballot>));
    ops.push_back(masked("match.any.sync.i32", matchAny<false>));
    ops.push_back(masked("match.any.sync.i64", matchAny<true>));
    ops.push_back(masked("match.all.sync.i32p", matchAll<false>));
    ops.push_back(masked("match.all.sync.i64p", matchAll<true>));
    ops.push_back(masked("redux.sync.add", reduceAdd, 1));
    ops.push_back(masked("redux.sync.and", reduceAnd, 1));
    ops.push_back(masked("redux.sync.or", reduceOr, 1));
    ops.push_back(masked("redux.sync.xor", reduceXor, 1));
    ops.push_back(masked("redux.sync.min", reduceMin, 1));
    ops.push_back(masked("redux.sync.max", reduceMax, 1));
    ops.push_back(masked("redux.sync.umin", reduceUMin, 1));
    ops.push_back(masked("redux.sync.umax", reduceUMax, 1));
    ops.push_back(masked("redux.sync.fmin", reduceFloat<false, false, false>, 1));
    ops.push_back(masked("redux.sync.fmin.abs", reduceFloat<false, true, false>, 1));
    ops.push_back(masked("redux.sync.fmin.NaN", reduceFloat<false, false, true>, 1));
    ops.push_back(masked("redux.sync.fmin.abs.NaN", reduceFloat<false, true, true>, 1));
    ops.push_back(masked("redux.sync.fmax", reduceFloat<true, false, false>, 1));
    ops.push_back(masked("redux.sync.fmax.abs", reduceFloat<true, true, false>, 1));
    ops.push_back(masked("redux.sync.fmax.NaN", reduceFloat<true, false, true>, 1));
    ops.push_back(masked("redux.sync.fmax.abs.NaN", reduceFloat<true, true, true>, 1));
    ops.push_back(masked("elect.sync", elect));
    ops.push_back(masked("bar.warp.sync", syncWarp));
    return ops;
  }();
  return ops;
}
