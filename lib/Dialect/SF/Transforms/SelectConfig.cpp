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

/// A configuration, and why it was chosen.
struct Choice {
  KernelConfigAttr config;
  std::string reason;
};

class Selector {
public:
  Selector(MatmulOp op, TargetAttr target, int64_t maxAccumulators, TunedConfigs &tuned)
      : op(op), target(target), maxAccumulators(maxAccumulators), tuned(tuned), shape(getShape(op)),
        candidates(getCandidates(op.getContext(), shape, target.getInfo(), maxAccumulators)) {}

  /// The fastest configuration as far as that was measured, else by the cost model; then
  /// `preferred` if it is not slower by more than `tolerance`. Null if none fits.
  Choice select(int64_t tokens, KernelConfigAttr preferred, double tolerance) const {
    int64_t bucket = getTokenBucket(tokens);
    if (std::optional<TunedConfig> found = tuned.find(op, target, bucket, maxAccumulators))
      return {found->config,
              llvm::formatv("tuned: {0:F1} us at {1} tokens", found->microseconds, bucket)};
    return {estimate(tokens, preferred, tolerance), "estimated by the cost model"};
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
    if (preferred) {
      std::optional<double> time = estimateMicroseconds(shape, tokens, preferred, chip);
      if (time && *time <= bestTime * (1 + tolerance))
        return preferred;
    }
    return best;
  }

  MatmulOp op;
  TargetAttr target;
  int64_t maxAccumulators;
  TunedConfigs &tuned;
  MatmulShape shape;
  SmallVector<KernelConfigAttr> candidates;
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
    ArrayRef<int64_t> buckets = getTokenBuckets();
    Choice last = selector.select(isDynamic ? buckets.back() : tokens, {}, tolerance);
    if (!last.config)
      return op.emitOpError() << "expected a tile that fits on " << targetAttr.getChip() << " for "
                              << op.getWeights().size() << " weights, got none; compute them in "
                              << "separate operations";
    // From many tokens to few, so that a range can share the variant of the next larger one.
    SmallVector<Attribute> configs = {last.config}, reasons = {builder.getStringAttr(last.reason)};
    if (isDynamic)
      for (int64_t end : llvm::reverse(buckets.drop_back())) {
        Choice selected = selector.select(end, last.config, tolerance);
        if (selected.config == last.config)
          continue;
        configs.push_back(selected.config.withMaxTokens(end));
        reasons.push_back(builder.getStringAttr(selected.reason));
        last = std::move(selected);
      }
    std::reverse(configs.begin(), configs.end());
    std::reverse(reasons.begin(), reasons.end());
    op.setConfigsAttr(builder.getArrayAttr(configs));
    if (explain)
      op->setAttr(kReasonsAttrName, builder.getArrayAttr(reasons));
    return success();
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
