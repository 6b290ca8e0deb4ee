//===- FunctionSteps.cpp - What a function of launches does ---------------===//

#include "FunctionSteps.h"

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Tuning.h"
#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::target;
namespace rt = sparseflow::runtime;

/// Adds the launches of one variant, from `position` on, which ends behind them.
static LogicalResult addVariant(StepSite &step, Block::iterator begin, Block::iterator end,
                                std::optional<int64_t> max, int64_t &position) {
  VariantSite &variant = step.variants.emplace_back();
  variant.max = max;
  for (Operation &op : llvm::make_range(begin, end)) {
    if (isa<arith::ConstantOp>(op))
      continue;
    if (!isa<sf_tile::LaunchOp, sf_tile::LibraryMatmulOp>(op))
      return op.emitOpError(
          "expected operations on tensors for which there is a kernel (of sf, and "
          "elementwise ones of linalg, arith and math), got one without; inline "
          "calls, and compute anything else outside of the function");
    variant.launches.push_back({&op, position++});
  }
  return success();
}

/// What was measured for each variant of a dispatch; nothing: nothing was.
static FailureOr<SmallVector<rt::MeasuredTimes>> getTimes(sf_tile::DispatchOp dispatch) {
  size_t count = dispatch.getVariants().size();
  SmallVector<rt::MeasuredTimes> times(count);
  Attribute attribute = dispatch->getAttr(sf::kTimesAttrName);
  if (!attribute)
    return times;
  auto list = dyn_cast<ArrayAttr>(attribute);
  if (!list || list.size() != count || !llvm::all_of(list, llvm::IsaPred<sf::TimesAttr>))
    return dispatch.emitOpError("expected sf.times to have one #sf.times for each of ")
           << count << " variants, got " << attribute;
  auto toNumber = [](FloatAttr time) {
    return time ? std::optional(time.getValueAsDouble()) : std::nullopt;
  };
  for (auto [time, measured] : llvm::zip_equal(list.getAsRange<sf::TimesAttr>(), times))
    measured = {toNumber(time.getSparse()), toNumber(time.getDense())};
  return times;
}

/// A step with a choice: one variant for each that the number of rows can still choose.
static LogicalResult addDispatch(FunctionSteps &steps, StepSite &step, sf_tile::DispatchOp dispatch,
                                 int64_t &position) {
  step.label = dispatch.getLabel().str();
  if (auto reason = dispatch->getAttrOfType<StringAttr>("sf.reason"))
    step.reason = reason.str();
  step.rows = dispatch.getRows();
  FailureOr<SmallVector<rt::MeasuredTimes>> times = getTimes(dispatch);
  if (failed(times))
    return failure();
  int64_t last = position;
  auto rowsType = cast<RankedTensorType>(step.rows.getType());
  for (auto [region, max, measured] :
       llvm::zip_equal(dispatch.getVariants(), dispatch.getMaxRows(), *times)) {
    // A number of rows that is known now needs no choice later.
    if (!rowsType.isDynamicDim(0) && max >= 0 && rowsType.getDimSize(0) > max)
      continue;
    bool isUnbounded = max < 0 || !rowsType.isDynamicDim(0);
    int64_t end = position;
    Block &block = region.front();
    if (failed(addVariant(step, block.begin(), std::prev(block.end()),
                          isUnbounded ? std::nullopt : std::optional<int64_t>(max), end)))
      return failure();
    step.variants.back().times = measured;
    if (auto reasons = dispatch->getAttrOfType<ArrayAttr>(sf::kReasonsAttrName))
      if (region.getRegionNumber() < reasons.size())
        if (auto reason = dyn_cast<StringAttr>(reasons[region.getRegionNumber()]))
          step.variants.back().reason = reason.str();
    for (auto [yielded, result] :
         llvm::zip(block.getTerminator()->getOperands(), dispatch.getResults())) {
      if (yielded.getParentBlock() != &block)
        return dispatch.emitOpError("expected every variant to compute its results");
      steps.alias[yielded] = result;
    }
    last = std::max(last, end);
    // A library may be missing, so another variant follows.
    if (isUnbounded && block.getOps<sf_tile::LibraryMatmulOp>().empty())
      break;
  }
  position = last;
  return success();
}

/// A single element is the same bytes in any shape.
static bool isReshapedScalar(Operation &op) {
  if (!isa<tensor::CollapseShapeOp, tensor::ExpandShapeOp>(op))
    return false;
  auto type = cast<RankedTensorType>(op.getResult(0).getType());
  return type.hasStaticShape() && type.getNumElements() == 1;
}

FailureOr<FunctionSteps> sparseflow::target::collectSteps(func::FuncOp function) {
  FunctionSteps result;
  int64_t position = 0;
  for (Operation &op : function.getBody().front().without_terminator()) {
    if (isa<arith::ConstantOp>(op))
      continue;
    if (isReshapedScalar(op)) {
      result.alias[op.getResult(0)] = op.getOperand(0);
      continue;
    }
    StepSite step;
    if (auto dispatch = dyn_cast<sf_tile::DispatchOp>(op)) {
      if (failed(addDispatch(result, step, dispatch, position)))
        return failure();
    } else {
      if (auto label = op.getAttrOfType<StringAttr>("label"))
        step.label = label.str();
      if (failed(addVariant(step, op.getIterator(), std::next(op.getIterator()), std::nullopt,
                            position)))
        return failure();
    }
    result.list.push_back(std::move(step));
  }
  return result;
}
