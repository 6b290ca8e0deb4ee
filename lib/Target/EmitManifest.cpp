//===- EmitManifest.cpp - sf-emit-manifest --------------------------------===//

#include "ManifestFunction.h"
#include "sparseflow/Target/Manifest.h"
#include "sparseflow/Target/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/DialectResourceBlobManager.h"
#include "llvm/Config/llvm-config.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::target;
namespace rt = sparseflow::runtime;

namespace sparseflow::target {
#define GEN_PASS_DEF_SFEMITMANIFEST
#include "sparseflow/Target/Passes.h.inc"
} // namespace sparseflow::target

std::string sparseflow::target::getProducer() {
  return "sparseflow " SPARSEFLOW_VERSION " (llvm " LLVM_VERSION_STRING ")";
}

FailureOr<ModuleProgram> sparseflow::target::buildManifest(ModuleOp module, const Chip &chip) {
  ModuleParts parts{chip, {}, {}, {}};
  for (auto binary : module.getOps<gpu::BinaryOp>())
    for (BinaryKernel &kernel : getBinaryKernels(binary))
      parts.kernels[kernel.metadata.getName()] = kernel;
  for (auto kernels : module.getOps<gpu::GPUModuleOp>())
    for (BinaryKernel &kernel : getUncompiledKernels(kernels))
      parts.kernels[kernel.metadata.getName()] = kernel;

  module.walk([&](arith::ConstantOp op) {
    if (auto resource = dyn_cast<DenseResourceElementsAttr>(op.getValue()))
      parts.resources.insert(resource.getRawHandle().getKey());
  });

  ModuleProgram program;
  program.manifest.producer = getProducer();
  for (auto function : module.getOps<func::FuncOp>()) {
    if (function.isExternal() || !function.isPublic())
      continue;
    FailureOr<rt::Function> built = buildFunction(function, parts);
    if (failed(built))
      return failure();
    program.manifest.functions.push_back(std::move(*built));
  }
  program.constants = std::move(parts.constants);
  if (llvm::Error error = rt::validate(program.manifest)) {
    module.emitError() << "the manifest does not pass its own check: "
                       << llvm::toString(std::move(error));
    return failure();
  }
  return program;
}

namespace {
struct SFEmitManifestPass : sparseflow::target::impl::SFEmitManifestBase<SFEmitManifestPass> {
  using SFEmitManifestBase::SFEmitManifestBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    llvm::Expected<const Chip *> chip = findChip(module, target);
    if (!chip) {
      module.emitError() << llvm::toString(chip.takeError());
      return signalPassFailure();
    }
    FailureOr<ModuleProgram> program = buildManifest(module, **chip);
    if (failed(program))
      return signalPassFailure();
    llvm::json::Value json = rt::toJSON(program->manifest);
    if (print) {
      llvm::outs() << llvm::formatv("{0}\n", json);
      return;
    }
    module->setAttr("sf.manifest",
                    StringAttr::get(&getContext(), llvm::formatv("{0}", json).str()));
  }
};
} // namespace
