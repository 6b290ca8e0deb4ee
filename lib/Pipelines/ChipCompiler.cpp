//===- ChipCompiler.cpp - Compiling for one chip --------------------------===//

#include "ChipCompiler.h"
#include "ConstantTensors.h"
#include "ProductChoices.h"
#include "ProgramCache.h"
#include "TuningPaths.h"

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"
#include "sparseflow/Dialect/SF/Transforms/Tuning.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Target/Passes.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"

using namespace mlir;
using namespace sparseflow;
using target::Chip;
using target::DiskCache;
namespace rt = sparseflow::runtime;

//===----------------------------------------------------------------------===//
// What a chip starts from
//===----------------------------------------------------------------------===//

PipelineOptions sparseflow::getPipelineOptions(const CommonInput &input, const Chip &chip) {
  PipelineOptions pipeline;
  pipeline.target = chip.name.str();
  pipeline.config = input.options.config;
  pipeline.ptxas = input.ptxas.path().str();
  pipeline.cacheDir = input.cacheDir;
  pipeline.explain = true;
  pipeline.isCancelled = input.options.isCancelled;
  setTuning(pipeline, input.options, chip);
  return pipeline;
}

static void setTarget(ModuleOp module, const Chip &chip) {
  module->setAttr("sf.target", sf::TargetAttr::get(module.getContext(), chip.name));
}

llvm::Error sparseflow::openForChip(Session &session, const CommonInput &input, const Chip &chip) {
  if (llvm::Error error = session.parse(input.source, sourceTensorName))
    return error;
  if (llvm::Error error = session.bind(input.constants))
    return error;
  setTarget(session.module(), chip);
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

llvm::Expected<std::vector<StageOutput>> sparseflow::translateKernels(Session &session, Stage stage,
                                                                      const Chip &chip,
                                                                      const target::Ptxas *ptxas) {
  target::CodeGenOptions codegen;
  codegen.chip = &chip;
  codegen.ptxas = ptxas;
  codegen.keepLLVMIR = stage == Stage::LLVM;
  std::vector<StageOutput> outputs;
  for (auto module : session.module().getOps<gpu::GPUModuleOp>()) {
    FailureOr<std::vector<target::CompiledKernel>> kernels = failure();
    if (llvm::Error error = session.guard([&]() -> LogicalResult {
          kernels = target::compileKernels(module, codegen);
          return success(succeeded(kernels));
        }))
      return std::move(error);
    for (target::CompiledKernel &kernel : *kernels) {
      std::string stem = chip.name.str() + "-" + kernel.name;
      if (stage == Stage::LLVM)
        outputs.push_back({stem + ".ll", std::move(kernel.llvmIR)});
      else if (stage == Stage::PTX)
        outputs.push_back({stem + ".ptx", std::move(kernel.ptx)});
      else
        outputs.push_back({stem + ".cubin", std::move(kernel.cubin)});
    }
  }
  return outputs;
}

/// What lies between the last IR and the program: each kernel's LLVM IR, PTX and cubin, the
/// manifest.
static llvm::Error dumpKernels(Session &session, const ChipProgram &program, const Chip &chip,
                               ArrayRef<StageOutput> llvmIR, Dumper &dumper) {
  for (const StageOutput &kernel : llvmIR)
    if (llvm::Error error = dumper.dump(kernel.name, kernel.contents))
      return error;
  for (const rt::StoredTensor &tensor : program.tensors) {
    StringRef name = tensor.name;
    if (name.consume_front((chip.name + "/").str()))
      if (llvm::Error error = dumper.dump(chip.name + "-" + name, llvm::toStringRef(tensor.data)))
        return error;
  }
  return dumper.dump(chip.name + "-manifest.json",
                     llvm::formatv("{0:2}\n", rt::toJSON(program.manifest)).str());
}

/// From packed weights to kernels.
static llvm::Expected<ChipProgram> buildKernels(Session &session, const Chip &chip,
                                                const PipelineOptions &pipeline, Dumper &dumper,
                                                TimingScope &timing) {
  if (llvm::Error error = session.run(Phase::Tile, Phase::Lower, pipeline, dumper, timing))
    return std::move(error);
  std::vector<StageOutput> llvmIR;
  if (dumper.enabled()) {
    llvm::Expected<std::vector<StageOutput>> kernels =
        translateKernels(session, Stage::LLVM, chip, nullptr);
    if (!kernels)
      return kernels.takeError();
    llvmIR = std::move(*kernels);
  }
  if (llvm::Error error = session.run(Phase::Binary, Phase::Binary, pipeline, dumper, timing))
    return std::move(error);
  llvm::Expected<ChipProgram> program = buildChipProgram(session, chip);
  if (!program)
    return program.takeError();
  if (llvm::Error error = dumpKernels(session, *program, chip, llvmIR, dumper))
    return std::move(error);
  return program;
}

//===----------------------------------------------------------------------===//
// Configurations that are slow
//===----------------------------------------------------------------------===//

// How many registers an epilogue needs is known to ptxas alone. Where a kernel of a configuration
// that the compiler chose is slow, spilling or with serialized wgmma, the product gets another
// choice: at first without what needs as many registers, in the end among small tiles alone.

/// Accumulators a thread, from try to try; the first only leaves out what is known to be slow. The
/// smallest tiles have 16, which leaves room for any epilogue that was met.
static constexpr int64_t fewerAccumulators[] = {sf::kMostAccumulators, 112, 64, 48, 32, 16};

/// Whether the options say which kernel computes every matmul; a library leaves the kernels open.
static bool isKernelGiven(Session &session, const PipelineOptions &pipeline) {
  return !pipeline.config.empty() && isa_and_present<sf::KernelConfigAttr>(sf::parseVariantConfig(
                                         session.module().getContext(), pipeline.config));
}

/// From packed weights, in `session`, to kernels of which none is slow; in sessions of its own
/// where one of the first choice is. `chipSource` is the IR that tells the choice.
static llvm::Expected<ChipProgram>
buildWithoutSlowKernels(Session &session, const CommonInput &input, const Chip &chip,
                        MutableArrayRef<ProductChoice> choices, std::string chipSource,
                        Dumper &dumper, TimingScope &timing) {
  PipelineOptions pipeline = getPipelineOptions(input, chip);
  auto build = [&](Session &session) {
    readChoices(session.module(), choices);
    numberProducts(session.module());
    llvm::Expected<ChipProgram> program = buildKernels(session, chip, pipeline, dumper, timing);
    if (program)
      program->tensors.push_back(rt::StoredTensor::text(getChipSourceName(chip.name), chipSource));
    return program;
  };
  // A configuration that somebody wants is not replaced.
  pipeline.allowSlow = !isKernelGiven(session, pipeline);
  llvm::Expected<ChipProgram> program = build(session);
  if (!program)
    return program;
  auto slow = findSlowProducts(session.module());
  for (int64_t accumulators : fewerAccumulators) {
    if (slow.empty())
      break;
    pipeline.maxAccumulators = accumulators;
    for (auto &[product, kernels] : slow) {
      // What is not ours to change is an error this time.
      if (product < 0 || choices[product].isGiven) {
        pipeline.allowSlow = false;
        continue;
      }
      ProductChoice &choice = choices[product];
      choice.configs = choice.reasons = choice.times = "";
      for (auto &[config, slowness] : kernels)
        choice.slow.insert(config);
      choice.reason = llvm::formatv("the fastest without {0}, which {1}", kernels.front().first,
                                    kernels.front().second);
    }
    Session again(input.options, llvm::formatv("{0}-{1}-", chip.name, accumulators).str());
    if (llvm::Error error = openForChip(again, input, chip))
      return std::move(error);
    setChoices(again.module(), choices);
    if (llvm::Error error = again.run(Phase::Select, Phase::Select, pipeline, dumper, timing))
      return std::move(error);
    chipSource = printModule(again.module(), Print::Source);
    if (llvm::Error error = again.run(Phase::Pack, Phase::Pack, pipeline, dumper, timing))
      return std::move(error);
    // Kernels that stay the same are found in the cache.
    program = build(again);
    if (!program)
      return program;
    slow = findSlowProducts(again.module());
  }
  if (!slow.empty())
    return rt::makeError(
        rt::Status::InvalidProgram,
        llvm::formatv("expected a configuration for {0} whose kernel neither spills registers nor "
                      "has its wgmma instructions serialized, got none: with the fewest "
                      "accumulators, {1} {2}; a shorter epilogue would fit",
                      chip.name, slow.begin()->second.front().first,
                      slow.begin()->second.front().second));
  return program;
}

//===----------------------------------------------------------------------===//
// The whole way
//===----------------------------------------------------------------------===//

llvm::Expected<ChipProgram> sparseflow::compileForChip(const CommonInput &input, const Chip &chip,
                                                       Dumper &dumper, TimingScope &timing) {
  Session session(input.options, chip.name.str() + "-");
  if (llvm::Error error = openForChip(session, input, chip))
    return std::move(error);
  std::vector<ProductChoice> choices;
  session.module().walk(
      [&](sf::MatmulOp op) { choices.emplace_back().isGiven = op.getConfigs().has_value(); });
  PipelineOptions pipeline = getPipelineOptions(input, chip);
  if (llvm::Error error = session.run(Phase::Select, Phase::Select, pipeline, dumper, timing))
    return std::move(error);
  std::string chipSource = printModule(session.module(), Print::Source);
  if (llvm::Error error = session.run(Phase::Pack, Phase::Pack, pipeline, dumper, timing))
    return std::move(error);
  // Weights are packed alike for whatever kernels are built, and a slow kernel changes only those:
  // who calls a library, and reads dense weights, stays.
  std::vector<ResourceConstant> resources = getResourceConstants(session.module());

  DiskCache cache(dumper.enabled() ? "" : input.cacheDir);
  std::string key = cache.enabled() ? getProgramKey(input.ptxas, chip,
                                                    printModule(session.module(), Print::Source))
                                    : "";
  std::optional<ChipProgram> program;
  if (cache.enabled())
    program = findProgram(cache, key);
  if (!program) {
    llvm::Expected<ChipProgram> built = buildWithoutSlowKernels(
        session, input, chip, choices, std::move(chipSource), dumper, timing);
    if (!built)
      return built.takeError();
    program = std::move(*built);
    storeProgram(cache, key, *program);
  }
  if (llvm::Error error = addResources(*program, resources, input.constants, session.share()))
    return std::move(error);
  return std::move(*program);
}
