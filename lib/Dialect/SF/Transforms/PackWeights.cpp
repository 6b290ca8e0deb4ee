//===- PackWeights.cpp - Pass 6: weights in the order of the kernels --------===//
//
// Packs constants at compile time. The packed order depends on the family of instructions alone, so
// a weight that several products share is packed once.
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

Pack getPack(PackOrder order) { return order == PackOrder::Mma ? Pack::Mma : Pack::Wgmma; }

/// The order that the product's kernels read; `mma` as long as none are chosen.
PackOrder getPackOrder(MatmulOp op) {
  if (!op.getConfigs())
    return PackOrder::Mma;
  return op.getKernelConfigs().front().getPackOrder();
}

RankedTensorType getPackedType(RankedTensorType type, PackOrder order) {
  WeightAttr weight = getWeightEncoding(type);
  Sparsity sparsity = weight ? weight.getSparsity() : Sparsity::Dense;
  return type.cloneWithEncoding(WeightAttr::get(type.getContext(), sparsity, getPack(order)));
}

/// The packed constant, right behind the one that it is made from.
FailureOr<Value> packConstant(Value weight, PackOrder order) {
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
      return packDenseWeight(order, dtype, n, k, source, target);
    const char *bitmask = source + canonicalValuesBytes(n, k, dtype);
    char *metadata = target + packedValuesBytes(n, k, dtype, /*sparse=*/true);
    return packWeight(order, dtype, n, k, source, reinterpret_cast<const uint8_t *>(bitmask),
                      target, reinterpret_cast<uint32_t *>(metadata));
  };
  auto fill = [&](MutableArrayRef<char> bytes) -> LogicalResult {
    if (llvm::Error error = pack(bytes.data()))
      return emitError(weight.getLoc()) << llvm::toString(std::move(error));
    return success();
  };
  OpBuilder builder(weight.getContext());
  builder.setInsertionPointAfterValue(weight);
  FailureOr<arith::ConstantOp> constant =
      createConstant(builder, weight.getLoc(), getPackedType(type, order),
                     deriveConstantName(data->getName(), stringifyPack(getPack(order))), fill);
  if (failed(constant))
    return failure();
  return constant->getResult();
}

struct SFPackWeightsPass : sf::impl::SFPackWeightsPassBase<SFPackWeightsPass> {
  void runOnOperation() override {
    DenseMap<std::pair<Value, unsigned>, Value> packedWeights;
    auto pack = [&](Value weight, PackOrder order) -> FailureOr<Value> {
      Value &packed = packedWeights[{weight, unsigned(order)}];
      if (packed)
        return packed;
      auto dequantize = weight.getDefiningOp<DequantizeOp>();
      bool isDequantized = dequantize && isConstantDequantize(dequantize);
      if (isDequantized || isConstantTensor(weight)) {
        FailureOr<Value> source = isDequantized ? foldDequantize(dequantize) : weight;
        if (failed(source))
          return failure();
        FailureOr<Value> constant = packConstant(*source, order);
        if (failed(constant))
          return failure();
        return packed = *constant;
      }
      OpBuilder builder(weight.getContext());
      builder.setInsertionPointAfterValue(weight);
      auto type = cast<RankedTensorType>(weight.getType());
      return packed = PackOp::create(builder, weight.getLoc(), getPackedType(type, order), weight);
    };

    WalkResult result = getOperation()->walk([&](Operation *op) {
      if (auto matmul = dyn_cast<MatmulOp>(op)) {
        WeightAttr encoding = matmul.getWeightEncoding();
        if (encoding && encoding.isPacked())
          return WalkResult::advance();
        for (OpOperand &weight : matmul.getWeightsMutable()) {
          FailureOr<Value> packed = pack(weight.get(), getPackOrder(matmul));
          if (failed(packed))
            return WalkResult::interrupt();
          weight.set(*packed);
        }
      } else if (auto packOp = dyn_cast<PackOp>(op);
                 packOp && isConstantTensor(packOp.getInput())) {
        PackOrder order = *getWeightEncoding(packOp.getResult().getType()).getPackOrder();
        FailureOr<Value> packed = pack(packOp.getInput(), order);
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
