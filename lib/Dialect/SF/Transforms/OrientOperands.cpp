//===- OrientOperands.cpp - Pass 3: the weight becomes operand A ------------===//
//
// Only products with the weight on the left are still linalg operations when this pass runs; they
// are turned around.
//
//===----------------------------------------------------------------------===//

#include "Contraction.h"

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Iterators.h"
#include "llvm/ADT/SetVector.h"

namespace sparseflow::sf {
#define GEN_PASS_DEF_SFORIENTOPERANDSPASS
#include "sparseflow/Dialect/SF/Transforms/Passes.h.inc"
} // namespace sparseflow::sf

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

namespace {

bool isSparse(Value value) { return getWeightEncoding(value.getType()) != nullptr; }

LogicalResult orient(linalg::LinalgOp op, IRRewriter &rewriter) {
  bool hasSparseOperand = llvm::any_of(op->getOperands(), isSparse);
  std::string reason;
  FailureOr<Contraction> contraction = matchContraction(op, reason);
  if (failed(contraction)) {
    if (!hasSparseOperand)
      return success();
    return op.emitOpError() << "expected a product that takes a 2:4 operand, but " << reason
                            << "; decompress the operand with sf.decompress";
  }
  auto [rows, columns, init, resultType] = *contraction;
  if (isSparse(rows.value) && isSparse(columns.value))
    return op.emitOpError(
        "expected one 2:4 operand, got two; the tensor cores take the second one dense, so "
        "decompress it with sf.decompress");
  if (!isSparse(rows.value) && !rows.getType().hasStaticShape())
    return success();
  if (isSparse(rows.value) && rows.isTransposed)
    return op.emitOpError(
        "expected the weight to be 2:4 along the reduced dimension K, got it 2:4 along "
        "the other one; prune it along K");

  rewriter.setInsertionPoint(op);
  Location loc = op.getLoc();
  // As an operand of the turned product, a matrix is wanted as [tokens, K] or [features, K].
  FailureOr<Value> weight = rows.value, x = columns.value;
  if (rows.isTransposed)
    weight = createTranspose(rewriter, loc, rows.value);
  if (columns.isTransposed)
    x = createTranspose(rewriter, loc, columns.value);
  if (failed(weight) || failed(x))
    return failure();
  Value turned;
  if (isZeroTensor(init)) {
    auto turnedType = RankedTensorType::get({resultType.getDimSize(1), resultType.getDimSize(0)},
                                            resultType.getElementType());
    turned = MatmulOp::create(rewriter, loc, turnedType, *x, *weight);
  } else {
    FailureOr<Value> turnedInit = createTranspose(rewriter, loc, init);
    if (failed(turnedInit))
      return failure();
    turned = createMatmul(rewriter, loc, *x, *weight, *turnedInit);
  }

  constexpr int64_t swap[] = {1, 0};
  llvm::SetVector<Operation *> users(op->user_begin(), op->user_end());
  for (Operation *user : users)
    if (auto transpose = dyn_cast<linalg::TransposeOp>(user))
      if (transpose.getPermutation() == ArrayRef(swap) && transpose.getInput() == op->getResult(0))
        rewriter.replaceOp(transpose, turned);
  if (op->use_empty()) {
    rewriter.eraseOp(op);
    return success();
  }
  FailureOr<Value> result = createTranspose(rewriter, loc, turned);
  rewriter.replaceOp(op, *result);
  return success();
}

struct SFOrientOperandsPass : sf::impl::SFOrientOperandsPassBase<SFOrientOperandsPass> {
  void runOnOperation() override {
    SmallVector<linalg::LinalgOp> products;
    getOperation()->walk([&](linalg::LinalgOp op) {
      if (linalg::isaContractionOpInterface(op) || llvm::any_of(op->getOperands(), isSparse))
        products.push_back(op);
    });
    IRRewriter rewriter(&getContext());
    bool hasError = false;
    for (linalg::LinalgOp op : products)
      hasError |= failed(orient(op, rewriter));
    if (hasError)
      return signalPassFailure();
    getOperation()->walk<WalkOrder::PostOrder, ReverseIterator>([](Operation *op) {
      if (isa<linalg::TransposeOp, linalg::FillOp, tensor::EmptyOp>(op) && isOpTriviallyDead(op))
        op->erase();
    });
  }
};

} // namespace
