//===- VerifySparsity.cpp - Pass 2: constants are what they claim -----------===//
//
// The only place that looks at a constant's elements to judge them. Constants are compressed here
// as well, since the check has just read every element.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"
#include "sparseflow/Support/Sparse24.h"

#include <cmath>

namespace sparseflow::sf {
#define GEN_PASS_DEF_SFVERIFYSPARSITYPASS
#include "sparseflow/Dialect/SF/Transforms/Passes.h.inc"
} // namespace sparseflow::sf

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

namespace {

/// "'w1' (64x128xf16)", for messages.
std::string describe(const ConstantData &data, RankedTensorType type) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  if (!data.getName().empty())
    stream << "'" << data.getName() << "' ";
  stream << "(" << type.getDimSize(0) << "x" << type.getDimSize(1) << "x" << type.getElementType()
         << ")";
  return text;
}

/// A weight's elements, or its kept values, must be finite.
LogicalResult verifyFinite(Operation *op, const ConstantData &data, RankedTensorType type) {
  DType dtype = *getDType(type.getElementType());
  if (!isFloat(dtype))
    return success();
  int64_t n = type.getDimSize(0), columns = type.getDimSize(1);
  if (WeightAttr weight = getWeightEncoding(type); weight && weight.isSparse())
    columns /= 2;
  for (int64_t i = 0, e = n * columns; i < e; ++i) {
    float value = loadAsFloat(dtype, data.getBytes().data(), i);
    if (!std::isfinite(value))
      return op->emitOpError() << "expected finite weights, got "
                               << (std::isnan(value) ? "NaN" : "infinity") << " in "
                               << describe(data, type) << " at row " << i / columns;
  }
  return success();
}

LogicalResult verifyCanonicalConstant(Operation *op, Value value) {
  auto type = cast<RankedTensorType>(value.getType());
  FailureOr<ConstantData> data = readConstant(value);
  if (failed(data) || failed(verifyFinite(op, *data, type)))
    return failure();
  int64_t n = type.getDimSize(0), k = type.getDimSize(1);
  size_t valuesBytes = canonicalValuesBytes(n, k, *getDType(type.getElementType()));
  const char *bitmask = data->getBytes().data() + valuesBytes;
  if (llvm::Error error = validateBitmask24(n, k, reinterpret_cast<const uint8_t *>(bitmask)))
    return op->emitOpError() << "expected a valid 2:4 bitmask in " << describe(*data, type) << ": "
                             << llvm::toString(std::move(error));
  return success();
}

LogicalResult verifyDenseConstant(Operation *op, Value value) {
  FailureOr<ConstantData> data = readConstant(value);
  if (failed(data))
    return failure();
  return verifyFinite(op, *data, cast<RankedTensorType>(value.getType()));
}

LogicalResult verifyScale(Operation *op, Value scale) {
  if (!isConstantTensor(scale))
    return success();
  FailureOr<ConstantData> data = readConstant(scale);
  if (failed(data))
    return failure();
  for (int64_t i = 0, e = data->getBytes().size() / sizeof(float); i < e; ++i) {
    float value = loadAsFloat(DType::f32, data->getBytes().data(), i);
    if (!(value > 0) || !std::isfinite(value))
      return op->emitOpError() << "expected positive, finite scales, got " << value << " at index "
                               << i << "; where all elements are zero, the scale is 1";
    // Beyond, the kernels' quotients and products leave f32.
    if (value < 0x1p-100f || value > 0x1p100f)
      return op->emitOpError() << "expected scales from 2^-100 to 2^100, got " << value
                               << " at index " << i << "; rescale the tensor";
  }
  return success();
}

/// Checks the constant operand of `op` and replaces `op` by the canonical constant.
LogicalResult compressConstant(CompressOp op) {
  auto type = cast<RankedTensorType>(op.getInput().getType());
  FailureOr<ConstantData> data = readConstant(op.getInput());
  if (failed(data))
    return failure();
  DType dtype = *getDType(type.getElementType());
  int64_t n = type.getDimSize(0), k = type.getDimSize(1);
  const void *dense = data->getBytes().data();

  llvm::Expected<Sparse24Report> report = inspect24(dtype, n, k, dense);
  if (!report)
    return op.emitOpError() << llvm::toString(report.takeError());
  if (report->nonFinite)
    return op.emitOpError() << "expected finite weights, got " << report->nonFinite
                            << " NaN or infinite elements in " << describe(*data, type)
                            << ", the first at row " << report->nonFiniteRow << ", column "
                            << report->nonFiniteColumn;
  bool prune = op.getMode() == sf::CompressMode::Prune;
  if (report->offendingGroups && !prune)
    return op.emitOpError() << "expected at most 2 non-zeros in each group of 4, got "
                            << report->offendingGroups << " groups with more in "
                            << describe(*data, type) << ", the first at row " << report->firstRow
                            << ", group " << report->firstGroup
                            << " (k = " << report->firstGroup * 4 << " to "
                            << report->firstGroup * 4 + 3 << ") with " << report->firstNonzeros
                            << "; prune the weight, or ask for it with {mode = \"prune\"}";

  OpBuilder builder(op);
  auto fill = [&](MutableArrayRef<char> bytes) -> LogicalResult {
    auto *bitmask = reinterpret_cast<uint8_t *>(bytes.data() + canonicalValuesBytes(n, k, dtype));
    auto mode = prune ? sparseflow::CompressMode::Prune : sparseflow::CompressMode::Verify;
    if (llvm::Error error = compress24(dtype, n, k, dense, mode, bytes.data(), bitmask))
      return op.emitOpError() << llvm::toString(std::move(error));
    return success();
  };
  FailureOr<arith::ConstantOp> constant =
      createConstant(builder, op.getLoc(), cast<RankedTensorType>(op.getType()),
                     deriveConstantName(data->getName(), "sp24"), fill);
  if (failed(constant))
    return failure();
  op.replaceAllUsesWith(constant->getResult());
  op.erase();
  return success();
}

struct SFVerifySparsityPass : sf::impl::SFVerifySparsityPassBase<SFVerifySparsityPass> {
  void runOnOperation() override {
    // Every offending layer is reported, not only the first.
    bool hasError = false;
    SmallVector<Operation *> dead;
    getOperation()->walk([&](Operation *op) {
      if (auto compress = dyn_cast<CompressOp>(op)) {
        if (!isConstantTensor(compress.getInput()))
          return;
        Operation *input = compress.getInput().getDefiningOp();
        hasError |= failed(compressConstant(compress));
        dead.push_back(input);
      } else if (auto constant = dyn_cast<arith::ConstantOp>(op)) {
        WeightAttr weight = getWeightEncoding(constant.getType());
        if (weight && weight.isCanonical())
          hasError |= failed(verifyCanonicalConstant(op, constant));
      } else if (auto matmul = dyn_cast<MatmulOp>(op)) {
        for (Value weight : matmul.getWeights())
          if (!matmul.getWeightEncoding() && isConstantTensor(weight))
            hasError |= failed(verifyDenseConstant(op, weight));
      } else if (auto quantize = dyn_cast<QuantizeOp>(op)) {
        hasError |= quantize.getScale() && failed(verifyScale(op, quantize.getScale()));
      } else if (auto dequantize = dyn_cast<DequantizeOp>(op)) {
        hasError |= failed(verifyScale(op, dequantize.getScale()));
      }
    });
    if (hasError)
      return signalPassFailure();
    llvm::SmallPtrSet<Operation *, 8> erased;
    for (Operation *constant : dead)
      if (erased.insert(constant).second && constant->use_empty())
        constant->erase();
  }
};

} // namespace
