//===- FuseEpilogue.cpp - Pass 4: everything around a product into its kernel -===//
//
// Decides what is fused. For a product, looks for the latest operation up to which everything that
// depends on the product flows back into one value (the sink), so that a diamond such as x *
// sigmoid(x) is taken whole. Operations that only the fused ones use are absorbed too, and a second
// product of the same x becomes a second weight.
//
//===----------------------------------------------------------------------===//

#include "DequantizeConstant.h"
#include "EpilogueFusion.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/IR/Iterators.h"

namespace sparseflow::sf {
#define GEN_PASS_DEF_SFFUSEEPILOGUEPASS
#include "sparseflow/Dialect/SF/Transforms/Passes.h.inc"
} // namespace sparseflow::sf

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

namespace {

//===----------------------------------------------------------------------===//
// What is fused
//===----------------------------------------------------------------------===//

/// A kernel holds the accumulators of all its weights in registers; more than two leave too small a
/// tile.
constexpr size_t kMaxWeights = 2;

/// Operations that depend on the product through elementwise operations only, in order.
SmallVector<Operation *> getElementwiseUsers(MatmulOp root) {
  llvm::SetVector<Operation *> users;
  SmallVector<Value> worklist = {root.getResult()};
  while (!worklist.empty())
    for (Operation *user : worklist.pop_back_val().getUsers())
      if (user->getBlock() == root->getBlock() && isElementwise(user) && users.insert(user))
        llvm::append_range(worklist, user->getResults());
  SmallVector<Operation *> ordered = users.takeVector();
  llvm::sort(ordered, [](Operation *a, Operation *b) { return a->isBeforeInBlock(b); });
  return ordered;
}

/// Whether sf.matmul can have such a result: the product's shape, and a type that it may store.
bool isPossibleResult(MatmulOp root, Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type || type.getShape() != root.getResultType().getShape() || type.getEncoding())
    return false;
  Type element = type.getElementType();
  if (element.isInteger(32))
    return getElementTypeOrSelf(Product::get(root).x.getType()).isInteger();
  return getDType(element).has_value();
}

/// Adds to `absorbed` what only operations in it use, and collects its matmuls, `root` first.
void absorbProducers(MatmulOp root, llvm::SetVector<Operation *> &absorbed,
                     SmallVectorImpl<MatmulOp> &matmuls) {
  Product product = Product::get(root);
  matmuls.assign({root});
  size_t numWeights = root.getWeights().size();
  auto canAbsorb = [&](Operation *op) {
    // What a matmul multiplies must exist as a tensor; only its epilogue can take elements.
    auto isElementUse = [&](OpOperand &use) {
      auto consumer = dyn_cast<MatmulOp>(use.getOwner());
      return absorbed.contains(use.getOwner()) &&
             (!consumer || use.getOperandNumber() >
                               consumer.getWeights().size() + consumer.getLibraryWeights().size());
    };
    if (!op || op->getBlock() != root->getBlock() || absorbed.contains(op) ||
        !llvm::all_of(op->getUses(), isElementUse))
      return false;
    auto matmul = dyn_cast<MatmulOp>(op);
    if (!matmul)
      return isElementwise(op);
    return numWeights + matmul.getWeights().size() <= kMaxWeights && !matmul.getConfigs() &&
           !root.getConfigs() && product.canShareKernel(Product::get(matmul));
  };
  // An operation can be absorbed once all its users are, so those that were refused are asked
  // again.
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < absorbed.size(); ++i)
      for (Value operand : llvm::to_vector(absorbed[i]->getOperands())) {
        Operation *op = operand.getDefiningOp();
        if (!canAbsorb(op))
          continue;
        if (auto matmul = dyn_cast<MatmulOp>(op)) {
          matmuls.push_back(matmul);
          numWeights += matmul.getWeights().size();
        }
        absorbed.insert(op);
        changed = true;
      }
  }
}

/// Whether fusing gains something: operations, scales that were pulled out, or an operand that was
/// inlined.
bool isProgress(MatmulOp root, const llvm::SetVector<Operation *> &absorbed,
                const EpilogueBuilder &epilogue) {
  return absorbed.size() > 1 || Product::get(root).isDequantized() ||
         !llvm::all_of(root.getEpilogueOperands(),
                       [&](Value operand) { return epilogue.hasOperand(operand); });
}

/// Replaces everything up to the sink by one matmul, if it can be built.
MatmulOp fuseInto(Value sink, llvm::SetVector<Operation *> &absorbed, ArrayRef<MatmulOp> matmuls) {
  EpilogueBuilder epilogue(sink, absorbed, matmuls);
  if (failed(epilogue.build()) || !isProgress(matmuls.front(), absorbed, epilogue))
    return {};
  MatmulOp fused = epilogue.create();
  sink.replaceAllUsesWith(fused.getResult());
  SmallVector<Operation *> dead = absorbed.takeVector();
  llvm::sort(dead, [](Operation *a, Operation *b) { return b->isBeforeInBlock(a); });
  for (Operation *op : dead)
    op->erase();
  return fused;
}

/// Fuses around one product. Returns the fused matmul, or null if nothing changed.
MatmulOp fuse(MatmulOp root) {
  SmallVector<Operation *> users = getElementwiseUsers(root);
  // How many leading users are taken; all of them first, none at last.
  for (size_t taken = users.size() + 1; taken-- > 0;) {
    llvm::SetVector<Operation *> consumers;
    consumers.insert(root);
    consumers.insert(users.begin(), users.begin() + taken);
    Operation *sinkOp = taken ? users[taken - 1] : root.getOperation();
    Value sink = sinkOp->getResult(0);
    // Everything but the sink must be used up by what is fused.
    auto isUsedUp = [&](Operation *op) {
      return op == sinkOp || llvm::all_of(op->getUsers(), [&](Operation *user) {
               return consumers.contains(user);
             });
    };
    if (!isPossibleResult(root, sink) || !llvm::all_of(consumers, isUsedUp))
      continue;
    // A producer may be accessed in a way that no epilogue operand has; as a tensor of its own it
    // may still do.
    llvm::SetVector<Operation *> absorbed = consumers;
    SmallVector<MatmulOp> matmuls;
    absorbProducers(root, absorbed, matmuls);
    if (MatmulOp fused = fuseInto(sink, absorbed, matmuls))
      return fused;
    if (MatmulOp fused = fuseInto(sink, consumers, {root}))
      return fused;
  }
  return {};
}

//===----------------------------------------------------------------------===//
// Preparation and rest
//===----------------------------------------------------------------------===//

/// A size that a front end asks from a product's result would count as a use of it: asks the
/// operand that has it instead.
void forwardDim(tensor::DimOp dim) {
  std::optional<int64_t> index = dim.getConstantIndex();
  if (!index)
    return;
  OpBuilder builder(dim);
  Value source = dim.getSource();
  while (Operation *op = source.getDefiningOp()) {
    auto type = cast<RankedTensorType>(source.getType());
    if (!type.isDynamicDim(*index))
      break;
    if (auto empty = dyn_cast<tensor::EmptyOp>(op)) {
      dim.replaceAllUsesWith(empty.getDynamicSize(*index));
      dim.erase();
      return;
    }
    if (auto destination = dyn_cast<DestinationStyleOpInterface>(op))
      source = destination.getTiedOpOperand(cast<OpResult>(source))->get();
    else if (isa<MatmulOp, QuantizeOp, DequantizeOp>(op) ||
             (op->hasTrait<OpTrait::Elementwise>() &&
              isa<RankedTensorType>(op->getOperand(0).getType())))
      source = op->getOperand(0);
    else
      break;
  }
  if (source != dim.getSource())
    dim.getSourceMutable().assign(source);
}

/// compress(dequantize(q, s)) to dequantize(compress(q), s), where the scale cannot change which
/// elements are zero.
void hoistDequantize(CompressOp op) {
  auto dequantize = op.getInput().getDefiningOp<DequantizeOp>();
  if (!dequantize || op.getMode() != CompressMode::Verify)
    return;
  OpBuilder builder(op);
  auto weightType = cast<RankedTensorType>(op.getType());
  auto quantizedType = weightType.clone(getElementTypeOrSelf(dequantize.getInput().getType()));
  Value compressed = CompressOp::create(builder, op.getLoc(), quantizedType, dequantize.getInput(),
                                        CompressMode::Verify);
  Value result =
      DequantizeOp::create(builder, op.getLoc(), weightType, compressed, dequantize.getScale());
  op.replaceAllUsesWith(result);
  op.erase();
}

/// The weights as they are stored, where somebody reads them densely.
void useStoredWeights(MatmulOp op) {
  SmallVector<Value> stored;
  for (Value weight : op.getWeights()) {
    auto decompress = weight.getDefiningOp<DecompressOp>();
    if (!decompress)
      return;
    stored.push_back(decompress.getInput());
  }
  op.getWeightsMutable().assign(stored);
}

/// A dequantized weight that stayed: computed now if it is constant, else by kernels for dense
/// tensors.
LogicalResult expandWeightDequantize(DequantizeOp op) {
  if (isConstantDequantize(op)) {
    FailureOr<Value> constant = foldDequantize(op);
    if (failed(constant))
      return failure();
    op.replaceAllUsesWith(*constant);
    op.erase();
    return success();
  }
  auto type = cast<RankedTensorType>(op.getType());
  if (!type.getEncoding())
    return success();
  OpBuilder builder(op);
  auto denseType = type.cloneWithEncoding(Attribute());
  auto inputType = cast<RankedTensorType>(op.getInput().getType()).cloneWithEncoding(Attribute());
  Value q = DecompressOp::create(builder, op.getLoc(), inputType, op.getInput());
  Value dense = DequantizeOp::create(builder, op.getLoc(), denseType, q, op.getScale());
  // Pruning what is 2:4 changes nothing, and asks for no check.
  Value weight = CompressOp::create(builder, op.getLoc(), type, dense, CompressMode::Prune);
  op.replaceAllUsesWith(weight);
  op.erase();
  return success();
}

struct SFFuseEpiloguePass : sf::impl::SFFuseEpiloguePassBase<SFFuseEpiloguePass> {
  void runOnOperation() override {
    Operation *root = getOperation();
    root->walk([](Operation *op) {
      if (auto dim = dyn_cast<tensor::DimOp>(op))
        forwardDim(dim);
      else if (auto compress = dyn_cast<CompressOp>(op))
        hoistDequantize(compress);
      else if (auto matmul = dyn_cast<MatmulOp>(op))
        useStoredWeights(matmul);
    });

    // To a fixpoint: what was fused once may be fused further. Absorbed products leave the list by
    // being gone, so it is made anew after every change.
    for (bool changed = true; changed;) {
      changed = false;
      root->walk([&](MatmulOp op) {
        if (!fuse(op))
          return WalkResult::advance();
        changed = true;
        return WalkResult::interrupt();
      });
    }

    eraseDeadOperations(root);
    WalkResult result = root->walk([](DequantizeOp op) {
      return failed(expandWeightDequantize(op)) ? WalkResult::interrupt() : WalkResult::advance();
    });
    if (result.wasInterrupted())
      return signalPassFailure();
    eraseDeadOperations(root);
  }

  void eraseDeadOperations(Operation *root) {
    root->walk<WalkOrder::PostOrder, ReverseIterator>([](Operation *op) {
      if (isOpTriviallyDead(op))
        op->erase();
    });
  }
};

} // namespace
