// The runtime on a real GPU, without the compiler: contexts, streams, graphs, pointers, errors, and
// what a launch costs.
//
// Skips with one line where there is no GPU. With ptxas (SPARSEFLOW_PTXAS or on PATH) cubins are
// tested too.
#include "../unittests/Runtime/TestProgram.h"
#include "RuntimeKernels.h"
#include "sparseflow-c/sparseflow.h"
#include "sparseflow/Runtime/CudaDevice.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Program.h"
#include <chrono>
#include <functional>
#include <thread>

using namespace llvm;
using namespace sparseflow::runtime;

/// What issue and documentation promise of a launch from C.
static constexpr double launchLimitMicroseconds = 5;

static std::vector<uint8_t> bytesOf(StringRef text) {
  return std::vector<uint8_t>(text.bytes_begin(), text.bytes_end());
}

/// Assembles PTX, or gives nothing when there is no ptxas.
static std::vector<uint8_t> assemble(StringRef ptx, StringRef chip) {
  const char *named = std::getenv("SPARSEFLOW_PTXAS");
  ErrorOr<std::string> ptxas = named ? std::string(named) : sys::findProgramByName("ptxas");
  SmallString<64> source, target;
  int fd = -1;
  if (!ptxas || sys::fs::createTemporaryFile("runtime-test", "ptx", fd, source) ||
      sys::fs::createTemporaryFile("runtime-test", "cubin", target))
    return {};
  raw_fd_ostream(fd, /*shouldClose=*/true) << ptx;
  std::vector<uint8_t> cubin;
  std::string arch = ("-arch=" + chip).str();
  if (sys::ExecuteAndWait(*ptxas, {*ptxas, arch, source, "-o", target}) == 0)
    if (auto file = MemoryBuffer::getFile(target, false, false))
      cubin = bytesOf((*file)->getBuffer());
  sys::fs::remove(source);
  sys::fs::remove(target);
  return cubin;
}

/// The test program with real kernels; `chip` empty: PTX alone.
static ProgramFile::Ptr makeRealProgram(StringRef chip) {
  std::string target = chip.empty() ? "sm_80" : chip.str();
  Manifest manifest = makeManifest(target);
  std::vector<StoredTensor> tensors = makeTensors({target});
  for (StoredTensor &tensor : tensors) {
    const char *ptx = tensor.name.find("k0") != std::string::npos ? scaleKernel : addKernel;
    if (StringRef(tensor.name).ends_with(".ptx"))
      tensor = StoredTensor::text(tensor.name, ptx);
    if (StringRef(tensor.name).ends_with(".cubin") && !chip.empty()) {
      std::vector<uint8_t> cubin = assemble(ptx, chip);
      if (cubin.empty())
        return nullptr;
      tensor = StoredTensor::own(tensor.name, DType::U8, {int64_t(cubin.size())}, std::move(cubin));
    }
  }
  if (chip.empty())
    for (Kernel &kernel : manifest.functions[0].programs[0].kernels)
      kernel.cubin.clear();
  return cantFail(ProgramFile::create(std::move(manifest), std::move(tensors)));
}

namespace {
class GpuRuntime : public testing::Test {
protected:
  void SetUp() override {
    Expected<CudaDriver *> found = CudaDriver::get();
    if (!found)
      GTEST_SKIP() << "no GPU: " << toString(found.takeError());
    driver = *found;
    gpus = cantFail(listCudaDevices(*driver));
    device = cantFail(openDevice("cuda:0"));
    executable = cantFail(Executable::create(makeRealProgram(""), device));
  }

  CudaDriver *driver = nullptr;
  std::vector<CudaDeviceInfo> gpus;
  std::shared_ptr<Device> device;
  std::unique_ptr<Executable> executable;
};

/// x and y on the device, rows `stride` elements apart.
struct GpuTensors {
  GpuTensors(Device &device, int64_t rows, int64_t stride = columns)
      : device(device), rows(rows), shape{rows, columns}, strides{stride, 1}, host(rows * stride) {
    for (size_t i = 0; i < host.size(); ++i)
      host[i] = float(i % 251) - 100;
    x = cantFail(device.allocate(bytes()));
    y = cantFail(device.allocate(bytes()));
    cantFail(device.copyToDevice(x, host.data(), bytes(), nullptr));
  }
  ~GpuTensors() {
    cantFail(device.deallocate(x));
    cantFail(device.deallocate(y));
  }
  size_t bytes() const { return host.size() * 4; }
  TensorRef in() const { return {x, DType::F32, shape, strides}; }
  TensorRef out() const { return {y, DType::F32, shape, strides}; }
  void expectResult(void *stream = nullptr) {
    std::vector<float> result(host.size()), w = constantW();
    ASSERT_EQ(messageOf(device.copyToHost(result.data(), y, bytes(), stream)), "");
    for (int64_t m = 0; m < rows; ++m)
      for (int64_t c = 0; c < columns; ++c)
        ASSERT_EQ(result[m * strides[0] + c], host[m * strides[0] + c] * 6 + w[c]) << m << "," << c;
  }
  Device &device;
  int64_t rows;
  std::vector<int64_t> shape, strides;
  std::vector<float> host;
  void *x, *y;
};
} // namespace

TEST_F(GpuRuntime, ptx_runs) {
  for (int64_t rows : {0, 1, 7, 64, 65, 1000}) {
    GpuTensors tensors(*device, rows, 24);
    ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), {})), "");
    tensors.expectResult();
  }
}

TEST_F(GpuRuntime, cubins_run_and_are_preferred) {
  std::string chip = "sm_" + std::to_string(gpus[0].chip);
  ProgramFile::Ptr file = makeRealProgram(chip);
  if (!file)
    GTEST_SKIP() << "no ptxas that knows " << chip;
  std::unique_ptr<Executable> fast = cantFail(Executable::create(file, device));
  GpuTensors tensors(*device, 100);
  ASSERT_EQ(messageOf(fast->run(0, tensors.in(), tensors.out(), {})), "");
  tensors.expectResult();
  EXPECT_CONTAINS(formatv("{0}", cantFail(fast->report(0, std::nullopt))).str(), "cubin " + chip);
}

TEST_F(GpuRuntime, streams_and_threads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      DeviceScope scope(*device);
      cantFail(scope.enter());
      CUstream stream = nullptr;
      ASSERT_EQ(driver->cuStreamCreate(&stream, 1), 0);
      RunOptions options;
      options.stream = stream;
      for (int i = 0; i < 20; ++i) {
        GpuTensors tensors(*device, 1 + (t * 37 + i * 11) % 300);
        ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), options)), "");
        tensors.expectResult(stream);
      }
      driver->cuStreamDestroy(stream);
    });
  for (std::thread &thread : threads)
    thread.join();
}

TEST_F(GpuRuntime, the_callers_context_is_untouched) {
  CUcontext before = nullptr, after = nullptr;
  driver->cuCtxGetCurrent(&before);
  GpuTensors tensors(*device, 10);
  ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), {})), "");
  driver->cuCtxGetCurrent(&after);
  EXPECT_EQ(before, after);
}

TEST_F(GpuRuntime, graphs_replay_with_new_data) {
  GpuTensors tensors(*device, 128);
  std::unique_ptr<GraphRun> graph = cantFail(executable->capture(0, tensors.in(), tensors.out()));
  for (int round = 0; round < 3; ++round) {
    for (float &value : tensors.host)
      value += 1;
    cantFail(device->copyToDevice(tensors.x, tensors.host.data(), tensors.bytes(), nullptr));
    ASSERT_EQ(messageOf(graph->launch(nullptr)), "");
    tensors.expectResult();
  }
}

TEST_F(GpuRuntime, a_callers_capture_works_once_reserved) {
  DeviceScope scope(*device);
  cantFail(scope.enter());
  CUstream stream = nullptr;
  ASSERT_EQ(driver->cuStreamCreate(&stream, 1), 0);
  GpuTensors tensors(*device, 64);
  RunOptions options;
  options.stream = stream;
  ASSERT_EQ(driver->cuStreamBeginCapture(stream, /*global=*/0), 0);
  EXPECT_CONTAINS(messageOf(executable->run(0, tensors.in(), tensors.out(), options)),
                  "reserve it (sfReserve) before the capture");
  CUgraph graph = nullptr;
  driver->cuStreamEndCapture(stream, &graph);
  driver->cuGraphDestroy(graph);
  ASSERT_EQ(messageOf(executable->reserve(0, {64}, stream)), "");
  ASSERT_EQ(driver->cuStreamBeginCapture(stream, /*global=*/0), 0);
  ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), options)), "");
  ASSERT_EQ(driver->cuStreamEndCapture(stream, &graph), 0);
  CUgraphExec exec = nullptr;
  ASSERT_EQ(driver->cuGraphInstantiateWithFlags(&exec, graph, 0), 0);
  ASSERT_EQ(driver->cuGraphLaunch(exec, stream), 0);
  tensors.expectResult(stream);
  driver->cuGraphExecDestroy(exec);
  driver->cuGraphDestroy(graph);
  driver->cuStreamDestroy(stream);
}

TEST_F(GpuRuntime, host_memory_is_refused_by_run_and_staged_by_runHost) {
  std::vector<float> x(32 * columns + 4, 1), y(32 * columns + 4);
  auto aligned = [](std::vector<float> &v) {
    return reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(v.data()) + 15) & ~uintptr_t(15));
  };
  std::vector<int64_t> shape = {32, columns};
  TensorRef in{aligned(x), DType::F32, shape, {}}, out{aligned(y), DType::F32, shape, {}};
  EXPECT_CONTAINS(messageOf(executable->run(0, in, out, {})),
                  "expected data in the memory of cuda:0, got a pointer to host memory");
  ASSERT_EQ(messageOf(executable->runHost(0, in, out)), "");
  EXPECT_EQ(static_cast<float *>(out.data)[columns + 2], 7);
}

TEST_F(GpuRuntime, out_of_memory_is_a_sentence) {
  EXPECT_CONTAINS(messageOf(device->allocate(size_t(1) << 44)),
                  "CUDA_ERROR_OUT_OF_MEMORY); free GPU memory, or use fewer tokens at a time");
  GpuTensors tensors(*device, 10);
  EXPECT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), {})), "");
}

TEST_F(GpuRuntime, broken_ptx_gives_the_drivers_log) {
  Manifest manifest = makeManifest();
  for (Kernel &kernel : manifest.functions[0].programs[0].kernels)
    kernel.cubin.clear();
  std::vector<StoredTensor> tensors = makeTensors();
  for (StoredTensor &tensor : tensors)
    if (StringRef(tensor.name).ends_with(".ptx"))
      tensor = StoredTensor::text(tensor.name, ".version 7.0\n.target sm_80\nnonsense\n");
  std::string message =
      messageOf(Executable::create(cantFail(ProgramFile::create(manifest, tensors)), device));
  EXPECT_CONTAINS(message, "compiling the PTX of sm_80");
  EXPECT_CONTAINS(message, "line 3");
}

TEST_F(GpuRuntime, a_chip_without_code_is_a_sentence) {
  Manifest manifest = makeManifest("sm_75");
  for (Kernel &kernel : manifest.functions[0].programs[0].kernels)
    kernel.ptx.clear();
  EXPECT_CONTAINS(messageOf(Executable::create(
                      cantFail(ProgramFile::create(manifest, makeTensors({"sm_75"}))), device)),
                  "got sm_75 (cubin); compile with --target=sm_");
}

TEST_F(GpuRuntime, several_gpus) {
  if (gpus.size() < 2)
    GTEST_SKIP() << "one GPU here";
  std::shared_ptr<Device> other = cantFail(openDevice("cuda:1"));
  std::unique_ptr<Executable> there = cantFail(Executable::create(makeRealProgram(""), other));
  GpuTensors here(*device, 33), far(*other, 33);
  EXPECT_CONTAINS(messageOf(executable->run(0, far.in(), here.out(), {})),
                  "got a pointer to memory of cuda:1");
  ASSERT_EQ(messageOf(there->run(0, far.in(), far.out(), {})), "");
  ASSERT_EQ(messageOf(executable->run(0, here.in(), here.out(), {})), "");
  far.expectResult();
  here.expectResult();
}

TEST_F(GpuRuntime, a_launch_from_c_is_quick) {
  std::string bytes;
  raw_string_ostream os(bytes);
  cantFail(makeRealProgram("")->write(os));
  SfProgram *program = nullptr;
  SfExecutable *exe = nullptr;
  ASSERT_EQ(sfProgramFromMemory(bytes.data(), bytes.size(), 0, &program), SF_OK) << sfLastError();
  ASSERT_EQ(sfExecutableCreate(program, "cuda:0", &exe), SF_OK) << sfLastError();
  GpuTensors tensors(*device, 64);
  SfTensor in, out;
  SF_INIT(in);
  SF_INIT(out);
  in.data = tensors.x;
  out.data = tensors.y;
  in.dtype = out.dtype = SF_F32;
  in.rank = out.rank = 2;
  in.shape = out.shape = tensors.shape.data();
  SfRunOptions options;
  SF_INIT(options);
  DeviceScope scope(*device);
  cantFail(scope.enter());
  CUstream stream = nullptr;
  ASSERT_EQ(driver->cuStreamCreate(&stream, 1), 0);
  options.stream = stream;
  ASSERT_EQ(sfReserve(exe, nullptr, tensors.shape.data(), 1, stream), SF_OK) << sfLastError();

  // Bursts that fit the launch queue, so that a full queue is not what is measured.
  auto measure = [&](const char *what, int calls, const std::function<bool()> &call) {
    std::vector<double> samples;
    for (int burst = 0; burst < 50; ++burst) {
      driver->cuStreamSynchronize(stream);
      auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < calls; ++i)
        EXPECT_TRUE(call());
      std::chrono::duration<double, std::micro> elapsed = std::chrono::steady_clock::now() - start;
      samples.push_back(elapsed.count() / calls);
    }
    std::sort(samples.begin(), samples.end());
    printf("%s: %.2f us (p20 %.2f, p80 %.2f)\n", what, samples[25], samples[10], samples[40]);
    return samples[25];
  };
  double twoKernels = measure("sfRun of two kernels", 100, [&] {
    return sfRun(exe, nullptr, &in, 1, &out, 1, &options) == SF_OK;
  });
  EXPECT_LT(twoKernels / 2, launchLimitMicroseconds);

  // What of it is the driver's own.
  CUmodule module = nullptr;
  CUfunction kernel = nullptr;
  ASSERT_EQ(driver->cuModuleLoadDataEx(&module, scaleKernel, 0, nullptr, nullptr), 0);
  ASSERT_EQ(driver->cuModuleGetFunction(&kernel, module, "k0"), 0);
  int64_t stride = columns, rows = 64;
  float factor = 2;
  void *params[] = {&tensors.x, &stride, &tensors.y, &rows, &factor};
  measure("cuLaunchKernel", 200, [&] {
    return driver->cuLaunchKernel(kernel, 16, 1, 1, 32, 1, 1, 1024, stream, params, nullptr) == 0;
  });
  int attributes[] = {2, 8, 9};
  unsigned type = 0, managed = 0;
  int ordinal = 0, capturing = 0;
  void *values[] = {&type, &managed, &ordinal};
  measure("cuPointerGetAttributes", 1000, [&] {
    return driver->cuPointerGetAttributes(3, attributes, values,
                                          reinterpret_cast<CUdeviceptr>(tensors.x)) == 0;
  });
  measure("cuStreamIsCapturing", 1000,
          [&] { return driver->cuStreamIsCapturing(stream, &capturing) == 0; });
  CUcontext current = nullptr;
  measure("cuCtxGetCurrent", 1000, [&] { return driver->cuCtxGetCurrent(&current) == 0; });
  driver->cuModuleUnload(module);
  driver->cuStreamSynchronize(stream);
  driver->cuStreamDestroy(stream);
  sfExecutableDestroy(exe);
  sfProgramRelease(program);
}
