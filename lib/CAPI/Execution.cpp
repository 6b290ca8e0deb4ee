// Devices, executables, runs, graphs.
#include "Handles.h"
#include "sparseflow/Pipelines/HostDevices.h"
#include "sparseflow/Runtime/CudaDevice.h"
#include "sparseflow/Runtime/GpuCode.h"
#include "sparseflow/Target/Chip.h"
#include "llvm/Support/FormatVariadic.h"
#include <mutex>

using namespace llvm;
using namespace sparseflow;
using namespace sparseflow::capi;

/// The emulator and the reference become known at the first use of a device, not when the library
/// is loaded.
static void registerDevices() {
  static std::once_flag once;
  std::call_once(once, registerHostDevices);
}

static Expected<std::vector<runtime::CudaDeviceInfo>> listGpus() {
  Expected<runtime::CudaDriver *> driver = runtime::CudaDriver::get();
  if (!driver)
    return driver.takeError();
  return listCudaDevices(**driver);
}

std::string capi::defaultTarget() {
  Expected<std::vector<runtime::CudaDeviceInfo>> gpus = listGpus();
  if (gpus && !gpus->empty())
    if (const target::Chip *chip = target::findNewestRunnable(gpus->front().chip))
      return chip->name.str();
  consumeError(gpus.takeError());
  return "sm_80";
}

Error capi::checkDeviceName(StringRef name) {
  registerDevices();
  return name == "auto" ? Error::success() : runtime::checkDeviceName(name);
}

Expected<std::shared_ptr<runtime::Device>> capi::openDevice(StringRef name,
                                                            const runtime::ProgramFile &program) {
  registerDevices();
  if (name != "auto")
    return runtime::openDevice(name);
  Expected<std::vector<runtime::CudaDeviceInfo>> gpus = listGpus();
  if (!gpus) {
    consumeError(gpus.takeError());
    return runtime::openDevice("emulator");
  }
  for (const runtime::CudaDeviceInfo &gpu : *gpus) {
    bool runs = all_of(program.manifest().functions, [&](const runtime::Function &function) {
      Expected<const runtime::Program *> chosen = chooseProgram(function, gpu.chip);
      bool found = bool(chosen);
      consumeError(chosen.takeError());
      return found;
    });
    if (runs)
      return runtime::openDevice("cuda:" + std::to_string(gpu.ordinal));
  }
  return runtime::openDevice("emulator");
}

SfStatus sfDevices(char **json, char **unavailable) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(json, "json"))
      return error;
    registerDevices();
    llvm::json::Array list;
    std::string reason;
    Expected<std::vector<runtime::CudaDeviceInfo>> gpus = listGpus();
    if (gpus) {
      for (const runtime::CudaDeviceInfo &gpu : *gpus) {
        const target::Chip *chip = target::findNewestRunnable(gpu.chip);
        list.push_back(llvm::json::Object{
            {"name", "cuda:" + std::to_string(gpu.ordinal)},
            {"kind", "cuda"},
            {"description", gpu.name},
            {"target", chip ? llvm::json::Value(chip->name) : llvm::json::Value(nullptr)},
            {"memory", int64_t(gpu.memory)},
            {"multiprocessors", gpu.multiprocessors},
            {"shared_per_block", gpu.sharedPerBlock}});
      }
    } else {
      runtime::takeError(gpus.takeError(), reason);
    }
    for (const std::string &name : runtime::registeredDevices()) {
      llvm::json::Object entry{{"name", name}, {"kind", name}};
      Expected<std::shared_ptr<runtime::Device>> device = runtime::openDevice(name);
      if (!device) {
        consumeError(device.takeError());
        continue;
      }
      entry["description"] = (*device)->description();
      list.push_back(std::move(entry));
    }
    if (unavailable) {
      *unavailable = nullptr;
      if (!reason.empty())
        if (Error error = copyOut(reason, unavailable))
          return error;
    }
    return copyOut(formatv("{0}", llvm::json::Value(std::move(list))).str(), json);
  });
}

SfStatus sfTargets(char **json) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(json, "json"))
      return error;
    llvm::json::Array list;
    for (const target::Chip &chip : sf::getChips())
      list.push_back(llvm::json::Object{
          {"name", chip.name},
          {"compute_capability", chip.computeCapability},
          {"fp8_mma", chip.nativeFp8Mma},
          {"warpgroup_row_bytes",
           chip.hasWgmma ? llvm::json::Value(sf::kCopyEngineRowBytes) : llvm::json::Value(nullptr)},
          {"multiprocessors", chip.multiprocessors},
          {"threads_per_multiprocessor", chip.threadsPerMultiprocessor},
          {"blocks_per_multiprocessor", chip.blocksPerMultiprocessor},
          {"shared_per_multiprocessor", chip.sharedMemoryPerMultiprocessor}});
    return copyOut(formatv("{0}", llvm::json::Value(std::move(list))).str(), json);
  });
}

SfStatus sfExecutableCreate(SfProgram *program, const char *device, SfExecutable **executable) {
  return guarded(
      [&]() -> Error {
        if (Error error = expectNotNull(program, "program"))
          return error;
        if (Error error = expectNotNull(executable, "executable"))
          return error;
        Expected<std::shared_ptr<runtime::Device>> opened =
            capi::openDevice(device ? device : "auto", *program->file);
        if (!opened)
          return opened.takeError();
        auto handle = std::make_unique<SfExecutable>();
        handle->deviceName = (*opened)->name().str();
        Expected<std::unique_ptr<runtime::Executable>> created =
            runtime::Executable::create(program->file, *opened);
        if (!created)
          return created.takeError();
        handle->executable = std::move(*created);
        *executable = handle.release();
        return Error::success();
      },
      Status::InvalidProgram);
}

void sfExecutableDestroy(SfExecutable *executable) { delete executable; }

const char *sfExecutableDevice(const SfExecutable *executable) {
  return executable ? executable->deviceName.c_str() : "";
}

int32_t sfExecutableNeedsDeviceMemory(const SfExecutable *executable) {
  return executable && !executable->executable->device().usesHostMemory();
}

/// Calls with the executable and the function's number.
template <typename Body>
static SfStatus onFunction(SfExecutable *executable, const char *function, Body body) {
  return guarded(
      [&]() -> Error {
        if (Error error = expectNotNull(executable, "executable"))
          return error;
        Expected<size_t> number = executable->executable->find(function ? function : "");
        if (!number)
          return number.takeError();
        return body(*executable->executable, *number);
      },
      Status::DeviceError);
}

/// The same with a caller's tensors.
template <typename Body>
static SfStatus onCall(SfExecutable *executable, const char *function, const SfTensor *inputs,
                       size_t numInputs, const SfTensor *outputs, size_t numOutputs, Body body) {
  return onFunction(executable, function, [&](runtime::Executable &target, size_t number) -> Error {
    TensorList in, out;
    if (Error error = in.read(inputs, numInputs))
      return error;
    if (Error error = out.read(outputs, numOutputs))
      return error;
    return body(target, number, in, out);
  });
}

SfStatus sfRun(SfExecutable *executable, const char *function, const SfTensor *inputs,
               size_t num_inputs, const SfTensor *outputs, size_t num_outputs,
               const SfRunOptions *options) {
  return onCall(executable, function, inputs, num_inputs, outputs, num_outputs,
                [&](runtime::Executable &target, size_t number, ArrayRef<TensorRef> in,
                    ArrayRef<TensorRef> out) -> Error {
                  Expected<SfRunOptions> read = readStruct(options, "the run options");
                  if (!read)
                    return read.takeError();
                  return target.run(number, in, out,
                                    {read->stream, read->workspace, read->workspace_bytes});
                });
}

SfStatus sfRunHost(SfExecutable *executable, const char *function, const SfTensor *inputs,
                   size_t num_inputs, const SfTensor *outputs, size_t num_outputs) {
  return onCall(executable, function, inputs, num_inputs, outputs, num_outputs,
                [](runtime::Executable &target, size_t number, ArrayRef<TensorRef> in,
                   ArrayRef<TensorRef> out) { return target.runHost(number, in, out); });
}

SfStatus sfOutputShape(SfExecutable *executable, const char *function, const SfTensor *inputs,
                       size_t num_inputs, size_t output, SfDType *dtype, int32_t *rank,
                       int64_t shape[SF_MAX_RANK]) {
  return onFunction(executable, function, [&](runtime::Executable &target, size_t number) -> Error {
    if (Error error =
            expectNotNull(dtype && rank && shape ? dtype : nullptr, "dtype, rank and shape"))
      return error;
    TensorList in;
    if (Error error = in.read(inputs, num_inputs))
      return error;
    Expected<runtime::TensorShape> result = target.outputShape(number, in, output);
    if (!result)
      return result.takeError();
    *dtype = SfDType(result->dtype);
    *rank = int32_t(result->shape.size());
    std::copy(result->shape.begin(), result->shape.end(), shape);
    return Error::success();
  });
}

static Expected<ArrayRef<int64_t>> readSymbols(const int64_t *symbols, size_t count) {
  if (count > 0)
    if (Error error = expectNotNull(symbols, "symbols"))
      return std::move(error);
  return ArrayRef<int64_t>(symbols, count);
}

SfStatus sfWorkspaceSize(SfExecutable *executable, const char *function, const int64_t *symbols,
                         size_t num_symbols, size_t *bytes) {
  return onFunction(executable, function, [&](runtime::Executable &target, size_t number) -> Error {
    if (Error error = expectNotNull(bytes, "bytes"))
      return error;
    Expected<ArrayRef<int64_t>> values = readSymbols(symbols, num_symbols);
    if (!values)
      return values.takeError();
    Expected<size_t> result = target.workspaceBytes(number, *values);
    if (!result)
      return result.takeError();
    *bytes = *result;
    return Error::success();
  });
}

SfStatus sfReserve(SfExecutable *executable, const char *function, const int64_t *symbols,
                   size_t num_symbols, void *stream) {
  return onFunction(executable, function, [&](runtime::Executable &target, size_t number) -> Error {
    Expected<ArrayRef<int64_t>> values = readSymbols(symbols, num_symbols);
    if (!values)
      return values.takeError();
    return target.reserve(number, *values, stream);
  });
}

SfStatus sfWarmUp(SfExecutable *executable, const char *function, const int64_t *symbols,
                  size_t num_symbols) {
  return onFunction(executable, function, [&](runtime::Executable &target, size_t number) -> Error {
    Expected<ArrayRef<int64_t>> values = readSymbols(symbols, num_symbols);
    if (!values)
      return values.takeError();
    return target.warmUp(number, *values);
  });
}

SfStatus sfReport(SfExecutable *executable, const char *function, const int64_t *symbols,
                  size_t num_symbols, char **json) {
  return onFunction(executable, function, [&](runtime::Executable &target, size_t number) -> Error {
    if (Error error = expectNotNull(json, "json"))
      return error;
    std::optional<ArrayRef<int64_t>> values;
    if (symbols)
      values = ArrayRef<int64_t>(symbols, num_symbols);
    Expected<llvm::json::Value> report = target.report(number, values);
    if (!report)
      return report.takeError();
    return copyOut(formatv("{0}", *report).str(), json);
  });
}

SfStatus sfGraphCapture(SfExecutable *executable, const char *function, const SfTensor *inputs,
                        size_t num_inputs, const SfTensor *outputs, size_t num_outputs,
                        SfGraph **graph) {
  return onCall(executable, function, inputs, num_inputs, outputs, num_outputs,
                [&](runtime::Executable &target, size_t number, ArrayRef<TensorRef> in,
                    ArrayRef<TensorRef> out) -> Error {
                  if (Error error = expectNotNull(graph, "graph"))
                    return error;
                  auto handle = std::make_unique<SfGraph>();
                  Expected<std::unique_ptr<runtime::GraphRun>> captured =
                      target.capture(number, in, out);
                  if (!captured)
                    return captured.takeError();
                  handle->run = std::move(*captured);
                  *graph = handle.release();
                  return Error::success();
                });
}

SfStatus sfGraphLaunch(SfGraph *graph, void *stream) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(graph, "graph"))
      return error;
    return graph->run->launch(stream);
  });
}

void sfGraphDestroy(SfGraph *graph) { delete graph; }

/// Calls with the executable's device.
template <typename Body> static SfStatus onDevice(SfExecutable *executable, Body body) {
  return guarded([&]() -> Error {
    if (Error error = expectNotNull(executable, "executable"))
      return error;
    return body(executable->executable->device());
  });
}

SfStatus sfAllocate(SfExecutable *executable, size_t bytes, void **memory) {
  return onDevice(executable, [&](runtime::Device &device) -> Error {
    if (Error error = expectNotNull(memory, "memory"))
      return error;
    Expected<void *> allocated = device.allocate(bytes);
    if (!allocated)
      return allocated.takeError();
    *memory = *allocated;
    return Error::success();
  });
}

SfStatus sfDeallocate(SfExecutable *executable, void *memory) {
  return onDevice(executable, [&](runtime::Device &device) { return device.deallocate(memory); });
}

SfStatus sfCopy(SfExecutable *executable, void *destination, const void *source, size_t bytes,
                int32_t direction, void *stream) {
  return onDevice(executable, [&](runtime::Device &device) -> Error {
    if (bytes > 0)
      if (Error error =
              expectNotNull(destination && source ? source : nullptr, "destination and source"))
        return error;
    if (direction == SF_HOST_TO_DEVICE)
      return device.copyToDevice(destination, source, bytes, stream);
    if (direction == SF_DEVICE_TO_HOST)
      return device.copyToHost(destination, source, bytes, stream);
    return makeError(
        Status::InvalidArgument,
        formatv("expected SF_HOST_TO_DEVICE or SF_DEVICE_TO_HOST, got {0}", direction));
  });
}

SfStatus sfSynchronize(SfExecutable *executable, void *stream) {
  return onDevice(executable, [&](runtime::Device &device) { return device.synchronize(stream); });
}
