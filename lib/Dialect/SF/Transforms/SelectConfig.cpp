//===- SelectConfig.cpp - Pass 5: a kernel configuration for every product --===//
//
// The choices of KernelSelector.cpp as a list of variants, each for a range of token counts.
//
//===----------------------------------------------------------------------===//

#include "CostModel.h"
#include "KernelSelector.h"
#include "LibraryProduct.h"
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

/// Where ranges of token counts may end. Tiles of so many tokens and multiprocessors make waves,
/// which a few tokens more may overflow, so ends are close: eight to an octave. Beyond the last the
/// waves are many.
constexpr int64_t kFinestRange = 8, kRangesInOctave = 8, kLastEnd = 16384;

SmallVector<int64_t> getRangeEnds() {
  SmallVector<int64_t> ends;
  for (int64_t end = kFinestRange; end <= kLastEnd;
       end += std::max(kFinestRange, int64_t(llvm::bit_floor(uint64_t(end))) / kRangesInOctave))
    ends.push_back(end);
  return ends;
}

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

    int64_t tokens = op.getXType().getDimSize(0);
    bool isDynamic = ShapedType::isDynamic(tokens);
    SmallVector<int64_t> ends = isDynamic ? getRangeEnds() : SmallVector<int64_t>{tokens};
    SmallVector<Choice> choices =
        KernelSelector(op, targetAttr, maxAccumulators, minGain, tuned).select(ends);
    const Choice &last = choices.back();
    if (auto slow = op->getAttrOfType<ArrayAttr>(kSlowConfigsAttrName); slow && !last.config)
      return op.emitOpError() << "expected a configuration for " << targetAttr.getChip()
                              << " whose kernel neither spills registers nor has its wgmma "
                                 "instructions serialized, got none beside those that do, "
                              << slow << "; a shorter epilogue would fit";
    if (!last.config)
      return op.emitOpError() << "expected a tile that fits on " << targetAttr.getChip() << " for "
                              << op.getWeights().size() << " weights, got none; compute them in "
                              << "separate operations";
    // From many tokens to few. Neighbours that share a choice are one variant, where a report would
    // say the same of both; a library's calls have the kernel behind them where it is missing.
    Variants variants;
    variants.add(last.config, last);
    if (last.callsLibrary)
      variants.add(getLibraryConfig(std::nullopt), last);
    for (size_t i = choices.size() - 1; i-- > 0;) {
      const Choice &choice = choices[i], &larger = choices[i + 1];
      if (choice.callsLibrary) {
        if (!larger.callsLibrary)
          variants.add(getLibraryConfig(ends[i]), choice);
      } else if (larger.callsLibrary || choice.config != larger.config ||
                 (explain && choice.reason != larger.reason)) {
        variants.add(choice.config.withMaxTokens(ends[i]), choice);
      }
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
