//===- PackWeights.cpp - Pass 6: weights in the order of the kernels --------===//
//
// Packs constants at compile time. A weight that several products share is packed once, since the
// packed order does not depend on who reads it.
//
//===----------------------------------------------------------------------===//

#include "DequantizeConstant.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"
#include "sparseflow/Support/PackedLayout.h"
#include "sparseflow/Support/Sparse24.h"

#include "mlir/IR/Iterators.h"

namespace sparseflow::sf {
#define GEN_PASS_DEF_SFPACKWEIGHTSPASS
#include "sparseflow/Dialect/SF/Transforms/Passes.h.inc"
} // namespace sparseflow::sf

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

namespace {

RankedTensorType getPackedType(RankedTensorType type) {
  WeightAttr weight = getWeightEncoding(type);
  Sparsity sparsity = weight ? weight.getSparsity() : Sparsity::Dense;
  return type.cloneWithEncoding(WeightAttr::get(type.getContext(), sparsity, Pack::Mma));
}

/// The packed constant, right behind the one that it is made from.
FailureOr<Value> packConstant(Value weight) {
  auto type = cast<RankedTensorType>(weight.getType());
  FailureOr<ConstantData> data = readConstant(weight);
  if (failed(data))
    return failure();
  DType dtype = *getDType(type.getElementType());
  int64_t n = type.getDimSize(0), k = type.getDimSize(1);
  bool isSparse = getWeightEncoding(type) != nullptr;
  const char *source = data->getBytes().data();

  auto pack = [&](char *target) -> llvm::Error {
    if (!isSparse)
      return packDenseWeight(dtype, n, k, source, target);
    const char *bitmask = source + canonicalValuesBytes(n, k, dtype);
    char *metadata = target + packedValuesBytes(n, k, dtype, /*sparse=*/true);
    return packWeight(dtype, n, k, source, reinterpret_cast<const uint8_t *>(bitmask), target,
                      reinterpret_cast<uint32_t *>(metadata));
  };
  auto fill = [&](MutableArrayRef<char> bytes) -> LogicalResult {
    if (llvm::Error error = pack(bytes.data()))
      return emitError(weight.getLoc()) << llvm::toString(std::move(error));
    return success();
  };
  OpBuilder builder(weight.getContext());
  builder.setInsertionPointAfterValue(weight);
  FailureOr<arith::ConstantOp> constant =
      createConstant(builder, weight.getLoc(), getPackedType(type),
                     deriveConstantName(data->getName(), "mma"), fill);
  if (failed(constant))
    return failure();
  return constant->getResult();
}

struct SFPackWeightsPass : sf::impl::SFPackWeightsPassBase<SFPackWeightsPass> {
  void runOnOperation() override {
    DenseMap<Value, Value> packedWeights;
    auto pack = [&](Value weight) -> FailureOr<Value> {
      Value &packed = packedWeights[weight];
      if (packed)
        return packed;
      auto dequantize = weight.getDefiningOp<DequantizeOp>();
      bool isDequantized = dequantize && isConstantDequantize(dequantize);
      if (isDequantized || isConstantTensor(weight)) {
        FailureOr<Value> source = isDequantized ? foldDequantize(dequantize) : weight;
        if (failed(source))
          return failure();
        FailureOr<Value> constant = packConstant(*source);
        if (failed(constant))
          return failure();
        return packed = *constant;
      }
      OpBuilder builder(weight.getContext());
      builder.setInsertionPointAfterValue(weight);
      auto type = cast<RankedTensorType>(weight.getType());
      return packed = PackOp::create(builder, weight.getLoc(), getPackedType(type), weight);
    };

    WalkResult result = getOperation()->walk([&](Operation *op) {
      if (auto matmul = dyn_cast<MatmulOp>(op)) {
        WeightAttr encoding = matmul.getWeightEncoding();
        if (encoding && encoding.isPacked())
          return WalkResult::advance();
        for (OpOperand &weight : matmul.getWeightsMutable()) {
          FailureOr<Value> packed = pack(weight.get());
          if (failed(packed))
            return WalkResult::interrupt();
          weight.set(*packed);
        }
      } else if (auto packOp = dyn_cast<PackOp>(op);
                 packOp && isConstantTensor(packOp.getInput())) {
        FailureOr<Value> packed = pack(packOp.getInput());
        if (failed(packed))
          return WalkResult::interrupt();
        packOp.replaceAllUsesWith(*packed);
        packOp.erase();
      }
      return WalkResult::advance();
    });
    if (result.wasInterrupted())
      return signalPassFailure();
    getOperation()->walk<WalkOrder::PostOrder, ReverseIterator>([](Operation *op) {
      if (isa<arith::ConstantOp, DequantizeOp>(op) && op->use_empty())
        op->erase();
    });
  }
};

} // namespace
