//===- HostCode.cpp - LLVM IR, compiled into this process -----------------===//

#include "sparseflow/HostCode/HostCode.h"

#include "llvm/ExecutionEngine/Orc/AbsoluteSymbols.h"
#include "llvm/ExecutionEngine/Orc/CompileUtils.h"
#include "llvm/ExecutionEngine/Orc/LLJIT.h"
#include "llvm/ExecutionEngine/Orc/ThreadSafeModule.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"

#include <cmath>
#include <cstring>
#include <mutex>

using namespace llvm;
using namespace sparseflow;

static Expected<std::unique_ptr<TargetMachine>> createTargetMachine() {
  static std::once_flag once;
  std::call_once(once, [] {
    InitializeNativeTarget();
    InitializeNativeTargetAsmPrinter();
  });
  Expected<orc::JITTargetMachineBuilder> builder = orc::JITTargetMachineBuilder::detectHost();
  if (!builder)
    return builder.takeError();
#if defined(__x86_64__)
  bool hasV3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("f16c");
  builder->setCPU(hasV3 ? "x86-64-v3" : "x86-64");
  builder->getFeatures() = SubtargetFeatures();
#endif
  builder->setRelocationModel(Reloc::PIC_);
  return builder->createTargetMachine();
}

/// What the code generator and lowered arithmetic call.
static SmallVector<HostCode::Symbol> getLibrarySymbols() {
#define SF_UNARY(name)                                                                             \
  {#name "f", reinterpret_cast<void *>(static_cast<float (*)(float)>(::name##f))},                 \
      {#name, reinterpret_cast<void *>(static_cast<double (*)(double)>(::name))}
#define SF_BINARY(name)                                                                            \
  {#name "f", reinterpret_cast<void *>(static_cast<float (*)(float, float)>(::name##f))}, {        \
    #name, reinterpret_cast<void *>(static_cast<double (*)(double, double)>(::name))               \
  }
  return {SF_UNARY(acos),
          SF_UNARY(acosh),
          SF_UNARY(asin),
          SF_UNARY(asinh),
          SF_UNARY(atan),
          SF_UNARY(atanh),
          SF_UNARY(cbrt),
          SF_UNARY(ceil),
          SF_UNARY(cos),
          SF_UNARY(cosh),
          SF_UNARY(erf),
          SF_UNARY(erfc),
          SF_UNARY(exp),
          SF_UNARY(exp2),
          SF_UNARY(expm1),
          SF_UNARY(floor),
          SF_UNARY(log),
          SF_UNARY(log10),
          SF_UNARY(log1p),
          SF_UNARY(log2),
          SF_UNARY(nearbyint),
          SF_UNARY(rint),
          SF_UNARY(round),
          {"roundevenf", reinterpret_cast<void *>(static_cast<float (*)(float)>(
                             [](float value) { return std::nearbyintf(value); }))},
          {"roundeven", reinterpret_cast<void *>(static_cast<double (*)(double)>(
                            [](double value) { return std::nearbyint(value); }))},
          SF_UNARY(sin),
          SF_UNARY(sinh),
          SF_UNARY(sqrt),
          SF_UNARY(tan),
          SF_UNARY(tanh),
          SF_UNARY(trunc),
          SF_BINARY(atan2),
          SF_BINARY(fmax),
          SF_BINARY(fmin),
          SF_BINARY(fmod),
          SF_BINARY(pow),
          {"fmaf", reinterpret_cast<void *>(static_cast<float (*)(float, float, float)>(::fmaf))},
          {"fma", reinterpret_cast<void *>(static_cast<double (*)(double, double, double)>(::fma))},
          {"memcpy", reinterpret_cast<void *>(::memcpy)},
          {"memmove", reinterpret_cast<void *>(::memmove)},
          {"memset", reinterpret_cast<void *>(::memset)}};
#undef SF_UNARY
#undef SF_BINARY
}

HostCode::HostCode() = default;
HostCode::~HostCode() = default;

Expected<std::unique_ptr<HostCode>> HostCode::create() {
  std::unique_ptr<HostCode> code(new HostCode());
  Expected<std::unique_ptr<TargetMachine>> machine = createTargetMachine();
  if (!machine)
    return machine.takeError();
  code->machine = std::move(*machine);
  auto createCompiler = [&](orc::JITTargetMachineBuilder)
      -> Expected<std::unique_ptr<orc::IRCompileLayer::IRCompiler>> {
    return std::make_unique<orc::SimpleCompiler>(*code->machine);
  };
  Expected<std::unique_ptr<orc::LLJIT>> jit = orc::LLJITBuilder()
                                                  .setLinkProcessSymbolsByDefault(false)
                                                  .setPlatformSetUp(orc::setUpInactivePlatform)
                                                  .setCompileFunctionCreator(createCompiler)
                                                  .create();
  if (!jit)
    return jit.takeError();
  code->jit = std::move(*jit);
  if (Error error = code->define(getLibrarySymbols()))
    return std::move(error);
  return code;
}

Error HostCode::define(ArrayRef<Symbol> symbols) {
  orc::SymbolMap known;
  for (auto [name, address] : symbols)
    known[jit->mangleAndIntern(name)] = {orc::ExecutorAddr::fromPtr(address),
                                         JITSymbolFlags::Exported | JITSymbolFlags::Callable};
  return jit->getMainJITDylib().define(orc::absoluteSymbols(std::move(known)));
}

void HostCode::optimize(Module &module) const {
  LoopAnalysisManager loops;
  FunctionAnalysisManager functions;
  CGSCCAnalysisManager graph;
  ModuleAnalysisManager modules;
  PassBuilder builder(machine.get());
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(graph);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, graph, modules);
  builder.buildPerModuleDefaultPipeline(OptimizationLevel::O2).run(module, modules);
}

Error HostCode::add(orc::ThreadSafeModule module) { return jit->addIRModule(std::move(module)); }

Expected<void *> HostCode::lookup(StringRef name) const {
  Expected<orc::ExecutorAddr> address = jit->lookup(name);
  if (!address)
    return address.takeError();
  return address->toPtr<void *>();
}
