//===- KernelSelector.cpp - Which kernel serves how many tokens -------------===//

#include "KernelSelector.h"

#include "LibraryProduct.h"

#include "sparseflow/Dialect/SF/Transforms/Tuning.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/Sequence.h"
#include "llvm/Support/FormatVariadic.h"

#include <cmath>
#include <utility>

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

/// What measuring again may give: by so much a library must have been faster than the kernel to be
/// called, and another kernel to take over from that of a neighbouring range.
static constexpr double kNoise = 0.02;

/// By how much an estimate has to beat that of a kernel that was measured to be the fastest nearby.
static constexpr double kModelError = 0.05;

static constexpr llvm::StringLiteral kEstimated = "estimated by the cost model";

KernelSelector::KernelSelector(MatmulOp op, TargetAttr target, int64_t maxAccumulators,
                               double minGain, TunedConfigs &tuned)
    : op(op), target(target), maxAccumulators(maxAccumulators), minGain(minGain),
      tunedConfigs(tuned), shape(getShape(op)),
      candidates(getCandidates(op.getContext(), shape, target.getInfo(), maxAccumulators)) {
  llvm::erase_if(candidates, [&](KernelConfigAttr config) { return isKnownSlow(op, config); });
}

SmallVector<Choice> KernelSelector::select(ArrayRef<int64_t> ends) {
  findTuned(ends);
  estimateTimes();
  takeKernels();
  // From many tokens to few, so that a range can share the kernel of the next larger one.
  SmallVector<Choice> choices;
  int64_t next = -1, bucket = 0;
  for (const Range &range : llvm::reverse(ranges)) {
    bool entersBucket = std::exchange(bucket, range.bucket) != range.bucket;
    if (range.tuned && range.tuned->config && entersBucket)
      next = indexOf(range.tuned->config);
    next = assign(range, next);
    choices.push_back(explain(range, next));
  }
  std::reverse(choices.begin(), choices.end());
  return choices;
}

void KernelSelector::findTuned(ArrayRef<int64_t> ends) {
  ranges.clear();
  for (int64_t end : ends) {
    Range &range = ranges.emplace_back();
    range.end = end;
    range.bucket = getTokenBucket(end);
    // Asked once for each bucket, since an entry that is wrong is a warning.
    if (const Range *before = ranges.size() > 1 ? &ranges.end()[-2] : nullptr;
        before && before->bucket == range.bucket)
      range.tuned = before->tuned;
    else
      range.tuned = tunedConfigs.find(op, target, range.bucket, maxAccumulators);
    if (!range.tuned)
      continue;
    if (std::optional<double> library = range.tuned->libraryMicroseconds)
      range.callsLibrary =
          *library * (1 + kNoise) < range.tuned->microseconds && !findLibraryFault(op);
    if (KernelConfigAttr config = range.tuned->config; config && indexOf(config) < 0)
      candidates.push_back(config);
  }
}

void KernelSelector::estimateTimes() {
  const ChipInfo &chip = target.getInfo();
  // Whether a configuration fits does not depend on the number of tokens.
  llvm::erase_if(candidates, [&](KernelConfigAttr config) {
    return !estimateMicroseconds(shape, ranges.front().end, config, chip);
  });
  auto estimate = [&](int64_t tokens, KernelConfigAttr config) {
    return *estimateMicroseconds(shape, tokens, config, chip);
  };
  // By how much the model is wrong about the candidates in a bucket: none was faster than what was
  // measured to be the fastest.
  SmallVector<double> corrections;
  int64_t bucket = 0;
  for (Range &range : ranges) {
    if (std::exchange(bucket, range.bucket) != range.bucket) {
      corrections.assign(candidates.size(), 1);
      if (KernelConfigAttr measured = range.tuned ? range.tuned->config : KernelConfigAttr())
        for (auto [config, correction] : llvm::zip_equal(candidates, corrections))
          correction = std::max(estimate(bucket, measured) / estimate(bucket, config), 1.0);
    }
    for (auto [config, correction] : llvm::zip_equal(candidates, corrections))
      range.times.push_back(correction * estimate(range.end, config));
    if (!range.times.empty())
      range.fastest = *llvm::max_element(range.times);
  }
}

int64_t KernelSelector::indexOf(KernelConfigAttr config) const {
  const auto *found = llvm::find(candidates, config);
  return found == candidates.end() ? -1 : found - candidates.begin();
}

void KernelSelector::take(int64_t candidate) {
  if (candidate < 0 || llvm::is_contained(kernels, candidate))
    return;
  kernels.push_back(candidate);
  for (Range &range : ranges)
    range.fastest = std::min(range.fastest, range.times[candidate]);
}

double KernelSelector::getGain(int64_t candidate) const {
  double gain = 0;
  for (const Range &range : ranges) {
    // A kernel behind a library is for where that is missing: any that is there will do.
    if (range.callsLibrary && !kernels.empty())
      continue;
    double needed = range.tuned ? kModelError : 0;
    gain += std::max(std::log(range.fastest / range.times[candidate]) - needed, 0.0);
  }
  return gain;
}

void KernelSelector::takeKernels() {
  kernels.clear();
  for (const Range &range : ranges)
    if (range.tuned && range.tuned->config)
      take(indexOf(range.tuned->config));
  // The kernel of one number of tokens stands beside no other.
  double enough = ranges.size() > 1 ? std::max(minGain, 0.0) : 0;
  while (kernels.size() < candidates.size()) {
    SmallVector<double> gains = llvm::map_to_vector(llvm::seq<int64_t>(0, candidates.size()),
                                                    [&](int64_t i) { return getGain(i); });
    const double *most = llvm::max_element(gains);
    // One that was taken gains nothing more.
    if (!(*most > enough) && !kernels.empty())
      break;
    take(most - gains.begin());
  }
}

/// `next` is the kernel of the next larger range, or what was measured for this one; it stays where
/// no other is faster beyond noise, and against a measurement beyond what estimates are good for.
int64_t KernelSelector::assign(const Range &range, int64_t next) const {
  if (range.isMeasured())
    return indexOf(range.tuned->config);
  if (kernels.empty())
    return -1;
  double allowed = range.tuned ? kModelError : kNoise;
  if (next >= 0 && range.times[next] <= range.fastest * (1 + allowed))
    return next;
  return *llvm::min_element(kernels,
                            [&](int64_t a, int64_t b) { return range.times[a] < range.times[b]; });
}

Choice KernelSelector::explain(const Range &range, int64_t kernel) const {
  Choice choice;
  choice.config = kernel < 0 ? KernelConfigAttr() : candidates[kernel];
  choice.callsLibrary = range.callsLibrary;
  bool followsTuned = range.tuned && (range.callsLibrary || !range.tuned->config ||
                                      choice.config == range.tuned->config);
  if (!followsTuned) {
    choice.reason = kEstimated.str();
    if (range.tuned)
      choice.reason +=
          llvm::formatv(" to be faster here than what was tuned at {0} tokens", range.bucket);
    choice.times = TimesAttr::get(target.getContext(), nullptr, nullptr);
    return choice;
  }
  Builder builder(target.getContext());
  std::optional<double> library = range.tuned->libraryMicroseconds;
  choice.reason = llvm::formatv("tuned: {0:F1} us", range.tuned->microseconds);
  if (library)
    choice.reason += llvm::formatv(", cuBLASLt {0:F1} us", *library);
  choice.reason += llvm::formatv(" at {0} tokens", range.bucket);
  choice.times =
      TimesAttr::get(target.getContext(), builder.getF64FloatAttr(range.tuned->microseconds),
                     library ? builder.getF64FloatAttr(*library) : FloatAttr());
  return choice;
}
