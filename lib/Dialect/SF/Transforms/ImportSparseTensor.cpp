//===- ImportSparseTensor.cpp - Pass 1: from other front ends to sf ---------===//
//
// Runs in two steps. First every value of an upstream 2:4 type is given its #sf.weight type in
// place, and every user is adjusted or rejected: the encoding says which dimension is pruned, and a
// [K,N] tensor becomes [N,K], so this cannot be left to later patterns. Then products are
// rewritten, dense ones too.
//
//===----------------------------------------------------------------------===//

#include "Contraction.h"

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/SparseTensor/IR/SparseTensor.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Iterators.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"

namespace sparseflow::sf {
#define GEN_PASS_DEF_SFIMPORTSPARSETENSORPASS
#include "sparseflow/Dialect/SF/Transforms/Passes.h.inc"
} // namespace sparseflow::sf

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

namespace {

sparse_tensor::SparseTensorEncodingAttr getUpstreamEncoding(Type type) {
  return sparse_tensor::getSparseTensorEncoding(type);
}

/// The dimension along which the encoding is 2:4; nothing if it is not of that form.
std::optional<unsigned> getPrunedDim(sparse_tensor::SparseTensorEncodingAttr encoding) {
  if (encoding.getDimRank() != 2 || encoding.getLvlRank() != 3 || encoding.isSlice())
    return std::nullopt;
  sparse_tensor::LevelType last = encoding.getLvlType(2);
  if (!encoding.isDenseLvl(0) || !encoding.isDenseLvl(1) || !sparse_tensor::isNOutOfMLT(last) ||
      sparse_tensor::getN(last) != 2 || sparse_tensor::getM(last) != 4)
    return std::nullopt;
  MLIRContext *context = encoding.getContext();
  for (unsigned pruned : {1, 0}) {
    AffineExpr kept = getAffineDimExpr(1 - pruned, context), k = getAffineDimExpr(pruned, context);
    if (encoding.getDimToLvl() == AffineMap::get(2, 0, {kept, k.floorDiv(4), k % 4}, context))
      return pruned;
  }
  return std::nullopt;
}

/// The first step: values, users and signatures.
class Importer {
public:
  explicit Importer(ModuleOp module) : module(module), rewriter(module.getContext()) {}

  LogicalResult run();

private:
  /// The #sf.weight type for an upstream 2:4 type; the type itself if it has no upstream encoding.
  FailureOr<Type> convert(Location loc, Type type, bool &isTransposed);
  LogicalResult convert(Value value);
  LogicalResult convertSignature(func::FuncOp function);
  LogicalResult convertProducer(Operation *op);
  LogicalResult convertUser(Operation *op);

  ModuleOp module;
  IRRewriter rewriter;
  /// Converted values; true where [K,N] became [N,K].
  llvm::MapVector<Value, bool> converted;
};

FailureOr<Type> Importer::convert(Location loc, Type type, bool &isTransposed) {
  isTransposed = false;
  sparse_tensor::SparseTensorEncodingAttr encoding = getUpstreamEncoding(type);
  if (!encoding)
    return type;
  std::optional<unsigned> pruned = getPrunedDim(encoding);
  if (!pruned)
    return emitError(loc)
           << "expected a tensor that is 2:4 along one of two dimensions, such as "
              "(i, j) -> (i : dense, j floordiv 4 : dense, j mod 4 : structured[2, 4]), got "
           << type;
  auto tensor = cast<RankedTensorType>(type);
  isTransposed = *pruned == 0;
  SmallVector<int64_t> shape = llvm::to_vector(tensor.getShape());
  if (isTransposed)
    std::swap(shape[0], shape[1]);
  auto weight = WeightAttr::get(type.getContext(), Sparsity::Sp24, Pack::None);
  auto result = RankedTensorType::getChecked([&] { return emitError(loc); }, shape,
                                             tensor.getElementType(), weight);
  if (!result)
    return failure();
  return Type(result);
}

LogicalResult Importer::convert(Value value) {
  bool isTransposed;
  FailureOr<Type> type = convert(value.getLoc(), value.getType(), isTransposed);
  if (failed(type))
    return failure();
  if (*type != value.getType()) {
    value.setType(*type);
    converted[value] = isTransposed;
  }
  return success();
}

LogicalResult Importer::convertSignature(func::FuncOp function) {
  bool isTransposed;
  auto convertAll = [&](ArrayRef<Type> types, SmallVectorImpl<Type> &results) -> LogicalResult {
    for (Type type : types) {
      FailureOr<Type> result = convert(function.getLoc(), type, isTransposed);
      if (failed(result))
        return failure();
      results.push_back(*result);
    }
    return success();
  };
  SmallVector<Type> inputs, results;
  FunctionType type = function.getFunctionType();
  if (failed(convertAll(type.getInputs(), inputs)) ||
      failed(convertAll(type.getResults(), results)))
    return failure();
  function.setFunctionType(FunctionType::get(module.getContext(), inputs, results));
  for (BlockArgument argument : function.getArguments())
    if (failed(convert(argument)))
      return failure();
  return success();
}

LogicalResult Importer::convertProducer(Operation *op) {
  if (llvm::none_of(op->getResultTypes(), getUpstreamEncoding))
    return success();
  rewriter.setInsertionPoint(op);
  if (isa<func::CallOp>(op)) {
    for (Value result : op->getResults())
      if (failed(convert(result)))
        return failure();
    return success();
  }

  // A constant is dense in fact, whatever its type says; it becomes a dense constant to be
  // compressed.
  Value dense;
  auto constant = dyn_cast<arith::ConstantOp>(op);
  auto conversion = dyn_cast<sparse_tensor::ConvertOp>(op);
  if (constant && isa<DenseElementsAttr>(constant.getValue())) {
    auto elements = cast<DenseElementsAttr>(constant.getValue());
    auto type = RankedTensorType::get(elements.getType().getShape(), elements.getElementType());
    dense = arith::ConstantOp::create(rewriter, op->getLoc(), elements.reshape(type));
  } else if (conversion) {
    dense = conversion.getSource();
    // A conversion between equal encodings: the source is converted by now.
    if (WeightAttr weight = getWeightEncoding(dense.getType())) {
      Value result = op->getResult(0);
      if (failed(convert(result)))
        return failure();
      if (converted.lookup(result) != converted.lookup(dense))
        return op->emitOpError("expected source and result to be 2:4 along the same dimension");
      converted.erase(result);
      rewriter.replaceOp(op, dense);
      return success();
    }
  } else {
    return op->emitOpError()
           << "expected 2:4 tensors to be function arguments, constants or results of "
              "sparse_tensor.convert, got "
           << op->getResult(0).getType();
  }

  bool isTransposed;
  FailureOr<Type> type = convert(op->getLoc(), op->getResult(0).getType(), isTransposed);
  if (failed(type))
    return failure();
  if (isTransposed) {
    FailureOr<Value> transposed = createTranspose(rewriter, op->getLoc(), dense);
    if (failed(transposed))
      return failure();
    dense = *transposed;
  }
  Value weight = CompressOp::create(rewriter, op->getLoc(), *type, dense, sf::CompressMode::Verify);
  converted[weight] = isTransposed;
  rewriter.replaceOp(op, weight);
  return success();
}

LogicalResult Importer::convertUser(Operation *op) {
  rewriter.setInsertionPoint(op);
  auto linalgOp = dyn_cast<linalg::LinalgOp>(op);
  if (linalgOp && !isa<linalg::TransposeOp>(op)) {
    // Wherever it was [K,N] it is [N,K] now.
    SmallVector<AffineMap> maps = linalgOp.getIndexingMapsArray();
    for (OpOperand &operand : op->getOpOperands())
      if (converted.lookup(operand.get())) {
        AffineMap &map = maps[operand.getOperandNumber()];
        map = AffineMap::get(map.getNumDims(), 0, {map.getResult(1), map.getResult(0)},
                             map.getContext());
      }
    if (llvm::none_of(op->getOperands(), [&](Value value) { return converted.lookup(value); }))
      return success();
    if (!isa<linalg::MatmulOp, linalg::GenericOp, linalg::ContractOp>(op))
      return op->emitOpError(
          "expected linalg.matmul, linalg.contract or linalg.generic on a 2:4 tensor "
          "that is pruned along its first dimension");
    op->setAttr("indexing_maps", rewriter.getAffineMapArrayAttr(maps));
    return success();
  }
  if (isa<linalg::TransposeOp, sparse_tensor::ConvertOp>(op)) {
    Value weight = op->getOperand(0);
    if (!converted.contains(weight))
      return success();
    auto type = cast<RankedTensorType>(weight.getType());
    Value dense =
        DecompressOp::create(rewriter, op->getLoc(), type.cloneWithEncoding(Attribute()), weight);
    // The matrix was transposed on import, or this is the one who transposes; if both, they cancel.
    if (isa<linalg::TransposeOp>(op) != converted.lookup(weight)) {
      FailureOr<Value> transposed = createTranspose(rewriter, op->getLoc(), dense);
      if (failed(transposed))
        return failure();
      dense = *transposed;
    }
    rewriter.replaceOp(op, dense);
    return success();
  }
  if (isa<func::ReturnOp, func::CallOp, CompressOp, DecompressOp>(op))
    return success();
  return op->emitOpError("expected 2:4 tensors to be used by products, sparse_tensor.convert, "
                         "linalg.transpose, calls and returns only; decompress it with "
                         "sparse_tensor.convert to a dense tensor");
}

LogicalResult Importer::run() {
  for (func::FuncOp function : module.getOps<func::FuncOp>())
    if (failed(convertSignature(function)))
      return failure();
  SmallVector<Operation *> operations;
  module.walk<WalkOrder::PreOrder>([&](Operation *op) { operations.push_back(op); });
  for (Operation *op : operations)
    if (failed(convertProducer(op)))
      return failure();

  // `converted` names values; an operation may use several of them.
  llvm::SetVector<Operation *> users;
  for (auto [value, isTransposed] : converted)
    users.insert(value.user_begin(), value.user_end());
  for (Operation *op : users)
    if (failed(convertUser(op)))
      return failure();
  return success();
}

/// The second step: products with a weight on the right. Fails on a 2:4 operand that no product can
/// take.
LogicalResult rewriteContraction(linalg::LinalgOp op, IRRewriter &rewriter) {
  bool hasSparseOperand = llvm::any_of(
      op.getDpsInputs(), [](Value value) { return getWeightEncoding(value.getType()) != nullptr; });
  std::string reason;
  FailureOr<Contraction> contraction = matchContraction(op, reason);
  if (failed(contraction)) {
    if (!hasSparseOperand)
      return success();
    return op.emitOpError() << "expected a product that takes a 2:4 operand, but " << reason;
  }
  auto [rows, columns, init, resultType] = *contraction;
  for (const Contraction::Operand &operand : {rows, columns})
    if (getWeightEncoding(operand.value.getType()) && operand.isTransposed)
      return op.emitOpError(
          "expected the weight to be 2:4 along the reduced dimension K, got it 2:4 along "
          "the other one; prune it along K");
  bool isRight = hasSparseOperand ? getWeightEncoding(columns.value.getType()) &&
                                        !getWeightEncoding(rows.value.getType())
                                  : columns.getType().hasStaticShape();
  if (!isRight)
    return success();

  rewriter.setInsertionPoint(op);
  auto orient = [&](const Contraction::Operand &operand) -> FailureOr<Value> {
    if (!operand.isTransposed)
      return operand.value;
    return createTranspose(rewriter, op.getLoc(), operand.value);
  };
  FailureOr<Value> x = orient(rows), weight = orient(columns);
  if (failed(x) || failed(weight))
    return failure();
  rewriter.replaceOp(op, createMatmul(rewriter, op.getLoc(), *x, *weight, init));
  return success();
}

struct SFImportSparseTensorPass : sf::impl::SFImportSparseTensorPassBase<SFImportSparseTensorPass> {
  void runOnOperation() override {
    if (failed(Importer(getOperation()).run()))
      return signalPassFailure();
    SmallVector<linalg::LinalgOp> products;
    getOperation().walk([&](linalg::LinalgOp op) { products.push_back(op); });
    IRRewriter rewriter(&getContext());
    bool hasError = false;
    for (linalg::LinalgOp op : products)
      hasError |= failed(rewriteContraction(op, rewriter));
    if (hasError)
      return signalPassFailure();
    // Transpositions, fills and constants that nobody needs any more.
    getOperation()->walk<WalkOrder::PostOrder, ReverseIterator>([](Operation *op) {
      if (isOpTriviallyDead(op))
        op->erase();
    });
  }
};

} // namespace
