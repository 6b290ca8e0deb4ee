// A GPU: its primary context, memory, streams and graphs.
//
// The caller's current context is pushed aside only when it is another one.
#include "sparseflow/Runtime/CudaDevice.h"
#include "CublasLt.h"
#include "CudaFunction.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Runtime/GpuCode.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"
#include <mutex>

using namespace llvm;
using namespace sparseflow::runtime;

// Numbers of cuda.h.
static constexpr int attributeMultiprocessors = 16;
static constexpr int attributeMajor = 75;
static constexpr int attributeMinor = 76;
static constexpr int attributeSharedOptin = 97;
static constexpr int pointerMemoryType = 2;
static constexpr int pointerManaged = 8;
static constexpr int pointerOrdinal = 9;
static constexpr int memoryTypeHost = 1;
static constexpr int captureThreadLocal = 1;
static constexpr unsigned streamNonBlocking = 1;
static constexpr int tensorMapNoInterleave = 0;
static constexpr int tensorMapPromote256 = 3; // reads fill 256 bytes of L2
static constexpr int tensorMapFillZeros = 0;

static Expected<CudaDeviceInfo> queryDevice(CudaDriver &driver, int ordinal) {
  CudaDeviceInfo info;
  info.ordinal = ordinal;
  CUdevice device;
  int major = 0, minor = 0;
  char name[256] = {};
  size_t memory = 0;
  CUresult result = driver.cuDeviceGet(&device, ordinal);
  if (!result)
    result = driver.cuDeviceGetName(name, sizeof(name) - 1, device);
  if (!result)
    result = driver.cuDeviceGetAttribute(&major, attributeMajor, device);
  if (!result)
    result = driver.cuDeviceGetAttribute(&minor, attributeMinor, device);
  if (!result)
    result = driver.cuDeviceGetAttribute(&info.sharedPerBlock, attributeSharedOptin, device);
  if (!result)
    result = driver.cuDeviceGetAttribute(&info.multiprocessors, attributeMultiprocessors, device);
  if (!result)
    result = driver.cuDeviceTotalMem(&memory, device);
  if (result)
    return driver.error(result, "asking about cuda:" + Twine(ordinal));
  info.name = name;
  info.chip = major * 10 + minor;
  info.memory = memory;
  return info;
}

Expected<std::vector<CudaDeviceInfo>> sparseflow::runtime::listCudaDevices(CudaDriver &driver) {
  int count = 0;
  if (CUresult result = driver.cuDeviceGetCount(&count))
    return driver.error(result, "counting the GPUs");
  std::vector<CudaDeviceInfo> list;
  for (int i = 0; i < count; ++i) {
    Expected<CudaDeviceInfo> info = queryDevice(driver, i);
    if (!info)
      return info.takeError();
    list.push_back(std::move(*info));
  }
  return list;
}

namespace {
class CudaDevice final : public Device, public std::enable_shared_from_this<CudaDevice> {
public:
  CudaDevice(CudaDriver &driver, CudaDeviceInfo info, CUdevice handle, CUcontext context)
      : driver(driver), gpu(std::move(info)), handle(handle), context(context),
        text("cuda:" + std::to_string(gpu.ordinal)) {}
  ~CudaDevice() override;

  StringRef name() const override { return text; }
  std::string description() const override { return gpu.name; }
  bool usesHostMemory() const override { return false; }

  Expected<std::unique_ptr<LoadedFunction>> load(const ProgramFile::Ptr &file,
                                                 const Function &function) override;
  Expected<void *> allocate(size_t bytes) override;
  Error deallocate(void *memory) override;
  Error copyToDevice(void *target, const void *source, size_t bytes, void *stream) override;
  Error copyToHost(void *target, const void *source, size_t bytes, void *stream) override;
  Error synchronize(void *stream) override;
  Error synchronizeAll() override;
  Expected<std::unique_ptr<LibraryMatmul>> createMatmul(const MatmulType &type) override;
  Error encodeTensorMap(DType dtype, const HostTensorMap &map, void *out) const override;
  std::optional<std::string> whyUnusable(const void *pointer,
                                         std::optional<int> known) const override;
  Expected<void *> enter() override;
  void leave(void *previous) override;
  bool isCapturing(void *stream) override;
  Expected<std::unique_ptr<RecordedGraph>> record(function_ref<Error(void *)> enqueue) override;

  CudaDriver &driver;
  const CudaDeviceInfo gpu;
  const CUdevice handle;
  const CUcontext context;

private:
  std::string text;
  std::mutex blasMutex;
  const CublasLt *blas = nullptr;
  CublasLtHandle blasHandle = nullptr;
};

class CudaGraphReplay final : public RecordedGraph {
public:
  CudaGraphReplay(std::shared_ptr<CudaDevice> device, CUgraphExec exec)
      : device(std::move(device)), exec(exec) {}
  ~CudaGraphReplay() override { device->driver.cuGraphExecDestroy(exec); }

  Error launch(void *stream) override {
    DeviceScope scope(*device);
    if (Error error = scope.enter())
      return error;
    return device->driver.check(device->driver.cuGraphLaunch(exec, static_cast<CUstream>(stream)),
                                "launching the graph");
  }

private:
  std::shared_ptr<CudaDevice> device;
  CUgraphExec exec;
};
} // namespace

CudaDevice::~CudaDevice() {
  if (blasHandle) {
    DeviceScope scope(*this);
    // Without its context there is nothing left to free.
    if (Error error = scope.enter())
      consumeError(std::move(error));
    else
      blas->cublasLtDestroy(blasHandle);
  }
  driver.cuDevicePrimaryCtxRelease(handle);
}

Expected<void *> CudaDevice::enter() {
  CUcontext current = nullptr;
  CUresult result = driver.cuCtxGetCurrent(&current);
  if (!result && current != context)
    result = driver.cuCtxPushCurrent(context);
  if (result)
    return driver.error(result, "making " + name() + " current");
  return current == context ? nullptr : static_cast<void *>(this);
}

void CudaDevice::leave(void *pushed) {
  CUcontext ignored;
  if (pushed)
    driver.cuCtxPopCurrent(&ignored);
}

Expected<std::unique_ptr<LoadedFunction>> CudaDevice::load(const ProgramFile::Ptr &file,
                                                           const Function &function) {
  Expected<const Program *> program = chooseProgram(function, gpu.chip);
  if (!program)
    return program.takeError();
  return loadCudaFunction(shared_from_this(), driver, gpu, file, function, **program);
}

Expected<void *> CudaDevice::allocate(size_t bytes) {
  DeviceScope scope(*this);
  if (Error error = scope.enter())
    return std::move(error);
  CUdeviceptr memory = 0;
  // The driver has no empty allocation.
  CUresult result = driver.cuMemAlloc(&memory, std::max<size_t>(bytes, 1));
  if (result) {
    size_t free = 0, total = 0;
    driver.cuMemGetInfo(&free, &total);
    return driver.error(result, formatv("allocating {0} bytes on {1} ({2} of {3} free)", bytes,
                                        name(), free, total));
  }
  return reinterpret_cast<void *>(memory);
}

Error CudaDevice::deallocate(void *memory) {
  if (!memory)
    return Error::success();
  DeviceScope scope(*this);
  if (Error error = scope.enter())
    return error;
  return driver.check(driver.cuMemFree(reinterpret_cast<CUdeviceptr>(memory)),
                      "freeing memory on " + name());
}

Error CudaDevice::copyToDevice(void *target, const void *source, size_t bytes, void *stream) {
  if (bytes == 0)
    return Error::success();
  DeviceScope scope(*this);
  if (Error error = scope.enter())
    return error;
  auto queue = static_cast<CUstream>(stream);
  CUresult result =
      driver.cuMemcpyHtoDAsync(reinterpret_cast<CUdeviceptr>(target), source, bytes, queue);
  if (!result)
    result = driver.cuStreamSynchronize(queue);
  return driver.check(result, formatv("copying {0} bytes to {1}", bytes, name()).str());
}

Error CudaDevice::copyToHost(void *target, const void *source, size_t bytes, void *stream) {
  if (bytes == 0)
    return Error::success();
  DeviceScope scope(*this);
  if (Error error = scope.enter())
    return error;
  auto queue = static_cast<CUstream>(stream);
  CUresult result =
      driver.cuMemcpyDtoHAsync(target, reinterpret_cast<CUdeviceptr>(source), bytes, queue);
  if (!result)
    result = driver.cuStreamSynchronize(queue);
  return driver.check(result, formatv("copying {0} bytes from {1}", bytes, name()).str());
}

Error CudaDevice::synchronize(void *stream) {
  DeviceScope scope(*this);
  if (Error error = scope.enter())
    return error;
  return driver.check(driver.cuStreamSynchronize(static_cast<CUstream>(stream)),
                      "waiting for the stream on " + name());
}

Error CudaDevice::synchronizeAll() {
  DeviceScope scope(*this);
  if (Error error = scope.enter())
    return error;
  return driver.check(driver.cuCtxSynchronize(), "waiting for " + name());
}

std::optional<std::string> CudaDevice::whyUnusable(const void *pointer,
                                                   std::optional<int> known) const {
  if (known && *known == gpu.ordinal)
    return std::nullopt;
  if (known)
    return Device::whyUnusable(pointer, known);
  unsigned memoryType = 0;
  unsigned managed = 0;
  int ordinal = -1;
  int attributes[] = {pointerMemoryType, pointerManaged, pointerOrdinal};
  void *values[] = {&memoryType, &managed, &ordinal};
  CUresult result =
      driver.cuPointerGetAttributes(3, attributes, values, reinterpret_cast<CUdeviceptr>(pointer));
  if (result == 0 && managed)
    return std::nullopt;
  if (result != 0 || memoryType == 0 || memoryType == memoryTypeHost)
    return "a pointer to host memory";
  if (ordinal != gpu.ordinal)
    return Device::whyUnusable(pointer, ordinal);
  return std::nullopt;
}

Expected<std::unique_ptr<LibraryMatmul>> CudaDevice::createMatmul(const MatmulType &type) {
  DeviceScope scope(*this);
  if (Error error = scope.enter())
    return std::move(error);
  std::lock_guard<std::mutex> lock(blasMutex);
  if (!blasHandle) {
    Expected<CublasLt *> library = CublasLt::get(driver);
    if (!library)
      return library.takeError();
    // It may be for another driver or lack this chip.
    if (Error error = (*library)->check((*library)->cublasLtCreate(&blasHandle), "starting")) {
      blasHandle = nullptr;
      return makeError(Status::Unsupported, toString(std::move(error)));
    }
    blas = *library;
  }
  return createCublasLtMatmul(*blas, blasHandle, driver, *this, type);
}

/// CUtensorMapDataType. Types that it lacks travel as bytes or words of their size, which matters
/// only to reductions and to filling with NaN.
static int tensorMapType(DType dtype) {
  switch (dtype) {
  case DType::I8:
  case DType::U8:
  case DType::E4M3:
  case DType::E5M2:
  case DType::Bool:
    return 0;
  case DType::I16:
  case DType::U16:
    return 1;
  case DType::U32:
    return 2;
  case DType::I32:
    return 3;
  case DType::U64:
    return 4;
  case DType::I64:
    return 5;
  case DType::F16:
    return 6;
  case DType::F32:
    return 7;
  case DType::F64:
    return 8;
  case DType::BF16:
    break;
  }
  return 9;
}

Error CudaDevice::encodeTensorMap(DType dtype, const HostTensorMap &map, void *out) const {
  if (!driver.cuTensorMapEncodeTiled)
    return makeError(Status::Unsupported,
                     formatv("expected an NVIDIA driver with tensor maps (CUDA 12.0 or later), got "
                             "one for CUDA {0}.{1}; update the driver",
                             driver.version() / 1000, driver.version() % 1000 / 10));
  // The driver counts dimensions from the contiguous one.
  uint64_t extents[] = {map.columns, map.rows};
  uint32_t box[] = {map.boxColumns, map.boxRows};
  uint32_t elementStrides[] = {1, 1};
  // CUtensorMapSwizzle: none, 32, 64 and 128 bytes in this order.
  int swizzle = map.swizzleBytes ? Log2_32(map.swizzleBytes / 16) : 0;
  return driver.check(driver.cuTensorMapEncodeTiled(
                          out, tensorMapType(dtype), /*rank=*/2, const_cast<void *>(map.base),
                          extents, &map.rowStrideBytes, box, elementStrides, tensorMapNoInterleave,
                          swizzle, tensorMapPromote256, tensorMapFillZeros),
                      formatv("making a tensor map of {0} x {1} {2}, rows {3} bytes apart, in "
                              "boxes of {4} x {5}",
                              map.rows, map.columns, stringify(dtype), map.rowStrideBytes,
                              map.boxRows, map.boxColumns)
                          .str());
}

bool CudaDevice::isCapturing(void *stream) {
  int status = 0;
  return driver.cuStreamIsCapturing(static_cast<CUstream>(stream), &status) == 0 && status != 0;
}

Expected<std::unique_ptr<RecordedGraph>> CudaDevice::record(function_ref<Error(void *)> enqueue) {
  DeviceScope scope(*this);
  if (Error error = scope.enter())
    return std::move(error);
  CUstream stream = nullptr;
  if (CUresult result = driver.cuStreamCreate(&stream, streamNonBlocking))
    return driver.error(result, "creating a stream on " + name());
  // Thread-local: other threads may allocate meanwhile.
  CUresult result = driver.cuStreamBeginCapture(stream, captureThreadLocal);
  Error error = driver.check(result, "beginning a capture on " + name());
  CUgraph graph = nullptr;
  if (!error) {
    error = enqueue(stream);
    result = driver.cuStreamEndCapture(stream, &graph);
    if (!error)
      error = driver.check(result, "ending a capture on " + name());
  }
  CUgraphExec exec = nullptr;
  if (!error)
    error = driver.check(driver.cuGraphInstantiateWithFlags(&exec, graph, 0),
                         "instantiating a graph on " + name());
  if (graph)
    driver.cuGraphDestroy(graph);
  driver.cuStreamDestroy(stream);
  if (error)
    return std::move(error);
  return std::make_unique<CudaGraphReplay>(shared_from_this(), exec);
}

Expected<std::shared_ptr<Device>> sparseflow::runtime::createCudaDevice(CudaDriver &driver,
                                                                        int ordinal) {
  int count = 0;
  if (CUresult result = driver.cuDeviceGetCount(&count))
    return driver.error(result, "counting the GPUs");
  if (ordinal < 0 || ordinal >= count)
    return makeError(Status::NotFound,
                     formatv("expected a GPU number below {0}, got cuda:{1}; see nvidia-smi and "
                             "CUDA_VISIBLE_DEVICES",
                             count, ordinal));
  Expected<CudaDeviceInfo> info = queryDevice(driver, ordinal);
  if (!info)
    return info.takeError();
  CUdevice handle = 0;
  CUcontext context = nullptr;
  CUresult result = driver.cuDeviceGet(&handle, ordinal);
  if (!result)
    result = driver.cuDevicePrimaryCtxRetain(&context, handle);
  if (result)
    return driver.error(result, "opening cuda:" + Twine(ordinal));
  return std::make_shared<CudaDevice>(driver, std::move(*info), handle, context);
}
