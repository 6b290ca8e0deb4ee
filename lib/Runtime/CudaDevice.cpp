// A GPU: its primary context, modules and launches.
//
// Loading does everything that could be slow or fail (module load, JIT, shared-memory limits), so
// that a launch is one call into the driver. The caller's current context is pushed aside only when
// it is another one.
#include "sparseflow/Runtime/CudaDevice.h"
#include "CublasLt.h"
#include "sparseflow/Runtime/Error.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/BinaryFormat/ELF.h"
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
static constexpr int functionLocalBytes = 3;
static constexpr int functionRegisters = 4;
static constexpr int functionMaxDynamicShared = 8;
static constexpr int jitErrorLog = 5;
static constexpr int jitErrorLogBytes = 6;
static constexpr int pointerMemoryType = 2;
static constexpr int pointerManaged = 8;
static constexpr int pointerOrdinal = 9;
static constexpr int memoryTypeHost = 1;
static constexpr int captureThreadLocal = 1;
static constexpr unsigned streamNonBlocking = 1;
static constexpr int launchProgrammaticSerialization = 6;
static constexpr int tensorMapNoInterleave = 0;
static constexpr int tensorMapPromote256 = 3; // reads fill 256 bytes of L2
static constexpr int tensorMapFillZeros = 0;
/// The first chip whose tensor cores take 2:4 operands; no target before it can be compiled for.
static constexpr unsigned firstSparseChip = 80;
/// The first chip whose kernels can wait for the one before them.
static constexpr unsigned firstDependentChip = 90;
/// Before this, a stream with such a launch could not be captured.
static constexpr int dependentLaunchVersion = 12030;
static constexpr CUresult invalidValue = 1;
static constexpr CUresult noBinaryForGpu = 209;
static constexpr CUresult invalidImage = 200;

//===-- Choosing code ------------------------------------------------------------------------===//

bool sparseflow::runtime::cubinRunsOn(Chip code, unsigned chip) {
  if (code.suffix == 'a')
    return code.number == chip;
  return code.major() == chip / 10 && code.number <= chip;
}

bool sparseflow::runtime::ptxRunsOn(Chip code, unsigned chip) {
  return code.suffix ? cubinRunsOn(code, chip) : code.number <= chip;
}

static bool kernelFits(const Kernel &kernel, Chip code, unsigned chip, bool cubinOnly) {
  if (!kernel.cubin.empty() && cubinRunsOn(code, chip))
    return true;
  return !cubinOnly && !kernel.ptx.empty() && ptxRunsOn(code, chip);
}

static std::string listPrograms(const Function &function) {
  if (function.programs.empty())
    return "no kernels at all";
  std::vector<std::string> list;
  for (const Program &program : function.programs) {
    bool cubin = !program.kernels.empty(), ptx = cubin;
    for (const Kernel &kernel : program.kernels) {
      cubin &= !kernel.cubin.empty();
      ptx &= !kernel.ptx.empty();
    }
    list.push_back(program.target + (cubin && ptx ? " (cubin, ptx)"
                                     : cubin      ? " (cubin)"
                                     : ptx        ? " (ptx)"
                                                  : " (no binaries)"));
  }
  return join(list, ", ");
}

Expected<const Program *> sparseflow::runtime::chooseProgram(const Function &function,
                                                             unsigned chip) {
  const Program *best = nullptr;
  std::tuple<bool, unsigned, bool> bestRank;
  for (const Program &program : function.programs) {
    std::optional<Chip> code = parseChip(program.target);
    if (!code)
      continue;
    auto fits = [&](bool cubinOnly) {
      return all_of(program.kernels, [&](const Kernel &kernel) {
        return kernelFits(kernel, *code, chip, cubinOnly);
      });
    };
    if (!fits(/*cubinOnly=*/false))
      continue;
    std::tuple<bool, unsigned, bool> rank(fits(/*cubinOnly=*/true), code->number,
                                          code->suffix != 0);
    if (!best || rank > bestRank) {
      best = &program;
      bestRank = rank;
    }
  }
  if (!best && chip < firstSparseChip)
    return makeError(Status::Unsupported,
                     formatv("expected a GPU with 2:4 sparse tensor cores (sm_{0} or later), got "
                             "sm_{1}; use the devices 'emulator' or 'reference'",
                             firstSparseChip, chip));
  if (!best)
    return makeError(Status::Unsupported,
                     formatv("function '{0}' expected code that runs on sm_{1}, got {2}; compile "
                             "with --target=sm_{1}",
                             function.name, chip, listPrograms(function)));
  return best;
}

Error sparseflow::runtime::checkCubin(ArrayRef<uint8_t> cubin) {
  auto fail = [](const Twine &got) {
    return makeError(Status::InvalidProgram, "expected a whole cubin (ELF file for CUDA), got " +
                                                 got + "; compile the program again");
  };
  ELF::Elf64_Ehdr header;
  if (cubin.size() < sizeof(header))
    return fail(Twine(cubin.size()) + " bytes");
  memcpy(&header, cubin.data(), sizeof(header));
  if (memcmp(header.e_ident, ELF::ElfMagic, 4) != 0 ||
      header.e_ident[ELF::EI_CLASS] != ELF::ELFCLASS64 || header.e_machine != ELF::EM_CUDA)
    return fail("another kind of data");
  auto inside = [&](uint64_t offset, uint64_t bytes) {
    return offset <= cubin.size() && bytes <= cubin.size() - offset;
  };
  if (header.e_shentsize != sizeof(ELF::Elf64_Shdr) || header.e_shnum == 0 ||
      header.e_shstrndx >= header.e_shnum ||
      !inside(header.e_shoff, uint64_t(header.e_shnum) * sizeof(ELF::Elf64_Shdr)))
    return fail("a damaged section table");
  if (header.e_phnum &&
      (header.e_phentsize != sizeof(ELF::Elf64_Phdr) ||
       !inside(header.e_phoff, uint64_t(header.e_phnum) * sizeof(ELF::Elf64_Phdr))))
    return fail("a damaged segment table");
  for (unsigned i = 0; i < header.e_shnum; ++i) {
    ELF::Elf64_Shdr section;
    memcpy(&section, cubin.data() + header.e_shoff + i * sizeof(section), sizeof(section));
    if (section.sh_type != ELF::SHT_NOBITS && !inside(section.sh_offset, section.sh_size))
      return fail("a section beyond its end");
  }
  return Error::success();
}

//===-- The device ---------------------------------------------------------------------------===//

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
class CudaDevice;

class CudaLoadedFunction final : public LoadedFunction {
public:
  CudaLoadedFunction(std::shared_ptr<CudaDevice> device, ProgramFile::Ptr file,
                     const Function &function, const Program &program)
      : device(std::move(device)), file(std::move(file)), function(function), chosen(program) {}
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

  std::shared_ptr<CudaDevice> device;
  ProgramFile::Ptr file;
  const Function &function;
  const Program &chosen;
  std::vector<LoadedKernel> kernels;
  // Kernels may share a binary.
  StringMap<std::pair<CUmodule, std::string>> modules;
};

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
  std::optional<std::string> whyUnusable(const void *pointer) const override;
  Expected<void *> enter() override;
  void leave(void *previous) override;
  bool isCapturing(void *stream) override;
  Expected<std::unique_ptr<RecordedGraph>> record(function_ref<Error(void *)> enqueue) override;

  /// Whether a kernel may begin before the one ahead of it on the stream has ended.
  bool launchesDependents() const {
    return driver.cuLaunchKernelEx && driver.version() >= dependentLaunchVersion &&
           gpu.chip >= firstDependentChip;
  }

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
  auto loaded = std::make_unique<CudaLoadedFunction>(shared_from_this(), file, function, **program);
  DeviceScope scope(*this);
  if (Error error = scope.enter())
    return std::move(error);
  if (Error error = loaded->load())
    return addContext(name(), std::move(error));
  return std::move(loaded);
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

std::optional<std::string> CudaDevice::whyUnusable(const void *pointer) const {
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
    return formatv("a pointer to memory of cuda:{0}", ordinal).str();
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

//===-- Kernels ------------------------------------------------------------------------------===//

CudaLoadedFunction::~CudaLoadedFunction() {
  DeviceScope scope(*device);
  if (Error error = scope.enter()) {
    // What follows would hit the caller's context; the modules go with their own.
    consumeError(std::move(error));
    return;
  }
  // Kernels may still be running.
  if (!modules.empty())
    device->driver.cuCtxSynchronize();
  for (auto &entry : modules)
    device->driver.cuModuleUnload(entry.second.first);
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
  CUresult result = device->driver.cuModuleLoadDataEx(&module, ptx.c_str(), 2, options, values);
  if (result) {
    StringRef text = StringRef(log).trim();
    return device->driver.error(result, "compiling the PTX of " + chosen.target + " for sm_" +
                                            Twine(device->gpu.chip) +
                                            (text.empty() ? Twine("") : " (" + text + ")"));
  }
  return module;
}

Expected<CUmodule> CudaLoadedFunction::loadModule(const Kernel &kernel, std::string &binary) {
  bool runs = cubinRunsOn(*parseChip(chosen.target), device->gpu.chip);
  if (!kernel.cubin.empty() && runs) {
    ArrayRef<uint8_t> cubin = file->find(kernel.cubin)->data;
    if (Error error = checkCubin(cubin))
      return addContext("'" + kernel.cubin + "'", std::move(error));
    // In the file it may lie at an odd address.
    std::vector<uint64_t> aligned(cubin.size() / 8 + 1);
    memcpy(aligned.data(), cubin.data(), cubin.size());
    CUmodule module = nullptr;
    CUresult result =
        device->driver.cuModuleLoadDataEx(&module, aligned.data(), 0, nullptr, nullptr);
    binary = "cubin " + chosen.target;
    if (!result)
      return module;
    bool tryPtx = (result == noBinaryForGpu || result == invalidImage) && !kernel.ptx.empty();
    if (!tryPtx)
      return device->driver.error(result, "loading '" + kernel.cubin + "'");
  }
  binary = "ptx " + chosen.target + ", compiled by the driver";
  return loadPtx(kernel);
}

Error CudaLoadedFunction::loadKernel(const Kernel &kernel, LoadedKernel &loaded) {
  CudaDriver &driver = device->driver;
  if (kernel.shared > device->gpu.sharedPerBlock)
    return makeError(
        Status::Unsupported,
        formatv("expected at most {0} bytes of shared memory on {1} (sm_{2}), got {3}; "
                "compile with --target=sm_{2}",
                device->gpu.sharedPerBlock, device->gpu.name, device->gpu.chip, kernel.shared));
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
  loaded.dependentLaunch = kernel.dependentLaunch && device->launchesDependents();
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
  if (!device->driver.cuFuncGetParamInfo)
    return Error::success();
  SmallVector<size_t, maxKernelArguments> sizes;
  size_t offset = 0, bytes = 0;
  CUresult result = 0;
  // A launch can pass no more, so the rest does not matter.
  while (sizes.size() <= maxKernelArguments &&
         (result = device->driver.cuFuncGetParamInfo(code, sizes.size(), &offset, &bytes)) == 0)
    sizes.push_back(bytes);
  if (result && result != invalidValue)
    return device->driver.error(result, "asking for the kernel's parameters");
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
    result = device->driver.cuLaunchKernelEx(&config, kernel.function, values, nullptr);
  } else {
    result = device->driver.cuLaunchKernel(kernel.function, grid[0], grid[1], grid[2],
                                           kernel.block[0], kernel.block[1], kernel.block[2],
                                           kernel.shared, queue, values, nullptr);
  }
  if (LLVM_LIKELY(result == 0))
    return Error::success();
  return device->driver.error(result, "launching kernel '" + chosen.kernels[index].name + "' of '" +
                                          function.name + "'");
}
