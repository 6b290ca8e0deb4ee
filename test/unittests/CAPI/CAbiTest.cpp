// The C ABI as a user sees it: programs, runs on a fake GPU, weights, and that no misuse does more
// than return a status.
#include "../Runtime/FakeCuda.h"
#include "../Runtime/TestProgram.h"
#include "sparseflow-c/sparseflow.h"
#include "sparseflow/Support/PackedLayout.h"
#include "llvm/Support/FileSystem.h"
#include <cstdlib>
#include <dlfcn.h>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>

using namespace llvm;
using namespace sparseflow::runtime;

#define EXPECT_FAILS(call, status, part)                                                           \
  do {                                                                                             \
    EXPECT_EQ(call, status) << sfLastError();                                                      \
    EXPECT_CONTAINS(sfLastError(), part);                                                          \
  } while (0)
#define ASSERT_WELL(call) ASSERT_EQ(call, SF_OK) << sfLastError()

static std::string bytesOf(const ProgramFile::Ptr &file) {
  std::string bytes;
  raw_string_ostream os(bytes);
  cantFail(file->write(os));
  return bytes;
}

/// Takes over a string of the library's.
static std::string take(char *text) {
  std::string copy = text ? text : "";
  sfFree(text);
  return copy;
}

static SfTensor tensorOf(const void *data, SfDType dtype, const std::vector<int64_t> &shape) {
  SfTensor tensor;
  SF_INIT(tensor);
  tensor.data = const_cast<void *>(data);
  tensor.dtype = dtype;
  tensor.rank = int32_t(shape.size());
  tensor.shape = shape.data();
  return tensor;
}

//===-- Programs -----------------------------------------------------------------------------===//

namespace {
class CProgram : public testing::Test {
protected:
  void SetUp() override {
    bytes = bytesOf(makeGpuProgram({"sm_80", "sm_90"}));
    ASSERT_WELL(sfProgramFromMemory(bytes.data(), bytes.size(), SF_OPEN_VERIFY, &program));
  }
  void TearDown() override { sfProgramRelease(program); }

  std::string bytes;
  SfProgram *program = nullptr;
};
} // namespace

TEST_F(CProgram, describes_itself) {
  char *json = nullptr;
  ASSERT_WELL(sfProgramDescribe(program, &json));
  std::string text = take(json);
  EXPECT_CONTAINS(text, R"("name":"main")");
  EXPECT_CONTAINS(text, R"("tensors":[)");
  ASSERT_WELL(sfProgramSource(program, &json));
  EXPECT_EQ(take(json), "func.func @main() { return }");
}

TEST_F(CProgram, shows_tensors_without_copying) {
  SfTensor tensor;
  SF_INIT(tensor);
  ASSERT_WELL(sfProgramTensor(program, "w", &tensor));
  EXPECT_EQ(tensor.dtype, SF_F32);
  ASSERT_EQ(tensor.rank, 1);
  EXPECT_EQ(tensor.shape[0], columns);
  EXPECT_GE(tensor.data, bytes.data());
  EXPECT_LT(tensor.data, bytes.data() + bytes.size());
  EXPECT_FAILS(sfProgramTensor(program, "v", &tensor), SF_NOT_FOUND,
               "expected a tensor of the program, got 'v'");
}

TEST_F(CProgram, is_the_same_in_memory_and_in_a_file) {
  void *data = nullptr;
  size_t size = 0;
  ASSERT_WELL(sfProgramToMemory(program, &data, &size));
  EXPECT_EQ(StringRef(static_cast<char *>(data), size), bytes);
  sfFree(data);
  SmallString<64> path;
  ASSERT_FALSE(sys::fs::createTemporaryFile("sparseflow", "sf", path));
  ASSERT_WELL(sfProgramSave(program, path.c_str()));
  SfProgram *again = nullptr;
  ASSERT_WELL(sfProgramOpen(path.c_str(), SF_OPEN_VERIFY, &again));
  sfProgramRelease(again);
  sys::fs::remove(path);
  EXPECT_FAILS(sfProgramSave(program, "/no/such/folder/x.sf"), SF_IO_ERROR,
               "cannot write '/no/such/folder/x.sf'");
}

TEST_F(CProgram, lives_as_long_as_it_is_held) {
  SfProgram *copy = nullptr;
  {
    std::string temporary = bytes;
    ASSERT_WELL(sfProgramFromMemory(temporary.data(), temporary.size(), SF_OPEN_COPY, &copy));
  }
  EXPECT_EQ(sfProgramRetain(copy), copy);
  sfProgramRelease(copy);
  SfTensor tensor;
  SF_INIT(tensor);
  ASSERT_WELL(sfProgramTensor(copy, "w", &tensor));
  EXPECT_EQ(static_cast<float *>(tensor.data)[2], 1.0f);
  sfProgramRelease(copy);
}

TEST_F(CProgram, damage_is_reported) {
  SfProgram *other = nullptr;
  EXPECT_FAILS(sfProgramFromMemory(bytes.data(), bytes.size() - 1, 0, &other), SF_INVALID_PROGRAM,
               "the file is truncated");
  std::string altered = bytes;
  altered[altered.find("func.func")] = 'g';
  EXPECT_FAILS(sfProgramFromMemory(altered.data(), altered.size(), SF_OPEN_VERIFY, &other),
               SF_INVALID_PROGRAM, "was altered or damaged");
  EXPECT_FAILS(sfProgramOpen("/no/such.sf", 0, &other), SF_NOT_FOUND, "cannot open '/no/such.sf'");
  EXPECT_EQ(other, nullptr);
}

//===-- Runs on a fake GPU -------------------------------------------------------------------===//

namespace {
class CRun : public CProgram {
protected:
  static void SetUpTestSuite() { setenv("SPARSEFLOW_LIBCUDA", SPARSEFLOW_FAKE_CUDA, 1); }
  void SetUp() override {
    void *library = dlopen(SPARSEFLOW_FAKE_CUDA, RTLD_NOW);
    state = reinterpret_cast<FakeCuda *(*)()>(dlsym(library, "fakeCuda"))();
    *state = FakeCuda();
    CProgram::SetUp();
    ASSERT_WELL(sfExecutableCreate(program, "cuda:1", &executable));
    for (void **memory : {&x, &y})
      ASSERT_WELL(sfAllocate(executable, 4 * columns * 4, memory));
    in = tensorOf(x, SF_F32, shape);
    out = tensorOf(y, SF_F32, shape);
  }
  void TearDown() override {
    state->failFunction = nullptr;
    sfDeallocate(executable, x);
    sfDeallocate(executable, y);
    sfExecutableDestroy(executable);
    CProgram::TearDown();
    EXPECT_EQ(state->modules, 0);
    EXPECT_EQ(state->retained, 0);
  }

  FakeCuda *state = nullptr;
  SfExecutable *executable = nullptr;
  std::vector<int64_t> shape = {4, columns};
  void *x = nullptr, *y = nullptr;
  SfTensor in, out;
};
} // namespace

TEST_F(CRun, launches_on_the_stream) {
  EXPECT_STREQ(sfExecutableDevice(executable), "cuda:1");
  EXPECT_EQ(sfExecutableNeedsDeviceMemory(executable), 1);
  SfRunOptions options;
  SF_INIT(options);
  int stream;
  options.stream = &stream;
  ASSERT_WELL(sfRun(executable, "main", &in, 1, &out, 1, &options));
  EXPECT_EQ(state->launches, 2);
  EXPECT_EQ(state->lastStream, &stream);
  EXPECT_EQ(state->lastLaunchGpu, 1);
  ASSERT_WELL(sfRun(executable, nullptr, &in, 1, &out, 1, nullptr));
  char *json = nullptr;
  ASSERT_WELL(sfReport(executable, nullptr, nullptr, 0, &json));
  EXPECT_CONTAINS(take(json), R"("path":"sparse mma.sp")");
  int64_t tokens = 100;
  ASSERT_WELL(sfReport(executable, nullptr, &tokens, 1, &json));
  EXPECT_CONTAINS(take(json), R"("path":"dense mma")");
}

TEST_F(CRun, plans_ahead) {
  int64_t tokens = 100, result[SF_MAX_RANK];
  size_t bytes = 0;
  ASSERT_WELL(sfWorkspaceSize(executable, nullptr, &tokens, 1, &bytes));
  EXPECT_EQ(bytes, 6400u);
  ASSERT_WELL(sfReserve(executable, nullptr, &tokens, 1, nullptr));
  ASSERT_WELL(sfWarmUp(executable, nullptr, &tokens, 1));
  SfDType dtype = 0;
  int32_t rank = 0;
  ASSERT_WELL(sfOutputShape(executable, nullptr, &in, 1, 0, &dtype, &rank, result));
  EXPECT_EQ(dtype, SF_F32);
  EXPECT_EQ(rank, 2);
  EXPECT_EQ(result[0], 4);
  EXPECT_FAILS(sfOutputShape(executable, nullptr, &in, 1, 1, &dtype, &rank, result),
               SF_INVALID_ARGUMENT, "output number below 1");
}

TEST_F(CRun, copies_and_captures) {
  std::vector<float> host(4 * columns, 3), back(4 * columns);
  ASSERT_WELL(sfCopy(executable, x, host.data(), host.size() * 4, SF_HOST_TO_DEVICE, nullptr));
  ASSERT_WELL(sfCopy(executable, back.data(), x, host.size() * 4, SF_DEVICE_TO_HOST, nullptr));
  EXPECT_EQ(back, host);
  EXPECT_FAILS(sfCopy(executable, x, host.data(), 4, 7, nullptr), SF_INVALID_ARGUMENT,
               "expected SF_HOST_TO_DEVICE or SF_DEVICE_TO_HOST, got 7");
  SfGraph *graph = nullptr;
  ASSERT_WELL(sfGraphCapture(executable, nullptr, &in, 1, &out, 1, &graph));
  ASSERT_WELL(sfGraphLaunch(graph, nullptr));
  EXPECT_EQ(state->graphLaunches, 1);
  sfGraphDestroy(graph);
  ASSERT_WELL(sfSynchronize(executable, nullptr));
  SfTensor hostIn = tensorOf(host.data(), SF_F32, shape),
           hostOut = tensorOf(back.data(), SF_F32, shape);
  ASSERT_WELL(sfRunHost(executable, nullptr, &hostIn, 1, &hostOut, 1));
}

TEST_F(CRun, misuse_is_a_status_and_a_sentence) {
  EXPECT_FAILS(sfRun(executable, "other", &in, 1, &out, 1, nullptr), SF_NOT_FOUND,
               "expected a function ('main'), got 'other'");
  EXPECT_FAILS(sfRun(executable, nullptr, nullptr, 1, &out, 1, nullptr), SF_INVALID_ARGUMENT,
               "expected tensors, got NULL");
  EXPECT_FAILS(sfRun(executable, nullptr, &in, 1, &out, 100000, nullptr), SF_INVALID_ARGUMENT,
               "at most 256 tensors");
  float host[4 * columns];
  SfTensor wrong = tensorOf(host, SF_F32, shape);
  EXPECT_FAILS(sfRun(executable, nullptr, &wrong, 1, &out, 1, nullptr), SF_INVALID_ARGUMENT,
               "a pointer to host memory; copy it there first");
  wrong = in;
  wrong.dtype = 77;
  EXPECT_FAILS(sfRun(executable, nullptr, &wrong, 1, &out, 1, nullptr), SF_INVALID_ARGUMENT,
               "expected a dtype (SF_F16, ...), got 77");
  wrong = in;
  wrong.rank = 9;
  EXPECT_FAILS(sfRun(executable, nullptr, &wrong, 1, &out, 1, nullptr), SF_INVALID_ARGUMENT,
               "a rank from 0 to 8, got 9");
  wrong = in;
  wrong.shape = nullptr;
  EXPECT_FAILS(sfRun(executable, nullptr, &wrong, 1, &out, 1, nullptr), SF_INVALID_ARGUMENT,
               "expected a shape, got NULL");
  wrong = in;
  wrong.struct_size = 3;
  EXPECT_FAILS(sfRun(executable, nullptr, &wrong, 1, &out, 1, nullptr), SF_INVALID_ARGUMENT,
               "set it with SF_INIT");
  SfRunOptions options;
  SF_INIT(options);
  options.struct_size = 1;
  EXPECT_FAILS(sfRun(executable, nullptr, &in, 1, &out, 1, &options), SF_INVALID_ARGUMENT,
               "the run options expected a struct_size");
  EXPECT_FAILS(sfReserve(executable, nullptr, nullptr, 1, nullptr), SF_INVALID_ARGUMENT,
               "expected symbols, got NULL");
  EXPECT_FAILS(sfWarmUp(executable, nullptr, nullptr, 0), SF_INVALID_ARGUMENT,
               "expected 1 symbol value");
  EXPECT_FAILS(sfWarmUp(executable, "other", nullptr, 0), SF_NOT_FOUND,
               "expected a function ('main'), got 'other'");
  state->failFunction = "cuLaunchKernel";
  state->failResult = 719;
  EXPECT_FAILS(sfRun(executable, nullptr, &in, 1, &out, 1, nullptr), SF_DEVICE_ERROR,
               "a kernel failed; run under compute-sanitizer");
  state->failFunction = "cuMemAlloc";
  state->failResult = 2;
  void *memory = nullptr;
  EXPECT_FAILS(sfAllocate(executable, 64, &memory), SF_OUT_OF_MEMORY, "free GPU memory");
}

TEST_F(CRun, devices_are_listed) {
  char *json = nullptr, *reason = nullptr;
  ASSERT_WELL(sfDevices(&json, &reason));
  std::string text = take(json);
  EXPECT_EQ(reason, nullptr);
  EXPECT_CONTAINS(text, R"("name":"cuda:0","shared_per_block":232448,"target":"sm_90a")");
  EXPECT_CONTAINS(text, R"("name":"cuda:1","shared_per_block":232448,"target":"sm_80")");
  EXPECT_CONTAINS(text, R"("name":"emulator")");
  EXPECT_CONTAINS(text, R"("name":"reference")");
  SfExecutable *other = nullptr;
  EXPECT_FAILS(sfExecutableCreate(program, "cuda:5", &other), SF_NOT_FOUND,
               "expected a GPU number below 2, got cuda:5");
  EXPECT_FAILS(sfExecutableCreate(program, "tpu", &other), SF_NOT_FOUND,
               "expected a device ('cuda', 'cuda:N', 'emulator', 'reference'), got 'tpu'");
}

TEST_F(CRun, targets_are_listed) {
  char *json = nullptr;
  ASSERT_WELL(sfTargets(&json));
  std::string text = take(json);
  EXPECT_CONTAINS(text, R"("name":"sm_80","shared_per_multiprocessor":167936,)"
                        R"("threads_per_multiprocessor":2048,"warpgroup_row_bytes":null)");
  EXPECT_CONTAINS(text, R"("threads_per_multiprocessor":2048,"warpgroup_row_bytes":16)");
}

TEST_F(CRun, auto_takes_a_gpu_that_can_run_it) {
  SfProgram *onlyA100 = nullptr;
  std::string a100 = bytesOf(makeGpuProgram({"sm_80"}, /*cubins=*/true, /*ptx=*/false));
  ASSERT_WELL(sfProgramFromMemory(a100.data(), a100.size(), 0, &onlyA100));
  SfExecutable *other = nullptr;
  ASSERT_WELL(sfExecutableCreate(onlyA100, "auto", &other));
  EXPECT_STREQ(sfExecutableDevice(other), "cuda:1");
  sfExecutableDestroy(other);
  sfProgramRelease(onlyA100);
}

TEST_F(CRun, tensors_of_a_later_version_are_read_by_their_size) {
  struct Later {
    SfTensor known;
    int64_t appended[3];
  } outputs[1], inputs[1];
  inputs[0].known = in;
  outputs[0].known = out;
  inputs[0].known.struct_size = outputs[0].known.struct_size = sizeof(Later);
  ASSERT_WELL(sfRun(executable, nullptr, &inputs[0].known, 1, &outputs[0].known, 1, nullptr));
}

//===-- Errors -------------------------------------------------------------------------------===//

TEST(CErrors, belong_to_their_thread) {
  SfProgram *program = nullptr;
  EXPECT_FAILS(sfProgramOpen("/here", 0, &program), SF_NOT_FOUND, "/here");
  std::thread([] {
    EXPECT_STREQ(sfLastError(), "");
    SfProgram *other = nullptr;
    EXPECT_FAILS(sfProgramOpen("/there", 0, &other), SF_NOT_FOUND, "/there");
  }).join();
  EXPECT_CONTAINS(sfLastError(), "/here");
}

/// For a process of its own, since memory that was taken away stays away.
[[noreturn]] static void copyWithoutMemory(const std::string &bytes) {
  SfProgram *program = nullptr;
  void *data = nullptr;
  size_t size = 0;
  bool well = sfProgramFromMemory(bytes.data(), bytes.size(), 0, &program) == SF_OK;
  rlimit limit = {size_t(1) << 20, size_t(1) << 20};
  setrlimit(RLIMIT_AS, &limit);
  SfStatus status = sfProgramToMemory(program, &data, &size);
  fprintf(stderr, "%s", sfLastError());
  _exit(well && status == SF_OUT_OF_MEMORY ? 0 : 1);
}

TEST(CErrors, messages_are_utf8_whatever_was_given) {
  SfProgram *program = nullptr;
  EXPECT_EQ(sfProgramOpen("/nowhere/\xff.sf", 0, &program), SF_NOT_FOUND);
  EXPECT_CONTAINS(sfLastError(), "/nowhere/\xef\xbf\xbd.sf");
}

TEST(CErrors, running_out_of_memory_is_a_status) {
  std::vector<StoredTensor> tensors = makeTensors();
  constexpr size_t big = size_t(256) << 20;
  tensors.push_back(StoredTensor::own("big", DType::U8, {int64_t(big)}, std::vector<uint8_t>(big)));
  std::string bytes = bytesOf(cantFail(ProgramFile::create(makeManifest(), std::move(tensors))));
  EXPECT_EXIT(copyWithoutMemory(bytes), testing::ExitedWithCode(0), "out of host memory");
}

TEST(CErrors, null_is_refused_everywhere) {
  SfProgram *program = nullptr;
  SfExecutable *executable = nullptr;
  SfGraph *graph = nullptr;
  char *text = nullptr;
  void *memory = nullptr;
  size_t size = 0;
  for (SfStatus status : {sfCompile(nullptr, 0, nullptr, 0, nullptr, &program),
                          sfCompile("", 0, nullptr, 0, nullptr, nullptr),
                          sfCompile("", 0, nullptr, 3, nullptr, &program),
                          sfCompileFile(nullptr, nullptr, 0, nullptr, &program),
                          sfProgramOpen(nullptr, 0, &program),
                          sfProgramOpen("x", 0, nullptr),
                          sfProgramFromMemory(nullptr, 5, 0, &program),
                          sfProgramSave(nullptr, "x"),
                          sfProgramToMemory(nullptr, &memory, &size),
                          sfProgramDescribe(nullptr, &text),
                          sfProgramTensor(nullptr, "x", nullptr),
                          sfProgramSource(nullptr, &text),
                          sfDevices(nullptr, nullptr),
                          sfTargets(nullptr),
                          sfExecutableCreate(nullptr, nullptr, &executable),
                          sfRun(nullptr, nullptr, nullptr, 0, nullptr, 0, nullptr),
                          sfRunHost(nullptr, nullptr, nullptr, 0, nullptr, 0),
                          sfOutputShape(nullptr, nullptr, nullptr, 0, 0, nullptr, nullptr, nullptr),
                          sfWorkspaceSize(nullptr, nullptr, nullptr, 0, nullptr),
                          sfReserve(nullptr, nullptr, nullptr, 0, nullptr),
                          sfWarmUp(nullptr, nullptr, nullptr, 0),
                          sfReport(nullptr, nullptr, nullptr, 0, nullptr),
                          sfGraphCapture(nullptr, nullptr, nullptr, 0, nullptr, 0, &graph),
                          sfGraphLaunch(nullptr, nullptr),
                          sfAllocate(nullptr, 1, &memory),
                          sfDeallocate(nullptr, nullptr),
                          sfCopy(nullptr, nullptr, nullptr, 0, 0, nullptr),
                          sfSynchronize(nullptr, nullptr),
                          sfValidate24(nullptr, nullptr),
                          sfPrune24(nullptr, nullptr),
                          sfCompress24(nullptr, nullptr, nullptr),
                          sfDecompress24(nullptr, nullptr, nullptr),
                          sfPackedSize(SF_F16, 1, 4, nullptr, nullptr),
                          sfPackWeight(nullptr, nullptr, nullptr, nullptr),
                          sfPackWeightWith(nullptr, nullptr, nullptr, nullptr, nullptr)})
    EXPECT_EQ(status, SF_INVALID_ARGUMENT);
  EXPECT_EQ(sfProgramRetain(nullptr), nullptr);
  EXPECT_STREQ(sfExecutableDevice(nullptr), "");
  EXPECT_EQ(sfExecutableNeedsDeviceMemory(nullptr), 0);
  EXPECT_STREQ(sfStatusName(1234), "unknown status");
}

//===-- Weights ------------------------------------------------------------------------------===//

TEST(CWeights, every_dtype_goes_round) {
  for (SfDType dtype : {SF_F16, SF_BF16, SF_F32, SF_I8, SF_E4M3, SF_E5M2}) {
    const int64_t n = 5, k = 20;
    size_t width = sfDTypeSize(dtype);
    // Any bytes without NaN or infinity will do.
    std::vector<uint8_t> dense(n * k * width), back(dense.size());
    for (size_t i = 0; i < dense.size(); ++i)
      dense[i] = uint8_t((i * 37 + 11) % 60);
    std::vector<int64_t> shape = {n, k}, half = {n, k / 2}, mask = {n, (k + 7) / 8};
    std::vector<uint8_t> values(n * k / 2 * width), bitmask(n * ((k + 7) / 8));
    SfTensor d = tensorOf(dense.data(), dtype, shape), v = tensorOf(values.data(), dtype, half);
    SfTensor m = tensorOf(bitmask.data(), SF_U8, mask), b = tensorOf(back.data(), dtype, shape);
    ASSERT_WELL(sfPrune24(&d, &d));
    SfValidation validation;
    SF_INIT(validation);
    ASSERT_WELL(sfValidate24(&d, &validation));
    EXPECT_EQ(validation.violations, 0);
    EXPECT_EQ(validation.first_row, -1);
    EXPECT_EQ(validation.groups, n * k / 4);
    ASSERT_WELL(sfCompress24(&d, &v, &m));
    ASSERT_WELL(sfDecompress24(&v, &m, &b));
    EXPECT_EQ(back, dense) << sfDTypeName(dtype);
    int64_t elements = 0, words = 0;
    if (dtype == SF_F32) {
      EXPECT_FAILS(sfPackedSize(dtype, n, k, &elements, &words), SF_INVALID_ARGUMENT, "got f32");
      continue;
    }
    ASSERT_WELL(sfPackedSize(dtype, n, k, &elements, &words));
    std::vector<uint8_t> packed(elements * width);
    std::vector<uint32_t> metadata(words);
    std::vector<int64_t> packedShape = {elements}, metadataShape = {words};
    SfTensor p = tensorOf(packed.data(), dtype, packedShape),
             w = tensorOf(metadata.data(), SF_U32, metadataShape);
    ASSERT_WELL(sfPackWeight(&v, &m, &p, &w));
    packedShape[0] -= 1;
    EXPECT_FAILS(sfPackWeight(&v, &m, &p, &w), SF_INVALID_ARGUMENT, "packed_values expected shape");
  }
}

TEST(CWeights, are_packed_for_the_instructions_that_are_named) {
  const int64_t n = 70, k = 132;
  std::vector<uint16_t> dense(n * k), values(n * k / 2);
  for (size_t i = 0; i < dense.size(); ++i) // two of each group of four, in every arrangement
    dense[i] = i % 4 == i / 4 % 4 || i % 4 == (i / 4 + 1 + i / 16 % 3) % 4 ? i % 1000 + 1 : 0;
  std::vector<uint8_t> bitmask(n * ((k + 7) / 8));
  std::vector<int64_t> shape = {n, k}, half = {n, k / 2}, mask = {n, (k + 7) / 8};
  SfTensor d = tensorOf(dense.data(), SF_F16, shape), v = tensorOf(values.data(), SF_F16, half),
           m = tensorOf(bitmask.data(), SF_U8, mask);
  ASSERT_WELL(sfCompress24(&d, &v, &m));
  int64_t elements = 0, words = 0;
  ASSERT_WELL(sfPackedSize(SF_F16, n, k, &elements, &words));
  std::vector<int64_t> packedShape = {elements}, metadataShape = {words};
  auto pack = [&](auto call) {
    std::pair<std::vector<uint16_t>, std::vector<uint32_t>> packed(elements, words);
    SfTensor p = tensorOf(packed.first.data(), SF_F16, packedShape),
             w = tensorOf(packed.second.data(), SF_U32, metadataShape);
    EXPECT_EQ(call(&p, &w), SF_OK) << sfLastError();
    return packed;
  };
  SfPackOptions options;
  SF_INIT(options);
  auto with = [&](SfTensor *p, SfTensor *w) { return sfPackWeightWith(&v, &m, &options, p, w); };
  auto plain = pack([&](SfTensor *p, SfTensor *w) { return sfPackWeight(&v, &m, p, w); });
  EXPECT_EQ(pack(with), plain);
  for (auto [number, order] : {std::pair(SF_PACK_MMA, sparseflow::PackOrder::Mma),
                               std::pair(SF_PACK_WGMMA, sparseflow::PackOrder::Wgmma)}) {
    options.order = number;
    auto [kept, metadata] = pack(with);
    std::vector<uint16_t> back(values.size());
    std::vector<uint8_t> backMask(bitmask.size());
    cantFail(sparseflow::unpackWeight(order, sparseflow::DType::f16, n, k, kept.data(),
                                      metadata.data(), back.data(), backMask.data()));
    EXPECT_EQ(back, values);
    EXPECT_EQ(backMask, bitmask);
  }
  options.order = 7;
  SfTensor any = d;
  EXPECT_FAILS(sfPackWeightWith(&v, &m, &options, &any, &any), SF_INVALID_ARGUMENT,
               "the options expected order SF_PACK_MMA or SF_PACK_WGMMA, got 7");
  options.struct_size = 4;
  EXPECT_FAILS(sfPackWeightWith(&v, &m, &options, &any, &any), SF_INVALID_ARGUMENT,
               "set it with SF_INIT");
}

TEST(CWeights, misfits_are_explained) {
  std::vector<float> dense(4 * 8, 0), values(4 * 4);
  std::vector<uint8_t> bitmask(4);
  std::vector<int64_t> shape = {4, 8}, half = {4, 4}, mask = {4, 1}, odd = {4, 7}, flat = {32},
                       transposed = {1, 4};
  SfTensor d = tensorOf(dense.data(), SF_F32, shape), v = tensorOf(values.data(), SF_F32, half),
           m = tensorOf(bitmask.data(), SF_U8, mask);
  SfTensor wrong = tensorOf(dense.data(), SF_F32, odd);
  EXPECT_FAILS(sfCompress24(&wrong, &v, &m), SF_INVALID_ARGUMENT,
               "dense expected K to be a multiple of 4, got 7; pad K to 8");
  wrong = tensorOf(dense.data(), SF_F32, flat);
  EXPECT_FAILS(sfCompress24(&wrong, &v, &m), SF_INVALID_ARGUMENT,
               "dense expected shape [N,K], got [32]");
  wrong = tensorOf(dense.data(), SF_I32, shape);
  EXPECT_FAILS(sfCompress24(&wrong, &v, &m), SF_INVALID_ARGUMENT,
               "dense expected f16, bf16, f32, i8, e4m3 or e5m2, got i32");
  wrong = d;
  wrong.strides = transposed.data();
  EXPECT_FAILS(sfCompress24(&wrong, &v, &m), SF_INVALID_ARGUMENT,
               "dense expected a contiguous tensor, got strides [1,4]; copy it first");
  wrong = d;
  wrong.data = nullptr;
  EXPECT_FAILS(sfCompress24(&wrong, &v, &m), SF_INVALID_ARGUMENT,
               "dense expected a pointer to 128 bytes, got NULL");
  EXPECT_FAILS(sfCompress24(&d, &d, &m), SF_INVALID_ARGUMENT,
               "values expected shape [4,4], got [4,8]");
  EXPECT_FAILS(sfCompress24(&d, &v, &v), SF_INVALID_ARGUMENT, "bitmask expected u8, got f32");
  dense[9] = dense[10] = dense[11] = 1;
  EXPECT_FAILS(sfCompress24(&d, &v, &m), SF_INVALID_ARGUMENT, "");
  dense[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FAILS(sfPrune24(&d, &d), SF_INVALID_ARGUMENT, "");
  std::fill(bitmask.begin(), bitmask.end(), 0);
  EXPECT_FAILS(sfDecompress24(&v, &m, &d), SF_INVALID_ARGUMENT, "");
}
