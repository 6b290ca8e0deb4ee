//===- Lowering.cpp - From sf functions to LLVM ---------------------------===//
//
// Upstream's passes in the usual order. Two steps are the reference's own: buffers of the caller
// instead of returned ones, and tiles for the one loop nest that matters, so that a block of the
// weight stays in the cache.
//
//===----------------------------------------------------------------------===//

#include "Lowering.h"

#include "sparseflow/Conversion/Passes.h"
#include "sparseflow/Dialect/SF/IR/SFDialect.h"

#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Arith/Transforms/BufferDeallocationOpInterfaceImpl.h"
#include "mlir/Dialect/Arith/Transforms/BufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/Bufferization/Pipelines/Passes.h"
#include "mlir/Dialect/Bufferization/Transforms/FuncBufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Bufferization/Transforms/OneShotAnalysis.h"
#include "mlir/Dialect/Bufferization/Transforms/Passes.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/Dialect/ControlFlow/Transforms/BufferDeallocationOpInterfaceImpl.h"
#include "mlir/Dialect/ControlFlow/Transforms/BufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Dialect/Linalg/Transforms/BufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Linalg/Utils/Utils.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Dialect/MemRef/Transforms/AllocationOpInterfaceImpl.h"
#include "mlir/Dialect/MemRef/Transforms/Passes.h"
#include "mlir/Dialect/SCF/Transforms/BufferDeallocationOpInterfaceImpl.h"
#include "mlir/Dialect/SCF/Transforms/BufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Tensor/Transforms/BufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Transforms/Passes.h"

using namespace mlir;
using namespace sparseflow;

void sparseflow::registerReferenceDialects(DialectRegistry &registry) {
  registry.insert<affine::AffineDialect, arith::ArithDialect, bufferization::BufferizationDialect,
                  cf::ControlFlowDialect, func::FuncDialect, linalg::LinalgDialect,
                  LLVM::LLVMDialect, math::MathDialect, memref::MemRefDialect, scf::SCFDialect,
                  sf::SFDialect, tensor::TensorDialect, vector::VectorDialect>();
  arith::registerBufferDeallocationOpInterfaceExternalModels(registry);
  arith::registerBufferizableOpInterfaceExternalModels(registry);
  bufferization::func_ext::registerBufferizableOpInterfaceExternalModels(registry);
  cf::registerBufferDeallocationOpInterfaceExternalModels(registry);
  cf::registerBufferizableOpInterfaceExternalModels(registry);
  linalg::registerBufferizableOpInterfaceExternalModels(registry);
  memref::registerAllocationOpInterfaceExternalModels(registry);
  scf::registerBufferDeallocationOpInterfaceExternalModels(registry);
  scf::registerBufferizableOpInterfaceExternalModels(registry);
  tensor::registerBufferizableOpInterfaceExternalModels(registry);
  registerBuiltinDialectTranslation(registry);
  registerLLVMDialectTranslation(registry);
}

/// In f32, as kernels compute it. Upstream leaves it out of what it widens, because it rounds
/// twice.
static void widenFusedProducts(ModuleOp module) {
  module.walk([](math::FmaOp fma) {
    Type type = fma.getType();
    if (type.getIntOrFloatBitWidth() >= 32)
      return;
    OpBuilder builder(fma);
    SmallVector<Value> wide = llvm::map_to_vector(fma->getOperands(), [&](Value value) -> Value {
      return arith::ExtFOp::create(builder, fma.getLoc(), builder.getF32Type(), value);
    });
    Value sum = math::FmaOp::create(builder, fma.getLoc(), wide[0], wide[1], wide[2]);
    fma.replaceAllUsesWith(arith::TruncFOp::create(builder, fma.getLoc(), type, sum).getResult());
    fma.erase();
  });
}

LogicalResult sparseflow::lowerToLinalg(ModuleOp module) {
  PassManager scalars(module.getContext());
  scalars.addPass(createConvertSFToLinalg());
  scalars.addNestedPass<func::FuncOp>(createConvertElementwiseToLinalgPass());
  if (failed(scalars.run(module)))
    return failure();
  widenFusedProducts(module);

  // Arithmetic on narrow floats is arithmetic in f32 and a conversion; conversions become integer
  // arithmetic.
  PassManager passes(module.getContext());
  arith::ArithEmulateUnsupportedFloatsOptions narrow;
  for (StringRef type : {"f16", "bf16", "f8E4M3FN", "f8E5M2"})
    narrow.sourceTypeStrs.push_back(type.str());
  narrow.targetTypeStr = "f32";
  passes.addPass(math::createMathExtendToSupportedTypes());
  passes.addPass(arith::createArithEmulateUnsupportedFloats(narrow));
  passes.addPass(createExpandNarrowFloats());
  passes.addPass(createCSEPass());
  return passes.run(module);
}

//===----------------------------------------------------------------------===//
// The caller's memory
//===----------------------------------------------------------------------===//

static MemRefType getBufferType(RankedTensorType type, bool isStrided) {
  MemRefLayoutAttrInterface layout;
  if (isStrided && type.getRank() == 2)
    layout = StridedLayoutAttr::get(type.getContext(), 0, {ShapedType::kDynamic, 1});
  return MemRefType::get(type.getShape(), type.getElementType(), layout);
}

namespace {

/// Builds calls of kFailSymbol.
class Failures {
public:
  explicit Failures(ModuleOp module) {
    OpBuilder builder = OpBuilder::atBlockEnd(module.getBody());
    fail = func::FuncOp::create(builder, module.getLoc(), kFailSymbol,
                                builder.getFunctionType(builder.getI64Type(), {}));
    fail.setPrivate();
  }

  void emitCall(OpBuilder &builder, Location loc, StringRef message) {
    Value index = arith::ConstantOp::create(builder, loc,
                                            builder.getI64IntegerAttr(int64_t(messages.size())));
    func::CallOp::create(builder, loc, fail, index);
    messages.push_back(message.str());
  }

  std::vector<std::string> messages;

private:
  func::FuncOp fail;
};

} // namespace

std::vector<std::string> sparseflow::exposeBuffers(func::FuncOp entry, unsigned numStrided) {
  auto module = entry->getParentOfType<ModuleOp>();
  Location loc = entry.getLoc();
  Block &body = entry.getBody().front();
  OpBuilder builder = OpBuilder::atBlockBegin(&body);
  for (BlockArgument argument : body.getArguments()) {
    auto type = cast<RankedTensorType>(argument.getType());
    argument.setType(getBufferType(type, argument.getArgNumber() < numStrided));
    auto tensor = bufferization::ToTensorOp::create(builder, loc, type, argument,
                                                    /*restrict=*/true, /*writable=*/false);
    argument.replaceAllUsesExcept(tensor.getResult(), tensor);
  }

  Failures failures(module);
  SmallVector<Value> targets;
  for (Type type : entry.getFunctionType().getResults())
    targets.push_back(
        body.addArgument(getBufferType(cast<RankedTensorType>(type), /*isStrided=*/true), loc));
  for (auto returnOp : llvm::make_early_inc_range(entry.getOps<func::ReturnOp>())) {
    builder.setInsertionPoint(returnOp);
    for (auto [value, target] : llvm::zip(returnOp.getOperands(), targets)) {
      auto materialize = [&value = value, &target = target](OpBuilder &b, Location l) {
        bufferization::MaterializeInDestinationOp::create(b, l, /*result=*/Type(), value, target,
                                                          /*restrict=*/true, /*writable=*/true);
      };
      auto type = cast<RankedTensorType>(value.getType());
      if (type.hasStaticShape()) {
        materialize(builder, loc);
        continue;
      }
      // The function computed the size, the caller the memory: a mismatch must not become an
      // overrun.
      Value size = tensor::DimOp::create(builder, loc, value, 0);
      Value room = memref::DimOp::create(builder, loc, target, 0);
      Value fits = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::eq, size, room);
      scf::IfOp::create(
          builder, loc, fits,
          [&](OpBuilder &b, Location l) {
            materialize(b, l);
            scf::YieldOp::create(b, l);
          },
          [&](OpBuilder &b, Location l) {
            failures.emitCall(b, l,
                              "expected a result with as many rows as there are tokens, got "
                              "another number");
            scf::YieldOp::create(b, l);
          });
    }
    func::ReturnOp::create(builder, returnOp.getLoc());
    returnOp.erase();
  }
  entry.setFunctionType(builder.getFunctionType(body.getArgumentTypes(), {}));
  entry.removeResAttrsAttr();
  entry.removeArgAttrsAttr();
  entry->setAttr(LLVM::LLVMDialect::getEmitCWrapperAttrName(), builder.getUnitAttr());

  module.walk([&](cf::AssertOp assertion) {
    builder.setInsertionPoint(assertion);
    Value isTrue =
        arith::ConstantOp::create(builder, assertion.getLoc(), builder.getBoolAttr(true));
    Value isBroken = arith::XOrIOp::create(builder, assertion.getLoc(), assertion.getArg(), isTrue);
    scf::IfOp::create(builder, assertion.getLoc(), isBroken, [&](OpBuilder &b, Location l) {
      failures.emitCall(b, l, assertion.getMsg());
      scf::YieldOp::create(b, l);
    });
    assertion.erase();
  });
  return std::move(failures.messages);
}

//===----------------------------------------------------------------------===//
// Buffers and loops
//===----------------------------------------------------------------------===//

/// A block of k by features of the widened weight, 256 KB: it stays in the second-level cache while
/// all tokens pass.
constexpr int64_t kTileInner = 64, kTileFeatures = 1024;

static bool isMatmul(linalg::GenericOp op) {
  using utils::IteratorType;
  return op.getIteratorTypesArray() == SmallVector<IteratorType>{IteratorType::parallel,
                                                                 IteratorType::reduction,
                                                                 IteratorType::parallel};
}

static LogicalResult tileMatmuls(ModuleOp module) {
  SmallVector<linalg::GenericOp> matmuls;
  module.walk([&](linalg::GenericOp op) {
    if (isMatmul(op))
      matmuls.push_back(op);
  });
  IRRewriter rewriter(module.getContext());
  for (linalg::GenericOp op : matmuls) {
    rewriter.setInsertionPoint(op);
    auto options = linalg::LinalgTilingOptions().setTileSizes({0, kTileInner, kTileFeatures});
    if (failed(linalg::tileLinalgOp(rewriter, op, options)))
      return op.emitError("the reference could not tile this product");
    rewriter.eraseOp(op);
  }
  return success();
}

/// A copy of strided memory would otherwise become a call into a support library.
static void expandCopies(ModuleOp module) {
  module.walk([](memref::CopyOp copy) {
    OpBuilder builder(copy);
    linalg::makeMemRefCopyOp(builder, copy.getLoc(), copy.getSource(), copy.getTarget());
    copy.erase();
  });
}

LogicalResult sparseflow::lowerToLLVM(ModuleOp module) {
  PassManager buffers(module.getContext());
  bufferization::OneShotBufferizePassOptions options;
  options.bufferizeFunctionBoundaries = true;
  options.functionBoundaryTypeConversion = bufferization::LayoutMapOption::IdentityLayoutMap;
  buffers.addPass(bufferization::createOneShotBufferizePass(options));
  bufferization::buildBufferDeallocationPipeline(buffers);
  if (failed(buffers.run(module)) || failed(tileMatmuls(module)))
    return failure();
  expandCopies(module);

  PassManager passes(module.getContext());
  passes.addNestedPass<func::FuncOp>(createConvertLinalgToLoopsPass());
  passes.addPass(memref::createExpandStridedMetadataPass());
  passes.addPass(createLowerAffinePass());
  passes.addPass(createCanonicalizerPass());
  passes.addPass(createLoopInvariantCodeMotionPass());
  passes.addPass(createCSEPass());
  passes.addPass(createSCFToControlFlowPass());
  passes.addPass(createConvertMathToLLVMPass());
  passes.addPass(createConvertMathToLibmPass());
  passes.addPass(createArithToLLVMConversionPass());
  passes.addPass(createFinalizeMemRefToLLVMConversionPass());
  passes.addPass(createConvertFuncToLLVMPass());
  passes.addPass(createConvertControlFlowToLLVMPass());
  passes.addPass(createReconcileUnrealizedCastsPass());
  return passes.run(module);
}
