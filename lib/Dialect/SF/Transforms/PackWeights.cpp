//===- PackWeights.cpp - Pass 6: weights in the order of the kernels --------===//
//
// Packs constants at compile time. The packed order depends on the family of instructions alone, so
// a weight that several products share is packed once; and so is the dense form that a library
// reads, which only the weights of products that call one get.
//
//===----------------------------------------------------------------------===//

#include "DequantizeConstant.h"
#include "LibraryProduct.h"

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
  SmallVector<KernelConfigAttr> kernels = op.getKernelConfigs();
  return kernels.empty() ? PackOrder::Mma : kernels.front().getPackOrder();
}

RankedTensorType getPackedType(RankedTensorType type, PackOrder order) {
  WeightAttr weight = getWeightEncoding(type);
  Sparsity sparsity = weight ? weight.getSparsity() : Sparsity::Dense;
  return type.cloneWithEncoding(WeightAttr::get(type.getContext(), sparsity, getPack(order)));
}

/// A constant's bytes; of a canonical weight also where its bitmask begins.
struct WeightBytes {
  const char *values;
  const uint8_t *bitmask;
};

/// A constant of `type` with the same elements, right behind the one that it is made from.
FailureOr<Value>
convertConstant(Value weight, RankedTensorType type, StringRef form,
                function_ref<llvm::Error(WeightBytes source, char *target)> convert) {
  auto sourceType = cast<RankedTensorType>(weight.getType());
  FailureOr<ConstantData> data = readConstant(weight);
  if (failed(data))
    return failure();
  WeightBytes source{data->getBytes().data(), nullptr};
  if (getWeightEncoding(sourceType))
    source.bitmask = reinterpret_cast<const uint8_t *>(source.values) +
                     canonicalValuesBytes(sourceType.getDimSize(0), sourceType.getDimSize(1),
                                          *getDType(sourceType.getElementType()));
  auto fill = [&](MutableArrayRef<char> bytes) -> LogicalResult {
    if (llvm::Error error = convert(source, bytes.data()))
      return emitError(weight.getLoc()) << llvm::toString(std::move(error));
    return success();
  };
  OpBuilder builder(weight.getContext());
  builder.setInsertionPointAfterValue(weight);
  FailureOr<arith::ConstantOp> constant = createConstant(
      builder, weight.getLoc(), type, deriveConstantName(data->getName(), form), fill);
  if (failed(constant))
    return failure();
  return constant->getResult();
}

FailureOr<Value> packConstant(Value weight, PackOrder order) {
  auto type = cast<RankedTensorType>(weight.getType());
  DType dtype = *getDType(type.getElementType());
  int64_t n = type.getDimSize(0), k = type.getDimSize(1);
  auto pack = [&](WeightBytes source, char *target) -> llvm::Error {
    if (!source.bitmask)
      return packDenseWeight(order, dtype, n, k, source.values, target);
    char *metadata = target + packedValuesBytes(n, k, dtype, /*sparse=*/true);
    return packWeight(order, dtype, n, k, source.values, source.bitmask, target,
                      reinterpret_cast<uint32_t *>(metadata));
  };
  return convertConstant(weight, getPackedType(type, order), stringifyPack(getPack(order)), pack);
}

FailureOr<Value> decompressConstant(Value weight) {
  auto type = cast<RankedTensorType>(weight.getType());
  auto decompress = [&](WeightBytes source, char *target) {
    return decompress24(*getDType(type.getElementType()), type.getDimSize(0), type.getDimSize(1),
                        source.values, source.bitmask, target);
  };
  return convertConstant(weight, type.dropEncoding(), "dense", decompress);
}

/// The forms of a weight, each made when it is first asked for.
class WeightForms {
public:
  FailureOr<Value> getPacked(Value weight, PackOrder order) {
    Value &packed = packedWeights[{weight, unsigned(order)}];
    if (packed)
      return packed;
    if (!isKnownWeight(weight)) {
      OpBuilder builder(weight.getContext());
      builder.setInsertionPointAfterValue(weight);
      auto type = cast<RankedTensorType>(weight.getType());
      return packed = PackOp::create(builder, weight.getLoc(), getPackedType(type, order), weight);
    }
    FailureOr<Value> constant = getConstant(weight);
    if (succeeded(constant))
      constant = packConstant(*constant, order);
    if (succeeded(constant))
      packed = *constant;
    return constant;
  }

  /// Row by row, of a weight that is known.
  FailureOr<Value> getDense(Value weight) {
    Value &dense = denseWeights[weight];
    if (dense)
      return dense;
    FailureOr<Value> constant = getConstant(weight);
    if (succeeded(constant) && getWeightEncoding(weight.getType()))
      constant = decompressConstant(*constant);
    if (succeeded(constant))
      dense = *constant;
    return constant;
  }

private:
  /// A weight that is known, as a constant.
  FailureOr<Value> getConstant(Value weight) {
    auto dequantize = weight.getDefiningOp<DequantizeOp>();
    if (!dequantize)
      return weight;
    Value &constant = dequantizedWeights[weight];
    if (constant)
      return constant;
    FailureOr<Value> folded = foldDequantize(dequantize);
    if (succeeded(folded))
      constant = *folded;
    return folded;
  }

  DenseMap<std::pair<Value, unsigned>, Value> packedWeights;
  DenseMap<Value, Value> denseWeights, dequantizedWeights;
};

struct SFPackWeightsPass : sf::impl::SFPackWeightsPassBase<SFPackWeightsPass> {
  void runOnOperation() override {
    WeightForms forms;
    WalkResult result = getOperation()->walk([&](Operation *op) {
      LogicalResult done = success();
      if (auto matmul = dyn_cast<MatmulOp>(op))
        done = setWeights(matmul, forms);
      else if (auto pack = dyn_cast<PackOp>(op); pack && isConstantTensor(pack.getInput()))
        done = fold(pack, forms);
      return failed(done) ? WalkResult::interrupt() : WalkResult::advance();
    });
    if (result.wasInterrupted())
      return signalPassFailure();
    getOperation()->walk<WalkOrder::PostOrder, ReverseIterator>([](Operation *op) {
      if (isa<arith::ConstantOp, DequantizeOp>(op) && op->use_empty())
        op->erase();
    });
  }

private:
  static LogicalResult setWeights(MatmulOp op, WeightForms &forms) {
    if (std::optional<std::string> fault = op.callsLibrary() ? findLibraryFault(op) : std::nullopt)
      return op.emitOpError() << *fault << "; leave #sf.library_config out of configs";
    WeightAttr encoding = op.getWeightEncoding();
    if (encoding && encoding.isPacked())
      return success();
    SmallVector<Value> packed, dense;
    for (Value weight : op.getWeights()) {
      FailureOr<Value> form = forms.getPacked(weight, getPackOrder(op));
      if (failed(form))
        return failure();
      packed.push_back(*form);
      if (!op.callsLibrary())
        continue;
      form = forms.getDense(weight);
      if (failed(form))
        return failure();
      dense.push_back(*form);
    }
    op.getWeightsMutable().assign(packed);
    op.getLibraryWeightsMutable().assign(dense);
    return success();
  }

  static LogicalResult fold(PackOp op, WeightForms &forms) {
    PackOrder order = *getWeightEncoding(op.getResult().getType()).getPackOrder();
    FailureOr<Value> packed = forms.getPacked(op.getInput(), order);
    if (failed(packed))
      return failure();
    op.replaceAllUsesWith(*packed);
    op.erase();
    return success();
  }
};

} // namespace
