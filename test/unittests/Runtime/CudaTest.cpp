// The CUDA device against a fake driver: choice of code, contexts, several GPUs, graphs, and every
// failure as a sentence.
#include "FakeCuda.h"
#include "TestProgram.h"
#include "sparseflow/Runtime/CudaDevice.h"
#include "sparseflow/Runtime/GpuCode.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include <cstdlib>
#include <dlfcn.h>

using namespace llvm;
using namespace sparseflow::runtime;

namespace {
class CudaTest : public testing::Test {
protected:
  void SetUp() override {
    void *library = dlopen(SPARSEFLOW_FAKE_CUDA, RTLD_NOW);
    state = reinterpret_cast<FakeCuda *(*)()>(dlsym(library, "fakeCuda"))();
    *state = FakeCuda();
    driver = cantFail(CudaDriver::open(SPARSEFLOW_FAKE_CUDA));
  }
  std::shared_ptr<Device> open(int ordinal) { return cantFail(createCudaDevice(*driver, ordinal)); }
  std::unique_ptr<Executable> load(ProgramFile::Ptr file, int ordinal = 0) {
    return cantFail(Executable::create(std::move(file), open(ordinal)));
  }
  void fail(const char *function, int result) {
    state->failFunction = function;
    state->failResult = result;
  }

  std::unique_ptr<CudaDriver> driver;
  FakeCuda *state = nullptr;
};

/// Tensors in the memory of a device.
struct Tensors {
  explicit Tensors(Device &device, int64_t rows = 4) : device(device), shape{rows, columns} {
    x = cantFail(device.allocate(rows * columns * 4));
    y = cantFail(device.allocate(rows * columns * 4));
  }
  ~Tensors() {
    cantFail(device.deallocate(x));
    cantFail(device.deallocate(y));
  }
  TensorRef in() const { return {x, DType::F32, shape, {}}; }
  TensorRef out() const { return {y, DType::F32, shape, {}}; }
  Device &device;
  std::vector<int64_t> shape;
  void *x, *y;
};
} // namespace

//===-- The driver ---------------------------------------------------------------------------===//

TEST(CudaDriver, a_missing_driver_is_a_sentence) {
  std::string message = messageOf(CudaDriver::open("libno-such-cuda.so.1"));
  EXPECT_CONTAINS(message, "expected the NVIDIA driver's libno-such-cuda.so.1, got: ");
  EXPECT_CONTAINS(message,
                  "install the NVIDIA driver, or use the devices 'emulator' or 'reference'");
}

TEST(CudaDriver, a_library_without_the_functions_is_refused) {
  EXPECT_CONTAINS(messageOf(CudaDriver::open("libm.so.6")),
                  "without cuInit (CUDA 2.0); update the driver");
}

TEST(CudaDriver, an_old_driver_is_refused) {
  setenv("SPARSEFLOW_FAKE_CUDA_OLD", "1", 1);
  EXPECT_CONTAINS(
      messageOf(CudaDriver::open(SPARSEFLOW_FAKE_CUDA)),
      "expected an NVIDIA driver for CUDA 11.4 or later, got one for CUDA 11.2; update the driver");
  unsetenv("SPARSEFLOW_FAKE_CUDA_OLD");
}

TEST_F(CudaTest, a_machine_without_gpus_is_a_sentence) {
  fail("cuInit", 100);
  EXPECT_CONTAINS(messageOf(CudaDriver::open(SPARSEFLOW_FAKE_CUDA)),
                  "no GPU is visible; see nvidia-smi and CUDA_VISIBLE_DEVICES");
}

TEST_F(CudaTest, gpus_are_listed) {
  std::vector<CudaDeviceInfo> list = cantFail(listCudaDevices(*driver));
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].chip, 90u);
  EXPECT_EQ(list[1].name, "Fake A100");
  EXPECT_CONTAINS(messageOf(createCudaDevice(*driver, 2)),
                  "expected a GPU number below 2, got cuda:2");
}

//===-- Choosing code ------------------------------------------------------------------------===//

TEST(CudaCode, compatibility_rules) {
  auto chip = [](const char *name) { return *parseChip(name); };
  EXPECT_TRUE(cubinRunsOn(chip("sm_80"), 86));
  EXPECT_FALSE(cubinRunsOn(chip("sm_86"), 80));
  EXPECT_FALSE(cubinRunsOn(chip("sm_80"), 90));
  EXPECT_TRUE(cubinRunsOn(chip("sm_90a"), 90));
  EXPECT_FALSE(cubinRunsOn(chip("sm_100a"), 103));
  EXPECT_TRUE(cubinRunsOn(chip("sm_100f"), 103));
  EXPECT_TRUE(ptxRunsOn(chip("sm_80"), 120));
  EXPECT_FALSE(ptxRunsOn(chip("sm_90a"), 100));
  EXPECT_FALSE(ptxRunsOn(chip("sm_90"), 89));
}

static std::string chosenFor(const std::vector<std::string> &targets, unsigned chip,
                             bool cubins = true, bool ptx = true) {
  ProgramFile::Ptr file = makeGpuProgram(targets, cubins, ptx);
  Expected<const Program *> program = chooseProgram(file->manifest().functions[0], chip);
  return program ? (*program)->target : toString(program.takeError());
}

TEST(CudaCode, the_nearest_cubin_wins) {
  EXPECT_EQ(chosenFor({"sm_80", "sm_86", "sm_90"}, 86), "sm_86");
  EXPECT_EQ(chosenFor({"sm_80", "sm_86", "sm_90"}, 89), "sm_86");
  EXPECT_EQ(chosenFor({"sm_80", "sm_90", "sm_90a"}, 90), "sm_90a");
  EXPECT_EQ(chosenFor({"sm_80", "sm_89"}, 80), "sm_80");
}

TEST(CudaCode, ptx_comes_after_cubins) {
  EXPECT_EQ(chosenFor({"sm_80", "sm_89"}, 90), "sm_89");
  EXPECT_EQ(chosenFor({"sm_80", "sm_90a"}, 100), "sm_80");
  EXPECT_EQ(chosenFor({"sm_80"}, 80, /*cubins=*/false), "sm_80");
}

TEST(CudaCode, no_fit_lists_what_there_is) {
  EXPECT_EQ(chosenFor({"sm_80", "sm_89"}, 90, true, /*ptx=*/false),
            "function 'main' expected code that runs on sm_90, got sm_80 (cubin), sm_89 (cubin); "
            "compile with --target=sm_90");
  EXPECT_CONTAINS(chosenFor({"sm_90"}, 86), "got sm_90 (cubin, ptx); compile with --target=sm_86");
  EXPECT_CONTAINS(chosenFor({}, 80), "got no kernels at all");
}

TEST(CudaCode, a_gpu_too_old_is_a_sentence) {
  EXPECT_EQ(chosenFor({"sm_80"}, 75),
            "expected a GPU with 2:4 sparse tensor cores (sm_80 or later), got sm_75; use the "
            "devices 'emulator' or 'reference'");
}

TEST(CudaCode, cubins_are_checked_before_the_driver_sees_them) {
  std::string cubin = makeCubin();
  auto check = [](std::string bytes) {
    return messageOf(checkCubin(arrayRefFromStringRef(bytes)));
  };
  EXPECT_EQ(check(cubin), "");
  EXPECT_CONTAINS(check(cubin.substr(0, 20)), "got 20 bytes");
  EXPECT_CONTAINS(check(cubin.substr(0, cubin.size() - 1)), "got a damaged section table");
  EXPECT_CONTAINS(check(std::string(200, 'x')), "got another kind of data");
  std::string beyond = cubin;
  beyond[sizeof(ELF::Elf64_Ehdr) + sizeof(ELF::Elf64_Shdr) + offsetof(ELF::Elf64_Shdr, sh_size) +
         3] = 1;
  EXPECT_CONTAINS(check(beyond), "got a section beyond its end");
}

//===-- Loading and launching ----------------------------------------------------------------===//

TEST_F(CudaTest, runs_and_cleans_up) {
  {
    std::unique_ptr<Executable> executable = load(makeGpuProgram({"sm_90"}));
    Tensors tensors(executable->device());
    int stream;
    RunOptions options;
    options.stream = &stream;
    ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), options)), "");
    EXPECT_EQ(state->launches, 2);
    EXPECT_EQ(state->lastStream, &stream);
    EXPECT_EQ(state->cubinLoads, 2);
    EXPECT_EQ(state->dynamicShared, 1024);
    std::string report = formatv("{0}", cantFail(executable->report(0, std::nullopt)));
    EXPECT_CONTAINS(report, R"("binary":"cubin sm_90")");
    EXPECT_CONTAINS(report, R"("registers":77)");
  }
  EXPECT_EQ(state->modules, 0);
  EXPECT_EQ(state->retained, 0);
}

TEST_F(CudaTest, the_callers_context_is_respected) {
  std::unique_ptr<Executable> executable = load(makeGpuProgram({"sm_80"}), /*ordinal=*/1);
  CUcontext current = nullptr, other = nullptr;
  driver->cuCtxGetCurrent(&current);
  EXPECT_EQ(current, nullptr);
  ASSERT_EQ(driver->cuDevicePrimaryCtxRetain(&other, 0), 0);
  driver->cuCtxPushCurrent(other);
  Tensors tensors(executable->device());
  ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), {})), "");
  EXPECT_EQ(state->lastLaunchGpu, 1);
  driver->cuCtxGetCurrent(&current);
  EXPECT_EQ(current, other);
  driver->cuCtxPopCurrent(&current);
  driver->cuDevicePrimaryCtxRelease(0);
}

TEST_F(CudaTest, several_gpus_in_one_process) {
  std::unique_ptr<Executable> first = load(makeGpuProgram({"sm_80", "sm_90"}), 0);
  std::unique_ptr<Executable> second = load(makeGpuProgram({"sm_80", "sm_90"}), 1);
  Tensors here(first->device()), there(second->device());
  ASSERT_EQ(messageOf(first->run(0, here.in(), here.out(), {})), "");
  EXPECT_EQ(state->lastLaunchGpu, 0);
  ASSERT_EQ(messageOf(second->run(0, there.in(), there.out(), {})), "");
  EXPECT_EQ(state->lastLaunchGpu, 1);
  EXPECT_CONTAINS(messageOf(first->run(0, there.in(), here.out(), {})),
                  "expected data in the memory of cuda:0, got a pointer to memory of cuda:1; copy "
                  "it there first");
}

TEST_F(CudaTest, where_a_tensor_is_known_to_lie_the_driver_is_not_asked) {
  std::unique_ptr<Executable> executable = load(makeGpuProgram({"sm_90"}), 0);
  Tensors tensors(executable->device());
  TensorRef in = tensors.in(), out = tensors.out();
  ASSERT_EQ(messageOf(executable->run(0, in, out, {})), "");
  int before = state->pointerQueries;
  EXPECT_GT(before, 0);
  in.gpu = out.gpu = 0;
  ASSERT_EQ(messageOf(executable->run(0, in, out, {})), "");
  EXPECT_EQ(state->pointerQueries, before);
  in.gpu = 1;
  EXPECT_CONTAINS(messageOf(executable->run(0, in, out, {})),
                  "expected data in the memory of cuda:0, got a pointer to memory of cuda:1");
}

TEST_F(CudaTest, host_tensors_are_refused_by_run_and_copied_by_runHost) {
  std::unique_ptr<Executable> executable = load(makeGpuProgram({"sm_90"}));
  std::vector<float> x(4 * columns + 16), y(4 * columns + 16);
  auto aligned = [](std::vector<float> &v) {
    return reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(v.data()) + 15) & ~uintptr_t(15));
  };
  std::vector<int64_t> shape = {4, columns};
  TensorRef in{aligned(x), DType::F32, shape, {}}, out{aligned(y), DType::F32, shape, {}};
  EXPECT_CONTAINS(messageOf(executable->run(0, in, out, {})),
                  "input 'x' of 'main' expected data in the memory of cuda:0, got a pointer to "
                  "host memory; copy it there first");
  EXPECT_EQ(messageOf(executable->runHost(0, in, out)), "");
  EXPECT_EQ(state->launches, 2);
}

TEST_F(CudaTest, ptx_is_compiled_by_the_driver_when_no_cubin_fits) {
  std::unique_ptr<Executable> executable = load(makeGpuProgram({"sm_80"}));
  EXPECT_EQ(state->ptxLoads, 2);
  EXPECT_EQ(state->cubinLoads, 0);
  EXPECT_CONTAINS(formatv("{0}", cantFail(executable->report(0, ArrayRef<int64_t>(1)))).str(),
                  "ptx sm_80, compiled by the driver");
}

TEST_F(CudaTest, a_cubin_that_the_driver_refuses_falls_back_to_ptx) {
  fail("load cubin", 209);
  load(makeGpuProgram({"sm_90"}));
  EXPECT_EQ(state->ptxLoads, 2);
  EXPECT_CONTAINS(
      messageOf(Executable::create(makeGpuProgram({"sm_90"}, true, /*ptx=*/false), open(0))),
      "loading 'sm_90/k0.cubin' failed: fake error (CUDA_ERROR_FAKE); compile with --target= this "
      "GPU's chip");
}

TEST_F(CudaTest, failures_are_sentences_and_leak_nothing) {
  auto message = [&](const char *function, int result) {
    fail(function, result);
    std::string text = messageOf(Executable::create(makeGpuProgram({"sm_80"}), open(0)));
    state->failFunction = nullptr;
    EXPECT_EQ(state->modules, 0) << function;
    EXPECT_EQ(state->retained, 0) << function;
    return text;
  };
  EXPECT_CONTAINS(
      message("load ptx", 218),
      "cuda:0: kernel 'k0': compiling the PTX of sm_80 for sm_90 (ptxas fatal: line 7) failed");
  EXPECT_CONTAINS(message("load ptx", 222), "update the driver, or compile for this GPU's chip");
  EXPECT_CONTAINS(message("cuModuleGetFunction", 500), "finding 'k0' in 'sm_80/k0.cubin' failed");
  EXPECT_CONTAINS(message("cuFuncLoad", 2), "preparing the kernel failed: out of memory");
  EXPECT_CONTAINS(
      message("cuMemAlloc", 2),
      "constant 'w': allocating 64 bytes on cuda:0 (1000 of 2000 free) failed: out of memory "
      "(CUDA_ERROR_OUT_OF_MEMORY); free GPU memory, or use fewer tokens at a time");
  EXPECT_CONTAINS(message("cuMemcpyHtoDAsync", 700), "copying 64 bytes to cuda:0 failed");
  state->sharedPerBlock = 512;
  EXPECT_CONTAINS(message("", 0), "expected at most 512 bytes of shared memory on Fake H100 "
                                  "(sm_90), got 1024; compile with --target=sm_90");
}

TEST_F(CudaTest, a_context_that_is_gone_leaves_the_callers_alone) {
  std::unique_ptr<Executable> executable = load(makeGpuProgram({"sm_80"}), /*ordinal=*/1);
  CUcontext other = nullptr;
  driver->cuDevicePrimaryCtxRetain(&other, 0);
  driver->cuCtxPushCurrent(other);
  fail("cuCtxPushCurrent", 709);
  executable.reset();
  EXPECT_EQ(state->modules, 2) << "unloaded from the caller's context";
  driver->cuCtxPopCurrent(&other);
  driver->cuDevicePrimaryCtxRelease(0);
}

TEST_F(CudaTest, tensor_maps_are_encoded_by_the_driver) {
  std::shared_ptr<Device> device = open(0);
  DeviceScope scope(*device);
  ASSERT_EQ(messageOf(scope.enter()), "");
  alignas(tensorMapAlignment) unsigned char out[tensorMapBytes] = {};
  char data[16];
  HostTensorMap map{data, 100, 4096, 8448, 2, 256, 64, 128};
  auto expectMap = [&](DType dtype, std::vector<uint64_t> expected) {
    ASSERT_EQ(messageOf(device->encodeTensorMap(dtype, map, out)), "");
    EXPECT_EQ(std::vector<uint64_t>(state->tensorMap, state->tensorMap + 7), expected);
    EXPECT_EQ(out[tensorMapBytes - 1], 0xab);
  };
  expectMap(DType::F16, {6, 4096, 100, 8448, 64, 256, 3});
  map.swizzleBytes = 64;
  expectMap(DType::BF16, {9, 4096, 100, 8448, 64, 256, 2});
  map.swizzleBytes = 32;
  expectMap(DType::E4M3, {0, 4096, 100, 8448, 64, 256, 1});
  map.swizzleBytes = 0;
  expectMap(DType::I32, {3, 4096, 100, 8448, 64, 256, 0});
  fail("cuTensorMapEncodeTiled", 1);
  EXPECT_CONTAINS(messageOf(device->encodeTensorMap(DType::F32, map, out)),
                  "making a tensor map of 100 x 4096 f32, rows 8448 bytes apart, in boxes of 256 x "
                  "64 failed: fake error (CUDA_ERROR_FAKE)");
}

TEST_F(CudaTest, tensor_maps_need_a_recent_driver) {
  driver->cuTensorMapEncodeTiled = nullptr;
  alignas(tensorMapAlignment) unsigned char out[tensorMapBytes];
  EXPECT_CONTAINS(messageOf(open(0)->encodeTensorMap(DType::F16, {}, out)),
                  "expected an NVIDIA driver with tensor maps (CUDA 12.0 or later), got one for "
                  "CUDA 12.4; update the driver");
}

TEST_F(CudaTest, dependent_launches_say_so) {
  auto program = [](const char *target) {
    Manifest manifest = makeManifest(target);
    manifest.functions[0].programs[0].kernels[1].dependentLaunch = true;
    std::vector<StoredTensor> tensors = makeTensors({target});
    for (StoredTensor &tensor : tensors)
      if (StringRef(tensor.name).ends_with(".cubin"))
        tensor = StoredTensor::text(tensor.name, makeCubin());
    return cantFail(ProgramFile::create(manifest, tensors));
  };
  auto run = [&](const char *target, int ordinal) {
    *state = FakeCuda();
    std::unique_ptr<Executable> executable = load(program(target), ordinal);
    Tensors tensors(executable->device());
    ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), {})), "");
    ASSERT_EQ(messageOf(executable->capture(0, tensors.in(), tensors.out())), "");
    EXPECT_EQ(state->launches, 4);
  };
  run("sm_90", 0);
  EXPECT_EQ(state->dependentLaunches, 2);
  // The chip cannot.
  run("sm_80", 1);
  EXPECT_EQ(state->dependentLaunches, 0);
  // The driver cannot.
  driver->cuLaunchKernelEx = nullptr;
  run("sm_90", 0);
  EXPECT_EQ(state->dependentLaunches, 0);
}

TEST_F(CudaTest, code_that_reads_other_arguments_is_refused) {
  state->moreParameters = 1;
  EXPECT_EQ(messageOf(Executable::create(makeGpuProgram({"sm_90"}), open(0))),
            "cuda:0: kernel 'k0': expected code for arguments of 8, 8, 8, 8, 4 bytes, as the "
            "manifest passes them, got code for 8, 8, 8, 8, 4, 8; compile the program again");
  state->moreParameters = 1000;
  EXPECT_CONTAINS(messageOf(Executable::create(makeGpuProgram({"sm_90"}), open(0))),
                  "got code for 8, 8, 8, 8, 4, 8, 8, ");
  state->moreParameters = 0;
  Manifest manifest = makeManifest("sm_90");
  manifest.functions[0].programs[0].steps[1].variants[1].launches[0].args[5] = Argument::i64(3);
  std::vector<StoredTensor> tensors = makeTensors({"sm_90"});
  for (StoredTensor &tensor : tensors)
    if (StringRef(tensor.name).ends_with(".cubin"))
      tensor = StoredTensor::text(tensor.name, makeCubin());
  EXPECT_CONTAINS(
      messageOf(Executable::create(cantFail(ProgramFile::create(manifest, tensors)), open(0))),
      "kernel 'k1': expected code for arguments of 8, 8, 8, 8, 8, 8, 8, 8 bytes");
}

TEST_F(CudaTest, launch_failures_name_the_kernel) {
  std::unique_ptr<Executable> executable = load(makeGpuProgram({"sm_90"}));
  Tensors tensors(executable->device());
  fail("cuLaunchKernel", 400);
  EXPECT_CONTAINS(messageOf(executable->run(0, tensors.in(), tensors.out(), {})),
                  "launching kernel 'k0' of 'main' failed: fake error (CUDA_ERROR_FAKE); the "
                  "stream belongs to another GPU or was destroyed");
}

TEST_F(CudaTest, a_damaged_cubin_never_reaches_the_driver) {
  Manifest manifest = makeManifest("sm_90");
  std::string message = messageOf(
      Executable::create(cantFail(ProgramFile::create(manifest, makeTensors({"sm_90"}))), open(0)));
  EXPECT_CONTAINS(message, "kernel 'k0': 'sm_90/k0.cubin': expected a whole cubin");
  EXPECT_EQ(state->cubinLoads, 0);
}

TEST_F(CudaTest, graphs_capture_and_replay) {
  {
    std::unique_ptr<Executable> executable = load(makeGpuProgram({"sm_90"}));
    Tensors tensors(executable->device());
    std::unique_ptr<GraphRun> graph = cantFail(executable->capture(0, tensors.in(), tensors.out()));
    EXPECT_EQ(state->launches, 2);
    EXPECT_EQ(messageOf(graph->launch(nullptr)), "");
    EXPECT_EQ(state->graphLaunches, 1);
    graph.reset();
    fail("cuLaunchKernel", 700);
    EXPECT_CONTAINS(messageOf(executable->capture(0, tensors.in(), tensors.out())),
                    "launching kernel 'k0'");
    fail("cuGraphInstantiate", 2);
    EXPECT_CONTAINS(messageOf(executable->capture(0, tensors.in(), tensors.out())),
                    "instantiating a graph on cuda:0 failed: out of memory");
  }
  EXPECT_EQ(state->graphs, 0);
}
