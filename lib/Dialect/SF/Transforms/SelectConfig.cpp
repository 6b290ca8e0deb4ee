//===- SelectConfig.cpp - Pass 5: a kernel configuration for every product --===//
//
// Turns the cost model's ranking into a short list of variants, each for a range of token counts.
//
//===----------------------------------------------------------------------===//

#include "CostModel.h"
#include "LibraryProduct.h"
#include "TunedConfigs.h"
#include "WidenFloat8.h"

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"
#include "sparseflow/Dialect/SF/Transforms/Tuning.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"

namespace sparseflow::sf {
#define GEN_PASS_DEF_SFSELECTCONFIGPASS
#include "sparseflow/Dialect/SF/Transforms/Passes.h.inc"
} // namespace sparseflow::sf

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

namespace {

/// By how much a library must have been measured faster than the kernel to be called: what
/// measuring again may give.
constexpr double kNoise = 0.02;

/// A range of token counts that share a variant may end at the counts that are tuned, and at these
/// between them, where waves of tiles fill otherwise.
constexpr int64_t kEndsBetween[] = {96, 192, 384, 768, 1536, 2048, 3072};

constexpr llvm::StringLiteral kEstimated = "estimated by the cost model";

/// A kernel and whether a library goes before it, and why.
struct Choice {
  KernelConfigAttr config;
  bool callsLibrary = false;
  std::string reason;
  TimesAttr times;
};

class Selector {
public:
  Selector(MatmulOp op, TargetAttr target, int64_t maxAccumulators, TunedConfigs &tuned)
      : op(op), target(target), maxAccumulators(maxAccumulators), tuned(tuned), shape(getShape(op)),
        candidates(getCandidates(op.getContext(), shape, target.getInfo(), maxAccumulators)) {
    llvm::erase_if(candidates, [&](KernelConfigAttr config) { return isKnownSlow(op, config); });
  }

  /// What is the fastest as far as that was measured, else by the cost model; of kernels by the
  /// cost model `preferred`, if it is not slower by more than `tolerance`. No kernel if none fits.
  Choice select(int64_t tokens, KernelConfigAttr preferred, double tolerance) {
    int64_t bucket = getTokenBucket(tokens);
    Choice choice;
    Builder builder(op.getContext());
    auto toAttr = [&](double time) { return builder.getF64FloatAttr(time); };
    std::optional<TunedConfig> found = tuned.find(op, target, bucket, maxAccumulators);
    if (found && found->config)
      choice.config = found->config;
    else
      choice.config = estimate(tokens, preferred, tolerance);
    if (!found) {
      choice.reason = kEstimated.str();
      choice.times = TimesAttr::get(op.getContext(), nullptr, nullptr);
      return choice;
    }
    choice.reason = llvm::formatv("tuned: {0:F1} us", found->microseconds);
    if (std::optional<double> library = found->libraryMicroseconds) {
      choice.callsLibrary =
          *library * (1 + kNoise) < found->microseconds && !sf::findLibraryFault(op);
      choice.reason += llvm::formatv(", cuBLASLt {0:F1} us", *library);
    }
    choice.reason += llvm::formatv(" at {0} tokens", bucket);
    choice.times = TimesAttr::get(op.getContext(), toAttr(found->microseconds),
                                  found->libraryMicroseconds ? toAttr(*found->libraryMicroseconds)
                                                             : FloatAttr());
    return choice;
  }

  /// For calls of at most so many tokens, fewer than those that `larger` was chosen for: a kernel
  /// that the cost model finds faster by more than `tolerance`, else the same.
  Choice refine(int64_t tokens, const Choice &larger, double tolerance) {
    KernelConfigAttr config = estimate(tokens, larger.config, tolerance);
    if (larger.callsLibrary || config == larger.config)
      return larger;
    Choice choice;
    choice.config = config;
    choice.reason = kEstimated.str();
    choice.times = TimesAttr::get(op.getContext(), nullptr, nullptr);
    return choice;
  }

private:
  KernelConfigAttr estimate(int64_t tokens, KernelConfigAttr preferred, double tolerance) const {
    const ChipInfo &chip = target.getInfo();
    KernelConfigAttr best;
    double bestTime = 0;
    for (KernelConfigAttr candidate : candidates) {
      std::optional<double> time = estimateMicroseconds(shape, tokens, candidate, chip);
      if (time && (!best || *time < bestTime)) {
        best = candidate;
        bestTime = *time;
      }
    }
    // What was measured may be all that there is.
    if (!best || !preferred)
      return preferred ? preferred : best;
    std::optional<double> time = estimateMicroseconds(shape, tokens, preferred, chip);
    return time && *time <= bestTime * (1 + tolerance) ? preferred : best;
  }

  MatmulOp op;
  TargetAttr target;
  int64_t maxAccumulators;
  TunedConfigs &tuned;
  MatmulShape shape;
  SmallVector<KernelConfigAttr> candidates;
};

/// The variants of a product, gathered from many tokens to few.
struct Variants {
  SmallVector<Attribute> configs, reasons, times;

  void add(Attribute config, const Choice &choice) {
    configs.push_back(config);
    reasons.push_back(StringAttr::get(config.getContext(), choice.reason));
    times.push_back(choice.times);
  }

  void set(MatmulOp op, bool explain) {
    Builder builder(op.getContext());
    for (auto *list : {&configs, &reasons, &times})
      std::reverse(list->begin(), list->end());
    op.setConfigsAttr(builder.getArrayAttr(configs));
    if (!explain)
      return;
    op->setAttr(kReasonsAttrName, builder.getArrayAttr(reasons));
    op->setAttr(kTimesAttrName, builder.getArrayAttr(times));
  }
};

struct SFSelectConfigPass : sf::impl::SFSelectConfigPassBase<SFSelectConfigPass> {
  using SFSelectConfigPassBase::SFSelectConfigPassBase;

  void runOnOperation() override {
    TargetAttr targetAttr = getTarget(getOperation());
    if (!target.empty()) {
      targetAttr = TargetAttr::getChecked([&] { return emitError(getOperation()->getLoc()); },
                                          &getContext(), StringRef(target));
      if (!targetAttr)
        return signalPassFailure();
      // Later passes ask the module which chip its configurations were chosen for.
      getOperation()->setAttr("sf.target", targetAttr);
    }
    VariantConfig forced;
    if (!config.empty() && failed(parseConfig(forced)))
      return signalPassFailure();
    auto kernel = dyn_cast_or_null<KernelConfigAttr>(forced);
    auto library = dyn_cast_or_null<LibraryConfigAttr>(forced);

    TunedConfigs tuned(getOperation(), tuning, shippedTuning);
    Float8Widener widener;
    WalkResult result = getOperation()->walk([&](MatmulOp op) {
      return failed(legalize(op, targetAttr, widener)) ||
                     failed(select(op, targetAttr, kernel, tuned)) ||
                     (library && failed(preferLibrary(op, library)))
                 ? WalkResult::interrupt()
                 : WalkResult::advance();
    });
    if (result.wasInterrupted())
      signalPassFailure();
  }

private:
  LogicalResult parseConfig(VariantConfig &forced) {
    // The text comes from a command line, so what the parser says has no place in the module.
    std::string why;
    {
      ScopedDiagnosticHandler handler(&getContext(), [&](Diagnostic &diagnostic) {
        why += (why.empty() ? ": " : "; ") + diagnostic.str();
        return success();
      });
      forced = parseVariantConfig(&getContext(), config);
    }
    if (!forced)
      return emitError(getOperation()->getLoc())
             << "expected a kernel configuration such as 'tile = 256x128x64, warps = 4x2, atom = "
                "mma_sp', or 'cublaslt', got '"
             << config << "'" << why;
    return success();
  }

  /// Brings the product into types that the chip multiplies.
  LogicalResult legalize(MatmulOp op, TargetAttr targetAttr, Float8Widener &widener) {
    Type element = op.getXType().getElementType();
    if (!isa<Float8E4M3FNType, Float8E5M2Type>(element) || targetAttr.hasNativeFp8Mma() ||
        usesWarpgroups(getShape(op), targetAttr.getInfo()))
      return success();
    if (!targetAttr.supportsFp8Mma())
      return op.emitOpError() << "expected a chip with 8-bit floats (sm_89 or later) for "
                              << element << ", got " << targetAttr.getChip()
                              << "; quantize to i8, or compile for another target";
    return widener.widen(op);
  }

  /// A configuration that somebody wrote, in the IR or for all products.
  static LogicalResult checkAtom(MatmulOp op, TargetAttr targetAttr, KernelConfigAttr given) {
    if (!given.isWarpSpecialized() || usesWarpgroups(getShape(op), targetAttr.getInfo()))
      return success();
    return op.emitOpError() << "expected sm_90a and rows of x of a multiple of 16 bytes for "
                            << stringifyAtom(given.getAtom()) << ", got " << targetAttr.getChip()
                            << " and " << op.getXType() << "; use mma_sp, or mma for dense weights";
  }

  LogicalResult select(MatmulOp op, TargetAttr targetAttr, KernelConfigAttr forced,
                       TunedConfigs &tuned) {
    Builder builder(op.getContext());
    if (forced) {
      if (failed(checkAtom(op, targetAttr, forced)))
        return failure();
      // A bounded configuration alone would leave calls with more tokens without a kernel.
      op.setConfigsAttr(builder.getArrayAttr(forced.withMaxTokens(std::nullopt)));
      op->removeAttr(kTimesAttrName);
      return op.verify();
    }
    if (op.getConfigs()) {
      for (Attribute attr : op.getConfigsAttr())
        if (auto given = dyn_cast<KernelConfigAttr>(attr);
            given && failed(checkAtom(op, targetAttr, given)))
          return failure();
      return success();
    }

    Selector selector(op, targetAttr, maxAccumulators, tuned);
    int64_t tokens = op.getXType().getDimSize(0);
    bool isDynamic = ShapedType::isDynamic(tokens);
    ArrayRef<int64_t> tunedEnds = getTokenBuckets();
    SmallVector<int64_t> ends(tunedEnds);
    llvm::append_range(ends, kEndsBetween);
    llvm::sort(ends);
    Choice last = selector.select(isDynamic ? ends.back() : tokens, {}, tolerance);
    if (auto slow = op->getAttrOfType<ArrayAttr>(kSlowConfigsAttrName); slow && !last.config)
      return op.emitOpError() << "expected a configuration for " << targetAttr.getChip()
                              << " whose kernel neither spills registers nor has its wgmma "
                                 "instructions serialized, got none beside those that do, "
                              << slow << "; a shorter epilogue would fit";
    if (!last.config)
      return op.emitOpError() << "expected a tile that fits on " << targetAttr.getChip() << " for "
                              << op.getWeights().size() << " weights, got none; compute them in "
                              << "separate operations";
    // From many tokens to few, so that a range can share the variant of the next larger one, and a
    // library's calls have that one where the library is missing.
    Variants variants;
    variants.add(last.config, last);
    if (last.callsLibrary)
      variants.add(getLibraryConfig(std::nullopt), last);
    if (isDynamic)
      for (int64_t end : llvm::reverse(ArrayRef(ends).drop_back())) {
        Choice selected = llvm::is_contained(tunedEnds, end)
                              ? selector.select(end, last.config, tolerance)
                              : selector.refine(end, last, 2 * tolerance);
        if (selected.callsLibrary) {
          if (!last.callsLibrary)
            variants.add(getLibraryConfig(end), selected);
        } else if (last.callsLibrary || selected.config != last.config) {
          variants.add(selected.config.withMaxTokens(end), selected);
        }
        last = std::move(selected);
      }
    variants.set(op, explain);
    return success();
  }

  LibraryConfigAttr getLibraryConfig(std::optional<int64_t> maxTokens) {
    return LibraryConfigAttr::get(&getContext(), Library::CublasLt, maxTokens);
  }

  /// Puts the library before the kernels that serve its calls where it is missing; those that only
  /// serve fewer tokens go.
  LogicalResult preferLibrary(MatmulOp op, LibraryConfigAttr library) {
    if (std::optional<std::string> fault = findLibraryFault(op))
      return op.emitOpError() << *fault << "; without `" << config << "` kernels compute it";
    auto endOf = [](VariantConfig config) {
      return config.getMaxTokens().value_or(std::numeric_limits<int64_t>::max());
    };
    auto known = op->getAttrOfType<ArrayAttr>(kReasonsAttrName);
    Builder builder(op.getContext());
    SmallVector<Attribute> configs = {library}, reasons = {builder.getStringAttr("asked for")};
    for (auto [i, config] : llvm::enumerate(op.getConfigsAttr())) {
      auto kernel = dyn_cast<KernelConfigAttr>(config);
      if (!kernel || endOf(kernel) < endOf(library))
        continue;
      configs.push_back(kernel);
      reasons.push_back(known && i < known.size() ? known[i] : builder.getStringAttr(""));
    }
    op.setConfigsAttr(builder.getArrayAttr(configs));
    op->removeAttr(kTimesAttrName);
    if (explain)
      op->setAttr(kReasonsAttrName, builder.getArrayAttr(reasons));
    return success();
  }
};

} // namespace
