//===- SFTileToNVVM.cpp - The pass that lowers kernels --------------------===//

#include "sparseflow/Conversion/Passes.h"

#include "Lowering.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/SCF/Transforms/Patterns.h"

namespace sparseflow {
#define GEN_PASS_DEF_CONVERTSFTILETONVVM
#include "sparseflow/Conversion/Passes.h.inc"
} // namespace sparseflow

using namespace mlir;
using namespace sparseflow;

namespace {
struct ConvertSFTileToNVVMPass
    : sparseflow::impl::ConvertSFTileToNVVMBase<ConvertSFTileToNVVMPass> {
  void runOnOperation() override {
    gpu::GPUModuleOp module = getOperation();
    if (failed(checkLayouts(module)) || failed(checkFloat8(module)))
      return signalPassFailure();
    declareSharedMemory(module);

    MLIRContext *context = &getContext();
    TileTypeConverter converter;
    RewritePatternSet patterns(context);
    populateKernelPatterns(converter, patterns);
    populateCopyPatterns(converter, patterns);
    populateMemoryPatterns(converter, patterns);
    populateMmaPatterns(converter, patterns);
    populateRolesPatterns(converter, patterns);
    populateReduceScatterPatterns(converter, patterns);
    populateBulkCopyPatterns(converter, patterns);
    populateWgmmaPatterns(converter, patterns);
    populateElementwisePatterns(converter, patterns);

    ConversionTarget target(*context);
    target.addIllegalDialect<sf_tile::SFTileDialect, memref::MemRefDialect>();
    target.addLegalDialect<arith::ArithDialect, math::MathDialect, LLVM::LLVMDialect,
                           NVVM::NVVMDialect, gpu::GPUDialect>();
    target.addLegalOp<scf::IfOp>();
    scf::populateSCFStructuralTypeConversionsAndLegality(converter, patterns, target);
    ConversionConfig config;
    config.allowPatternRollback = false;
    if (failed(applyPartialConversion(module, target, std::move(patterns), config)))
      return signalPassFailure();
    module.walk([](Block *block) { interleaveLoads(*block); });
  }

private:
  /// A tile becomes the registers that its layout names, and a box is copied to where its stage's
  /// layout says.
  static LogicalResult checkLayouts(gpu::GPUModuleOp module) {
    auto isLaidOut = [](Type type) {
      auto tile = dyn_cast<sf_tile::TileType>(type);
      return !tile || tile.getLayout();
    };
    WalkResult result = module.walk([&](Operation *op) -> WalkResult {
      auto copy = dyn_cast<sf_tile::CopyAsyncOp>(op);
      bool needsStage = copy && copy.getOrder() == sf_tile::CopyOrder::Logical &&
                        isa<MemRefType>(copy.getSource().getType());
      if (llvm::all_of(op->getResultTypes(), isLaidOut) &&
          (!needsStage || copy.getRing().getType().getLayout()))
        return WalkResult::advance();
      return op->emitOpError("expected tiles and stages with layouts; run sf-tile-assign-layouts "
                             "before");
    });
    return failure(result.wasInterrupted());
  }

  /// Conversions of 8-bit floats are instructions of the chip. Asked before anything is converted,
  /// because a pattern that fails adds an error of its own, which tells a user nothing.
  static LogicalResult checkFloat8(gpu::GPUModuleOp module) {
    auto isFloat8 = [](Type type) { return isa<Float8E4M3FNType, Float8E5M2Type>(type); };
    WalkResult result = module.walk([&](sf_tile::MapOp map) {
      sf::TargetAttr target = sf::getTarget(map);
      if (target.supportsFp8Mma())
        return WalkResult::advance();
      WalkResult computes = map.getBody().walk([&](Operation *op) {
        return llvm::any_of(op->getOperandTypes(), isFloat8) ||
                       llvm::any_of(op->getResultTypes(), isFloat8)
                   ? WalkResult::interrupt()
                   : WalkResult::advance();
      });
      if (!computes.wasInterrupted())
        return WalkResult::advance();
      map.emitError("expected a chip with 8-bit floats (sm_89 or later) to convert to or from "
                    "them, got ")
          << target.getChip() << "; use i8, or compile for another target";
      return WalkResult::interrupt();
    });
    return failure(result.wasInterrupted());
  }

  static void declareSharedMemory(gpu::GPUModuleOp module) {
    auto b = OpBuilder::atBlockBegin(module.getBody());
    auto type = LLVM::LLVMArrayType::get(b.getI8Type(), 0);
    auto global = LLVM::GlobalOp::create(b, module.getLoc(), type, /*isConstant=*/false,
                                         LLVM::Linkage::External, kSharedMemorySymbol, Attribute(),
                                         /*alignment=*/1024);
    global.setAddrSpace(static_cast<unsigned>(NVVM::NVVMMemorySpace::Shared));
  }
};
} // namespace
