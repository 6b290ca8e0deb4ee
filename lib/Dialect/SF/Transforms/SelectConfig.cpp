//===- SelectConfig.cpp - Pass 5: a kernel configuration for every product --===//
//
// Turns the cost model's ranking into a short list of variants, each for a range of token counts.
//
//===----------------------------------------------------------------------===//

#include "CostModel.h"
#include "LibraryProduct.h"
#include "WidenFloat8.h"

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"

#include "llvm/ADT/STLExtras.h"

namespace sparseflow::sf {
#define GEN_PASS_DEF_SFSELECTCONFIGPASS
#include "sparseflow/Dialect/SF/Transforms/Passes.h.inc"
} // namespace sparseflow::sf

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

namespace {

/// Upper ends of the ranges that are told apart when the number of tokens is dynamic: generation,
/// small batches, prompts.
constexpr int64_t kRangeEnds[] = {16, 32, 64, 128, 256, 512, 1024};
/// Stands for all larger numbers: enough for many waves.
constexpr int64_t kManyTokens = 4096;

class Selector {
public:
  Selector(const MatmulShape &shape, const ChipInfo &chip, int64_t maxAccumulators,
           MLIRContext *context)
      : shape(shape), chip(chip), candidates(getCandidates(context, shape, chip, maxAccumulators)) {
  }

  /// The fastest configuration, or `preferred` if it is not slower by more than `tolerance`. Null
  /// if none fits.
  KernelConfigAttr select(int64_t tokens, KernelConfigAttr preferred, double tolerance) const {
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

private:
  MatmulShape shape;
  const ChipInfo &chip;
  SmallVector<KernelConfigAttr> candidates;
};

/// The product as the cost model sees it.
MatmulShape getShape(MatmulOp op) {
  MatmulShape shape;
  shape.features = op.getNumFeatures();
  shape.inner = op.getInnerSize();
  shape.elementBits = op.getXType().getElementTypeBitWidth();
  shape.numWeights = op.getWeights().size();
  shape.isSparse = op.hasSparseWeights();
  if (WeightAttr encoding = op.getWeightEncoding())
    shape.packOrder = encoding.getPackOrder();
  shape.edgeBits = op.getResultType().getElementTypeBitWidth();
  for (auto [i, operand] : llvm::enumerate(op.getEpilogueOperands()))
    if (op.getEpilogueBroadcast(i) == Broadcast::Full)
      shape.edgeBits += getElementTypeOrSelf(operand.getType()).getIntOrFloatBitWidth();
  return shape;
}

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

    Float8Widener widener;
    WalkResult result = getOperation()->walk([&](MatmulOp op) {
      return failed(legalize(op, targetAttr, widener)) || failed(select(op, targetAttr, kernel)) ||
                     (library && failed(preferLibrary(op, library)))
                 ? WalkResult::interrupt()
                 : WalkResult::advance();
    });
    if (result.wasInterrupted())
      signalPassFailure();
  }

private:
  LogicalResult parseConfig(VariantConfig &forced) {
    // The text comes from a command line; the parser's own diagnostic points into it.
    forced = parseVariantConfig(&getContext(), config);
    if (!forced)
      return emitError(getOperation()->getLoc())
             << "expected a kernel configuration such as 'tile = 256x128x64, warps = 4x2, atom = "
                "mma_sp', or 'cublaslt', got '"
             << config << "'";
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

  LogicalResult select(MatmulOp op, TargetAttr targetAttr, KernelConfigAttr forced) {
    Builder builder(op.getContext());
    if (forced) {
      if (forced.isWarpSpecialized() && !usesWarpgroups(getShape(op), targetAttr.getInfo()))
        return op.emitOpError() << "expected sm_90a and rows of x of a multiple of 16 bytes for "
                                << stringifyAtom(forced.getAtom()) << ", got "
                                << targetAttr.getChip() << " and " << op.getXType()
                                << "; use mma_sp, or mma for dense weights";
      // A bounded configuration alone would leave calls with more tokens without a kernel.
      op.setConfigsAttr(builder.getArrayAttr(forced.withMaxTokens(std::nullopt)));
      return op.verify();
    }
    if (op.getConfigs())
      return success();

    MatmulShape shape = getShape(op);
    Selector selector(shape, targetAttr.getInfo(), maxAccumulators, op.getContext());

    int64_t tokens = op.getXType().getDimSize(0);
    bool isDynamic = ShapedType::isDynamic(tokens);
    KernelConfigAttr last = selector.select(isDynamic ? kManyTokens : tokens, {}, tolerance);
    if (!last)
      return op.emitOpError() << "expected a tile that fits on " << targetAttr.getChip() << " for "
                              << shape.numWeights << " weights, got none; compute them in separate "
                              << "operations";
    // From many tokens to few, so that a range can share the variant of the next larger one.
    SmallVector<Attribute> configs = {last};
    if (isDynamic)
      for (int64_t end : llvm::reverse(kRangeEnds)) {
        KernelConfigAttr selected = selector.select(end, last, tolerance);
        if (selected == last)
          continue;
        configs.push_back(selected.withMaxTokens(end));
        last = selected;
      }
    std::reverse(configs.begin(), configs.end());
    op.setConfigsAttr(builder.getArrayAttr(configs));
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
    SmallVector<Attribute> configs = {library};
    for (KernelConfigAttr kernel : op.getKernelConfigs())
      if (endOf(kernel) >= endOf(library))
        configs.push_back(kernel);
    op.setConfigsAttr(ArrayAttr::get(op.getContext(), configs));
    return success();
  }
};

} // namespace
