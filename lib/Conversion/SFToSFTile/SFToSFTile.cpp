//===- SFToSFTile.cpp - The pass that runs the schedule builders ----------===//

#include "sparseflow/Conversion/Passes.h"

#include "Schedule.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
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
    SmallVector<Operation *> work;
    for (auto func : module.getOps<func::FuncOp>())
      for (Operation &op : func.getOps())
        if (op.getDialect() && (isa<sf::SFDialect>(op.getDialect()) || isa<linalg::GenericOp>(op)))
          work.push_back(&op);
    for (Operation *op : work)
      if (failed(schedule(kernels, op)))
        return signalPassFailure();
    eraseDeadTensors(module);
  }

private:
  static LogicalResult schedule(gpu::GPUModuleOp kernels, Operation *op) {
    for (Type type : op->getOperandTypes())
      if (auto tensor = dyn_cast<RankedTensorType>(type); tensor && !getKernelArgumentType(tensor))
        return op->emitOpError("expected tensors of rank 0 to 2 of which at most the leading dimension of a "
                               "matrix is dynamic, got ")
               << tensor;
    return llvm::TypeSwitch<Operation *, LogicalResult>(op)
        .Case([&](sf::MatmulOp op) { return scheduleMatmul(kernels, op); })
        .Case([&](sf::QuantizeOp op) { return scheduleQuantize(kernels, op); })
        .Case([&](sf::DequantizeOp op) { return scheduleDequantize(kernels, op); })
        .Case([&](sf::PackOp op) { return schedulePack(kernels, op); })
        .Case([&](sf::CompressOp op) { return scheduleCompress(kernels, op); })
        .Case([&](sf::DecompressOp op) { return scheduleDecompress(kernels, op); })
        .Case([&](linalg::GenericOp op) { return scheduleElementwise(kernels, op); })
        .Default([](Operation *op) {
          return op->emitOpError("expected an operation with a schedule; none is known for this one");
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
