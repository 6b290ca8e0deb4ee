// From MLIR and weights in memory to numbers, through the C ABI alone: compile, save, open, run in
// the emulator and in the reference, and compare with a plain loop.
#include "sparseflow-c/sparseflow.h"
#include "sparseflow/Runtime/ProgramFile.h"
#include "sparseflow/Support/NumericTypes.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Program.h"
#include "gtest/gtest.h"
#include <cmath>
#include <cstdlib>
#include <cstring>

using namespace llvm;
namespace runtime = sparseflow::runtime;
using sparseflow::f16ToFloat;
using sparseflow::floatToF16;

static constexpr int64_t features = 40, inner = 64;

static const char *const linear = R"(
func.func @linear(%x: tensor<?x64xf16> {sf.name = "x"}) -> (tensor<?x40xf16> {sf.name = "y"}) {
  %w = arith.constant dense_resource<fc.weight> : tensor<40x64xf16, #sf.weight<sp24>>
  %y = sf.matmul %x, %w : (tensor<?x64xf16>, tensor<40x64xf16, #sf.weight<sp24>>) -> tensor<?x40xf16>
  return %y : tensor<?x40xf16>
}
)";

static SfTensor tensorOf(const void *data, SfDType dtype, const std::vector<int64_t> &shape) {
  SfTensor tensor;
  SF_INIT(tensor);
  tensor.data = const_cast<void *>(data);
  tensor.dtype = dtype;
  tensor.rank = int32_t(shape.size());
  tensor.shape = shape.data();
  return tensor;
}

/// Small integers, so that every sum is exact in f16 and f32.
static std::vector<uint16_t> smallIntegers(size_t count, unsigned seed) {
  std::vector<uint16_t> data(count);
  for (size_t i = 0; i < count; ++i)
    data[i] = floatToF16(float(int((i * 7 + seed * 13 + i / 11) % 9) - 4));
  return data;
}

namespace {
class CCompile : public testing::Test {
protected:
  void SetUp() override {
    const char *named = std::getenv("SPARSEFLOW_PTXAS");
    if (!(named && sys::fs::exists(named)) && !sys::findProgramByName("ptxas") &&
        !sys::fs::exists("/usr/local/cuda/bin/ptxas"))
      GTEST_SKIP() << "no ptxas";
    dense = smallIntegers(features * inner, 1);
    std::vector<int64_t> shape = {features, inner}, half = {features, inner / 2};
    std::vector<int64_t> mask = {features, inner / 8};
    blob.resize(features * inner / 2 * 2 + features * inner / 8);
    SfTensor d = tensorOf(dense.data(), SF_F16, shape);
    SfTensor v = tensorOf(blob.data(), SF_F16, half);
    SfTensor m = tensorOf(blob.data() + features * inner, SF_U8, mask);
    ASSERT_EQ(sfPrune24(&d, &d), SF_OK) << sfLastError();
    ASSERT_EQ(sfCompress24(&d, &v, &m), SF_OK) << sfLastError();
    SF_INIT(options);
    options.targets = "sm_80";
    options.cache_dir = "";
    SF_INIT(constant);
    constant.name = "fc.weight";
    constant.data = blob.data();
    constant.bytes = blob.size();
    constant.dtype = SF_F16;
    constant.rank = 2;
    constant.shape = weightShape;
  }
  void TearDown() override { sfProgramRelease(program); }

  SfStatus compile(const char *mlir) {
    return sfCompile(mlir, strlen(mlir), &constant, 1, &options, &program);
  }
  void expectProduct(SfProgram *compiled, const char *device, int64_t tokens) {
    SfExecutable *executable = nullptr;
    ASSERT_EQ(sfExecutableCreate(compiled, device, &executable), SF_OK) << sfLastError();
    EXPECT_STREQ(sfExecutableDevice(executable), device);
    EXPECT_EQ(sfExecutableNeedsDeviceMemory(executable), 0);
    std::vector<uint16_t> x = smallIntegers(tokens * inner, 2), y(tokens * features, 0x7e00);
    std::vector<int64_t> in = {tokens, inner}, out = {tokens, features};
    SfTensor input = tensorOf(x.data(), SF_F16, in), output = tensorOf(y.data(), SF_F16, out);
    ASSERT_EQ(sfRunHost(executable, "linear", &input, 1, &output, 1), SF_OK) << sfLastError();
    for (int64_t m = 0; m < tokens; ++m)
      for (int64_t n = 0; n < features; ++n) {
        float sum = 0;
        for (int64_t k = 0; k < inner; ++k)
          sum += f16ToFloat(x[m * inner + k]) * f16ToFloat(dense[n * inner + k]);
        ASSERT_EQ(f16ToFloat(y[m * features + n]), sum) << device << " " << m << "," << n;
      }
    sfExecutableDestroy(executable);
  }

  const int64_t weightShape[2] = {features, inner};
  std::vector<uint16_t> dense;
  std::vector<uint8_t> blob;
  SfConstant constant;
  SfCompileOptions options;
  SfProgram *program = nullptr;
};
} // namespace

TEST_F(CCompile, runs_in_the_emulator_and_in_the_reference) {
  ASSERT_EQ(compile(linear), SF_OK) << sfLastError();
  for (int64_t tokens : {0, 1, 37}) {
    expectProduct(program, "emulator", tokens);
    expectProduct(program, "reference", tokens);
  }
}

TEST_F(CCompile, needs_nothing_but_the_file_afterwards) {
  ASSERT_EQ(compile(linear), SF_OK) << sfLastError();
  SmallString<64> path;
  ASSERT_FALSE(sys::fs::createTemporaryFile("sparseflow", "sf", path));
  ASSERT_EQ(sfProgramSave(program, path.c_str()), SF_OK) << sfLastError();
  std::fill(blob.begin(), blob.end(), 0);
  SfProgram *opened = nullptr;
  ASSERT_EQ(sfProgramOpen(path.c_str(), SF_OPEN_VERIFY, &opened), SF_OK) << sfLastError();
  expectProduct(opened, "emulator", 5);
  expectProduct(opened, "reference", 5);
  sfProgramRelease(opened);
  sys::fs::remove(path);
}

TEST_F(CCompile, the_report_names_the_sparse_kernel) {
  ASSERT_EQ(compile(linear), SF_OK) << sfLastError();
  SfExecutable *executable = nullptr;
  ASSERT_EQ(sfExecutableCreate(program, "emulator", &executable), SF_OK) << sfLastError();
  int64_t tokens = 100;
  char *json = nullptr;
  ASSERT_EQ(sfReport(executable, nullptr, &tokens, 1, &json), SF_OK) << sfLastError();
  EXPECT_NE(strstr(json, "\"op\":\"matmul\""), nullptr) << json;
  EXPECT_NE(strstr(json, "mma.sp"), nullptr) << json;
  sfFree(json);
  sfExecutableDestroy(executable);
}

TEST_F(CCompile, errors_come_with_their_place) {
  std::string heard;
  options.diagnostic_user = &heard;
  options.diagnostic = [](void *user, int32_t severity, const char *message) {
    if (severity == SF_SEVERITY_ERROR)
      *static_cast<std::string *>(user) += message;
  };
  EXPECT_EQ(compile("func.func @f( {"), SF_INVALID_PROGRAM);
  EXPECT_NE(std::string(sfLastError()).find(":1:"), std::string::npos) << sfLastError();
  EXPECT_NE(heard.find("expected"), std::string::npos) << heard;
  EXPECT_EQ(program, nullptr);
}

TEST_F(CCompile, constants_that_do_not_fit_are_refused) {
  constant.bytes -= 1;
  EXPECT_NE(compile(linear), SF_OK);
  EXPECT_NE(std::string(sfLastError()).find("fc.weight"), std::string::npos) << sfLastError();
  constant.bytes += 1;
  const int64_t wrong[2] = {features, inner + 4};
  constant.shape = wrong;
  EXPECT_NE(compile(linear), SF_OK);
  constant.shape = weightShape;
  constant.name = "other";
  EXPECT_NE(compile(linear), SF_OK);
  EXPECT_NE(std::string(sfLastError()).find("'fc.weight'"), std::string::npos) << sfLastError();
  constant.name = "fc.weight";
  constant.data = nullptr;
  EXPECT_EQ(compile(linear), SF_INVALID_ARGUMENT);
  EXPECT_EQ(program, nullptr);
}

TEST_F(CCompile, targets_are_checked) {
  options.targets = "sm_80, sm_90";
  ASSERT_EQ(compile(linear), SF_OK) << sfLastError();
  char *json = nullptr;
  ASSERT_EQ(sfProgramDescribe(program, &json), SF_OK);
  EXPECT_NE(strstr(json, "\"target\":\"sm_80\""), nullptr);
  EXPECT_NE(strstr(json, "\"target\":\"sm_90\""), nullptr);
  sfFree(json);
  sfProgramRelease(program);
  program = nullptr;
  options.targets = "volta";
  EXPECT_NE(compile(linear), SF_OK);
  EXPECT_NE(std::string(sfLastError()).find("'volta'"), std::string::npos) << sfLastError();
}

TEST_F(CCompile, a_file_with_short_tensors_cannot_make_the_emulator_read_beyond_them) {
  ASSERT_EQ(compile(linear), SF_OK) << sfLastError();
  void *data = nullptr;
  size_t size = 0;
  ASSERT_EQ(sfProgramToMemory(program, &data, &size), SF_OK) << sfLastError();
  runtime::ProgramFile::Ptr file = cantFail(
      runtime::ProgramFile::fromMemory(ArrayRef(static_cast<const uint8_t *>(data), size)));
  size_t altered = 0;
  for (const runtime::StoredTensor &victim : file->tensors()) {
    if (victim.name.find("weight") == std::string::npos)
      continue;
    ++altered;
    std::vector<runtime::StoredTensor> tensors = file->tensors().vec();
    for (runtime::StoredTensor &tensor : tensors)
      if (tensor.name == victim.name) {
        tensor.shape[0] /= 2;
        tensor.data = tensor.data.take_front(tensor.data.size() / 2);
      }
    std::string bytes;
    raw_string_ostream os(bytes);
    // Right checksums: what an attacker would write.
    cantFail(cantFail(runtime::ProgramFile::create(file->manifest(), tensors))->write(os));
    SfProgram *opened = nullptr;
    ASSERT_EQ(sfProgramFromMemory(bytes.data(), bytes.size(), SF_OPEN_VERIFY, &opened), SF_OK)
        << sfLastError();
    for (const char *device : {"emulator", "reference"}) {
      SfExecutable *executable = nullptr;
      SfStatus status = sfExecutableCreate(opened, device, &executable);
      std::vector<uint16_t> x = smallIntegers(64 * inner, 2), y(64 * features);
      std::vector<int64_t> in = {64, inner}, out = {64, features};
      SfTensor input = tensorOf(x.data(), SF_F16, in), output = tensorOf(y.data(), SF_F16, out);
      if (status == SF_OK)
        status = sfRunHost(executable, nullptr, &input, 1, &output, 1);
      // The reference has no use for what kernels read.
      bool used = strcmp(device, "emulator") == 0 || victim.name != "fc.weight.mma";
      EXPECT_EQ(status != SF_OK, used) << victim.name << " in the " << device;
      if (status != SF_OK)
        EXPECT_NE(strstr(sfLastError(), "bytes"), nullptr) << sfLastError();
      sfExecutableDestroy(executable);
    }
    sfProgramRelease(opened);
  }
  EXPECT_GE(altered, 2u);
  sfFree(data);
}
