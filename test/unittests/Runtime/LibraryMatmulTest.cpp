// Products by a library: what the plain one computes, which variant runs with the library and
// without it, what cuBLASLt is asked for, and what a manifest may not say.
#include "FakeCuda.h"
#include "TestProgram.h"
#include "sparseflow/Runtime/CudaDevice.h"
#include "llvm/Support/FormatVariadic.h"
#include <cstdlib>
#include <dlfcn.h>

using namespace llvm;
using namespace sparseflow::runtime;
using Number = sparseflow::DType;

//===-- The plain product --------------------------------------------------------------------===//

static void expectProduct(DType operand, DType result) {
  Number in = *sparseflow::parseDType(stringify(operand));
  Number out = *sparseflow::parseDType(stringify(result));
  constexpr int64_t rows = 3, features = 5, inner = 7, xStride = 9, yStride = 6;
  std::vector<char> x(rows * xStride * 4), w(features * inner * 4), y(rows * yStride * 4);
  for (int64_t m = 0; m < rows; ++m)
    for (int64_t k = 0; k < inner; ++k)
      storeFromFloat(in, x.data(), m * xStride + k, float((m + 2 * k) % 5 - 2));
  for (int64_t n = 0; n < features; ++n)
    for (int64_t k = 0; k < inner; ++k)
      storeFromFloat(in, w.data(), n * inner + k, float((3 * n + k) % 7 - 3));
  MatmulType type{operand, result, operand == DType::I8 ? DType::I32 : DType::F32, features, inner};
  ASSERT_EQ(type.findFault(), std::nullopt);
  ASSERT_EQ(messageOf(createHostMatmul(type)->launch(
                {rows, x.data(), xStride, w.data(), y.data(), yStride}, nullptr, nullptr)),
            "");
  for (int64_t m = 0; m < rows; ++m)
    for (int64_t n = 0; n < features; ++n) {
      float sum = 0;
      for (int64_t k = 0; k < inner; ++k)
        sum += float((m + 2 * k) % 5 - 2) * float((3 * n + k) % 7 - 3);
      EXPECT_EQ(loadAsFloat(out, y.data(), m * yStride + n), sum) << m << "," << n;
    }
}

TEST(HostMatmul, multiplies_each_type) {
  expectProduct(DType::F16, DType::F16);
  expectProduct(DType::F16, DType::F32);
  expectProduct(DType::BF16, DType::BF16);
  expectProduct(DType::E4M3, DType::F16);
  expectProduct(DType::I8, DType::I32);
}

TEST(HostMatmul, sums_of_integers_are_exact) {
  constexpr int64_t inner = 1 << 12;
  std::vector<int8_t> x(inner, 127), w(inner, -127);
  w[0] = -126;
  int32_t y = 0;
  MatmulType type{DType::I8, DType::I32, DType::I32, 1, inner};
  ASSERT_EQ(messageOf(createHostMatmul(type)->launch({1, x.data(), inner, w.data(), &y, 1}, nullptr,
                                                     nullptr)),
            "");
  EXPECT_EQ(y, -127 * 127 * inner + 127);
}

//===-- In a program -------------------------------------------------------------------------===//

namespace {
/// Tensors of the product's program in a device's memory.
struct MatmulTensors {
  MatmulTensors(Device &device, int64_t rows)
      : device(device), xShape{rows, matmulInner}, yShape{rows, matmulFeatures} {
    x = cantFail(device.allocate(rows * matmulInner * 2));
    y = cantFail(device.allocate(rows * matmulFeatures * 2));
    for (int64_t i = 0; i < rows * matmulInner; ++i)
      storeFromFloat(Number::f16, x, i, float(i % 5 - 2));
    for (int64_t i = 0; i < rows * matmulFeatures; ++i)
      storeFromFloat(Number::f16, y, i, -77);
  }
  ~MatmulTensors() {
    cantFail(device.deallocate(x));
    cantFail(device.deallocate(y));
  }
  TensorRef in() const { return {x, DType::F16, xShape, {}}; }
  TensorRef out() const { return {y, DType::F16, yShape, {}}; }
  bool isProduct() const {
    for (int64_t m = 0; m < xShape[0]; ++m)
      for (int64_t n = 0; n < matmulFeatures; ++n) {
        float sum = 0;
        for (int64_t k = 0; k < matmulInner; ++k)
          sum += float((m * matmulInner + k) % 5 - 2) * matmulWeight(n, k);
        if (loadAsFloat(Number::f16, y, m * matmulFeatures + n) != sum)
          return false;
      }
    return true;
  }
  Device &device;
  std::vector<int64_t> xShape, yShape;
  void *x, *y;
};

/// Host memory, with or without the library; kernels only count.
class MatmulDevice : public TestDevice {
public:
  struct Loaded : LoadedFunction {
    Loaded(MatmulDevice &device, const Program *program) : device(device), chosen(program) {}
    const Program *program() const override { return chosen; }
    Error launch(size_t, const std::array<uint32_t, 3> &, void *const *, void *) override {
      ++device.kernels;
      return Error::success();
    }
    MatmulDevice &device;
    const Program *chosen;
  };
  Expected<std::unique_ptr<LoadedFunction>> load(const ProgramFile::Ptr &,
                                                 const Function &function) override {
    return std::make_unique<Loaded>(*this, &function.programs.front());
  }
  Expected<std::unique_ptr<LibraryMatmul>> createMatmul(const MatmulType &type) override {
    if (missing != Status(0))
      return makeError(missing, "no such library");
    return TestDevice::createMatmul(type);
  }
  Status missing = Status(0);
  int kernels = 0;
};
} // namespace

static ProgramFile::Ptr makeMatmulProgram(const std::string &target = "sm_90a") {
  return cantFail(ProgramFile::create(makeMatmulManifest(target), makeMatmulTensors(target)));
}

static json::Object stepOf(const Executable &executable, int64_t tokens) {
  json::Value report = cantFail(executable.report(0, ArrayRef<int64_t>(tokens)));
  return *(*report.getAsObject()->getArray("steps"))[0].getAsObject();
}

TEST(LibraryMatmul, runs_up_to_its_max) {
  auto device = std::make_shared<MatmulDevice>();
  std::unique_ptr<Executable> executable =
      cantFail(Executable::create(makeMatmulProgram(), device));
  for (int64_t rows : {0, 1, 64}) {
    MatmulTensors tensors(*device, rows);
    ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), {})), "");
    EXPECT_TRUE(tensors.isProduct());
  }
  EXPECT_EQ(device->kernels, 0);
  MatmulTensors tensors(*device, 65);
  ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), {})), "");
  EXPECT_EQ(device->kernels, 1);
}

TEST(LibraryMatmul, the_report_gives_the_times) {
  std::unique_ptr<Executable> executable =
      cantFail(Executable::create(makeMatmulProgram(), std::make_shared<MatmulDevice>()));
  json::Object step = stepOf(*executable, 64);
  EXPECT_EQ(step.getString("path"), "dense cublasLt");
  EXPECT_EQ(step.getString("reason"), "measured faster");
  EXPECT_EQ(*step.get("time_us"), json::Value(json::Object{{"sparse", 12.5}, {"dense", 9.75}}));
  const json::Object &launch = *(*step.getArray("kernels"))[0].getAsObject();
  EXPECT_EQ(launch.getString("name"), "cublaslt");
  EXPECT_EQ(launch.getString("binary"), "a plain product on the host");
  EXPECT_EQ(*stepOf(*executable, 65).get("time_us"),
            json::Value(json::Object{{"sparse", nullptr}, {"dense", nullptr}}));
}

TEST(LibraryMatmul, without_the_library_the_next_variant_runs_and_says_why) {
  auto device = std::make_shared<MatmulDevice>();
  device->missing = Status::Unsupported;
  std::unique_ptr<Executable> executable =
      cantFail(Executable::create(makeMatmulProgram(), device));
  MatmulTensors tensors(*device, 3);
  ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), {})), "");
  EXPECT_EQ(device->kernels, 1);
  // Nor is the weight copied that only the library would read.
  EXPECT_EQ(device->live, 2);
  json::Object step = stepOf(*executable, 3);
  EXPECT_EQ(step.getString("path"), "sparse wgmma.sp");
  EXPECT_EQ(step.getString("reason"), "not 'dense cublasLt': no such library");
  EXPECT_EQ(step.getInteger("variant"), 1);
  // Beyond its max it would not have run anyway.
  EXPECT_EQ(stepOf(*executable, 65).getString("reason"), "");
}

TEST(LibraryMatmul, other_failures_are_errors) {
  auto device = std::make_shared<MatmulDevice>();
  device->missing = Status::OutOfMemory;
  EXPECT_EQ(messageOf(Executable::create(makeMatmulProgram(), device)),
            "'main': product: no such library");
}

TEST(LibraryMatmul, a_step_without_a_symbol_may_have_it_first) {
  Manifest manifest = makeMatmulManifest();
  Function &function = manifest.functions[0];
  Step &step = function.programs[0].steps[0];
  step.symbol.clear();
  step.variants[0].max.reset();
  ASSERT_EQ(messageOf(validate(manifest)), "");
  auto device = std::make_shared<MatmulDevice>();
  std::unique_ptr<Executable> executable = cantFail(
      Executable::create(cantFail(ProgramFile::create(manifest, makeMatmulTensors())), device));
  EXPECT_EQ(stepOf(*executable, 1000).getString("path"), "dense cublasLt");
}

TEST(LibraryMatmul, the_weight_must_fit) {
  auto message = [](DType dtype, std::vector<int64_t> shape) {
    std::vector<StoredTensor> tensors = makeMatmulTensors();
    tensors[0] = StoredTensor::own("w", dtype, shape, std::vector<uint8_t>(256));
    return messageOf(
        Executable::create(cantFail(ProgramFile::create(makeMatmulManifest(), tensors)),
                           std::make_shared<MatmulDevice>()));
  };
  EXPECT_EQ(message(DType::F16, {matmulFeatures, matmulInner}), "");
  EXPECT_EQ(message(DType::F16, {16, 8}), "'main': product: constant 'w' expected f16 [8,16] for a "
                                          "product, got f16 [16,8]");
  EXPECT_CONTAINS(message(DType::BF16, {8, 16}), "got bf16 [8,16]");
  EXPECT_CONTAINS(message(DType::U8, {256}), "got u8 [256]");
}

//===-- The manifest -------------------------------------------------------------------------===//

TEST(LibraryMatmulManifest, json_has_the_documented_form) {
  std::string text = formatv("{0}", toJSON(makeMatmulManifest()));
  EXPECT_CONTAINS(text, R"({"library":"cublaslt","matmul":{"compute":"f32","w":1,"x":0,"y":2}})");
  EXPECT_CONTAINS(text, R"("time_us":{"dense":9.75,"sparse":12.5})");
  Manifest read = cantFail(parseManifest(text));
  EXPECT_EQ(formatv("{0}", toJSON(read)).str(), text);
}

TEST(LibraryMatmulManifest, rules_are_enforced) {
  auto message = [](function_ref<void(Function &, Step &, MatmulCall &)> breakIt) {
    Manifest manifest = makeMatmulManifest();
    Function &function = manifest.functions[0];
    Step &step = function.programs[0].steps[0];
    breakIt(function, step, *step.variants[0].launches[0].matmul);
    return messageOf(parseManifest(formatv("{0}", toJSON(manifest)).str()));
  };
  using F = Function;
  using S = Step;
  using M = MatmulCall;
  EXPECT_EQ(message([](F &, S &, M &) {}), "");
  EXPECT_CONTAINS(message([](F &, S &, M &call) { call.w = 3; }), "a buffer index below 3, got 3");
  EXPECT_CONTAINS(message([](F &, S &, M &call) { call.x = 1; }),
                  "x of a product in an input or the workspace, got a constant");
  EXPECT_CONTAINS(message([](F &, S &, M &call) { call.y = 0; }),
                  "y of a product in an output or the workspace, got an input");
  EXPECT_CONTAINS(message([](F &, S &, M &call) { call.y = 1; }), "got a constant");
  EXPECT_CONTAINS(message([](F &, S &, M &call) { call.w = 0; }), "a constant as w of a product");
  EXPECT_CONTAINS(message([](F &, S &, M &call) { call.compute = DType::I32; }),
                  "product expected sums in f32 of f16 operands, got i32");
  EXPECT_CONTAINS(message([](F &f, S &, M &) { f.outputs[0].dtype = DType::I8; }),
                  "expected a result of f32 or the operands' type, got i8");
  EXPECT_CONTAINS(message([](F &f, S &, M &) { f.inputs[0].dtype = DType::F32; }),
                  "expected operands of f16, bf16, i8 or e4m3, got f32");
  EXPECT_CONTAINS(message([](F &f, S &, M &) { f.outputs[0].shape[0] = 4; }),
                  "x and y of a product with the same rows");
  EXPECT_CONTAINS(message([](F &f, S &, M &) { f.outputs[0].shape[1] = std::string("M"); }),
                  "y of a product with a static last dimension, got 'M'");
  EXPECT_CONTAINS(message([](F &f, S &, M &) { f.outputs[0].shape.clear(); }), "got rank 0");
  EXPECT_CONTAINS(message([](F &f, S &, M &) { f.outputs[0].shape[1] = 0; }),
                  "expected 1 to 2147483647 features and inner elements, got 0 and 16");
  EXPECT_CONTAINS(message([](F &, S &step, M &) { step.variants.pop_back(); }),
                  "a last variant that needs no library, got one that does");
  EXPECT_CONTAINS(message([](F &, S &step, M &) {
                    step.variants[0].max.reset();
                    step.variants.insert(step.variants.begin(), step.variants[1]);
                    step.variants[0].max = 7;
                    step.variants[1].max = 6;
                  }),
                  "ascending max, got 6 in variant 1");
  EXPECT_EQ(message([](F &, S &step, M &) { step.variants[0].max.reset(); }), "");
  EXPECT_CONTAINS(message([](F &, S &step, M &) { step.variants[0].times.dense = -1; }),
                  "times of at least 0, got less in variant 0");
}

TEST(LibraryMatmulManifest, type_errors_name_the_path) {
  std::string good = formatv("{0}", toJSON(makeMatmulManifest()));
  auto message = [&](StringRef from, StringRef to) {
    std::string text = good;
    return messageOf(parseManifest(text.replace(text.find(from.str()), from.size(), to.str())));
  };
  EXPECT_CONTAINS(message("\"cublaslt\"", "\"mkl\""),
                  "launches[0].library expected \"cublaslt\", got \"mkl\"");
  EXPECT_CONTAINS(message("\"compute\":\"f32\",", ""), "expected a member \"compute\"");
  EXPECT_CONTAINS(message("\"w\":1", "\"w\":-1"), "matmul.w expected an integer from 0");
  EXPECT_CONTAINS(message("9.75", "\"9\""), "time_us.dense expected a finite number");
}

//===-- cuBLASLt -----------------------------------------------------------------------------===//

namespace {
class CublasLtTest : public testing::Test {
protected:
  void SetUp() override {
    void *library = dlopen(SPARSEFLOW_FAKE_CUDA, RTLD_NOW);
    state = reinterpret_cast<FakeCuda *(*)()>(dlsym(library, "fakeCuda"))();
    *state = FakeCuda();
    driver = cantFail(CudaDriver::open(SPARSEFLOW_FAKE_CUDA));
    setenv("SPARSEFLOW_LIBCUBLASLT", SPARSEFLOW_FAKE_CUDA, 1);
  }
  void TearDown() override {
    unsetenv("SPARSEFLOW_LIBCUBLASLT");
    EXPECT_EQ(state->libraries, 0);
    EXPECT_EQ(state->retained, 0);
  }
  std::unique_ptr<Executable> load() {
    return cantFail(
        Executable::create(makeMatmulProgram(), cantFail(createCudaDevice(*driver, 0))));
  }
  std::string reasonOf(const Executable &executable) {
    return stepOf(executable, 3).getString("reason")->str();
  }
  std::string binaryOf(const Executable &executable, int64_t tokens) {
    json::Object step = stepOf(executable, tokens);
    return (*step.getArray("kernels"))[0].getAsObject()->getString("binary")->str();
  }

  FakeCuda *state = nullptr;
  std::unique_ptr<CudaDriver> driver;
};
} // namespace

TEST_F(CublasLtTest, computes_the_product_with_the_first_proposal) {
  std::unique_ptr<Executable> executable = load();
  EXPECT_EQ(state->heuristics, 1);
  EXPECT_EQ(cantFail(executable->workspaceBytes(0, {1})), size_t(32) << 20);
  EXPECT_EQ(cantFail(executable->workspaceBytes(0, {1000})), size_t(32) << 20);
  for (int64_t rows : {1, 20, 20}) {
    MatmulTensors tensors(executable->device(), rows);
    int stream;
    RunOptions options;
    options.stream = &stream;
    ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), options)), "");
    EXPECT_TRUE(tensors.isProduct());
    EXPECT_EQ(state->lastStream, &stream);
  }
  EXPECT_EQ(state->lastAlgorithm, 0);
  EXPECT_EQ(state->heuristics, 3);
  EXPECT_EQ(binaryOf(*executable, 20), "cuBLASLt 13.0.2, algorithm 0 of its heuristic");
}

TEST_F(CublasLtTest, strided_rows_have_a_plan_of_their_own) {
  std::unique_ptr<Executable> executable = load();
  MatmulTensors tensors(executable->device(), 8);
  std::vector<int64_t> strides = {2 * matmulFeatures, 1}, shape = {4, matmulFeatures};
  TensorRef out{tensors.y, DType::F16, shape, strides};
  TensorRef in = tensors.in();
  std::vector<int64_t> inShape = {4, matmulInner};
  in.shape = inShape;
  ASSERT_EQ(messageOf(executable->run(0, in, out, {})), "");
  EXPECT_EQ(loadAsFloat(Number::f16, tensors.y, matmulFeatures), -77);
  EXPECT_NE(loadAsFloat(Number::f16, tensors.y, 2 * matmulFeatures), -77);
}

TEST_F(CublasLtTest, warming_up_takes_the_fastest) {
  std::unique_ptr<Executable> executable = load();
  ASSERT_EQ(messageOf(executable->warmUp(0, {20})), "");
  EXPECT_EQ(state->products, 3 * 6);
  EXPECT_EQ(binaryOf(*executable, 20),
            "cuBLASLt 13.0.2, algorithm 1 of its heuristic, the fastest that was timed");
  MatmulTensors tensors(executable->device(), 20);
  ASSERT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), {})), "");
  EXPECT_EQ(state->lastAlgorithm, 1);
  EXPECT_TRUE(tensors.isProduct());
  // Once is enough, and other variants have nothing to warm up.
  int products = state->products;
  ASSERT_EQ(messageOf(executable->warmUp(0, {20})), "");
  ASSERT_EQ(messageOf(executable->warmUp(0, {1000})), "");
  ASSERT_EQ(messageOf(executable->warmUp(0, {0})), "");
  EXPECT_EQ(state->products, products);
  EXPECT_CONTAINS(messageOf(executable->warmUp(0, {})), "expected 1 symbol value (M), got 0");
}

TEST_F(CublasLtTest, graphs_hold_the_fastest) {
  std::unique_ptr<Executable> executable = load();
  MatmulTensors tensors(executable->device(), 20);
  std::unique_ptr<GraphRun> graph = cantFail(executable->capture(0, tensors.in(), tensors.out()));
  EXPECT_EQ(state->products, 3 * 6 + 1);
  EXPECT_EQ(state->lastAlgorithm, 1);
}

TEST_F(CublasLtTest, a_missing_library_is_a_reason) {
  setenv("SPARSEFLOW_LIBCUBLASLT", "libno-such-blas.so", 1);
  std::string reason = reasonOf(*load());
  EXPECT_CONTAINS(reason, "not 'dense cublasLt': expected libcublasLt (pip install nvidia-cublas, "
                          "or set SPARSEFLOW_LIBCUBLASLT), got: libno-such-blas.so: ");
  setenv("SPARSEFLOW_LIBCUBLASLT", "libm.so.6", 1);
  EXPECT_CONTAINS(reasonOf(*load()), "libm.so.6 has no cublasLtCreate");
}

TEST_F(CublasLtTest, a_library_that_cannot_is_a_reason) {
  state->failFunction = "cublasLtCreate";
  state->failResult = 1;
  EXPECT_EQ(reasonOf(*load()),
            "not 'dense cublasLt': cuBLASLt 13.0.2: starting failed: fake status (1)");
  state->failFunction = "cublasLtMatmulAlgoGetHeuristic";
  state->failResult = 15;
  EXPECT_EQ(reasonOf(*load()),
            "not 'dense cublasLt': cuBLASLt 13.0.2 has no algorithm for f16 [8,16] -> f16 with 128 "
            "rows, 16 and 8 elements apart, aligned to 16 bytes");
}

TEST_F(CublasLtTest, failures_are_sentences) {
  std::unique_ptr<Executable> executable = load();
  MatmulTensors tensors(executable->device(), 20);
  state->failFunction = "cublasLtMatmul";
  state->failResult = 13;
  EXPECT_EQ(messageOf(executable->run(0, tensors.in(), tensors.out(), {})),
            "'main': cuBLASLt 13.0.2: the product f16 [8,16] -> f16 with 20 rows failed: fake "
            "status (13)");
  EXPECT_CONTAINS(messageOf(executable->warmUp(0, {20})), "fake status (13)");
  state->failFunction = "cuEventElapsedTime";
  state->failResult = 700;
  EXPECT_CONTAINS(messageOf(executable->warmUp(0, {20})), "timing cuBLASLt 13.0.2 failed");
  state->failFunction = "cuMemAlloc";
  state->failResult = 2;
  EXPECT_CONTAINS(messageOf(executable->warmUp(0, {20})),
                  "'main': warming up cuBLASLt 13.0.2: allocating ");
}
