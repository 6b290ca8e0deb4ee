// A small program for the runtime's tests, and a device that "runs" it on the host.
//
// The function is y = (x * 2) * 3 + w: a first kernel writes x * 2 to the workspace, a second one
// adds the constant. TestDevice's kernels are C++ lambdas, so that what the executor passes to
// kernels can be checked.
#ifndef SPARSEFLOW_TEST_UNITTESTS_RUNTIME_TESTPROGRAM_H
#define SPARSEFLOW_TEST_UNITTESTS_RUNTIME_TESTPROGRAM_H

#include "sparseflow/Runtime/Device.h"
#include "sparseflow/Runtime/Error.h"
#include "sparseflow/Runtime/Executable.h"
#include "sparseflow/Support/NumericTypes.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/BinaryFormat/ELF.h"
#include "gtest/gtest.h"
#include <mutex>

namespace sparseflow::runtime {

/// The message of a failure; "" on success.
inline std::string messageOf(llvm::Error error) { return llvm::toString(std::move(error)); }
template <typename T> std::string messageOf(llvm::Expected<T> value) {
  return value ? std::string() : llvm::toString(value.takeError());
}

#define EXPECT_CONTAINS(text, part)                                                                \
  EXPECT_NE(std::string(text).find(part), std::string::npos) << "in: " << (text)

inline constexpr int64_t columns = 16;

inline Manifest makeManifest(const std::string &target = "sm_80") {
  Manifest manifest;
  manifest.producer = "sparseflow test";
  manifest.source = "source.mlir";
  Function function;
  function.name = "main";
  function.symbols = {"M"};
  function.inputs = {{"x", DType::F32, {std::string("M"), columns}, {16, 4}}};
  function.outputs = {{"y", DType::F32, {std::string("M"), columns}, {16, 4}}};
  Program program;
  program.target = target;
  program.buffers = {Buffer::input(0), Buffer::constant("w"),
                     Buffer::workspace(0, DType::F32, {std::string("M"), columns}),
                     Buffer::output(0)};
  program.slots = {{{{"M", columns * 4, 0, std::nullopt}}}};
  Kernel k0{"k0",
            {32, 1, 1},
            1024,
            {GridDim{"M", 8, 2}, GridDim::constant(1), GridDim::constant(1)},
            "#sf.kernel_config<>",
            40,
            0,
            0,
            "13.0",
            target + "/k0.cubin",
            target + "/k0.ptx"};
  Kernel k1 = k0;
  k1.name = "k1";
  k1.cubin = target + "/k1.cubin";
  k1.ptx = target + "/k1.ptx";
  k1.mmaSp = 8;
  program.kernels = {k0, k1};
  Step scale{"quantize", "x * 2", "M", {}};
  scale.variants = {{std::nullopt,
                     "elementwise",
                     "",
                     {{"k0",
                       {Argument::buffer(0), Argument::stride(0), Argument::buffer(2),
                        Argument::dim("M"), Argument::f32(2)}}}}};
  std::vector<Argument> args = {Argument::buffer(2), Argument::buffer(1), Argument::buffer(3),
                                Argument::stride(3), Argument::dim("M"),  Argument::i32(3),
                                Argument::stride(2), Argument::i64(-7)};
  Step add{"matmul", "sf.matmul 16x16 f32 2:4", "M", {}};
  add.variants = {{64, "sparse mma.sp", "fits few tokens", {{"k1", args}}},
                  {std::nullopt, "dense mma", "measured faster", {{"k1", args}}}};
  program.steps = {scale, add};
  function.programs = {program};
  manifest.functions = {function};
  return manifest;
}

inline std::vector<float> constantW() {
  std::vector<float> w(columns);
  for (int64_t i = 0; i < columns; ++i)
    w[i] = 0.5f * float(i);
  return w;
}

inline std::vector<StoredTensor> makeTensors(const std::vector<std::string> &targets = {"sm_80"}) {
  std::vector<float> w = constantW();
  const auto *bytes = reinterpret_cast<const uint8_t *>(w.data());
  std::vector<StoredTensor> tensors = {
      StoredTensor::own("w", DType::F32, {columns}, {bytes, bytes + w.size() * 4}),
      StoredTensor::text("source.mlir", "func.func @main() { return }")};
  for (const std::string &target : targets)
    for (const char *kernel : {"k0", "k1"}) {
      tensors.push_back(StoredTensor::text(target + "/" + kernel + ".cubin", "not an ELF file"));
      tensors.push_back(StoredTensor::text(target + "/" + kernel + ".ptx", ".version 8.5"));
    }
  return tensors;
}

inline ProgramFile::Ptr makeProgram() {
  return llvm::cantFail(ProgramFile::create(makeManifest(), makeTensors()));
}

/// The smallest ELF file that checkCubin accepts.
inline std::string makeCubin() {
  llvm::ELF::Elf64_Ehdr header{};
  memcpy(header.e_ident, llvm::ELF::ElfMagic, 4);
  header.e_ident[llvm::ELF::EI_CLASS] = llvm::ELF::ELFCLASS64;
  header.e_machine = llvm::ELF::EM_CUDA;
  header.e_shoff = sizeof(header);
  header.e_shentsize = sizeof(llvm::ELF::Elf64_Shdr);
  header.e_shnum = 2;
  llvm::ELF::Elf64_Shdr sections[2] = {};
  sections[1].sh_offset = sizeof(header);
  sections[1].sh_size = sizeof(sections);
  std::string bytes(reinterpret_cast<char *>(&header), sizeof(header));
  return bytes + std::string(reinterpret_cast<char *>(sections), sizeof(sections));
}

/// The program for GPUs of some chips, with or without cubins and PTX.
inline ProgramFile::Ptr makeGpuProgram(const std::vector<std::string> &targets, bool cubins = true,
                                       bool ptx = true) {
  Manifest manifest = makeManifest();
  Function &function = manifest.functions[0];
  function.programs.clear();
  for (const std::string &target : targets) {
    function.programs.push_back(makeManifest(target).functions[0].programs[0]);
    for (Kernel &kernel : function.programs.back().kernels) {
      if (!cubins)
        kernel.cubin.clear();
      if (!ptx)
        kernel.ptx.clear();
    }
  }
  std::vector<StoredTensor> tensors = makeTensors(targets);
  for (StoredTensor &tensor : tensors)
    if (llvm::StringRef(tensor.name).ends_with(".cubin"))
      tensor = StoredTensor::text(tensor.name, makeCubin());
  return llvm::cantFail(ProgramFile::create(std::move(manifest), std::move(tensors)));
}

inline constexpr int64_t mapColumns = 64;
inline constexpr TensorMapSpec mapBox = {256, 64, 128};

/// One kernel that takes maps of an input, a constant, a workspace and an output, in this order.
inline Manifest makeMapManifest() {
  Manifest manifest;
  manifest.producer = "sparseflow test";
  Function function;
  function.name = "main";
  function.symbols = {"M"};
  // The specs promise less than tensor maps need, so that the call's own check is seen.
  function.inputs = {{"x", DType::F16, {std::string("M"), mapColumns}, {2, 1}}};
  function.outputs = {{"y", DType::F16, {std::string("M"), mapColumns}, {2, 1}}};
  Program program;
  program.target = "sm_90a";
  program.buffers = {Buffer::input(0), Buffer::constant("w"),
                     Buffer::workspace(0, DType::I8, {std::string("M"), 2, 128}),
                     Buffer::output(0)};
  program.slots = {{{{"M", 256, 0, std::nullopt}}}};
  Kernel kernel;
  kernel.name = "k";
  kernel.grid[0] = {"M", 8, 2, 5};
  program.kernels = {kernel};
  Step step{"matmul", "product", "", {}};
  step.variants = {
      {std::nullopt,
       "sparse wgmma.sp",
       "",
       {{"k",
         {Argument::tensorMap(0, mapBox), Argument::i32(7), Argument::tensorMap(1, {32, 32, 64}),
          Argument::tensorMap(2, {8, 128, 128}), Argument::tensorMap(3, {32, 32, 0})}}}}};
  program.steps = {step};
  function.programs = {program};
  manifest.functions = {function};
  return manifest;
}

inline std::vector<StoredTensor> makeMapTensors(std::vector<int64_t> shape = {48, 32}) {
  int64_t bytes = 2;
  for (int64_t extent : shape)
    bytes *= extent;
  return {StoredTensor::own("w", DType::BF16, shape, std::vector<uint8_t>(bytes))};
}

/// y = x · wᵀ of f16, by a library for up to 64 tokens and by a kernel beyond. w is [8, 16].
inline constexpr int64_t matmulFeatures = 8;
inline constexpr int64_t matmulInner = 16;
inline Manifest makeMatmulManifest(const std::string &target = "sm_90a") {
  Manifest manifest;
  manifest.producer = "sparseflow test";
  Function function;
  function.name = "main";
  function.symbols = {"M"};
  function.inputs = {{"x", DType::F16, {std::string("M"), matmulInner}, {16, 8}}};
  function.outputs = {{"y", DType::F16, {std::string("M"), matmulFeatures}, {16, 8}}};
  Program program;
  program.target = target;
  program.buffers = {Buffer::input(0), Buffer::constant("w"), Buffer::output(0)};
  Kernel kernel;
  kernel.name = "k";
  kernel.grid[0] = {"M", 8, 1};
  kernel.cubin = target + "/k.cubin";
  program.kernels = {kernel};
  Launch product;
  product.matmul = MatmulCall{0, 1, 2, DType::F32};
  Step step{"matmul", "product", "M", {}};
  step.variants = {{64, "dense cublasLt", "measured faster", {product}, {12.5, 9.75}},
                   {std::nullopt, "sparse wgmma.sp", "", {{"k", {Argument::buffer(0)}}}}};
  program.steps = {step};
  function.programs = {program};
  manifest.functions = {function};
  return manifest;
}

inline float matmulWeight(int64_t n, int64_t k) { return 0.25f * float((n * 3 + k * 5) % 7 - 3); }

inline std::vector<StoredTensor> makeMatmulTensors(const std::string &target = "sm_90a") {
  std::vector<uint8_t> bytes(matmulFeatures * matmulInner * 2);
  for (int64_t n = 0; n < matmulFeatures; ++n)
    for (int64_t k = 0; k < matmulInner; ++k)
      storeFromFloat(sparseflow::DType::f16, bytes.data(), n * matmulInner + k, matmulWeight(n, k));
  return {StoredTensor::own("w", DType::F16, {matmulFeatures, matmulInner}, bytes),
          StoredTensor::text(target + "/k.cubin", makeCubin())};
}

/// What a launch got.
struct SeenLaunch {
  std::string kernel;
  std::array<uint32_t, 3> grid;
  int64_t rowStride;
  void *stream;
};

class TestDevice : public Device {
public:
  struct Loaded : LoadedFunction {
    Loaded(TestDevice &device, ProgramFile::Ptr file, const Program *program)
        : device(device), file(std::move(file)), chosen(program) {}
    const Program *program() const override { return chosen; }
    llvm::Error launch(size_t kernel, const std::array<uint32_t, 3> &grid, void *const *params,
                       void *stream) override {
      auto i64 = [&](size_t i) { return *static_cast<const int64_t *>(params[i]); };
      auto floats = [&](size_t i) { return *static_cast<float *const *>(params[i]); };
      if (!device.failLaunch.empty())
        return makeError(Status::DeviceError, device.failLaunch);
      const std::string &name = chosen->kernels[kernel].name;
      {
        std::lock_guard<std::mutex> lock(device.mutex);
        device.launches.push_back({name, grid, name == "k0" ? i64(1) : i64(3), stream});
      }
      if (!device.compute)
        return llvm::Error::success();
      if (name == "k0") {
        float factor = *static_cast<const float *>(params[4]);
        for (int64_t m = 0; m < i64(3); ++m)
          for (int64_t c = 0; c < columns; ++c)
            floats(2)[m * columns + c] = floats(0)[m * i64(1) + c] * factor;
        return llvm::Error::success();
      }
      EXPECT_EQ(i64(7), -7);
      EXPECT_EQ(i64(6), columns);
      int32_t factor = *static_cast<const int32_t *>(params[5]);
      for (int64_t m = 0; m < i64(4); ++m)
        for (int64_t c = 0; c < columns; ++c)
          floats(2)[m * i64(3) + c] = floats(0)[m * columns + c] * float(factor) + floats(1)[c];
      return llvm::Error::success();
    }
    llvm::Error launchWithin(llvm::ArrayRef<MemoryRange> memory, size_t kernel,
                             const std::array<uint32_t, 3> &grid, void *const *params,
                             void *stream) override {
      {
        std::lock_guard<std::mutex> lock(device.mutex);
        device.memory = memory.vec();
      }
      return launch(kernel, grid, params, stream);
    }
    TestDevice &device;
    ProgramFile::Ptr file;
    const Program *chosen;
  };

  llvm::StringRef name() const override { return "test"; }
  std::string description() const override { return "a test's device"; }
  bool usesHostMemory() const override { return hostMemory; }
  llvm::Expected<std::unique_ptr<LoadedFunction>> load(const ProgramFile::Ptr &file,
                                                       const Function &function) override {
    if (function.programs.empty())
      return makeError(Status::Unsupported, "no program");
    return std::make_unique<Loaded>(*this, file, &function.programs.front());
  }
  llvm::Expected<std::unique_ptr<LibraryMatmul>> createMatmul(const MatmulType &type) override {
    struct Nothing : LibraryMatmul {
      llvm::Error launch(const Operands &, void *, void *) override {
        return llvm::Error::success();
      }
      std::string describe(int64_t) const override { return "nothing"; }
    };
    if (!compute)
      return std::make_unique<Nothing>();
    return Device::createMatmul(type);
  }
  llvm::Expected<void *> allocate(size_t bytes) override {
    if (bytes > memoryLimit)
      return makeError(Status::OutOfMemory,
                       "test: expected " + llvm::Twine(bytes) + " bytes, got none");
    ++allocations;
    ++live;
    return Device::allocate(bytes);
  }
  llvm::Error deallocate(void *memory) override {
    live -= memory != nullptr;
    return Device::deallocate(memory);
  }
  std::optional<std::string> whyUnusable(const void *pointer, std::optional<int>) const override {
    return pointer == forbidden ? std::optional<std::string>("a pointer to host memory")
                                : std::nullopt;
  }
  bool isCapturing(void *) override { return capturing; }
  llvm::Error synchronizeAll() override {
    ++waits;
    return llvm::Error::success();
  }

  bool hostMemory = true;
  bool compute = true;
  bool capturing = false;
  std::string failLaunch;
  size_t memoryLimit = size_t(1) << 30;
  const void *forbidden = nullptr;
  std::atomic<int> allocations{0}, live{0}, waits{0};
  std::mutex mutex;
  std::vector<SeenLaunch> launches;
  std::vector<MemoryRange> memory; // of the last launch
};

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_TEST_UNITTESTS_RUNTIME_TESTPROGRAM_H
