//===- SFToSFTile.cpp - The pass that runs the schedule builders ----------===//

#include "sparseflow/Conversion/Passes.h"

#include "Schedule.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/TypeSwitch.h"

namespace sparseflow {
#define GEN_PASS_DEF_CONVERTSFTOSFTILE
#include "sparseflow/Conversion/Passes.h.inc"
} // namespace sparseflow

using namespace mlir;
using namespace sparseflow;

namespace {
struct ConvertSFToSFTilePass : sparseflow::impl::ConvertSFToSFTileBase<ConvertSFToSFTilePass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto builder = OpBuilder::atBlockEnd(module.getBody());
    auto kernels = gpu::GPUModuleOp::create(builder, module.getLoc(), "kernels");
    // A product that is none of sf's is said before what fills its destination.
    SmallVector<Operation *> reductions, work;
    for (auto func : module.getOps<func::FuncOp>()) {
      if (!func.isExternal()) {
        copyReshapedTensors(func);
        copyReturnedTensors(func);
      }
      for (Operation &op : func.getOps())
        if (op.getDialect() && (isa<sf::SFDialect>(op.getDialect()) || isa<linalg::GenericOp>(op)))
          (reduces(&op) ? reductions : work).push_back(&op);
    }
    work.insert(work.begin(), reductions.begin(), reductions.end());
    for (Operation *op : work)
      if (failed(schedule(kernels, op)))
        return signalPassFailure();
    eraseDeadTensors(module);
  }

private:
  static bool reduces(Operation *op) {
    auto generic = dyn_cast<linalg::GenericOp>(op);
    return generic && generic.getNumReductionLoops() > 0;
  }

  /// The elementwise operation that copies `source`, read by `map`, to a tensor of another type.
  static Value createCopy(OpBuilder &b, Location loc, RankedTensorType type, Value source,
                          AffineMap map) {
    SmallVector<Value> extents;
    for (auto [i, size] : llvm::enumerate(type.getShape()))
      if (ShapedType::isDynamic(size))
        for (auto [d, expr] : llvm::enumerate(map.getResults()))
          if (expr == b.getAffineDimExpr(i))
            extents.push_back(tensor::DimOp::create(b, loc, source, d));
    Value init = tensor::EmptyOp::create(b, loc, type, extents);
    SmallVector<AffineMap> maps = {map, b.getMultiDimIdentityMap(type.getRank())};
    SmallVector<utils::IteratorType> parallel(type.getRank(), utils::IteratorType::parallel);
    auto copy = linalg::GenericOp::create(b, loc, type, source, init, maps, parallel,
                                          [](OpBuilder &b, Location loc, ValueRange arguments) {
                                            linalg::YieldOp::create(b, loc, arguments.front());
                                          });
    return copy.getResult(0);
  }

  /// Where an element of a result that has other dimensions of size 1 comes from; none if more than
  /// those are different. `groups` are the dimensions of `wide` that make one of `narrow`.
  static std::optional<AffineMap> getSourceMap(RankedTensorType wide, RankedTensorType narrow,
                                               ArrayRef<ReassociationIndices> groups,
                                               bool isCollapsed) {
    MLIRContext *context = wide.getContext();
    // Of each wide dimension: the narrow one that it is, or none.
    SmallVector<std::optional<unsigned>> partners(wide.getRank());
    for (auto [i, group] : llvm::enumerate(groups)) {
      auto isUnit = [&](int64_t d) { return wide.getDimSize(d) == 1; };
      if (llvm::count_if(group, isUnit) + 1 < int64_t(group.size()))
        return std::nullopt;
      auto partner = llvm::find_if_not(group, isUnit);
      partners[partner == group.end() ? group.front() : *partner] = i;
    }
    SmallVector<AffineExpr> exprs(isCollapsed ? wide.getRank() : narrow.getRank(),
                                  getAffineConstantExpr(0, context));
    for (auto [d, partner] : llvm::enumerate(partners))
      if (partner && isCollapsed)
        exprs[d] = getAffineDimExpr(*partner, context);
      else if (partner)
        exprs[*partner] = getAffineDimExpr(d, context);
    return AffineMap::get((isCollapsed ? narrow : wide).getRank(), 0, exprs, context);
  }

  /// What is reshaped, as the operands of fused products are, and differs in dimensions of size 1
  /// is copied: a call may give a matrix of one column any distance between its rows.
  static void copyReshapedTensors(func::FuncOp func) {
    for (Operation &op : llvm::make_early_inc_range(func.getBody().front())) {
      auto collapse = dyn_cast<tensor::CollapseShapeOp>(op);
      auto expand = dyn_cast<tensor::ExpandShapeOp>(op);
      if ((!collapse && !expand) || op.use_empty())
        continue;
      Value source = op.getOperand(0);
      auto from = cast<RankedTensorType>(source.getType());
      auto to = cast<RankedTensorType>(op.getResult(0).getType());
      // A scalar in any shape is the same buffer (sf-emit-manifest).
      bool isScalar = to.hasStaticShape() && to.getNumElements() == 1;
      if (isScalar || to.getRank() > 2 || from.getRank() > 2)
        continue;
      std::optional<AffineMap> map =
          collapse ? getSourceMap(from, to, collapse.getReassociationIndices(), true)
                   : getSourceMap(to, from, expand.getReassociationIndices(), false);
      if (!map)
        continue;
      OpBuilder b(&op);
      op.getResult(0).replaceAllUsesWith(createCopy(b, op.getLoc(), to, source, *map));
      op.erase();
    }
  }

  /// A result that no kernel of its own writes (an argument, a constant, a value that is returned
  /// twice) is copied.
  static void copyReturnedTensors(func::FuncOp func) {
    Operation *ret = func.getBody().front().getTerminator();
    OpBuilder b(ret);
    llvm::SmallPtrSet<Value, 8> written;
    for (OpOperand &operand : ret->getOpOperands()) {
      Value value = operand.get();
      auto type = dyn_cast<RankedTensorType>(value.getType());
      Operation *def = value.getDefiningOp();
      bool isWritten =
          def && !isa<arith::ConstantOp, tensor::CollapseShapeOp, tensor::ExpandShapeOp>(def) &&
          written.insert(value).second;
      if (isWritten || !type || type.getEncoding() || type.getRank() < 1 || type.getRank() > 2)
        continue;
      operand.set(
          createCopy(b, ret->getLoc(), type, value, b.getMultiDimIdentityMap(type.getRank())));
    }
  }

  /// What every kernel can take and give. Rows and columns are counted in 32 bits.
  static LogicalResult checkTensor(Operation *op, RankedTensorType tensor) {
    if (!getKernelArgumentType(tensor))
      return op->emitOpError(
                 "expected tensors of rank 0 to 2 of which at most the leading dimension is "
                 "dynamic, got ")
             << tensor;
    if (!sf::getDType(tensor.getElementType()))
      return op->emitOpError(
                 "expected elements of f16, bf16, f32, i8, i32, f8E4M3FN or f8E5M2, got ")
             << tensor;
    constexpr int64_t maxExtent = int64_t(1) << 30;
    for (int64_t size : tensor.getShape())
      if (!ShapedType::isDynamic(size) && (size < 1 || size > maxExtent))
        return op->emitOpError("expected dimensions from 1 to 2^30, got ") << tensor;
    return success();
  }

  static LogicalResult schedule(gpu::GPUModuleOp kernels, Operation *op) {
    for (Type type : llvm::concat<const Type>(SmallVector<Type>(op->getOperandTypes()),
                                              SmallVector<Type>(op->getResultTypes())))
      if (auto tensor = dyn_cast<RankedTensorType>(type); tensor && failed(checkTensor(op, tensor)))
        return failure();
    return llvm::TypeSwitch<Operation *, LogicalResult>(op)
        .Case([&](sf::MatmulOp op) { return scheduleMatmul(kernels, op); })
        .Case([&](sf::QuantizeOp op) { return scheduleQuantize(kernels, op); })
        .Case([&](sf::DequantizeOp op) { return scheduleDequantize(kernels, op); })
        .Case([&](sf::PackOp op) { return schedulePack(kernels, op); })
        .Case([&](sf::CompressOp op) { return scheduleCompress(kernels, op); })
        .Case([&](sf::DecompressOp op) { return scheduleDecompress(kernels, op); })
        .Case([&](linalg::GenericOp op) { return scheduleElementwise(kernels, op); })
        .Default([](Operation *op) {
          return op->emitOpError(
              "expected an operation with a schedule; none is known for this one");
        });
  }

  /// Destinations of linalg operations have no users left.
  static void eraseDeadTensors(ModuleOp module) {
    for (auto func : module.getOps<func::FuncOp>())
      for (Block &block : func.getBody())
        for (Operation &op : llvm::make_early_inc_range(llvm::reverse(block)))
          if (isOpTriviallyDead(&op))
            op.erase();
  }
};
} // namespace
