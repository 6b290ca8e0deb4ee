// The defaults of a device in host memory, and the registry.
#include "sparseflow/Runtime/Device.h"
#include "sparseflow/Runtime/CudaDevice.h"
#include "sparseflow/Runtime/Error.h"
#include "llvm/ADT/StringExtras.h"
#include <cstdlib>
#include <cstring>
#include <mutex>

using namespace llvm;
using namespace sparseflow::runtime;

LoadedFunction::~LoadedFunction() = default;
RecordedGraph::~RecordedGraph() = default;
Device::~Device() = default;

Error LoadedFunction::launch(size_t, const std::array<uint32_t, 3> &, void *const *, void *) {
  return makeError(Status::InternalError, "this device launches no kernels");
}

Error LoadedFunction::launchWithin(ArrayRef<MemoryRange>, size_t kernel,
                                   const std::array<uint32_t, 3> &grid, void *const *params,
                                   void *stream) {
  return launch(kernel, grid, params, stream);
}

Error LoadedFunction::evaluate(ArrayRef<TensorRef>, ArrayRef<TensorRef>) {
  return makeError(Status::InternalError, "this device only launches kernels");
}

LoadedKernelInfo LoadedFunction::info(size_t) const { return {}; }

/// What the driver's allocations guarantee, so that kernels may assume it everywhere.
static constexpr size_t memoryAlignment = 256;

Expected<void *> Device::allocate(size_t bytes) {
  size_t rounded = (bytes + memoryAlignment - 1) / memoryAlignment * memoryAlignment;
  void *memory = rounded < bytes
                     ? nullptr
                     : std::aligned_alloc(memoryAlignment, std::max(rounded, memoryAlignment));
  if (!memory)
    return makeError(Status::OutOfMemory, name() + ": expected " + Twine(bytes) +
                                              " bytes of memory, got none; use fewer tokens");
  return memory;
}

Error Device::deallocate(void *memory) {
  std::free(memory);
  return Error::success();
}

Error Device::copyToDevice(void *target, const void *source, size_t bytes, void *) {
  if (bytes)
    std::memcpy(target, source, bytes);
  return Error::success();
}

Error Device::copyToHost(void *target, const void *source, size_t bytes, void *) {
  if (bytes)
    std::memcpy(target, source, bytes);
  return Error::success();
}

Error Device::synchronize(void *) { return Error::success(); }
Error Device::synchronizeAll() { return Error::success(); }

Expected<std::unique_ptr<LibraryMatmul>> Device::createMatmul(const MatmulType &type) {
  return createHostMatmul(type);
}

Error Device::encodeTensorMap(DType, const HostTensorMap &map, void *out) const {
  std::memset(out, 0, tensorMapBytes);
  std::memcpy(out, &map, sizeof(map));
  return Error::success();
}

std::optional<std::string> Device::whyUnusable(const void *, std::optional<int> gpu) const {
  if (gpu)
    return formatv("a pointer to memory of cuda:{0}", *gpu).str();
  return std::nullopt;
}

Expected<void *> Device::enter() { return nullptr; }
void Device::leave(void *) {}

bool Device::isCapturing(void *) { return false; }

Expected<std::unique_ptr<RecordedGraph>> Device::record(function_ref<Error(void *)>) {
  return makeError(Status::Unsupported, "expected a GPU to capture a graph on, got device '" +
                                            name() + "'; call run instead");
}

namespace {
struct Registry {
  struct Entry {
    std::string name;
    DeviceFactory factory;
  };
  std::mutex mutex;
  std::vector<Entry> entries;
  std::map<std::string, std::weak_ptr<Device>, std::less<>> open;

  static Registry &get() {
    static Registry *registry = new Registry;
    return *registry;
  }
};
} // namespace

void sparseflow::runtime::registerDevice(StringRef name, DeviceFactory factory) {
  Registry &registry = Registry::get();
  std::lock_guard<std::mutex> lock(registry.mutex);
  registry.open.erase(name.str());
  for (Registry::Entry &entry : registry.entries) {
    if (entry.name == name) {
      entry.factory = std::move(factory);
      return;
    }
  }
  registry.entries.push_back({name.str(), std::move(factory)});
}

std::vector<std::string> sparseflow::runtime::registeredDevices() {
  Registry &registry = Registry::get();
  std::lock_guard<std::mutex> lock(registry.mutex);
  std::vector<std::string> names;
  for (const Registry::Entry &entry : registry.entries)
    names.push_back(entry.name);
  return names;
}

/// The number of a GPU, by its name.
static std::optional<unsigned> getOrdinal(StringRef name) {
  unsigned ordinal = 0;
  if (name == "cuda")
    return ordinal;
  constexpr unsigned most = 1023;
  if (!name.consume_front("cuda:") || name.getAsInteger(10, ordinal) || ordinal > most)
    return std::nullopt;
  return ordinal;
}

Error sparseflow::runtime::checkDeviceName(StringRef name) {
  std::string known = "'cuda', 'cuda:N'";
  for (const std::string &registered : registeredDevices()) {
    if (registered == name)
      return Error::success();
    known += ", '" + registered + "'";
  }
  if (getOrdinal(name))
    return Error::success();
  return makeError(Status::NotFound, "expected a device (" + known + "), got '" + name + "'");
}

static Expected<std::shared_ptr<Device>> create(const Registry &registry, StringRef name) {
  for (const Registry::Entry &entry : registry.entries)
    if (entry.name == name)
      return entry.factory();
  unsigned ordinal = *getOrdinal(name);
  Expected<CudaDriver *> driver = CudaDriver::get();
  if (!driver)
    return driver.takeError();
  return createCudaDevice(**driver, ordinal);
}

Expected<std::shared_ptr<Device>> sparseflow::runtime::openDevice(StringRef name) {
  if (Error error = checkDeviceName(name))
    return std::move(error);
  std::string key = name == "cuda" ? "cuda:0" : name.str();
  Registry &registry = Registry::get();
  std::lock_guard<std::mutex> lock(registry.mutex);
  if (std::shared_ptr<Device> device = registry.open[key].lock())
    return device;
  Expected<std::shared_ptr<Device>> device = create(registry, key);
  if (device)
    registry.open[key] = *device;
  else
    registry.open.erase(key);
  return device;
}
