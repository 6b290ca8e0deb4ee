//===- Emulator.cpp - Compiling a gpu.module for the host, and launching --===//
//
// A module is translated and retargeted at once, so that what the emulator lacks is known early,
// but a kernel is compiled only when it is first launched: a program holds several variants of each
// and runs few. A launch hands its clusters (of one block, mostly), in order, to a few host
// threads. The state of a block (stacks, shared memory and its shadow) is some megabytes, so
// clusters are kept in a pool that all modules of the process share.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Emulator/Emulator.h"

#include "Cluster.h"
#include "Retarget.h"

#include "sparseflow/HostCode/ChipArithmetic.h"
#include "sparseflow/HostCode/HostCode.h"
#include "sparseflow/Support/NumericTypes.h"
#include "sparseflow/Support/Threads.h"

#include "mlir/Conversion/NVVMToLLVM/NVVMToLLVM.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/GPU/GPUToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/NVVM/NVVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"

#include "llvm/ExecutionEngine/Orc/ThreadSafeModule.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/Utils/Cloning.h"

#include <mutex>
#include <thread>

using namespace sparseflow;
using namespace sparseflow::emulator;

//===----------------------------------------------------------------------===//
// Reports
//===----------------------------------------------------------------------===//

char ReportError::ID = 0;

llvm::StringRef sparseflow::emulator::stringifyKind(Report::Kind kind) {
  switch (kind) {
  case Report::Kind::SharedOutOfBounds:
    return "shared-out-of-bounds";
  case Report::Kind::GlobalOutOfBounds:
    return "global-out-of-bounds";
  case Report::Kind::Misaligned:
    return "misaligned";
  case Report::Kind::UninitializedShared:
    return "uninitialized-shared";
  case Report::Kind::UnwaitedAsyncCopy:
    return "unwaited-async-copy";
  case Report::Kind::AsyncOperandOverwritten:
    return "async-operand-overwritten";
  case Report::Kind::AccumulatorInFlight:
    return "accumulator-in-flight";
  case Report::Kind::MissingFence:
    return "missing-fence";
  case Report::Kind::SharedRace:
    return "shared-race";
  case Report::Kind::UnwaitedGrid:
    return "unwaited-grid";
  case Report::Kind::DivergentBarrier:
    return "divergent-barrier";
  case Report::Kind::MbarrierMisuse:
    return "mbarrier-misuse";
  case Report::Kind::Deadlock:
    return "deadlock";
  case Report::Kind::IllegalOperand:
    return "illegal-operand";
  case Report::Kind::Trap:
    return "trap";
  }
  LLVM_BUILTIN_UNREACHABLE;
}

std::string Report::str() const {
  return llvm::formatv("emulator: kernel '{0}' block ({1},{2},{3}) thread {4}: {5}", kernel,
                       block.x, block.y, block.z, thread, message);
}

//===----------------------------------------------------------------------===//
// The pool of clusters
//===----------------------------------------------------------------------===//

namespace {
class ClusterPool {
public:
  std::unique_ptr<Cluster> take() {
    std::lock_guard<std::mutex> lock(mutex);
    if (idle.empty())
      return std::make_unique<Cluster>();
    std::unique_ptr<Cluster> cluster = std::move(idle.back());
    idle.pop_back();
    return cluster;
  }
  void give(std::unique_ptr<Cluster> cluster) {
    std::lock_guard<std::mutex> lock(mutex);
    idle.push_back(std::move(cluster));
  }

private:
  std::mutex mutex;
  std::vector<std::unique_ptr<Cluster>> idle;
};
} // namespace

static ClusterPool &getClusterPool() {
  static ClusterPool pool;
  return pool;
}

//===----------------------------------------------------------------------===//
// Compilation
//===----------------------------------------------------------------------===//

struct Module::Impl {
  /// The retargeted module, of which kernels are compiled one by one.
  llvm::orc::ThreadSafeModule source;
  RetargetedModule retargeted;
  std::vector<GlobalRange> variables;
  /// Guards the two below.
  std::mutex mutex;
  std::unique_ptr<HostCode> code;
  llvm::StringMap<KernelEntry> entries;

  llvm::Error addVariables();
  llvm::Expected<KernelEntry> getEntry(const RetargetedKernel &kernel);
};

Module::Module() : impl(std::make_unique<Impl>()) {}
Module::~Module() = default;

static llvm::Error makeError(const llvm::Twine &message) {
  return llvm::createStringError(llvm::inconvertibleErrorCode(), "emulator: " + message);
}

static llvm::Error verify(const llvm::Module &module, const char *what) {
  std::string complaint;
  llvm::raw_string_ostream stream(complaint);
  if (!llvm::verifyModule(module, &stream))
    return llvm::Error::success();
  return makeError(llvm::Twine(what) + ": " + llvm::StringRef(complaint).trim());
}

/// Lowers what of NVVM is lowered to inline assembly first, then translates a copy of the module.
static llvm::Expected<std::unique_ptr<llvm::Module>> translate(mlir::gpu::GPUModuleOp gpuModule,
                                                               llvm::LLVMContext &context) {
  mlir::MLIRContext *mlirContext = gpuModule.getContext();
  mlir::DialectRegistry registry;
  mlir::registerBuiltinDialectTranslation(registry);
  mlir::registerGPUDialectTranslation(registry);
  mlir::registerLLVMDialectTranslation(registry);
  mlir::registerNVVMDialectTranslation(registry);
  mlirContext->appendDialectRegistry(registry);

  std::string diagnostics;
  mlir::ScopedDiagnosticHandler handler(mlirContext, [&](mlir::Diagnostic &diagnostic) {
    if (diagnostics.empty())
      diagnostics = diagnostic.str();
    return mlir::success();
  });
  mlir::OwningOpRef<mlir::gpu::GPUModuleOp> copy(gpuModule.clone());
  mlir::PassManager passes(mlirContext, mlir::gpu::GPUModuleOp::getOperationName());
  passes.addPass(mlir::createConvertNVVMToLLVMPass());
  std::unique_ptr<llvm::Module> module;
  // Verified here, because the translation would print to stderr.
  if (mlir::succeeded(passes.run(*copy)))
    module = mlir::translateModuleToLLVMIR(*copy, context, gpuModule.getName(),
                                           /*disableVerification=*/true);
  if (!module)
    return makeError("expected a gpu.module in the LLVM and NVVM dialects: " + diagnostics);
  if (llvm::Error error = verify(*module, "the module is invalid"))
    return std::move(error);
  return std::move(module);
}

//===----------------------------------------------------------------------===//
// What the host's code generator may call on its own account
//===----------------------------------------------------------------------===//

// 16-bit floats travel in vector registers. Spelled out here, because not every libgcc has them.
static _Float16 truncateToHalf(float value) { return llvm::bit_cast<_Float16>(floatToF16(value)); }
static _Float16 truncateDoubleToHalf(double value) { return static_cast<_Float16>(value); }
static float extendHalf(_Float16 value) { return f16ToFloat(llvm::bit_cast<uint16_t>(value)); }
/// The bits of a bfloat in the low half of a vector register.
static _Float16 truncateToBrain(float value) {
  return llvm::bit_cast<_Float16>(floatToBF16(value));
}
static _Float16 truncateDoubleToBrain(double value) {
  return llvm::bit_cast<_Float16>(floatToBF16(static_cast<float>(value)));
}

static const HostCode::Symbol conversions[] = {
    {"__truncsfhf2", reinterpret_cast<void *>(&truncateToHalf)},
    {"__truncdfhf2", reinterpret_cast<void *>(&truncateDoubleToHalf)},
    {"__extendhfsf2", reinterpret_cast<void *>(&extendHalf)},
    {"__truncsfbf2", reinterpret_cast<void *>(&truncateToBrain)},
    {"__truncdfbf2", reinterpret_cast<void *>(&truncateDoubleToBrain)},
};

static llvm::Error defineCallees(HostCode &code, const RetargetedModule &retargeted) {
  llvm::SmallVector<HostCode::Symbol> symbols(std::begin(conversions), std::end(conversions));
  for (const auto &callee : retargeted.callees)
    symbols.emplace_back(callee.getKey(), callee.getValue());
  return code.define(symbols);
}

/// The module's variables are compiled on their own, because kernels share them.
llvm::Error Module::Impl::addVariables() {
  if (retargeted.variables.empty())
    return llvm::Error::success();
  std::unique_ptr<llvm::Module> clone = source.withModuleDo([](llvm::Module &module) {
    llvm::ValueToValueMapTy map;
    return llvm::CloneModule(module, map, [](const llvm::GlobalValue *value) {
      return llvm::isa<llvm::GlobalVariable>(value);
    });
  });
  if (llvm::Error error =
          code->add(llvm::orc::ThreadSafeModule(std::move(clone), source.getContext())))
    return error;
  for (const RetargetedModule::Variable &variable : retargeted.variables) {
    llvm::Expected<void *> address = code->lookup(variable.symbol);
    if (!address)
      return address.takeError();
    variables.push_back({*address, variable.bytes, variable.symbol, variable.writable,
                         /*isConstant=*/!variable.writable});
  }
  return llvm::Error::success();
}

static llvm::SmallPtrSet<const llvm::Function *, 8> getReachable(const llvm::Function &from) {
  llvm::SmallPtrSet<const llvm::Function *, 8> reached = {&from};
  llvm::SmallVector<const llvm::Function *> worklist = {&from};
  while (!worklist.empty())
    for (const llvm::Instruction &instruction : llvm::instructions(worklist.pop_back_val()))
      if (const auto *call = llvm::dyn_cast<llvm::CallInst>(&instruction))
        if (const llvm::Function *callee = call->getCalledFunction())
          if (!callee->isDeclaration() && reached.insert(callee).second)
            worklist.push_back(callee);
  return reached;
}

llvm::Expected<KernelEntry> Module::Impl::getEntry(const RetargetedKernel &kernel) {
  std::lock_guard<std::mutex> lock(mutex);
  if (KernelEntry entry = entries.lookup(kernel.name))
    return entry;
  std::unique_ptr<llvm::Module> clone = source.withModuleDo([&](llvm::Module &module) {
    llvm::SmallPtrSet<const llvm::Function *, 8> reachable =
        getReachable(*module.getFunction(kernel.symbol));
    llvm::ValueToValueMapTy map;
    std::unique_ptr<llvm::Module> clone =
        llvm::CloneModule(module, map, [&](const llvm::GlobalValue *value) {
          if (const auto *function = llvm::dyn_cast<llvm::Function>(value))
            return reachable.contains(function);
          return llvm::cast<llvm::GlobalVariable>(value)->isConstant();
        });
    for (llvm::GlobalVariable &variable : clone->globals())
      if (!variable.isDeclaration() && variable.hasExternalLinkage())
        variable.setLinkage(llvm::GlobalValue::AvailableExternallyLinkage);
    code->optimize(*clone);
    return clone;
  });
  if (llvm::Error error =
          code->add(llvm::orc::ThreadSafeModule(std::move(clone), source.getContext())))
    return std::move(error);
  llvm::Expected<void *> address = code->lookup(kernel.symbol);
  if (!address)
    return address.takeError();
  return entries[kernel.name] = reinterpret_cast<KernelEntry>(*address);
}

llvm::Expected<std::unique_ptr<Module>> Module::create(mlir::gpu::GPUModuleOp gpuModule) {
  auto context = std::make_unique<llvm::LLVMContext>();
  auto translated = translate(gpuModule, *context);
  if (!translated)
    return translated.takeError();
  std::unique_ptr<llvm::Module> hostModule = std::move(*translated);
  useChipArithmetic(*hostModule);

  llvm::Expected<std::unique_ptr<HostCode>> code = HostCode::create();
  if (!code)
    return code.takeError();
  auto retargeted = retarget(*hostModule, (*code)->getMachine());
  if (!retargeted)
    return retargeted.takeError();
  if (llvm::Error error = verify(*hostModule, "the retargeted module is invalid"))
    return std::move(error);

  std::unique_ptr<Module> module(new Module());
  Impl &impl = *module->impl;
  impl.retargeted = std::move(*retargeted);
  impl.code = std::move(*code);
  impl.source = llvm::orc::ThreadSafeModule(std::move(hostModule), std::move(context));
  if (llvm::Error error = defineCallees(*impl.code, impl.retargeted))
    return std::move(error);
  if (llvm::Error error = impl.addVariables())
    return std::move(error);
  return std::move(module);
}

std::vector<std::string> Module::getKernelNames() const {
  std::vector<std::string> names;
  for (const RetargetedKernel &kernel : impl->retargeted.kernels)
    names.push_back(kernel.name);
  return names;
}

//===----------------------------------------------------------------------===//
// Launch
//===----------------------------------------------------------------------===//

static llvm::Error checkLaunch(const RetargetedKernel &kernel, uint32_t staticSharedBytes,
                               Dim3 grid, Dim3 block, uint32_t dynamicSharedBytes,
                               size_t paramCount) {
  auto fail = [&](const auto &format, auto &&...args) {
    return makeError("kernel '" + kernel.name + "': " + llvm::formatv(format, args...).str());
  };
  if (paramCount != kernel.paramCount)
    return fail("expected {0} parameters, got {1}", kernel.paramCount, paramCount);
  // What a GPU takes; it also keeps the products below within 64 bits.
  if (!grid.count() || grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffff)
    return fail("expected a grid of 1 to (2147483647, 65535, 65535) blocks, got ({0},{1},{2})",
                grid.x, grid.y, grid.z);
  if (block.x > maxThreads || block.y > maxThreads || block.z > 64 || !block.count() ||
      block.count() > maxThreads)
    return fail("expected a block of 1 to {0} threads, got ({1},{2},{3})", maxThreads, block.x,
                block.y, block.z);
  const uint32_t extents[] = {block.x, block.y, block.z};
  for (size_t axis = 0; axis != std::min<size_t>(kernel.requiredBlock.size(), 3); ++axis)
    if (kernel.requiredBlock[axis] != extents[axis])
      return fail("expected the block of {0} threads along {1} that nvvm.reqntid asks for, got {2}",
                  kernel.requiredBlock[axis], "xyz"[axis], extents[axis]);
  const Dim3 &cluster = kernel.cluster;
  constexpr uint64_t clusterLimit = 16;
  if (!cluster.count() || cluster.x > clusterLimit || cluster.y > clusterLimit ||
      cluster.z > clusterLimit || cluster.count() > clusterLimit)
    return fail("expected clusters of 1 to {0} blocks, got ({1},{2},{3})", clusterLimit, cluster.x,
                cluster.y, cluster.z);
  if (grid.x % cluster.x || grid.y % cluster.y || grid.z % cluster.z)
    return fail("expected a grid of whole clusters of ({0},{1},{2}) blocks, got ({3},{4},{5})",
                cluster.x, cluster.y, cluster.z, grid.x, grid.y, grid.z);
  // What an H100 gives one block.
  constexpr uint64_t sharedLimit = 227 * 1024;
  uint64_t shared = uint64_t(staticSharedBytes) + dynamicSharedBytes;
  if (shared > sharedLimit)
    return fail("expected at most {0} bytes of shared memory, got {1}", sharedLimit, shared);
  return llvm::Error::success();
}

namespace {
/// The report of the first cluster that failed, whatever order the workers finish in.
struct FirstReport {
  std::mutex mutex;
  std::optional<Report> report;
  uint64_t cluster = ~uint64_t(0);

  void add(uint64_t newCluster, Report newReport) {
    std::lock_guard<std::mutex> lock(mutex);
    if (newCluster >= cluster)
      return;
    cluster = newCluster;
    report = std::move(newReport);
  }
};
} // namespace

llvm::Error Module::launch(llvm::StringRef kernelName, Dim3 grid, Dim3 block,
                           uint32_t dynamicSharedBytes, llvm::ArrayRef<void *> params,
                           const LaunchOptions &options) const {
  auto kernel = llvm::find_if(impl->retargeted.kernels,
                              [&](const auto &each) { return each.name == kernelName; });
  if (kernel == impl->retargeted.kernels.end())
    return makeError("no kernel '" + kernelName + "'; the module holds " +
                     (impl->retargeted.kernels.empty()
                          ? std::string("none")
                          : "'" + llvm::join(getKernelNames(), "', '") + "'"));
  if (llvm::Error error = checkLaunch(*kernel, impl->retargeted.staticSharedBytes, grid, block,
                                      dynamicSharedBytes, params.size()))
    return error;
  llvm::Expected<KernelEntry> entry = impl->getEntry(*kernel);
  if (!entry)
    return entry.takeError();

  LaunchState state;
  state.kernel = kernel->name;
  state.entry = *entry;
  state.grid = grid;
  state.block = block;
  state.cluster = kernel->cluster;
  state.waitsForGrid = kernel->waitsForGrid;
  state.staticSharedBytes = impl->retargeted.staticSharedBytes;
  state.dynamicSharedBytes = dynamicSharedBytes;
  state.params = params.data();
  state.options = &options;
  if (!options.ranges.empty()) {
    state.ranges = options.ranges;
    llvm::append_range(state.ranges, impl->variables);
    llvm::sort(state.ranges,
               [](const GlobalRange &a, const GlobalRange &b) { return a.base < b.base; });
  }

  uint64_t clusterCount = grid.count() / state.cluster.count();
  std::atomic<uint64_t> next = 0;
  std::atomic<bool> failed = false;
  FirstReport first;
  // Clusters are handed out in order. After a failure nobody takes a new one, and those that were
  // taken earlier finish, so the first of all failures is among them.
  auto work = [&] {
    std::unique_ptr<Cluster> runner = getClusterPool().take();
    while (!failed) {
      uint64_t index = next++;
      if (index >= clusterCount)
        break;
      if (std::optional<Report> report = runner->run(state, index)) {
        first.add(index, std::move(*report));
        failed = true;
      }
    }
    getClusterPool().give(std::move(runner));
  };
  uint64_t workers = options.workers ? options.workers : std::thread::hardware_concurrency();
  workers = std::max<uint64_t>(1, std::min<uint64_t>(workers, clusterCount));
  runOnThreads(workers, work);
  if (first.report)
    return llvm::make_error<ReportError>(std::move(*first.report));
  return llvm::Error::success();
}
