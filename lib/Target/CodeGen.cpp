//===- CodeGen.cpp - From gpu.module to PTX and cubin ---------------------===//
//
// The same steps as upstream's gpu-module-to-binary (translate, O3, NVPTX, ptxas), but a kernel at
// a time, and with the assembler's report kept. LLVM's own errors are collected instead of printed:
// by default the context's diagnostic handler ends the process.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Target/CodeGen.h"

#include "GuardedThreads.h"
#include "sparseflow/Target/DiskCache.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "llvm/IR/DiagnosticInfo.h"
#include "llvm/IR/DiagnosticPrinter.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Support/Threading.h"
#include "llvm/Target/TargetMachine.h"

using namespace mlir;
using namespace sparseflow::target;

//===----------------------------------------------------------------------===//
// Taking a module apart
//===----------------------------------------------------------------------===//

SmallVector<LLVM::LLVMFuncOp> sparseflow::target::getKernels(gpu::GPUModuleOp module) {
  SmallVector<LLVM::LLVMFuncOp> kernels;
  for (auto function : module.getOps<LLVM::LLVMFuncOp>())
    if (!function.isExternal() && (function->hasAttr(gpu::GPUDialect::getKernelFuncAttrName()) ||
                                   function->hasAttr(NVVM::NVVMDialect::getKernelFuncAttrName())))
      kernels.push_back(function);
  return kernels;
}

OwningOpRef<gpu::GPUModuleOp> sparseflow::target::isolateKernel(LLVM::LLVMFuncOp kernel) {
  auto module = cast<gpu::GPUModuleOp>(kernel->getParentOp());
  SymbolTable symbols(module);
  llvm::SetVector<Operation *> needed;
  needed.insert(kernel);
  for (size_t i = 0; i < needed.size(); ++i)
    if (std::optional<SymbolTable::UseRange> uses = SymbolTable::getSymbolUses(needed[i]))
      for (SymbolTable::SymbolUse use : *uses)
        if (Operation *symbol = symbols.lookup(use.getSymbolRef().getRootReference()))
          needed.insert(symbol);

  auto isolated = cast<gpu::GPUModuleOp>(module->cloneWithoutRegions());
  OpBuilder builder = OpBuilder::atBlockBegin(&isolated.getBodyRegion().emplaceBlock());
  for (Operation &op : module.getOps())
    if (needed.contains(&op))
      builder.clone(op);
  return isolated;
}

unsigned sparseflow::target::countSparseMma(StringRef ptx) {
  return ptx.count("mma.sp::") + ptx.count("mma.sp.sync") + ptx.count("wgmma.mma_async.sp.");
}

//===----------------------------------------------------------------------===//
// LLVM IR to PTX
//===----------------------------------------------------------------------===//

static llvm::Expected<std::unique_ptr<llvm::TargetMachine>> createTargetMachine(const Chip &chip) {
  static llvm::once_flag once;
  llvm::call_once(once, [] {
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
    // 32-bit pointers into shared memory: the matmul kernels have no registers to spare. LLVM has
    // no other way to ask for them.
    auto &flags = llvm::cl::getRegisteredOptions();
    if (auto flag = flags.find("nvptx-short-ptr"); flag != flags.end())
      flag->second->addOccurrence(0, "nvptx-short-ptr", "true");
  });
  llvm::Triple triple("nvptx64-nvidia-cuda");
  std::string error;
  const llvm::Target *target = llvm::TargetRegistry::lookupTarget(triple, error);
  if (!target)
    return llvm::createStringError("this build has no NVPTX code generator: " + error);
  std::unique_ptr<llvm::TargetMachine> machine(
      target->createTargetMachine(triple, chip.name, chip.ptxFeature, llvm::TargetOptions(), {}, {},
                                  llvm::CodeGenOptLevel::Aggressive));
  if (!machine)
    return llvm::createStringError("the NVPTX code generator does not know " + chip.name);
  return machine;
}

static void optimize(llvm::Module &module, llvm::TargetMachine &machine) {
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager sccs;
  llvm::ModuleAnalysisManager modules;
  llvm::PassBuilder builder(&machine);
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(sccs);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, sccs, modules);
  builder.buildPerModuleDefaultPipeline(llvm::OptimizationLevel::O3).run(module, modules);
}

/// Collects what LLVM would print before ending the process.
static void collectErrors(const llvm::DiagnosticInfo *info, void *errors) {
  if (info->getSeverity() != llvm::DS_Error)
    return;
  llvm::raw_string_ostream stream(*static_cast<std::string *>(errors));
  llvm::DiagnosticPrinterRawOStream printer(stream);
  if (stream.tell())
    stream << "; ";
  info->print(printer);
}

static llvm::Error generatePTX(gpu::GPUModuleOp module, const CodeGenOptions &options,
                               CompiledKernel &result) {
  llvm::Expected<std::unique_ptr<llvm::TargetMachine>> machine = createTargetMachine(*options.chip);
  if (!machine)
    return machine.takeError();

  std::string errors;
  llvm::LLVMContext context;
  context.setDiagnosticHandlerCallBack(collectErrors, &errors);
  std::unique_ptr<llvm::Module> llvmModule = translateModuleToLLVMIR(module, context, result.name);
  if (!llvmModule)
    return llvm::createStringError("cannot be translated to LLVM IR" +
                                   (errors.empty() ? errors : ": " + errors));
  llvmModule->setTargetTriple((*machine)->getTargetTriple());
  llvmModule->setDataLayout((*machine)->createDataLayout());
  optimize(*llvmModule, **machine);
  if (options.keepLLVMIR) {
    llvm::raw_string_ostream stream(result.llvmIR);
    llvmModule->print(stream, nullptr);
  }

  llvm::SmallString<0> ptx;
  llvm::raw_svector_ostream stream(ptx);
  llvm::legacy::PassManager passes;
  if ((*machine)->addPassesToEmitFile(passes, stream, nullptr, llvm::CodeGenFileType::AssemblyFile))
    return llvm::createStringError("the NVPTX code generator cannot write PTX");
  passes.run(*llvmModule);
  if (!errors.empty())
    return llvm::createStringError(errors);
  result.ptx = ptx.str().str();
  result.mmaSpCount = countSparseMma(result.ptx);
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// PTX to cubin
//===----------------------------------------------------------------------===//

std::string CompiledKernel::getSlowness() const {
  if (spillBytes())
    return llvm::formatv("spilled {0} bytes of registers", spillBytes());
  // A warning begins with its number.
  if (!serialization.empty())
    return llvm::formatv("had its wgmma instructions serialized by ptxas {0}",
                         StringRef(serialization).split(' ').first);
  return "";
}

static llvm::Error assembleCached(const CodeGenOptions &options, CompiledKernel &result) {
  const Ptxas &ptxas = *options.ptxas;
  result.ptxasVersion = ptxas.version().str();

  // The report is kept as the numbers it was parsed into, one field each, in this order, and the
  // warning.
  KernelResources &resources = result.resources;
  unsigned *numbers[] = {&resources.registers,  &resources.stackBytes,  &resources.spillStores,
                         &resources.spillLoads, &resources.sharedBytes, &resources.constantBytes,
                         &resources.barriers};
  std::string key;
  if (options.cache && options.cache->enabled()) {
    key = CacheKey()
              .add("cubin-2")
              .add(ptxas.version())
              .add(options.chip->name)
              .add(result.name)
              .add(result.ptx)
              .str();
    if (auto fields = options.cache->get(key); fields && fields->size() == std::size(numbers) + 2) {
      result.cubin = std::move(fields->front());
      result.serialization = std::move(fields->back());
      resources.name = result.name;
      for (auto [number, text] : llvm::zip(numbers, llvm::drop_begin(*fields)))
        StringRef(text).getAsInteger(10, *number);
      return llvm::Error::success();
    }
  }

  llvm::Expected<AssembledKernel> assembled =
      ptxas.assemble(result.ptx, options.chip->name, options.ptxasTimeoutSeconds);
  if (!assembled)
    return assembled.takeError();
  const KernelResources *reported = assembled->report.find(result.name);
  if (!reported)
    return llvm::createStringError("ptxas " + ptxas.version() +
                                   " reported nothing about this kernel");
  resources = *reported;
  result.serialization = std::move(assembled->report.serialization);
  result.cubin = std::move(assembled->cubin);
  if (!key.empty()) {
    std::vector<std::string> texts;
    for (unsigned *number : numbers)
      texts.push_back(std::to_string(*number));
    SmallVector<StringRef> fields = {result.cubin};
    fields.append(texts.begin(), texts.end());
    fields.push_back(result.serialization);
    options.cache->put(key, fields);
  }
  return llvm::Error::success();
}

/// What was expected of a slow kernel, and what came.
static std::string explainSlowness(const CompiledKernel &kernel) {
  const KernelResources &resources = kernel.resources;
  if (kernel.spillBytes())
    return llvm::formatv("expected no register spills, got {0} bytes of stores and {1} bytes of "
                         "loads at {2} registers; a smaller tile or more warps would fit",
                         resources.spillStores, resources.spillLoads, resources.registers);
  return "ptxas serialized the wgmma instructions (" + kernel.serialization +
         "); accumulators must stay in registers between wgmma.fence and wgmma.wait_group";
}

/// The configuration as the lowering left it on the kernel, for messages.
static std::string configText(Operation *kernel) {
  std::string text;
  if (Attribute config = kernel->getAttr("sf.config")) {
    llvm::raw_string_ostream stream(text);
    stream << " with " << config;
  }
  return text;
}

//===----------------------------------------------------------------------===//
// All kernels of a module
//===----------------------------------------------------------------------===//

FailureOr<std::vector<CompiledKernel>>
sparseflow::target::compileKernels(gpu::GPUModuleOp module, const CodeGenOptions &options) {
  /// A job's own; `error` is empty when it worked.
  struct Job {
    OwningOpRef<gpu::GPUModuleOp> module;
    CompiledKernel result;
    std::string error;
  };
  SmallVector<LLVM::LLVMFuncOp> kernels = getKernels(module);
  std::vector<std::shared_ptr<Job>> jobs;
  std::vector<std::function<void()>> work;
  // Diagnostics of the translation come from the jobs' threads; this prints them in order.
  ParallelDiagnosticHandler diagnostics(module.getContext());
  for (auto [index, kernel] : llvm::enumerate(kernels)) {
    auto job = std::make_shared<Job>();
    job->module = isolateKernel(kernel);
    job->result.name = kernel.getSymName().str();
    jobs.push_back(job);
    work.push_back([job, index = index, &diagnostics, options] {
      if (options.isCancelled && options.isCancelled())
        return;
      diagnostics.setOrderIDForThread(index);
      llvm::Error error = generatePTX(*job->module, options, job->result);
      if (!error && options.ptxas)
        error = assembleCached(options, job->result);
      if (error)
        job->error = llvm::toString(std::move(error));
      diagnostics.eraseOrderIDForThread();
    });
  }

  // A context whose threading is off takes no locks, so its attributes may not be shared either.
  unsigned threads =
      options.maxThreads ? options.maxThreads : llvm::hardware_concurrency().compute_thread_count();
  if (!module.getContext()->isMultithreadingEnabled())
    threads = 1;
  runGuarded(std::move(work), threads, [&](size_t index, std::string message) {
    // The parked thread keeps the old one; nobody may look at it any more.
    jobs[index] = std::make_shared<Job>();
    jobs[index]->error = "LLVM's code generator gave up: " + message;
  });

  if (options.isCancelled && options.isCancelled())
    return module.emitError() << "the compilation was cancelled";
  std::vector<CompiledKernel> results;
  bool failed = false;
  for (auto [kernel, job] : llvm::zip(kernels, jobs)) {
    CompiledKernel &result = job->result;
    if (job->error.empty() && !options.allowSlow && !result.getSlowness().empty())
      job->error = explainSlowness(result);
    if (!job->error.empty()) {
      kernel.emitError() << "kernel '" << kernel.getSymName() << "'" << configText(kernel)
                         << " for " << options.chip->name << ": " << job->error;
      failed = true;
      continue;
    }
    results.push_back(std::move(result));
  }
  if (failed)
    return failure();
  return results;
}
