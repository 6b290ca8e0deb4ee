//===- CompilerTest.cpp - The compiler as a function ----------------------===//
//
// What the command line cannot show: constants that are lent, files that were tampered with, and
// the host's devices on what was compiled. Everything is small; where no ptxas is found, nothing
// runs.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Pipelines/Compiler.h"
#include "sparseflow/Pipelines/HostDevices.h"
#include "sparseflow/Runtime/Executable.h"
#include "sparseflow/Support/Sparse24.h"
#include "sparseflow/Target/Ptxas.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"
#include "gtest/gtest.h"
#include <atomic>
#include <chrono>
#include <thread>

using namespace llvm;
using namespace sparseflow;
namespace rt = sparseflow::runtime;

static constexpr int64_t features = 64, inner = 64;

static constexpr StringLiteral source = R"(
func.func @main(%x: tensor<?x64xf16> {sf.name = "x"}) -> (tensor<?x64xf32> {sf.name = "y"}) {
  %w = arith.constant dense_resource<w> : tensor<64x64xf16, #sf.weight<sp24>>
  %y = sf.matmul %x, %w : (tensor<?x64xf16>, tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}
)";

/// One kernel, so that the tests are quick.
static constexpr StringLiteral config =
    "tile = 64x16x64, warps = 1x2, stages = 2, split_k = 1, raster = 8, atom = mma_sp";

namespace {
class CompilerTest : public testing::Test {
protected:
  void SetUp() override {
    Expected<target::Ptxas> ptxas = target::Ptxas::find();
    if (!ptxas)
      GTEST_SKIP() << toString(ptxas.takeError());
    std::vector<uint16_t> dense(features * inner);
    for (size_t i = 0; i < dense.size(); ++i)
      if (i % 4 == 1 || i % 4 == i / 4 % 2 * 2)
        dense[i] = floatToF16(static_cast<float>(int(i * 7 % 9) - 4));
    weight.resize(canonicalValuesBytes(features, inner, DType::f16) +
                  canonicalBitmaskBytes(features, inner));
    char *bitmask = weight.data() + canonicalValuesBytes(features, inner, DType::f16);
    ASSERT_FALSE(
        errorToBool(compress24(DType::f16, features, inner, dense.data(), CompressMode::Verify,
                               weight.data(), reinterpret_cast<uint8_t *>(bitmask))));
    options.config = config.str();
    options.cacheDir = "";
  }

  std::vector<ExternalConstant> constants() const {
    return {{"w", weight, std::nullopt, std::nullopt}};
  }

  rt::ProgramFile::Ptr compileOrFail() {
    Expected<rt::ProgramFile::Ptr> file = compile(source, "test", constants(), options);
    if (file)
      return *file;
    ADD_FAILURE() << toString(file.takeError());
    return nullptr;
  }

  std::string errorOf(StringRef text, ArrayRef<ExternalConstant> given) {
    Expected<rt::ProgramFile::Ptr> file = compile(text, "test", given, options);
    return file ? "none" : toString(file.takeError());
  }

  /// y for x = 1, 2, 3, ... on a device.
  static Expected<std::vector<float>> run(const rt::ProgramFile::Ptr &file, StringRef deviceName) {
    registerHostDevices();
    Expected<std::shared_ptr<rt::Device>> device = rt::openDevice(deviceName);
    if (!device)
      return device.takeError();
    Expected<std::unique_ptr<rt::Executable>> executable = rt::Executable::create(file, *device);
    if (!executable)
      return executable.takeError();
    constexpr int64_t tokens = 5;
    std::vector<uint16_t> x(tokens * inner);
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = floatToF16(static_cast<float>(i % 11));
    std::vector<float> y(tokens * features, -1);
    int64_t xShape[] = {tokens, inner}, yShape[] = {tokens, features};
    rt::TensorRef input{x.data(), rt::DType::F16, xShape, {}};
    rt::TensorRef output{y.data(), rt::DType::F32, yShape, {}};
    if (Error error = (*executable)->runHost(0, input, output))
      return std::move(error);
    return y;
  }

  /// The file with one tensor replaced.
  static Expected<rt::ProgramFile::Ptr> replace(const rt::ProgramFile &file, StringRef name,
                                                rt::StoredTensor with) {
    std::vector<rt::StoredTensor> tensors;
    for (const rt::StoredTensor &tensor : file.tensors())
      tensors.push_back(tensor.name == name ? with : tensor);
    return rt::ProgramFile::create(file.manifest(), std::move(tensors));
  }

  std::vector<char> weight;
  CompileOptions options;
};
} // namespace

TEST_F(CompilerTest, emulator_and_reference_agree) {
  rt::ProgramFile::Ptr file = compileOrFail();
  ASSERT_TRUE(file);
  Expected<std::vector<float>> emulated = run(file, "emulator");
  ASSERT_TRUE(bool(emulated)) << toString(emulated.takeError());
  Expected<std::vector<float>> reference = run(file, "reference");
  ASSERT_TRUE(bool(reference)) << toString(reference.takeError());
  EXPECT_EQ(*emulated, *reference); // small integers: exact
}

TEST_F(CompilerTest, lent_constants_may_go_afterwards) {
  rt::ProgramFile::Ptr file = compileOrFail();
  ASSERT_TRUE(file);
  Expected<std::vector<float>> before = run(file, "reference");
  ASSERT_TRUE(bool(before));
  std::fill(weight.begin(), weight.end(), '\x7f');
  for (StringRef device : {"reference", "emulator"}) {
    Expected<std::vector<float>> after = run(file, device);
    ASSERT_TRUE(bool(after)) << toString(after.takeError());
    EXPECT_EQ(*before, *after);
  }
}

TEST_F(CompilerTest, constants_that_do_not_fit) {
  EXPECT_EQ(errorOf(source, {}),
            "expected the bytes of constant 'w', got none; pass them beside the "
            "IR, or carry them in its dialect_resources");
  std::vector<ExternalConstant> given = constants();
  given.push_back({"v", weight, std::nullopt, std::nullopt});
  EXPECT_EQ(errorOf(source, given), "expected constants that the IR names, got 'v'; it names 'w'");
  given = constants();
  given[0].data = given[0].data.drop_back();
  EXPECT_EQ(errorOf(source, given), "constant 'w': expected 4608 bytes for tensor<64x64xf16, "
                                    "#sf.weight<sp24>>, got 4607");
  given = constants();
  given[0].dtype = rt::DType::BF16;
  EXPECT_EQ(errorOf(source, given), "constant 'w': expected f16 for tensor<64x64xf16, "
                                    "#sf.weight<sp24>>, got bf16");
  given = constants();
  given[0].shape = std::vector<int64_t>{64, 32};
  EXPECT_EQ(errorOf(source, given), "constant 'w': expected the shape [64, 64], got [64, 32]");
}

TEST_F(CompilerTest, constants_that_would_be_taken_for_others) {
  options.config = "";
  auto errorWith = [&](StringRef name) {
    std::string text = formatv(R"(
func.func @main(%x: tensor<?x64xf16>) -> tensor<?x64xf16> {{
  %v = arith.constant dense_resource<"{0}"> : tensor<64x64xf16>
  %w = arith.constant dense_resource<w> : tensor<64x64xf16, #sf.weight<sp24>>
  %h = sf.matmul %x, %v
    : (tensor<?x64xf16>, tensor<64x64xf16>) -> tensor<?x64xf16>
  %y = sf.matmul %h, %w
    : (tensor<?x64xf16>, tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
})",
                               name);
    std::vector<char> bytes(sizeof(uint16_t) * 64 * 64);
    std::vector<ExternalConstant> given = constants();
    given.push_back({name.str(), bytes, std::nullopt, std::nullopt});
    return errorOf(text, given);
  };
  EXPECT_EQ(errorWith("v"), "none");
  EXPECT_EQ(errorWith("sm_80"), "none");
  EXPECT_EQ(errorWith("layer/v"), "none");
  EXPECT_EQ(errorWith("main.constant0"), "none");
  EXPECT_EQ(errorWith("w.mma"), "none");
  EXPECT_EQ(errorWith("w.values"),
            "expected constants whose tensors in the file have different names, got 'w.values' for "
            "'w.values' and for 'w'; rename one of them");
  for (StringRef name : {"source.mlir", "sm_80/source.mlir", "sm_80/main_matmul_0.ptx", "sm_90a/v"})
    EXPECT_EQ(errorWith(name),
              "expected a constant's name to be UTF-8, other than 'source.mlir' and outside of the "
              "targets' folders, such as 'sm_90a/', got '" +
                  name.str() + "'; rename the constant");
}

TEST_F(CompilerTest, diagnostics_are_collected_and_told) {
  std::vector<std::string> told;
  options.diagnostics = [&](Severity severity, StringRef message) {
    if (severity == Severity::Error)
      told.push_back(message.str());
  };
  std::string error = errorOf("func.func @f() {\n  oops\n}", {});
  EXPECT_EQ(StringRef(error).take_front(9), "test:2:3:");
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0], error);
}

/// "prefix", then `count` times "piece".
static std::string repeat(StringRef prefix, StringRef piece, int count = 100000) {
  std::string text = prefix.str();
  for (int i = 0; i < count; ++i)
    text += piece;
  return text;
}

TEST_F(CompilerTest, brackets_without_end) {
  StringRef message = "test:1: expected brackets and aliases to nest at most 200 deep";
  EXPECT_EQ(errorOf(repeat("func.func @f(%x: ", "tuple<"), {}), message);
  // Nothing that looks like a bracket or hides one fools the count.
  EXPECT_EQ(errorOf(repeat("module attributes {a = \"\\\"\", b = ", "["), {}), message);
  EXPECT_EQ(errorOf(repeat("// \r module attributes {b = ", "["), {}), message);
  EXPECT_EQ(errorOf(repeat("module attributes {b = ", "[affine_set<(d0) : (d0 >= 0)>, "), {}),
            message);
}

TEST_F(CompilerTest, aliases_that_nest) {
  for (StringRef kind : {"#a{0} = loc(callsite(#a{1} at \"x\"))\n", "#-a{0} = [#-a{1}]\n",
                         "!a{0} = tuple<!a{1}>\n"}) {
    std::string text;
    for (int i = 0; i < 100000; ++i)
      text += formatv(kind.data(), i, i - 1).str();
    std::string error = errorOf(text, {});
    EXPECT_TRUE(StringRef(error).contains(": expected brackets and aliases to nest"));
  }
}

TEST_F(CompilerTest, expressions_that_nest) {
  for (StringRef piece : {"- ", "d0 + ", "d0 mod ", "d0\n*"})
    EXPECT_TRUE(StringRef(errorOf(repeat("#map = affine_map<(d0) -> (", piece), {}))
                    .contains(": expected expressions to nest at most 1000 deep"));
}

TEST_F(CompilerTest, long_texts_that_do_not_nest) {
  // Each use of an alias, each operation and each element stands beside the others.
  std::string text = "#map = affine_map<(d0) -> (d0 + 1)>\n#set = affine_set<(d0) : (d0 >= 0)>\n"
                     "module attributes {sf.a = [";
  text = repeat(text, "#map, #set, -1, ", 10000) + "0]} {\n}\n";
  text = repeat(text, "#loc = loc(\"[[[\\\\\")\n", 300);
  EXPECT_EQ(StringRef(errorOf(text, {})).find("nest"), StringRef::npos);
}

TEST_F(CompilerTest, same_input_same_bytes_from_many_threads) {
  std::vector<std::string> files(3);
  std::vector<std::thread> threads;
  for (std::string &bytes : files)
    threads.emplace_back([&] {
      if (rt::ProgramFile::Ptr file = compileOrFail()) {
        raw_string_ostream stream(bytes);
        EXPECT_FALSE(errorToBool(file->write(stream)));
      }
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_FALSE(files[0].empty());
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
}

TEST_F(CompilerTest, chips_share_weights) {
  options.targets = {"sm_80", "sm_90", "sm_80"};
  rt::ProgramFile::Ptr file = compileOrFail();
  ASSERT_TRUE(file);
  EXPECT_EQ(file->manifest().functions.front().programs.size(), 2u);
  EXPECT_TRUE(file->find("w.mma"));
  EXPECT_TRUE(file->find("w.values"));
  EXPECT_TRUE(file->find("w.bitmask"));
  EXPECT_FALSE(file->find("sm_90/w.mma"));
}

TEST_F(CompilerTest, altered_files_are_refused_by_the_emulator) {
  rt::ProgramFile::Ptr file = compileOrFail();
  ASSERT_TRUE(file);
  auto errorAfter = [&](StringRef name, rt::StoredTensor with) {
    Expected<rt::ProgramFile::Ptr> altered = replace(*file, name, std::move(with));
    if (!altered)
      return toString(altered.takeError());
    Expected<std::vector<float>> result = run(*altered, "emulator");
    return result ? std::string("none") : toString(result.takeError());
  };
  // A packed weight that is too short would be read past its end.
  EXPECT_NE(errorAfter("w.mma", rt::StoredTensor::own("w.mma", rt::DType::U8, {16},
                                                      std::vector<uint8_t>(16)))
                .find("tensor 'w.mma' expected 4608 bytes, got 16; the file was altered"),
            std::string::npos);
  // A source with another signature than the manifest's.
  StringRef text = toStringRef(file->find("sm_80/source.mlir")->data);
  std::string other = text.str();
  for (size_t at; (at = other.find("?x")) != std::string::npos;)
    other.replace(at, 2, "9x");
  EXPECT_NE(errorAfter("sm_80/source.mlir", rt::StoredTensor::text("sm_80/source.mlir", other)),
            "none");
  EXPECT_NE(errorAfter("sm_80/source.mlir", rt::StoredTensor::text("sm_80/source.mlir", "?!")),
            "none");
}

TEST_F(CompilerTest, the_cache_does_not_depend_on_the_weights_values) {
  SmallString<128> directory;
  ASSERT_FALSE(sys::fs::createUniqueDirectory("sfprogramcache", directory));
  options.cacheDir = directory.str().str();
  rt::ProgramFile::Ptr first = compileOrFail();
  std::fill(weight.begin(), weight.begin() + 64, '\0');
  rt::ProgramFile::Ptr second = compileOrFail();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->find("sm_80/main_matmul_0.cubin")->data,
            second->find("sm_80/main_matmul_0.cubin")->data);
  EXPECT_NE(first->find("w.mma")->data, second->find("w.mma")->data);
  Expected<std::vector<float>> emulated = run(second, "emulator");
  Expected<std::vector<float>> reference = run(second, "reference");
  ASSERT_TRUE(emulated && reference);
  EXPECT_EQ(*emulated, *reference);
  sys::fs::remove_directories(directory);
}

namespace {
/// A ptxas that is honest about all kernels but the first, or about none: what it says of others
/// goes through a shell command.
class AlteredPtxas {
public:
  enum Which { First, All };
  AlteredPtxas(Which which, StringRef command) {
    cantFail(errorCodeToError(sys::fs::createUniqueDirectory("sparseflow", folder)));
    std::string real = cantFail(target::Ptxas::find()).path().str();
    std::error_code error;
    raw_fd_ostream stream(path(), error);
    stream << "#!/bin/sh\n"
           << "case \"$*\" in *--version*) exec " << real << " \"$@\" ;; esac\n"
           << (which == First ? "mkdir " + marker() + " 2>/dev/null || exec " + real + " \"$@\"\n"
                              : "")
           << real << " \"$@\" 2>&1 | " << command << " >&2\n";
    stream.close();
    cantFail(errorCodeToError(error ? error : sys::fs::setPermissions(path(), sys::fs::all_all)));
  }
  ~AlteredPtxas() { sys::fs::remove_directories(folder); }

  /// The next kernel is the first again.
  void restart() { sys::fs::remove(marker()); }
  std::string path() const { return (folder + "/ptxas").str(); }

private:
  std::string marker() const { return (folder + "/marker").str(); }
  SmallString<64> folder;
};
} // namespace

static constexpr StringLiteral spills = "sed 's/0 bytes spill stores/16 bytes spill stores/'";
static constexpr StringLiteral serializes =
    "sed '1i ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
    "serialized due to insufficient register resources for the wgmma pipeline'";

TEST_F(CompilerTest, a_product_whose_configuration_is_slow_gets_another) {
  struct {
    StringRef command, error, reason;
  } cases[] = {
      {spills, "expected no register spills, got 16 bytes",
       ">, which spilled 16 bytes of registers"},
      {serializes, "ptxas serialized the wgmma instructions ((C7510) Potential",
       ">, which had its wgmma instructions serialized by ptxas (C7510)"},
  };
  for (auto &[command, error, reason] : cases) {
    AlteredPtxas ptxas(AlteredPtxas::First, command);
    options.ptxas = ptxas.path();
    // What somebody wants is not replaced.
    options.config = config.str();
    EXPECT_NE(errorOf(source, constants()).find(error), std::string::npos);
    ptxas.restart();
    options.config = "";
    rt::ProgramFile::Ptr file = compileOrFail();
    ASSERT_TRUE(file);
    for (const rt::Program &program : file->manifest().functions[0].programs)
      for (const rt::Variant &variant : program.steps[0].variants)
        EXPECT_NE(variant.reason.find(reason), std::string::npos) << variant.reason;
    // The emulator starts from the configurations that were chosen in the end.
    Expected<std::vector<float>> emulated = run(file, "emulator"),
                                 expected = run(file, "reference");
    ASSERT_TRUE(bool(emulated)) << toString(emulated.takeError());
    ASSERT_TRUE(bool(expected)) << toString(expected.takeError());
    EXPECT_EQ(*emulated, *expected);
  }
}

TEST_F(CompilerTest, a_product_of_which_every_configuration_is_slow_is_an_error) {
  SmallString<128> cache;
  ASSERT_FALSE(sys::fs::createUniqueDirectory("sfprogramcache", cache));
  options.config = "";
  options.cacheDir = cache.str().str();
  AlteredPtxas ptxas(AlteredPtxas::All, serializes);
  options.ptxas = ptxas.path();
  // The second time kernels come from the cache, and are no better.
  for (int time = 0; time < 2; ++time) {
    std::string error = errorOf(source, constants());
    EXPECT_NE(error.find("whose kernel neither spills registers nor has its wgmma instructions "
                         "serialized, got none beside those that do, [#sf.kernel_config<"),
              std::string::npos)
        << error;
  }
  sys::fs::remove_directories(cache);
}

TEST_F(CompilerTest, chips_that_compile_together_report_one_at_a_time) {
  options.targets = {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"};
  options.config = "tile = 64x16x64, warps = 1x1, stages = 16, atom = mma_sp";
  std::atomic<int> inside = 0, most = 0, heard = 0;
  options.diagnostics = [&](Severity, StringRef) {
    most = std::max<int>(most, ++inside);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    --inside;
    ++heard;
  };
  EXPECT_NE(errorOf(source, constants()), "none");
  EXPECT_GE(heard, 2);
  EXPECT_EQ(most, 1);
}
