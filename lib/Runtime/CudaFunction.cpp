// A function's kernels on a GPU: modules and launches.
//
// Loading does everything that could be slow or fail (module load, JIT, shared-memory limits), so
// that a launch is one call into the driver.
#include "CudaFunction.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Runtime/GpuCode.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/FormatVariadic.h"

using namespace llvm;
using namespace sparseflow::runtime;

// Numbers of cuda.h.
static constexpr int functionLocalBytes = 3;
static constexpr int functionRegisters = 4;
static constexpr int functionMaxDynamicShared = 8;
static constexpr int jitErrorLog = 5;
static constexpr int jitErrorLogBytes = 6;
static constexpr int launchProgrammaticSerialization = 6;
static constexpr CUresult invalidValue = 1;
static constexpr CUresult noBinaryForGpu = 209;
static constexpr CUresult invalidImage = 200;
/// The first chip whose kernels can wait for the one before them.
static constexpr unsigned firstDependentChip = 90;
/// Before this, a stream with such a launch could not be captured.
static constexpr int dependentLaunchVersion = 12030;

namespace {
class CudaLoadedFunction final : public LoadedFunction {
public:
  CudaLoadedFunction(std::shared_ptr<Device> device, CudaDriver &driver, const CudaDeviceInfo &gpu,
                     ProgramFile::Ptr file, const Function &function, const Program &program)
      : device(std::move(device)), driver(driver), gpu(gpu), file(std::move(file)),
        function(function), chosen(program) {}
  ~CudaLoadedFunction() override;

  Error load();
  const Program *program() const override { return &chosen; }
  Error launch(size_t kernel, const std::array<uint32_t, 3> &grid, void *const *params,
               void *stream) override;
  LoadedKernelInfo info(size_t kernel) const override { return kernels[kernel].info; }

private:
  struct LoadedKernel {
    CUfunction function = nullptr;
    unsigned block[3] = {1, 1, 1};
    unsigned shared = 0;
    bool dependentLaunch = false;
    LoadedKernelInfo info;
  };
  Error loadKernel(const Kernel &kernel, LoadedKernel &loaded);
  Error checkArguments(const Kernel &kernel, CUfunction code) const;
  Expected<CUmodule> loadModule(const Kernel &kernel, std::string &binary);
  Expected<CUmodule> loadPtx(const Kernel &kernel);

  /// Whether a kernel may begin before the one ahead of it on the stream has ended.
  bool launchesDependents() const {
    return driver.cuLaunchKernelEx && driver.version() >= dependentLaunchVersion &&
           gpu.chip >= firstDependentChip;
  }

  std::shared_ptr<Device> device;
  CudaDriver &driver;
  const CudaDeviceInfo &gpu; // the device's
  ProgramFile::Ptr file;
  const Function &function;
  const Program &chosen;
  std::vector<LoadedKernel> kernels;
  // Kernels may share a binary.
  StringMap<std::pair<CUmodule, std::string>> modules;
};
} // namespace

CudaLoadedFunction::~CudaLoadedFunction() {
  DeviceScope scope(*device);
  if (Error error = scope.enter()) {
    // What follows would hit the caller's context; the modules go with their own.
    consumeError(std::move(error));
    return;
  }
  // Kernels may still be running.
  if (!modules.empty())
    driver.cuCtxSynchronize();
  for (auto &entry : modules)
    driver.cuModuleUnload(entry.second.first);
}

Error CudaLoadedFunction::load() {
  kernels.resize(chosen.kernels.size());
  for (auto [kernel, loaded] : zip(chosen.kernels, kernels))
    if (Error error = loadKernel(kernel, loaded))
      return addContext("kernel '" + kernel.name + "'", std::move(error));
  return Error::success();
}

Expected<CUmodule> CudaLoadedFunction::loadPtx(const Kernel &kernel) {
  const StoredTensor *tensor = file->find(kernel.ptx);
  // The driver wants a terminator, which the file does not hold.
  std::string ptx = toStringRef(tensor->data).str();
  char log[4096] = {};
  int options[] = {jitErrorLog, jitErrorLogBytes};
  void *values[] = {log, reinterpret_cast<void *>(sizeof(log) - 1)};
  CUmodule module = nullptr;
  CUresult result = driver.cuModuleLoadDataEx(&module, ptx.c_str(), 2, options, values);
  if (result) {
    StringRef text = StringRef(log).trim();
    return driver.error(result, "compiling the PTX of " + chosen.target + " for sm_" +
                                    Twine(gpu.chip) +
                                    (text.empty() ? Twine("") : " (" + text + ")"));
  }
  return module;
}

Expected<CUmodule> CudaLoadedFunction::loadModule(const Kernel &kernel, std::string &binary) {
  bool runs = cubinRunsOn(*parseChip(chosen.target), gpu.chip);
  if (!kernel.cubin.empty() && runs) {
    ArrayRef<uint8_t> cubin = file->find(kernel.cubin)->data;
    if (Error error = checkCubin(cubin))
      return addContext("'" + kernel.cubin + "'", std::move(error));
    // In the file it may lie at an odd address.
    std::vector<uint64_t> aligned(cubin.size() / 8 + 1);
    memcpy(aligned.data(), cubin.data(), cubin.size());
    CUmodule module = nullptr;
    CUresult result = driver.cuModuleLoadDataEx(&module, aligned.data(), 0, nullptr, nullptr);
    binary = "cubin " + chosen.target;
    if (!result)
      return module;
    bool tryPtx = (result == noBinaryForGpu || result == invalidImage) && !kernel.ptx.empty();
    if (!tryPtx)
      return driver.error(result, "loading '" + kernel.cubin + "'");
  }
  binary = "ptx " + chosen.target + ", compiled by the driver";
  return loadPtx(kernel);
}

Error CudaLoadedFunction::loadKernel(const Kernel &kernel, LoadedKernel &loaded) {
  if (kernel.shared > gpu.sharedPerBlock)
    return makeError(
        Status::Unsupported,
        formatv("expected at most {0} bytes of shared memory on {1} (sm_{2}), got {3}; "
                "compile with --target=sm_{2}",
                gpu.sharedPerBlock, gpu.name, gpu.chip, kernel.shared));
  StringRef key = kernel.cubin.empty() ? kernel.ptx : kernel.cubin;
  auto [entry, isNew] = modules.try_emplace(key);
  if (isNew) {
    std::string binary;
    Expected<CUmodule> module = loadModule(kernel, binary);
    if (!module) {
      modules.erase(entry);
      return module.takeError();
    }
    entry->second = {*module, std::move(binary)};
  }
  loaded.info.binary = entry->second.second;
  if (CUresult result =
          driver.cuModuleGetFunction(&loaded.function, entry->second.first, kernel.name.c_str()))
    return driver.error(result, "finding '" + kernel.name + "' in '" + key + "'");
  // With lazy loading the first launch would load the code, which may synchronize and breaks a
  // capture.
  CUresult result = driver.cuFuncLoad ? driver.cuFuncLoad(loaded.function) : 0;
  if (!result && kernel.shared > 0)
    result = driver.cuFuncSetAttribute(loaded.function, functionMaxDynamicShared, kernel.shared);
  int registers = 0, localBytes = 0;
  if (!result)
    result = driver.cuFuncGetAttribute(&registers, functionRegisters, loaded.function);
  if (!result)
    result = driver.cuFuncGetAttribute(&localBytes, functionLocalBytes, loaded.function);
  if (result)
    return driver.error(result, "preparing the kernel");
  loaded.info.registers = registers;
  loaded.info.localBytes = localBytes;
  for (int i = 0; i < 3; ++i)
    loaded.block[i] = kernel.block[i];
  loaded.shared = kernel.shared;
  loaded.dependentLaunch = kernel.dependentLaunch && launchesDependents();
  return checkArguments(kernel, loaded.function);
}

static size_t byteSize(Argument::Kind kind) {
  switch (kind) {
  case Argument::Kind::Buffer:
  case Argument::Kind::Stride:
  case Argument::Kind::Dim:
  case Argument::Kind::I64:
    return 8;
  case Argument::Kind::I32:
  case Argument::Kind::F32:
    return 4;
  case Argument::Kind::TensorMap:
    break;
  }
  return tensorMapBytes;
}

/// A launch reads as many bytes as the code says, from where the manifest's arguments lie.
Error CudaLoadedFunction::checkArguments(const Kernel &kernel, CUfunction code) const {
  if (!driver.cuFuncGetParamInfo)
    return Error::success();
  SmallVector<size_t, maxKernelArguments> sizes;
  size_t offset = 0, bytes = 0;
  CUresult result = 0;
  // A launch can pass no more, so the rest does not matter.
  while (sizes.size() <= maxKernelArguments &&
         (result = driver.cuFuncGetParamInfo(code, sizes.size(), &offset, &bytes)) == 0)
    sizes.push_back(bytes);
  if (result && result != invalidValue)
    return driver.error(result, "asking for the kernel's parameters");
  auto list = [](ArrayRef<size_t> sizes) {
    return join(map_range(sizes, [](size_t size) { return std::to_string(size); }), ", ");
  };
  for (const Step &step : chosen.steps)
    for (const Variant &variant : step.variants)
      for (const Launch &launch : variant.launches) {
        if (launch.kernel != kernel.name)
          continue;
        SmallVector<size_t, maxKernelArguments> passed;
        for (const Argument &arg : launch.args)
          passed.push_back(byteSize(arg.kind));
        if (passed != sizes)
          return makeError(Status::InvalidProgram,
                           formatv("expected code for arguments of {0} bytes, as the manifest "
                                   "passes them, got code for {1}; compile the program again",
                                   list(passed), list(sizes)));
      }
  return Error::success();
}

Error CudaLoadedFunction::launch(size_t index, const std::array<uint32_t, 3> &grid,
                                 void *const *params, void *stream) {
  const LoadedKernel &kernel = kernels[index];
  auto queue = static_cast<CUstream>(stream);
  auto values = const_cast<void **>(params);
  CUresult result;
  if (kernel.dependentLaunch) {
    CudaLaunchAttribute attribute{launchProgrammaticSerialization, 1, {}};
    CudaLaunchConfig config{{grid[0], grid[1], grid[2]},
                            {kernel.block[0], kernel.block[1], kernel.block[2]},
                            kernel.shared,
                            queue,
                            &attribute,
                            1};
    result = driver.cuLaunchKernelEx(&config, kernel.function, values, nullptr);
  } else {
    result = driver.cuLaunchKernel(kernel.function, grid[0], grid[1], grid[2], kernel.block[0],
                                   kernel.block[1], kernel.block[2], kernel.shared, queue, values,
                                   nullptr);
  }
  if (LLVM_LIKELY(result == 0))
    return Error::success();
  return driver.error(result, "launching kernel '" + chosen.kernels[index].name + "' of '" +
                                  function.name + "'");
}

Expected<std::unique_ptr<LoadedFunction>>
sparseflow::runtime::loadCudaFunction(std::shared_ptr<Device> device, CudaDriver &driver,
                                      const CudaDeviceInfo &gpu, ProgramFile::Ptr file,
                                      const Function &function, const Program &program) {
  auto loaded =
      std::make_unique<CudaLoadedFunction>(device, driver, gpu, std::move(file), function, program);
  DeviceScope scope(*device);
  if (Error error = scope.enter())
    return std::move(error);
  if (Error error = loaded->load())
    return addContext(device->name(), std::move(error));
  return std::move(loaded);
}
