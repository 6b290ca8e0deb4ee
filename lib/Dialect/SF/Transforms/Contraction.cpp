//===- Contraction.cpp - Products written in linalg -------------------------===//
//
// linalg.matmul, linalg.contract and a linalg.generic of the same meaning are read alike, through
// their indexing maps.
//
//===----------------------------------------------------------------------===//

#include "Contraction.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/IR/SFScalar.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

/// Operand types of the tensor cores with the results that they accumulate into.
static bool isSupported(Type lhs, Type rhs, Type result) {
  if (lhs != rhs)
    return false;
  if (lhs.isSignlessInteger(8))
    return result.isSignlessInteger(32);
  return isa<Float16Type, BFloat16Type, Float8E4M3FNType, Float8E5M2Type>(lhs) &&
         isa<Float16Type, BFloat16Type, Float32Type>(result);
}

FailureOr<Contraction> sf::matchContraction(linalg::LinalgOp op, std::string &reason) {
  auto fail = [&](const Twine &text) {
    reason = text.str();
    return failure();
  };
  if (!op.hasPureTensorSemantics() || op.getNumDpsInputs() != 2 || op.getNumDpsInits() != 1 ||
      !linalg::isaContractionOpInterface(op))
    return fail("it is no product of two tensors");
  FailureOr<linalg::ContractionDimensions> dims = linalg::inferContractionDims(op);
  if (failed(dims) || !dims->batch.empty() || op.getNumLoops() != 3)
    return fail("it is no product of two matrices");
  if (!op.getBlock()->getOps<arith::ExtUIOp>().empty())
    return fail("it takes its operands as unsigned integers");

  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  if (llvm::any_of(maps, [](AffineMap map) {
        return map.getNumResults() != 2 || !map.isProjectedPermutation();
      }))
    return fail("its operands are not plain matrices");
  unsigned rowLoop = maps[2].getDimPosition(0), columnLoop = maps[2].getDimPosition(1);
  auto read = [&](unsigned operand) -> std::pair<unsigned, Contraction::Operand> {
    unsigned first = maps[operand].getDimPosition(0), second = maps[operand].getDimPosition(1);
    bool isTransposed = first == dims->k[0];
    return {isTransposed ? second : first, {op.getDpsInputOperand(operand)->get(), isTransposed}};
  };

  Contraction contraction;
  for (unsigned operand : {0, 1}) {
    auto [loop, value] = read(operand);
    if (loop == rowLoop)
      contraction.rows = value;
    else if (loop == columnLoop)
      contraction.columns = value;
  }
  contraction.init = op.getDpsInitOperand(0)->get();
  contraction.resultType = cast<RankedTensorType>(op->getResult(0).getType());
  Type lhs = contraction.rows.getType().getElementType();
  Type rhs = contraction.columns.getType().getElementType();
  Type result = contraction.resultType.getElementType();
  if (!isSupported(lhs, rhs, result)) {
    llvm::raw_string_ostream(reason)
        << "no tensor-core product takes " << lhs << " and " << rhs << " to " << result;
    return failure();
  }
  return contraction;
}

bool sf::isZeroTensor(Value value) {
  if (auto fill = value.getDefiningOp<linalg::FillOp>())
    return matchPattern(fill.getInputs()[0], m_AnyZeroFloat()) ||
           matchPattern(fill.getInputs()[0], m_Zero());
  return matchPattern(value, m_AnyZeroFloat()) || matchPattern(value, m_Zero());
}

static FailureOr<Value> transposeConstant(OpBuilder &builder, Value matrix) {
  FailureOr<ConstantData> data = readConstant(matrix);
  if (failed(data))
    return failure();
  auto type = cast<RankedTensorType>(matrix.getType());
  int64_t rows = type.getDimSize(0), columns = type.getDimSize(1);
  auto resultType = RankedTensorType::get({columns, rows}, type.getElementType());
  size_t width = getByteWidth(*getDType(type.getElementType()));
  auto fill = [&](MutableArrayRef<char> bytes) {
    const char *source = data->getBytes().data();
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c, source += width)
        std::copy_n(source, width, bytes.data() + (c * rows + r) * width);
    return success();
  };
  FailureOr<arith::ConstantOp> constant =
      createConstant(builder, matrix.getLoc(), resultType,
                     deriveConstantName(data->getName(), "transposed"), fill);
  if (failed(constant))
    return failure();
  return constant->getResult();
}

FailureOr<Value> sf::createTranspose(OpBuilder &builder, Location loc, Value matrix) {
  constexpr int64_t swap[] = {1, 0};
  if (auto transpose = matrix.getDefiningOp<linalg::TransposeOp>())
    if (transpose.getPermutation() == ArrayRef(swap))
      return transpose.getInput();
  auto type = cast<RankedTensorType>(matrix.getType());
  if (isConstantTensor(matrix) && getDType(type.getElementType()))
    return transposeConstant(builder, matrix);
  SmallVector<OpFoldResult> sizes = tensor::getMixedSizes(builder, loc, matrix);
  std::swap(sizes[0], sizes[1]);
  Value init = tensor::EmptyOp::create(builder, loc, sizes, type.getElementType());
  return linalg::TransposeOp::create(builder, loc, matrix, init, swap)->getResult(0);
}

Value sf::createMatmul(OpBuilder &builder, Location loc, Value x, Value weight, Value init) {
  // The weight of a product is used as it is stored, also when somebody reads it densely.
  if (auto decompress = weight.getDefiningOp<DecompressOp>())
    weight = decompress.getInput();
  auto initType = cast<RankedTensorType>(init.getType());
  Type element = initType.getElementType();
  int64_t m = cast<RankedTensorType>(x.getType()).getDimSize(0);
  int64_t n = cast<RankedTensorType>(weight.getType()).getDimSize(0);
  auto resultType = RankedTensorType::get({m, n}, element);
  Value operand = init;
  auto cast = [&](Value value, Type type) -> Value {
    return value.getType() == type ? value : tensor::CastOp::create(builder, loc, type, value);
  };
  if (isZeroTensor(init))
    return cast(MatmulOp::create(builder, loc, resultType, x, weight), initType);

  auto matmul =
      MatmulOp::create(builder, loc, resultType, x, weight, /*libraryWeights=*/ValueRange(),
                       /*epilogueOperands=*/cast(operand, resultType), /*configs=*/ArrayAttr());
  Type accumulator = matmul.getAccumulatorType();
  OpBuilder::InsertionGuard guard(builder);
  Block *block = builder.createBlock(&matmul.getEpilogue(), {}, {accumulator, element}, {loc, loc});
  Value acc = block->getArgument(0);
  Value addend = emitCast(builder, loc, block->getArgument(1), accumulator);
  Value sum = accumulator.isInteger() ? arith::AddIOp::create(builder, loc, acc, addend).getResult()
                                      : arith::AddFOp::create(builder, loc, acc, addend);
  YieldOp::create(builder, loc, emitCast(builder, loc, sum, element));
  builder.setInsertionPointAfter(matmul);
  return cast(matmul, initType);
}
