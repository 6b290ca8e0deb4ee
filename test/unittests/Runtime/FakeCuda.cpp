// A stand-in for the CUDA driver: two GPUs (sm_90 and sm_80) whose memory is the host's, and
// failures on demand.
//
// A test reaches the state through the exported `fakeCuda`. Kernels do nothing; launches are
// counted.
#include "FakeCuda.h"
#include "sparseflow/Runtime/CudaTypes.h"
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

using namespace sparseflow::runtime;

#define EXPORT extern "C" __attribute__((visibility("default")))

static FakeCuda state;
static std::mutex mutex;
static std::map<uintptr_t, std::pair<size_t, int>> allocations; // address -> bytes, GPU
static thread_local uintptr_t contexts[16];
static thread_local int depth = 0;

EXPORT FakeCuda *fakeCuda() { return &state; }

static int fail(const char *function) {
  return state.failFunction && std::strcmp(state.failFunction, function) == 0 ? state.failResult
                                                                              : 0;
}
static int currentGpu() { return depth ? int(contexts[depth - 1]) - 100 : -1; }
/// What stands behind a handle; its contents do not matter.
template <typename Handle> static Handle handle() {
  static char object[8];
  return reinterpret_cast<Handle>(object);
}
/// A call that needs a current context.
static int needsContext(const char *function) { return depth ? fail(function) : 201; }

EXPORT int cuInit(unsigned) { return fail("cuInit"); }
EXPORT int cuDriverGetVersion(int *version) {
  *version = std::getenv("SPARSEFLOW_FAKE_CUDA_OLD") ? 11020 : 12040;
  return 0;
}
EXPORT int cuGetErrorName(int error, const char **text) {
  *text = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_FAKE";
  return 0;
}
EXPORT int cuGetErrorString(int error, const char **text) {
  *text = error == 2 ? "out of memory" : "fake error";
  return 0;
}
EXPORT int cuDeviceGetCount(int *count) {
  *count = 2;
  return fail("cuDeviceGetCount");
}
EXPORT int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return fail("cuDeviceGet");
}
EXPORT int cuDeviceGetName(char *name, int size, int device) {
  std::strncpy(name, device ? "Fake A100" : "Fake H100", size);
  return 0;
}
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75   ? (device ? 8 : 9)
           : attribute == 76 ? 0
           : attribute == 97 ? state.sharedPerBlock
                             : 132;
  return 0;
}
EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int) {
  *bytes = size_t(80) << 30;
  return 0;
}
EXPORT int cuDevicePrimaryCtxRetain(CUcontext *context, int device) {
  *context = reinterpret_cast<CUcontext>(uintptr_t(100 + device));
  ++state.retained;
  return fail("cuDevicePrimaryCtxRetain");
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int) {
  --state.retained;
  return 0;
}
EXPORT int cuCtxGetCurrent(CUcontext *context) {
  *context = depth ? reinterpret_cast<CUcontext>(contexts[depth - 1]) : nullptr;
  return 0;
}
EXPORT int cuCtxPushCurrent_v2(CUcontext context) {
  if (int result = fail("cuCtxPushCurrent"))
    return result;
  contexts[depth++] = reinterpret_cast<uintptr_t>(context);
  return 0;
}
EXPORT int cuCtxPopCurrent_v2(CUcontext *context) {
  if (depth == 0)
    return 201;
  *context = reinterpret_cast<CUcontext>(contexts[--depth]);
  return 0;
}
EXPORT int cuCtxSynchronize() { return needsContext("cuCtxSynchronize"); }
EXPORT int cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, int *options,
                              void **values) {
  bool isElf = std::memcmp(image,
                           "\x7f"
                           "ELF",
                           4) == 0;
  ++(isElf ? state.cubinLoads : state.ptxLoads);
  int result = needsContext(isElf ? "load cubin" : "load ptx");
  if (result) {
    for (unsigned i = 0; i < count; ++i)
      if (options[i] == 5)
        std::strcpy(static_cast<char *>(values[i]), "ptxas fatal: line 7\n");
    return result;
  }
  ++state.modules;
  *module = handle<CUmodule>();
  return 0;
}
EXPORT int cuModuleUnload(CUmodule) {
  --state.modules;
  return needsContext("cuModuleUnload");
}
/// The bytes of each parameter of the test program's kernels.
static std::map<std::string, std::vector<size_t>> parameters = {
    {"k0", {8, 8, 8, 8, 4}}, {"k1", {8, 8, 8, 8, 8, 4, 8, 8}}, {"k", {8}}};
EXPORT int cuModuleGetFunction(CUfunction *function, CUmodule, const char *name) {
  *function = reinterpret_cast<CUfunction>(&parameters[name]);
  return needsContext("cuModuleGetFunction");
}
EXPORT int cuFuncGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *bytes) {
  const auto &sizes = *reinterpret_cast<std::vector<size_t> *>(function);
  if (index >= sizes.size() + state.moreParameters)
    return 1;
  *bytes = index < sizes.size() ? sizes[index] : 8;
  *offset = 8 * index;
  return needsContext("cuFuncGetParamInfo");
}
EXPORT int cuFuncLoad(CUfunction) { return needsContext("cuFuncLoad"); }
EXPORT int cuFuncGetAttribute(int *value, int attribute, CUfunction) {
  *value = attribute == 4 ? 77 : 0;
  return 0;
}
EXPORT int cuFuncSetAttribute(CUfunction, int, int value) {
  state.dynamicShared = value;
  return needsContext("cuFuncSetAttribute");
}
EXPORT int cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                          unsigned, CUstream stream, void **, void **) {
  int result = needsContext("cuLaunchKernel");
  state.lastLaunchGpu = currentGpu();
  state.lastStream = stream;
  state.launches += result == 0;
  return result;
}
EXPORT int cuMemAlloc_v2(uint64_t *memory, size_t bytes) {
  if (int result = needsContext("cuMemAlloc"))
    return result;
  void *block = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::lock_guard<std::mutex> lock(mutex);
  allocations[reinterpret_cast<uintptr_t>(block)] = {bytes, currentGpu()};
  *memory = reinterpret_cast<uintptr_t>(block);
  return 0;
}
EXPORT int cuLaunchKernelEx(const CudaLaunchConfig *config, CUfunction function, void **params,
                            void **extra) {
  if (config->attributeCount != 1 || config->attributes->id != 6 || config->attributes->value != 1)
    return 1;
  ++state.dependentLaunches;
  return cuLaunchKernel(function, config->grid[0], config->grid[1], config->grid[2],
                        config->block[0], config->block[1], config->block[2], config->sharedBytes,
                        config->stream, params, extra);
}
EXPORT int cuTensorMapEncodeTiled(void *map, int dtype, uint32_t rank, void *base,
                                  const uint64_t *extents, const uint64_t *strides,
                                  const uint32_t *box, const uint32_t *elementStrides,
                                  int interleave, int swizzle, int l2Promotion, int fill) {
  if (rank != 2 || interleave != 0 || fill != 0 || elementStrides[0] * elementStrides[1] != 1 ||
      l2Promotion != 3 || reinterpret_cast<uintptr_t>(map) % 64 != 0)
    return 1;
  uint64_t seen[] = {uint64_t(dtype), extents[0], extents[1],       strides[0],
                     box[0],          box[1],     uint64_t(swizzle)};
  std::memcpy(state.tensorMap, seen, sizeof(seen));
  std::memset(map, 0xab, 128);
  return needsContext("cuTensorMapEncodeTiled");
}
EXPORT int cuMemFree_v2(uint64_t memory) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!allocations.erase(memory))
    return 1;
  std::free(reinterpret_cast<void *>(memory));
  return 0;
}
EXPORT int cuMemGetInfo_v2(size_t *free, size_t *total) {
  *free = 1000;
  *total = 2000;
  return 0;
}
EXPORT int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t bytes, CUstream) {
  std::memcpy(reinterpret_cast<void *>(target), source, bytes);
  return needsContext("cuMemcpyHtoDAsync");
}
EXPORT int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t bytes, CUstream) {
  std::memcpy(target, reinterpret_cast<void *>(source), bytes);
  return needsContext("cuMemcpyDtoHAsync");
}
EXPORT int cuPointerGetAttributes(unsigned count, int *attributes, void **values,
                                  uint64_t pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  ++state.pointerQueries;
  auto found = allocations.upper_bound(pointer);
  bool known = found != allocations.begin() &&
               pointer < std::prev(found)->first + std::prev(found)->second.first;
  for (unsigned i = 0; i < count; ++i) {
    if (attributes[i] == 2)
      *static_cast<unsigned *>(values[i]) = known ? 2 : 0;
    if (attributes[i] == 9)
      *static_cast<int *>(values[i]) = known ? std::prev(found)->second.second : -2;
  }
  return 0;
}
EXPORT int cuStreamCreate(CUstream *stream, unsigned) {
  *stream = handle<CUstream>();
  return needsContext("cuStreamCreate");
}
EXPORT int cuStreamDestroy_v2(CUstream) { return 0; }
EXPORT int cuStreamSynchronize(CUstream) { return needsContext("cuStreamSynchronize"); }
EXPORT int cuStreamIsCapturing(CUstream, int *status) {
  *status = 0;
  return 0;
}
EXPORT int cuStreamBeginCapture_v2(CUstream, int) { return needsContext("cuStreamBeginCapture"); }
EXPORT int cuStreamEndCapture(CUstream, CUgraph *graph) {
  *graph = handle<CUgraph>();
  ++state.graphs;
  return needsContext("cuStreamEndCapture");
}
EXPORT int cuEventCreate(CUevent *event, unsigned) {
  *event = handle<CUevent>();
  return needsContext("cuEventCreate");
}
EXPORT int cuEventDestroy_v2(CUevent) { return 0; }
EXPORT int cuEventRecord(CUevent, CUstream) { return needsContext("cuEventRecord"); }
EXPORT int cuEventSynchronize(CUevent) { return needsContext("cuEventSynchronize"); }
EXPORT int cuEventElapsedTime(float *milliseconds, CUevent, CUevent) {
  *milliseconds = state.milliseconds[state.lastAlgorithm];
  return needsContext("cuEventElapsedTime");
}
EXPORT int cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph, unsigned long long) {
  if (int result = needsContext("cuGraphInstantiate"))
    return result;
  *exec = handle<CUgraphExec>();
  ++state.graphs;
  return 0;
}
EXPORT int cuGraphLaunch(CUgraphExec, CUstream) {
  ++state.graphLaunches;
  return needsContext("cuGraphLaunch");
}
EXPORT int cuGraphExecDestroy(CUgraphExec) {
  --state.graphs;
  return 0;
}
EXPORT int cuGraphDestroy(CUgraph) {
  --state.graphs;
  return 0;
}
