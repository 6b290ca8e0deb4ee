//===- HostCode.cpp - LLVM IR, compiled into this process -----------------===//

#include "HostCode.h"

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
#include <cstdlib>
#include <cstring>
#include <mutex>

using namespace llvm;
using namespace sparseflow;

/// A fixed level of the architecture, so that results do not depend on which extensions a host has.
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
  bool hasV3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  builder->setCPU(hasV3 ? "x86-64-v3" : "x86-64");
  builder->getFeatures() = SubtargetFeatures();
#endif
  builder->setRelocationModel(Reloc::PIC_);
  return builder->createTargetMachine();
}

static void optimize(Module &module, TargetMachine &machine) {
  LoopAnalysisManager loops;
  FunctionAnalysisManager functions;
  CGSCCAnalysisManager graph;
  ModuleAnalysisManager modules;
  PassBuilder builder(&machine);
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(graph);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, graph, modules);
  builder.buildPerModuleDefaultPipeline(OptimizationLevel::O2).run(module, modules);
}

/// What lowered arithmetic and memory operations call.
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
          {"malloc", reinterpret_cast<void *>(::malloc)},
          {"free", reinterpret_cast<void *>(::free)},
          {"memcpy", reinterpret_cast<void *>(::memcpy)},
          {"memmove", reinterpret_cast<void *>(::memmove)},
          {"memset", reinterpret_cast<void *>(::memset)}};
#undef SF_UNARY
#undef SF_BINARY
}

HostCode::HostCode(std::unique_ptr<orc::LLJIT> jit) : jit(std::move(jit)) {}
HostCode::~HostCode() = default;

Expected<std::unique_ptr<HostCode>> HostCode::compile(std::unique_ptr<Module> module,
                                                      std::unique_ptr<LLVMContext> context,
                                                      ArrayRef<Symbol> symbols) {
  Expected<std::unique_ptr<TargetMachine>> machine = createTargetMachine();
  if (!machine)
    return machine.takeError();
  module->setDataLayout((*machine)->createDataLayout());
  module->setTargetTriple((*machine)->getTargetTriple());
  optimize(*module, **machine);

  auto createCompiler = [&](orc::JITTargetMachineBuilder)
      -> Expected<std::unique_ptr<orc::IRCompileLayer::IRCompiler>> {
    return std::make_unique<orc::TMOwningSimpleCompiler>(std::move(*machine));
  };
  Expected<std::unique_ptr<orc::LLJIT>> jit = orc::LLJITBuilder()
                                                  .setLinkProcessSymbolsByDefault(false)
                                                  .setPlatformSetUp(orc::setUpInactivePlatform)
                                                  .setCompileFunctionCreator(createCompiler)
                                                  .create();
  if (!jit)
    return jit.takeError();
  orc::SymbolMap known;
  SmallVector<Symbol> all = getLibrarySymbols();
  append_range(all, symbols);
  for (auto [name, address] : all)
    known[(*jit)->mangleAndIntern(name)] = {orc::ExecutorAddr::fromPtr(address),
                                            JITSymbolFlags::Exported | JITSymbolFlags::Callable};
  if (Error error = (*jit)->getMainJITDylib().define(orc::absoluteSymbols(std::move(known))))
    return std::move(error);
  if (Error error =
          (*jit)->addIRModule(orc::ThreadSafeModule(std::move(module), std::move(context))))
    return std::move(error);
  return std::unique_ptr<HostCode>(new HostCode(std::move(*jit)));
}

Expected<void *> HostCode::lookup(StringRef name) const {
  Expected<orc::ExecutorAddr> address = jit->lookup(name);
  if (!address)
    return address.takeError();
  return address->toPtr<void *>();
}
