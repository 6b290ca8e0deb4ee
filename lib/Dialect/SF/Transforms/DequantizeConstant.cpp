//===- DequantizeConstant.cpp - Dequantized constant weights ----------------===//
//
// Of a canonical weight only the kept values change; its bitmask is copied.
//
//===----------------------------------------------------------------------===//

#include "DequantizeConstant.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

bool sf::isConstantDequantize(DequantizeOp op) {
  ScaleGranularity granularity = op.getGranularity();
  bool isByRow = granularity == ScaleGranularity::Tensor || granularity == ScaleGranularity::Token;
  return isByRow && isConstantTensor(op.getInput()) && isConstantTensor(op.getScale());
}

bool sf::isKnownWeight(Value weight) {
  auto dequantize = weight.getDefiningOp<DequantizeOp>();
  return dequantize ? isConstantDequantize(dequantize) : isConstantTensor(weight);
}

FailureOr<Value> sf::foldDequantize(DequantizeOp op) {
  FailureOr<ConstantData> q = readConstant(op.getInput()), scale = readConstant(op.getScale());
  if (failed(q) || failed(scale))
    return failure();
  auto inputType = cast<RankedTensorType>(op.getInput().getType());
  auto type = cast<RankedTensorType>(op.getType());
  DType from = *getDType(inputType.getElementType()), to = *getDType(type.getElementType());
  bool isSparse = getWeightEncoding(type) != nullptr;
  int64_t rows = type.getDimSize(0), columns = type.getDimSize(1) / (isSparse ? 2 : 1);
  const char *source = q->getBytes().data(), *scales = scale->getBytes().data();

  auto fill = [&](MutableArrayRef<char> bytes) {
    for (int64_t i = 0; i < rows * columns; ++i) {
      int64_t scaleIndex = op.getGranularity() == ScaleGranularity::Token ? i / columns : 0;
      float product = loadAsFloat(from, source, i) * loadAsFloat(DType::f32, scales, scaleIndex);
      storeFromFloat(to, bytes.data(), i, product);
    }
    llvm::copy(q->getBytes().drop_front(rows * columns * getByteWidth(from)),
               bytes.drop_front(rows * columns * getByteWidth(to)).begin());
    return success();
  };
  OpBuilder builder(op);
  std::string name = deriveConstantName(q->getName(), stringifyDType(to));
  FailureOr<arith::ConstantOp> constant =
      createConstant(builder, op.getLoc(), type, isSparse ? name + ".sp24" : name, fill);
  if (failed(constant))
    return failure();
  return constant->getResult();
}
