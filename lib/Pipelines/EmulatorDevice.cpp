//===- EmulatorDevice.cpp - Programs on the emulator ----------------------===//
//
// The file's kernels are machine code for a GPU, so they are compiled again from its source, and
// the program that is replayed is the one that this gives, not the one that the file claims:
// whoever altered a file can make it fail, and nothing else.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Emulator/Emulator.h"
#include "sparseflow/Pipelines/FileSources.h"
#include "sparseflow/Pipelines/HostDevices.h"
#include "sparseflow/Runtime/Error.h"

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include <map>
#include <mutex>

using namespace llvm;
using namespace sparseflow;
namespace rt = sparseflow::runtime;

namespace {

/// All of a file's kernels for one chip, shared by the file's functions.
struct EmulatedKernels {
  /// Held so that no other file gets its address, by which these kernels are found.
  rt::ProgramFile::Ptr file;
  rt::Manifest manifest;
  std::vector<std::unique_ptr<emulator::Module>> modules;
  StringMap<const emulator::Module *> byName;
};

class EmulatedFunction : public rt::LoadedFunction {
public:
  EmulatedFunction(std::shared_ptr<const EmulatedKernels> kernels, rt::Program program)
      : kernels(std::move(kernels)), chosen(std::move(program)) {
    for (const rt::Step &step : chosen.steps)
      for (const rt::Variant &variant : step.variants)
        for (const rt::Launch &launch : variant.launches)
          parameterCounts[launch.kernel] = launch.args.size();
  }

  const rt::Program *program() const override { return &chosen; }

  Error launchWithin(ArrayRef<rt::MemoryRange> memory, size_t index,
                     const std::array<uint32_t, 3> &grid, void *const *params, void *) override {
    const rt::Kernel &kernel = chosen.kernels[index];
    emulator::Dim3 blocks{grid[0], grid[1], grid[2]};
    emulator::Dim3 threads{static_cast<uint32_t>(kernel.block[0]),
                           static_cast<uint32_t>(kernel.block[1]),
                           static_cast<uint32_t>(kernel.block[2])};
    emulator::LaunchOptions options;
    for (const rt::MemoryRange &range : memory)
      options.ranges.push_back(
          {range.base, range.bytes, range.name, range.writable, range.isConstant});
    Error error = kernels->byName.lookup(kernel.name)
                      ->launch(kernel.name, blocks, threads, kernel.shared,
                               ArrayRef(params, parameterCounts.lookup(kernel.name)), options);
    if (!error)
      return Error::success();
    return rt::makeError(rt::Status::DeviceError, "kernel '" + kernel.name + "' in the emulator: " +
                                                      toString(std::move(error)));
  }

  Error launch(size_t kernel, const std::array<uint32_t, 3> &grid, void *const *params,
               void *stream) override {
    return launchWithin({}, kernel, grid, params, stream);
  }

  rt::LoadedKernelInfo info(size_t) const override {
    return {"emulated " + chosen.target, std::nullopt, std::nullopt};
  }

private:
  std::shared_ptr<const EmulatedKernels> kernels;
  rt::Program chosen;
  StringMap<size_t> parameterCounts; // by kernel
};

class EmulatorDevice : public rt::Device {
public:
  StringRef name() const override { return "emulator"; }
  std::string description() const override { return "kernels on the CPU, with checks"; }
  bool usesHostMemory() const override { return true; }

  Expected<std::unique_ptr<rt::LoadedFunction>> load(const rt::ProgramFile::Ptr &file,
                                                     const rt::Function &function) override;

private:
  Expected<std::shared_ptr<const EmulatedKernels>> kernelsOf(const rt::ProgramFile::Ptr &file,
                                                             StringRef chip);

  std::mutex mutex;
  std::map<std::pair<const rt::ProgramFile *, std::string>, std::weak_ptr<const EmulatedKernels>>
      known;
};

} // namespace

Expected<std::shared_ptr<const EmulatedKernels>>
EmulatorDevice::kernelsOf(const rt::ProgramFile::Ptr &file, StringRef chip) {
  std::lock_guard<std::mutex> lock(mutex);
  for (auto it = known.begin(); it != known.end();)
    it = it->second.expired() ? known.erase(it) : std::next(it);
  auto &entry = known[{file.get(), chip.str()}];
  if (std::shared_ptr<const EmulatedKernels> kernels = entry.lock())
    return kernels;
  Expected<RecompiledProgram> recompiled = recompileForEmulation(*file, chip);
  if (!recompiled)
    return recompiled.takeError();
  auto kernels = std::make_shared<EmulatedKernels>();
  kernels->file = file;
  kernels->manifest = std::move(recompiled->manifest);
  for (auto gpuModule : recompiled->kernels.module->getOps<mlir::gpu::GPUModuleOp>()) {
    Expected<std::unique_ptr<emulator::Module>> module = emulator::Module::create(gpuModule);
    if (!module)
      return rt::makeError(rt::Status::Unsupported, toString(module.takeError()));
    for (const std::string &kernel : (*module)->getKernelNames())
      kernels->byName[kernel] = module->get();
    kernels->modules.push_back(std::move(*module));
  }
  entry = kernels;
  return kernels;
}

/// Whether callers may treat the two alike: same names, types and symbols.
static bool haveSameSignature(const rt::Function &a, const rt::Function &b) {
  auto strip = [](rt::Function function) {
    function.programs.clear();
    rt::Manifest manifest;
    manifest.functions.push_back(std::move(function));
    return rt::toJSON(manifest);
  };
  return strip(a) == strip(b);
}

Expected<std::unique_ptr<rt::LoadedFunction>> EmulatorDevice::load(const rt::ProgramFile::Ptr &file,
                                                                   const rt::Function &function) {
  if (function.programs.empty())
    return rt::makeError(rt::Status::Unsupported,
                         "function '" + function.name + "' was compiled for no target");
  // All targets compute the same; the first is what the user named first.
  const rt::Program &original = function.programs.front();
  Expected<std::shared_ptr<const EmulatedKernels>> kernels = kernelsOf(file, original.target);
  if (!kernels)
    return kernels.takeError();
  const rt::Function *recompiled = (*kernels)->manifest.find(function.name);
  if (!recompiled || !haveSameSignature(*recompiled, function))
    return rt::makeError(rt::Status::InvalidProgram,
                         "function '" + function.name +
                             "' is not what the file's source compiles to; the file was altered");
  rt::Program program = recompiled->programs.front();
  for (rt::Kernel &kernel : program.kernels) {
    if (!(*kernels)->byName.count(kernel.name))
      return rt::makeError(rt::Status::InternalError,
                           "kernel '" + kernel.name + "' is missing in the emulator");
    // What ptxas said is not known here, but reports want to show it.
    for (const rt::Kernel &assembled : original.kernels)
      if (assembled.name == kernel.name) {
        kernel.registers = assembled.registers;
        kernel.spillBytes = assembled.spillBytes;
        kernel.mmaSp = assembled.mmaSp;
        kernel.ptxas = assembled.ptxas;
      }
  }
  for (auto [step, assembled] : zip(program.steps, original.steps))
    for (auto [variant, other] : zip(step.variants, assembled.variants)) {
      variant.path = other.path;
      variant.reason = other.reason;
    }
  return std::make_unique<EmulatedFunction>(*kernels, std::move(program));
}

std::shared_ptr<rt::Device> sparseflow::createEmulatorDevice() {
  return std::make_shared<EmulatorDevice>();
}
