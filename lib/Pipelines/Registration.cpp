//===- Registration.cpp - The dialects and passes the tools know ----------===//
//
// Kept apart from the pipelines themselves: the pass list in Pipelines.cpp should read as a list.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Pipelines/Registration.h"

#include "sparseflow/Conversion/Passes.h"
#include "sparseflow/Dialect/SF/IR/SFDialect.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"
#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h"
#include "sparseflow/Pipelines/Pipelines.h"
#include "sparseflow/Target/Passes.h"

#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Bufferization/IR/Bufferization.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/DLTI/DLTI.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Dialect/SparseTensor/IR/SparseTensor.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/GPU/GPUToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/NVVM/NVVMToLLVMIRTranslation.h"
#include "mlir/Transforms/Passes.h"

#include <mutex>

using namespace mlir;

void sparseflow::registerDialects(DialectRegistry &registry) {
  registry.insert<sf::SFDialect, sf_tile::SFTileDialect>();
  registry
      .insert<affine::AffineDialect, arith::ArithDialect, bufferization::BufferizationDialect,
              cf::ControlFlowDialect, DLTIDialect, func::FuncDialect, gpu::GPUDialect,
              linalg::LinalgDialect, LLVM::LLVMDialect, math::MathDialect, memref::MemRefDialect,
              NVVM::NVVMDialect, scf::SCFDialect, sparse_tensor::SparseTensorDialect,
              tensor::TensorDialect, vector::VectorDialect>();
  // What convert-to-llvm asks the dialects for.
  registerBuiltinDialectTranslation(registry);
  registerGPUDialectTranslation(registry);
  registerLLVMDialectTranslation(registry);
  registerNVVMDialectTranslation(registry);
}

void sparseflow::registerPasses() {
  static std::once_flag once;
  std::call_once(once, [] {
    sf::registerSFPasses();
    sf_tile::registerSparseFlowSFTilePasses();
    registerSparseFlowConversionPasses();
    target::registerSFTargetPasses();
    registerPipelines();
    // Upstream's: what the pipelines use, so that a reproducer can name it.
    registerTransformsPasses();
    registerConvertElementwiseToLinalgPass();
    registerArithToLLVMConversionPass();
    registerConvertControlFlowToLLVMPass();
    registerConvertMathToLLVMPass();
    registerLinalgElementwiseOpFusionPass();
    registerLinalgGeneralizeNamedOpsPass();
    registerReconcileUnrealizedCastsPass();
    registerSCFToControlFlowPass();
  });
}
