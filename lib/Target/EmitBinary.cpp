//===- EmitBinary.cpp - sf-emit-binary ------------------------------------===//
//
// The results stay in the IR, as upstream's gpu.binary: the next pass, a test and a person reading
// a dump all see the same thing.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Target/DiskCache.h"
#include "sparseflow/Target/Passes.h"

#include "mlir/Dialect/LLVMIR/NVVMDialect.h"

using namespace mlir;
using namespace sparseflow::target;

namespace sparseflow::target {
#define GEN_PASS_DEF_SFEMITBINARY
#include "sparseflow/Target/Passes.h.inc"
} // namespace sparseflow::target

static gpu::KernelMetadataAttr getMetadata(LLVM::LLVMFuncOp function,
                                           const CompiledKernel &kernel) {
  Builder builder(function.getContext());
  NamedAttrList metadata(function->getDiscardableAttrDictionary());
  auto set = [&](StringRef key, int64_t value) {
    metadata.set(key, builder.getI64IntegerAttr(value));
  };
  set("mma_sp", kernel.mmaSpCount);
  if (!kernel.cubin.empty()) {
    metadata.set("ptxas", builder.getStringAttr(kernel.ptxasVersion));
    set("registers", kernel.resources.registers);
    set("spill_bytes", kernel.spillBytes());
    set("stack_bytes", kernel.resources.stackBytes);
    set("shared_bytes", kernel.resources.sharedBytes);
    if (std::string slowness = kernel.getSlowness(); !slowness.empty())
      metadata.set("slowness", builder.getStringAttr(slowness));
  }
  return gpu::KernelMetadataAttr::get(builder.getStringAttr(kernel.name),
                                      function.getFunctionType(), function.getArgAttrsAttr(),
                                      metadata.getDictionary(function.getContext()));
}

LogicalResult sparseflow::target::emitBinary(gpu::GPUModuleOp module,
                                             const CodeGenOptions &options) {
  FailureOr<std::vector<CompiledKernel>> kernels = compileKernels(module, options);
  if (failed(kernels))
    return failure();
  MLIRContext *context = module.getContext();
  auto target = NVVM::NVVMTargetAttr::get(context, /*optLevel=*/3, "nvptx64-nvidia-cuda",
                                          options.chip->name, options.chip->ptxFeature);
  SmallVector<Attribute> objects;
  for (auto [function, kernel] : llvm::zip(getKernels(module), *kernels)) {
    auto table = gpu::KernelTableAttr::get(context, {getMetadata(function, kernel)});
    auto add = [&](gpu::CompilationTarget format, StringRef bytes) {
      objects.push_back(gpu::ObjectAttr::get(target, format, StringAttr::get(context, bytes),
                                             /*properties=*/nullptr, table));
    };
    add(gpu::CompilationTarget::Assembly, kernel.ptx);
    if (!kernel.cubin.empty())
      add(gpu::CompilationTarget::Binary, kernel.cubin);
  }
  // A module without kernels has nothing to run, and gpu.binary must not be empty.
  if (!objects.empty()) {
    OpBuilder builder(module);
    gpu::BinaryOp::create(builder, module.getLoc(), module.getName(), /*offloadingHandler=*/nullptr,
                          builder.getArrayAttr(objects));
  }
  module.erase();
  return success();
}

int64_t BinaryKernel::number(StringRef key) const {
  auto value = metadata.getAttr<IntegerAttr>(key);
  return value ? value.getInt() : 0;
}

std::vector<BinaryKernel> sparseflow::target::getBinaryKernels(gpu::BinaryOp binary) {
  std::vector<BinaryKernel> kernels;
  for (auto object : binary.getObjects().getAsRange<gpu::ObjectAttr>()) {
    if (!object.getKernels())
      continue;
    for (gpu::KernelMetadataAttr metadata : object.getKernels().getKernelTable()) {
      auto known = llvm::find_if(kernels, [&](const BinaryKernel &kernel) {
        return kernel.metadata.getName() == metadata.getName();
      });
      if (known == kernels.end())
        known = kernels.insert(known, BinaryKernel{metadata, {}, {}});
      bool isText = object.getFormat() == gpu::CompilationTarget::Assembly;
      (isText ? known->ptx : known->cubin) = object.getObject().getValue();
    }
  }
  return kernels;
}

std::vector<BinaryKernel> sparseflow::target::getUncompiledKernels(gpu::GPUModuleOp module) {
  std::vector<BinaryKernel> kernels;
  for (LLVM::LLVMFuncOp function : getKernels(module)) {
    CompiledKernel named;
    named.name = function.getSymName().str();
    kernels.push_back({getMetadata(function, named), {}, {}});
  }
  return kernels;
}

namespace {
struct SFEmitBinaryPass : sparseflow::target::impl::SFEmitBinaryBase<SFEmitBinaryPass> {
  using SFEmitBinaryBase::SFEmitBinaryBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    llvm::Expected<const Chip *> chip = findChip(module, target);
    if (!chip)
      return fail(chip.takeError());
    std::optional<Ptxas> assembler;
    DiskCache cache(cacheDir);
    CodeGenOptions options;
    options.chip = *chip;
    options.allowSlow = allowSlow;
    options.cache = &cache;
    options.isCancelled = isCancelled;
    if (format == "cubin") {
      llvm::Expected<Ptxas> found = Ptxas::find({ptxas, {}, *chip});
      if (!found)
        return fail(found.takeError());
      assembler = *found;
      options.ptxas = &*assembler;
    } else if (format != "ptx") {
      return fail(
          llvm::createStringError("expected format to be ptx or cubin, got '" + format + "'"));
    }
    for (auto kernels : llvm::make_early_inc_range(module.getOps<gpu::GPUModuleOp>()))
      if (failed(emitBinary(kernels, options)))
        return signalPassFailure();
  }

  std::function<bool()> isCancelled;

private:
  void fail(llvm::Error error) {
    getOperation().emitError() << llvm::toString(std::move(error));
    signalPassFailure();
  }
};
} // namespace

std::unique_ptr<Pass> sparseflow::target::createSFEmitBinary(const SFEmitBinaryOptions &options,
                                                             std::function<bool()> isCancelled) {
  auto pass = std::make_unique<SFEmitBinaryPass>(options);
  pass->isCancelled = std::move(isCancelled);
  return pass;
}
