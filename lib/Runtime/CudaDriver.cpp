// Opens libcuda and turns its result codes into sentences.
#include "sparseflow/Runtime/CudaDriver.h"
#include "sparseflow/Runtime/Error.h"
#include "llvm/Support/FormatVariadic.h"
#include <cstdlib>
#include <dlfcn.h>
#include <mutex>

using namespace llvm;
using namespace sparseflow::runtime;

static std::string versionText(int version) {
  return formatv("{0}.{1}", version / 1000, version % 1000 / 10);
}

Expected<std::unique_ptr<CudaDriver>> CudaDriver::open(const char *library) {
  // Never closed: the driver keeps threads and process-wide state.
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    return makeError(
        Status::Unsupported,
        formatv("expected the NVIDIA driver's {0}, got: {1}; install the NVIDIA driver, "
                "or use the devices 'emulator' or 'reference', which need none",
                library, dlerror()));
  auto driver = std::make_unique<CudaDriver>();
  const char *missing = nullptr;
  int missingVersion = 0;
#define SPARSEFLOW_CUDA(function, symbol, version, parameters)                                     \
  driver->function = reinterpret_cast<CUresult(*) parameters>(dlsym(handle, symbol));              \
  if (!driver->function && version <= minimumVersion && !missing) {                                \
    missing = symbol;                                                                              \
    missingVersion = version;                                                                      \
  }
#include "sparseflow/Runtime/CudaSymbols.def"
#undef SPARSEFLOW_CUDA
  if (driver->cuDriverGetVersion)
    driver->cuDriverGetVersion(&driver->driverVersion);
  if (missing || driver->driverVersion < minimumVersion)
    return makeError(
        Status::Unsupported,
        formatv("expected an NVIDIA driver for CUDA {0} or later, got one for CUDA {1}{2}; update "
                "the driver",
                versionText(minimumVersion), versionText(driver->driverVersion),
                missing
                    ? formatv(" without {0} (CUDA {1})", missing, versionText(missingVersion)).str()
                    : std::string()));
  if (CUresult result = driver->cuInit(0))
    return driver->error(result, "initializing the NVIDIA driver");
  return std::move(driver);
}

Expected<CudaDriver *> CudaDriver::get() {
  static std::mutex mutex;
  // Leaked on purpose: devices may outlive static destruction.
  static CudaDriver *driver = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (driver)
    return driver;
  const char *library = std::getenv("SPARSEFLOW_LIBCUDA");
  Expected<std::unique_ptr<CudaDriver>> opened =
      open(library && *library ? library : "libcuda.so.1");
  if (!opened)
    return opened.takeError();
  driver = opened->release();
  return driver;
}

namespace {
struct Advice {
  CUresult result;
  Status status;
  const char *text;
};
} // namespace

/// What to do about the results that a user can do something about.
static constexpr Advice advices[] = {
    {1, Status::DeviceError,
     "the driver refused an argument; the stream or a pointer may be stale"},
    {2, Status::OutOfMemory, "free GPU memory, or use fewer tokens at a time"},
    {4, Status::DeviceError, "the process is exiting; launch before that"},
    {46, Status::DeviceError,
     "another process has the GPU for itself; see nvidia-smi's compute mode"},
    {100, Status::Unsupported, "no GPU is visible; see nvidia-smi and CUDA_VISIBLE_DEVICES"},
    {101, Status::NotFound, "choose one of the devices that nvidia-smi lists"},
    {200, Status::InvalidProgram, "the kernel's binary is damaged; compile it again"},
    {201, Status::DeviceError, "the GPU's context was destroyed or reset; restart the process"},
    {209, Status::Unsupported, "compile with --target= this GPU's chip"},
    {214, Status::DeviceError, "the GPU's memory has an uncorrectable fault; see nvidia-smi -q"},
    {218, Status::InvalidProgram,
     "the driver's compiler rejected the PTX; compile for this GPU's chip"},
    {221, Status::Unsupported, "libnvidia-ptxjitcompiler is missing; compile for this GPU's chip"},
    {222, Status::Unsupported,
     "update the driver, or compile for this GPU's chip so that no PTX is needed"},
    {400, Status::InvalidArgument, "the stream belongs to another GPU or was destroyed"},
    {500, Status::InvalidProgram, "the kernel's binary holds no function of that name"},
    {700, Status::DeviceError,
     "a kernel touched memory outside its tensors; run under compute-sanitizer, then restart the "
     "process"},
    {701, Status::DeviceError,
     "the kernel needs more registers or shared memory than this GPU gives a block"},
    {715, Status::DeviceError,
     "a kernel executed an instruction this GPU lacks; restart the process"},
    {716, Status::DeviceError,
     "a kernel used a misaligned address; run under compute-sanitizer, then restart the process"},
    {719, Status::DeviceError,
     "a kernel failed; run under compute-sanitizer, then restart the process"},
    {803, Status::Unsupported,
     "the driver's kernel module and libraries differ in version; reboot or reinstall the driver"},
    {900, Status::InvalidArgument, "the stream is being captured, which does not allow this call"},
    {901, Status::InvalidArgument, "a call broke the stream's capture; capture again"},
    {906, Status::InvalidArgument,
     "the legacy default stream cannot take part in a capture; use another stream"},
};

Error CudaDriver::error(CUresult result, const Twine &what) const {
  const char *name = nullptr, *text = nullptr;
  if (cuGetErrorName)
    cuGetErrorName(result, &name);
  if (cuGetErrorString)
    cuGetErrorString(result, &text);
  Status status = Status::DeviceError;
  std::string message = formatv("{0} failed: {1} ({2})", what.str(), text ? text : "unknown error",
                                name ? std::string(name) : std::to_string(result));
  for (const Advice &advice : advices) {
    if (advice.result != result)
      continue;
    status = advice.status;
    message += std::string("; ") + advice.text;
  }
  return makeError(status, message);
}
