//===- ReferenceExecutorTest.cpp - Values of the sf operations ------------===//
//
// Every operation is run and compared with loops written out here, over the element conversions of
// Support.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Reference/ReferenceExecutor.h"

#include "sparseflow/Dialect/SF/IR/SFDialect.h"
#include "sparseflow/Support/Sparse24.h"
#include "sparseflow/Support/WeightFormat.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/Support/FormatVariadic.h"
#include "gtest/gtest.h"

#include <chrono>
#include <cmath>
#include <random>
#include <thread>

using namespace sparseflow;

namespace {

//===----------------------------------------------------------------------===//
// Tensors of one type
//===----------------------------------------------------------------------===//

struct Tensor {
  DType dtype;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
  std::vector<int64_t> strides;

  Tensor(DType dtype, std::vector<int64_t> shape) : dtype(dtype), shape(std::move(shape)) {
    bytes.resize(size_t(size()) * getByteWidth(dtype));
  }
  int64_t size() const {
    int64_t count = 1;
    for (int64_t extent : shape)
      count *= extent;
    return count;
  }
  float operator[](int64_t index) const { return loadAsFloat(dtype, bytes.data(), index); }
  void set(int64_t index, float value) { storeFromFloat(dtype, bytes.data(), index, value); }
  HostTensor host() { return {bytes.data(), dtype, shape, strides}; }

  /// Small integers and quarters: exact in every float type that has room for them.
  static Tensor random(DType dtype, std::vector<int64_t> shape, unsigned seed, int limit = 7) {
    Tensor tensor(dtype, std::move(shape));
    std::mt19937 engine(seed);
    std::uniform_int_distribution<int> distribution(-limit, limit);
    for (int64_t i = 0; i < tensor.size(); ++i)
      tensor.set(i, float(distribution(engine)) * (isFloat(dtype) ? 0.25f : 1.0f));
    return tensor;
  }
};

/// A 2:4 weight: its elements, and the bytes of a stored form under the same shape.
Tensor pruned(Tensor dense) {
  llvm::cantFail(prune24(dense.dtype, dense.shape[0], dense.shape[1], dense.bytes.data()));
  return dense;
}
Tensor stored(const Tensor &dense, bool isSparse, bool isPacked) {
  WeightFormat format{dense.dtype, dense.shape[0], dense.shape[1], isSparse,
                      isPacked ? std::optional(PackOrder::Mma) : std::nullopt};
  Tensor result = dense;
  result.bytes.resize(format.storageBytes());
  llvm::cantFail(encodeWeight(format, dense.bytes, result.bytes));
  return result;
}

float roundTo(DType dtype, float value) {
  char bytes[4];
  storeFromFloat(dtype, bytes, 0, value);
  return loadAsFloat(dtype, bytes, 0);
}

llvm::StringRef mlirName(DType dtype) {
  return dtype == DType::e4m3   ? "f8E4M3FN"
         : dtype == DType::e5m2 ? "f8E5M2"
                                : stringifyDType(dtype);
}

//===----------------------------------------------------------------------===//
// Running
//===----------------------------------------------------------------------===//

class ReferenceExecutorTest : public testing::Test {
protected:
  ReferenceExecutorTest() {
    mlir::DialectRegistry registry;
    registry.insert<mlir::arith::ArithDialect, mlir::func::FuncDialect, mlir::linalg::LinalgDialect,
                    mlir::math::MathDialect, mlir::tensor::TensorDialect, sf::SFDialect>();
    context.appendDialectRegistry(registry);
  }

  llvm::Expected<std::unique_ptr<ReferenceExecutor>> compile(llvm::StringRef text,
                                                             const ReferenceOptions &options = {}) {
    auto module = mlir::parseSourceString<mlir::ModuleOp>(text, &context);
    if (!module)
      return llvm::createStringError("the test's module does not parse");
    return ReferenceExecutor::create(*module, "main", options);
  }

  void run(llvm::StringRef text, std::vector<HostTensor> inputs, std::vector<HostTensor> outputs) {
    auto executor = compile(text);
    ASSERT_TRUE(bool(executor)) << llvm::toString(executor.takeError());
    ASSERT_EQ(llvm::toString((*executor)->run(inputs, outputs)), "");
  }

  std::string compileError(llvm::StringRef text) {
    auto executor = compile(text);
    return executor ? "" : llvm::toString(executor.takeError());
  }

  mlir::MLIRContext context;
};

/// acc[m,n], exactly: the tests' elements are small enough for a double.
std::vector<double> multiply(const Tensor &x, const Tensor &w) {
  int64_t m = x.shape[0], k = x.shape[1], n = w.shape[0];
  std::vector<double> acc(size_t(m * n), 0.0);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t l = 0; l < k; ++l)
        acc[i * n + j] += double(x[i * k + l]) * double(w[j * k + l]);
  return acc;
}

void expectEqual(const Tensor &got, const std::vector<double> &expected) {
  ASSERT_EQ(got.size(), int64_t(expected.size()));
  for (int64_t i = 0; i < got.size(); ++i)
    ASSERT_EQ(got[i], roundTo(got.dtype, float(expected[i]))) << "element " << i;
}

//===----------------------------------------------------------------------===//
// Matmul
//===----------------------------------------------------------------------===//

constexpr const char *kMatmul = R"(
  func.func @main(%x: tensor<?x{0}x{2}>, %w: tensor<{1}x{0}x{2}{4}>) -> tensor<?x{1}x{3}> {{
    %y = sf.matmul %x, %w : (tensor<?x{0}x{2}>, tensor<{1}x{0}x{2}{4}>) -> tensor<?x{1}x{3}>
    return %y : tensor<?x{1}x{3}>
  })";

struct TypeCase {
  DType operand, result;
};

class MatmulTypes : public ReferenceExecutorTest, public testing::WithParamInterface<TypeCase> {};

TEST_P(MatmulTypes, equals_the_loops_for_every_storage_and_token_count) {
  auto [operand, result] = GetParam();
  int64_t k = 260, n = 65;
  for (bool isSparse : {false, true})
    for (bool isPacked : {false, true}) {
      std::string encoding =
          isSparse   ? isPacked ? ", #sf.weight<sp24, pack = mma>" : ", #sf.weight<sp24>"
          : isPacked ? ", #sf.weight<dense, pack = mma>"
                     : "";
      auto executor = compile(
          llvm::formatv(kMatmul, k, n, mlirName(operand), mlirName(result), encoding).str());
      ASSERT_TRUE(bool(executor)) << llvm::toString(executor.takeError());
      Tensor w = Tensor::random(operand, {n, k}, 2);
      if (isSparse)
        w = pruned(w);
      Tensor storage = isSparse || isPacked ? stored(w, isSparse, isPacked) : w;
      for (int64_t m : {0, 1, 70}) {
        Tensor x = Tensor::random(operand, {m, k}, 1), y(result, {m, n});
        ASSERT_EQ(llvm::toString((*executor)->run({x.host(), storage.host()}, {y.host()})), "");
        expectEqual(y, multiply(x, w));
      }
    }
}

INSTANTIATE_TEST_SUITE_P(
    All, MatmulTypes,
    testing::Values(TypeCase{DType::f16, DType::f16}, TypeCase{DType::f16, DType::f32},
                    TypeCase{DType::f16, DType::e4m3}, TypeCase{DType::bf16, DType::bf16},
                    TypeCase{DType::e4m3, DType::f32}, TypeCase{DType::e5m2, DType::f16},
                    TypeCase{DType::e4m3, DType::e5m2}, TypeCase{DType::i8, DType::i32},
                    TypeCase{DType::i8, DType::i8}),
    [](const testing::TestParamInfo<TypeCase> &info) {
      return (stringifyDType(info.param.operand) + "_to_" + stringifyDType(info.param.result))
          .str();
    });

TEST_F(ReferenceExecutorTest, sum_of_floats_is_taken_in_double) {
  // In f32 the ones would vanish beside 2^24.
  Tensor x(DType::f16, {1, 8}), w(DType::f16, {1, 8}), y(DType::f32, {1, 1});
  float left[8] = {4096, 1, 1, 1, 1, 1, 1, -4096}, right[8] = {8192, 1, 1, 1, 1, 1, 1, 8192};
  for (int i = 0; i < 8; ++i) {
    x.set(i, left[i]);
    w.set(i, right[i]);
  }
  run(llvm::formatv(kMatmul, 8, 1, "f16", "f32", "").str(), {x.host(), w.host()}, {y.host()});
  EXPECT_EQ(y[0], 6.0f);
}

TEST_F(ReferenceExecutorTest, i32_accumulator_saturates_to_i8) {
  Tensor x = Tensor::random(DType::i8, {16, 64}, 3, 127),
         w = Tensor::random(DType::i8, {16, 64}, 4, 127);
  Tensor y(DType::i8, {16, 16});
  run(llvm::formatv(kMatmul, 64, 16, "i8", "i8", "").str(), {x.host(), w.host()}, {y.host()});
  expectEqual(y, multiply(x, w));
}

TEST_F(ReferenceExecutorTest, epilogue_sees_every_broadcast) {
  int64_t m = 6, k = 32, n = 10;
  Tensor x = Tensor::random(DType::f16, {m, k}, 1),
         w = pruned(Tensor::random(DType::f16, {n, k}, 2));
  Tensor bias = Tensor::random(DType::f16, {n}, 3), scale = Tensor::random(DType::f32, {m, 1}, 4);
  Tensor residual = Tensor::random(DType::f16, {m, n}, 5), factor(DType::f32, {});
  factor.set(0, 0.5f);
  Tensor storage = stored(w, true, false), y(DType::f16, {m, n});
  run(R"(
    func.func @main(%x: tensor<?x32xf16>, %w: tensor<10x32xf16, #sf.weight<sp24>>, %bias: tensor<10xf16>,
                    %scale: tensor<?x1xf32>, %residual: tensor<?x10xf16>, %factor: tensor<f32>)
        -> tensor<?x10xf16> {
      %y = sf.matmul %x, %w epilogue(%bias, %scale, %residual, %factor
          : tensor<10xf16>, tensor<?x1xf32>, tensor<?x10xf16>, tensor<f32>) {
      ^bb0(%acc: f32, %b: f16, %s: f32, %r: f16, %f: f32):
        %b32 = arith.extf %b : f16 to f32
        %r32 = arith.extf %r : f16 to f32
        %0 = arith.addf %acc, %b32 : f32
        %1 = arith.mulf %0, %s : f32
        %2 = arith.addf %1, %r32 : f32
        %3 = arith.mulf %2, %f : f32
        %4 = arith.truncf %3 : f32 to f16
        sf.yield %4 : f16
      } : (tensor<?x32xf16>, tensor<10x32xf16, #sf.weight<sp24>>) -> tensor<?x10xf16>
      return %y : tensor<?x10xf16>
    })",
      {x.host(), storage.host(), bias.host(), scale.host(), residual.host(), factor.host()},
      {y.host()});
  std::vector<double> expected = multiply(x, w);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double &value = expected[i * n + j];
      value = ((value + bias[j]) * scale[i] + residual[i * n + j]) * 0.5;
    }
  expectEqual(y, expected);
}

TEST_F(ReferenceExecutorTest, gated_product_uses_both_weights) {
  int64_t m = 4, k = 16, n = 6;
  Tensor x = Tensor::random(DType::bf16, {m, k}, 1);
  Tensor gate = Tensor::random(DType::bf16, {n, k}, 2), up = Tensor::random(DType::bf16, {n, k}, 3);
  Tensor y(DType::f32, {m, n});
  run(R"(
    func.func @main(%x: tensor<?x16xbf16>, %g: tensor<6x16xbf16>, %u: tensor<6x16xbf16>) -> tensor<?x6xf32> {
      %y = sf.matmul %x, %g, %u epilogue {
      ^bb0(%a: f32, %b: f32):
        %one = arith.constant 1.0 : f32
        %0 = arith.negf %a : f32
        %1 = math.exp %0 : f32
        %2 = arith.addf %1, %one : f32
        %3 = arith.divf %a, %2 : f32
        %4 = arith.mulf %3, %b : f32
        sf.yield %4 : f32
      } : (tensor<?x16xbf16>, tensor<6x16xbf16>, tensor<6x16xbf16>) -> tensor<?x6xf32>
      return %y : tensor<?x6xf32>
    })",
      {x.host(), gate.host(), up.host()}, {y.host()});
  std::vector<double> a = multiply(x, gate), b = multiply(x, up);
  for (size_t i = 0; i < a.size(); ++i) {
    double expected = a[i] / (1 + std::exp(-a[i])) * b[i];
    EXPECT_NEAR(y[i], expected, 1e-5 * std::max(1.0, std::abs(expected)));
  }
}

TEST_F(ReferenceExecutorTest, epilogue_may_use_erf_and_tanh) {
  Tensor x = Tensor::random(DType::f16, {3, 4}, 1), w = Tensor::random(DType::f16, {5, 4}, 2);
  Tensor y(DType::f32, {3, 5});
  run(R"(
    func.func @main(%x: tensor<?x4xf16>, %w: tensor<5x4xf16>) -> tensor<?x5xf32> {
      %y = sf.matmul %x, %w epilogue {
      ^bb0(%a: f32):
        %0 = math.erf %a : f32
        %1 = math.tanh %a : f32
        %2 = arith.addf %0, %1 : f32
        sf.yield %2 : f32
      } : (tensor<?x4xf16>, tensor<5x4xf16>) -> tensor<?x5xf32>
      return %y : tensor<?x5xf32>
    })",
      {x.host(), w.host()}, {y.host()});
  std::vector<double> acc = multiply(x, w);
  for (size_t i = 0; i < acc.size(); ++i)
    EXPECT_NEAR(y[i], std::erf(acc[i]) + std::tanh(acc[i]), 1e-6);
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

constexpr const char *kCompress = R"(
  func.func @main(%w: tensor<{0}x{1}x{2}>) -> tensor<{0}x{1}x{2}, #sf.weight<sp24>> {{
    %0 = sf.compress %w {{mode = "{3}"} : tensor<{0}x{1}x{2}> -> tensor<{0}x{1}x{2}, #sf.weight<sp24>>
    return %0 : tensor<{0}x{1}x{2}, #sf.weight<sp24>>
  })";

TEST_F(ReferenceExecutorTest, compress_equals_the_host_library) {
  for (DType dtype : {DType::f16, DType::bf16, DType::f32, DType::i8, DType::e4m3, DType::e5m2})
    for (bool isPrune : {false, true}) {
      Tensor dense = Tensor::random(dtype, {9, 44}, 5, 3); // few magnitudes: many ties and zeros
      if (!isPrune)
        dense = pruned(dense);
      WeightFormat format{dtype, 9, 44, true, std::nullopt};
      Tensor result(dtype, {9, 44});
      result.bytes.assign(format.storageBytes(), 0);
      run(llvm::formatv(kCompress, 9, 44, mlirName(dtype), isPrune ? "prune" : "verify").str(),
          {dense.host()}, {result.host()});
      EXPECT_EQ(result.bytes, stored(pruned(dense), true, false).bytes)
          << stringifyDType(dtype).str();
    }
}

TEST_F(ReferenceExecutorTest, compress_objects_to_what_is_not_sparse) {
  auto executor = compile(llvm::formatv(kCompress, 1, 4, "f16", "verify").str());
  ASSERT_TRUE(bool(executor)) << llvm::toString(executor.takeError());
  Tensor dense(DType::f16, {1, 4}), result(DType::f16, {1, 4});
  result.bytes.resize(WeightFormat{DType::f16, 1, 4, true, std::nullopt}.storageBytes());
  for (int i = 0; i < 3; ++i)
    dense.set(i, 1);
  std::string message = llvm::toString((*executor)->run({dense.host()}, {result.host()}));
  EXPECT_NE(message.find("at most 2 nonzeros in each group of 4"), std::string::npos) << message;
  dense.set(1, 0);
  EXPECT_EQ(llvm::toString((*executor)->run({dense.host()}, {result.host()})), "");
  dense.set(1, NAN);
  dense.set(0, 0);
  message = llvm::toString((*executor)->run({dense.host()}, {result.host()}));
  EXPECT_NE(message.find("finite"), std::string::npos) << message;
}

TEST_F(ReferenceExecutorTest, decompress_and_pack_keep_the_elements) {
  Tensor w = pruned(Tensor::random(DType::i8, {70, 132}, 6)), canonical = stored(w, true, false);
  Tensor dense(DType::i8, {70, 132}), packed(DType::i8, {70, 132});
  packed.bytes.assign(WeightFormat{DType::i8, 70, 132, true, PackOrder::Mma}.storageBytes(), 0);
  run(R"(
    func.func @main(%w: tensor<70x132xi8, #sf.weight<sp24>>)
        -> (tensor<70x132xi8>, tensor<70x132xi8, #sf.weight<sp24, pack = mma>>) {
      %0 = sf.decompress %w : tensor<70x132xi8, #sf.weight<sp24>> -> tensor<70x132xi8>
      %1 = sf.pack %w : tensor<70x132xi8, #sf.weight<sp24>> -> tensor<70x132xi8, #sf.weight<sp24, pack = mma>>
      return %0, %1 : tensor<70x132xi8>, tensor<70x132xi8, #sf.weight<sp24, pack = mma>>
    })",
      {canonical.host()}, {dense.host(), packed.host()});
  EXPECT_EQ(dense.bytes, w.bytes);
  EXPECT_EQ(packed.bytes, stored(w, true, true).bytes);
}

//===----------------------------------------------------------------------===//
// Quantization
//===----------------------------------------------------------------------===//

TEST_F(ReferenceExecutorTest, dynamic_quantization_scales_by_the_maximum) {
  for (DType dtype : {DType::i8, DType::e4m3, DType::e5m2})
    for (int64_t group : {0, 8}) { // 0: the whole row
      int64_t m = 5, k = 24, span = group ? group : k, groups = k / span;
      Tensor x = Tensor::random(DType::f16, {m, k}, 7, 100), q(dtype, {m, k});
      for (int64_t j = 0; j < k; ++j)
        x.set(2 * k + j, 0); // a row of zeros
      Tensor scales(DType::f32, {m, groups});
      std::string attributes =
          group ? llvm::formatv("{{axis = \"group\", group = {0}}", group).str() : "";
      run(llvm::formatv(R"(
        func.func @main(%x: tensor<?x24xf16>) -> (tensor<?x24x{0}>, tensor<?x{1}xf32>) {{
          %q, %s = sf.quantize %x {2} : tensor<?x24xf16> -> tensor<?x24x{0}>, tensor<?x{1}xf32>
          return %q, %s : tensor<?x24x{0}>, tensor<?x{1}xf32>
        })",
                        mlirName(dtype), groups, attributes)
              .str(),
          {x.host()}, {q.host(), scales.host()});
      for (int64_t i = 0; i < m; ++i)
        for (int64_t g = 0; g < groups; ++g) {
          float maximum = 0;
          for (int64_t j = 0; j < span; ++j)
            maximum = std::max(maximum, std::abs(x[i * k + g * span + j]));
          float largest = dtype == DType::i8 ? 127 : dtype == DType::e4m3 ? 448 : 57344;
          float scale = maximum == 0 ? 1.0f : maximum / largest;
          ASSERT_EQ(scales[i * groups + g], scale);
          for (int64_t j = g * span; j < (g + 1) * span; ++j)
            ASSERT_EQ(q[i * k + j], roundTo(dtype, x[i * k + j] / scale));
        }
    }
}

TEST_F(ReferenceExecutorTest, static_scales_cover_what_their_shape_says) {
  struct Case {
    const char *type;
    std::vector<int64_t> shape;
    std::function<int64_t(int64_t, int64_t)> index;
  };
  int64_t m = 3, k = 8;
  std::vector<Case> cases = {
      {"tensor<f32>", {}, [](int64_t, int64_t) { return 0; }},
      {"tensor<8xf32>", {8}, [](int64_t, int64_t j) { return j; }},
      {"tensor<?x1xf32>", {3, 1}, [](int64_t i, int64_t) { return i; }},
      {"tensor<?x2xf32>", {3, 2}, [](int64_t i, int64_t j) { return i * 2 + j / 4; }}};
  for (const Case &test : cases) {
    Tensor x = Tensor::random(DType::f32, {m, k}, 8, 2000), scale(DType::f32, test.shape);
    for (int64_t i = 0; i < scale.size(); ++i)
      scale.set(i, 0.3f + 0.7f * float(i));
    Tensor q(DType::i8, {m, k}), back(DType::bf16, {m, k});
    run(llvm::formatv(R"(
      func.func @main(%x: tensor<?x8xf32>, %s: {0}) -> (tensor<?x8xi8>, tensor<?x8xbf16>) {{
        %q = sf.quantize %x, %s : tensor<?x8xf32>, {0} -> tensor<?x8xi8>
        %b = sf.dequantize %q, %s : tensor<?x8xi8>, {0} -> tensor<?x8xbf16>
        return %q, %b : tensor<?x8xi8>, tensor<?x8xbf16>
      })",
                      test.type)
            .str(),
        {x.host(), scale.host()}, {q.host(), back.host()});
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < k; ++j) {
        float s = scale[test.index(i, j)];
        ASSERT_EQ(q[i * k + j], roundTo(DType::i8, x[i * k + j] / s)) << test.type;
        ASSERT_EQ(back[i * k + j], roundTo(DType::bf16, q[i * k + j] * s)) << test.type;
      }
  }
}

//===----------------------------------------------------------------------===//
// Narrow floats
//===----------------------------------------------------------------------===//

// Every rounding decision of every format, through the compiled conversions.
TEST_F(ReferenceExecutorTest, conversions_round_like_apfloat) {
  std::vector<float> values;
  for (uint32_t high = 0; high < 0x10000; ++high)
    for (uint32_t low : {0u, 1u, 0x0fffu, 0x1000u, 0x1001u, 0x8000u, 0x8001u}) {
      uint32_t bits = high << 16 | low;
      float value;
      std::memcpy(&value, &bits, sizeof value);
      values.push_back(value);
    }
  int64_t count = int64_t(values.size());
  // Without saturation, which the host library's 8-bit floats have.
  auto convert = [&](DType dtype, float value) -> float {
    using llvm::APFloat;
    const llvm::fltSemantics &semantics = dtype == DType::f16    ? APFloat::IEEEhalf()
                                          : dtype == DType::bf16 ? APFloat::BFloat()
                                          : dtype == DType::e4m3 ? APFloat::Float8E4M3FN()
                                                                 : APFloat::Float8E5M2();
    APFloat narrow(value);
    bool losesInfo;
    narrow.convert(semantics, APFloat::rmNearestTiesToEven, &losesInfo);
    return narrow.convertToFloat();
  };
  for (DType dtype : {DType::f16, DType::bf16, DType::e4m3, DType::e5m2}) {
    Tensor in(DType::f32, {count, 1}), narrow(dtype, {count, 1}), out(DType::f32, {count, 1});
    std::memcpy(in.bytes.data(), values.data(), in.bytes.size());
    run(llvm::formatv(R"(
      func.func @main(%x: tensor<?x1xf32>) -> (tensor<?x1x{0}>, tensor<?x1xf32>) {{
        %0 = arith.truncf %x : tensor<?x1xf32> to tensor<?x1x{0}>
        %1 = arith.extf %0 : tensor<?x1x{0}> to tensor<?x1xf32>
        return %0, %1 : tensor<?x1x{0}>, tensor<?x1xf32>
      })",
                      mlirName(dtype))
            .str(),
        {in.host()}, {narrow.host(), out.host()});
    for (int64_t i = 0; i < count; ++i) {
      float expected = convert(dtype, values[i]);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(out[i])) << values[i];
        ASSERT_TRUE(std::isnan(narrow[i])) << values[i];
        continue;
      }
      ASSERT_EQ(out[i], expected) << values[i];
      ASSERT_EQ(narrow[i], expected) << values[i];
    }
  }
}

TEST_F(ReferenceExecutorTest, arithmetic_on_f16_tensors_rounds_each_result) {
  Tensor x = Tensor::random(DType::f16, {4, 3}, 9), y(DType::f16, {4, 3});
  run(R"(
    func.func @main(%x: tensor<?x3xf16>) -> tensor<?x3xf16> {
      %0 = arith.mulf %x, %x : tensor<?x3xf16>
      %1 = math.exp %0 : tensor<?x3xf16>
      return %1 : tensor<?x3xf16>
    })",
      {x.host()}, {y.host()});
  for (int64_t i = 0; i < x.size(); ++i)
    EXPECT_EQ(y[i], roundTo(DType::f16, std::exp(roundTo(DType::f16, x[i] * x[i]))));
}

TEST_F(ReferenceExecutorTest, a_fused_product_of_f16_is_taken_in_f32) {
  Tensor x = Tensor::random(DType::f16, {4, 3}, 10), y(DType::f16, {4, 3});
  run(R"(
    func.func @main(%x: tensor<?x3xf16>) -> tensor<?x3xf16> {
      %0 = math.fma %x, %x, %x : tensor<?x3xf16>
      return %0 : tensor<?x3xf16>
    })",
      {x.host()}, {y.host()});
  for (int64_t i = 0; i < x.size(); ++i)
    EXPECT_EQ(y[i], roundTo(DType::f16, x[i] * x[i] + x[i]));
}

TEST_F(ReferenceExecutorTest, integers_divided_by_zero_do_not_end_the_process) {
  Tensor x(DType::i32, {1, 3}), y(DType::i32, {1, 3}), z(DType::i32, {1, 3});
  for (auto [i, values] : llvm::enumerate(
           std::vector<std::pair<float, float>>{{7, 0}, {-2147483648.0f, -1}, {7, 2}})) {
    x.set(i, values.first);
    y.set(i, values.second);
  }
  run(R"(
    func.func @main(%x: tensor<?x3xi32>, %y: tensor<?x3xi32>) -> tensor<?x3xi32> {
      %0 = arith.divsi %x, %y : tensor<?x3xi32>
      return %0 : tensor<?x3xi32>
    })",
      {x.host(), y.host()}, {z.host()});
  EXPECT_EQ(z[0], 7);
  EXPECT_EQ(z[1], -2147483648.0f);
  EXPECT_EQ(z[2], 3);
}

//===----------------------------------------------------------------------===//
// Graphs, constants, memory
//===----------------------------------------------------------------------===//

TEST_F(ReferenceExecutorTest, graph_of_several_operations_and_functions) {
  Tensor x = Tensor::random(DType::f16, {7, 8}, 1);
  Tensor w1 = Tensor::random(DType::f16, {12, 8}, 2), w2 = Tensor::random(DType::f16, {4, 12}, 3);
  Tensor y(DType::f16, {7, 4});
  run(R"(
    func.func private @layer(%x: tensor<?x8xf16>, %w: tensor<12x8xf16>) -> tensor<?x12xf16> {
      %0 = sf.matmul %x, %w : (tensor<?x8xf16>, tensor<12x8xf16>) -> tensor<?x12xf16>
      return %0 : tensor<?x12xf16>
    }
    func.func @main(%x: tensor<?x8xf16>, %w1: tensor<12x8xf16>, %w2: tensor<4x12xf16>) -> tensor<?x4xf16> {
      %0 = call @layer(%x, %w1) : (tensor<?x8xf16>, tensor<12x8xf16>) -> tensor<?x12xf16>
      %1 = sf.matmul %0, %w2 : (tensor<?x12xf16>, tensor<4x12xf16>) -> tensor<?x4xf16>
      return %1 : tensor<?x4xf16>
    })",
      {x.host(), w1.host(), w2.host()}, {y.host()});
  Tensor h(DType::f16, {7, 12});
  std::vector<double> first = multiply(x, w1);
  for (int64_t i = 0; i < h.size(); ++i)
    h.set(i, float(first[i]));
  expectEqual(y, multiply(h, w2));
}

TEST_F(ReferenceExecutorTest, constants_may_be_in_the_module) {
  // Group (1, 0, 0, 2), then (0, 3, 4, 0): values, then a bitmask of 1001 and 0110.
  Tensor x = Tensor::random(DType::i8, {3, 8}, 1), y(DType::i32, {3, 1});
  run(R"(
    func.func @main(%x: tensor<?x8xi8>) -> tensor<?x1xi32> {
      %w = arith.constant dense_resource<w> : tensor<1x8xi8, #sf.weight<sp24>>
      %bias = arith.constant dense<5> : tensor<1xi32>
      %y = sf.matmul %x, %w epilogue(%bias : tensor<1xi32>) {
      ^bb0(%acc: i32, %b: i32):
        %0 = arith.addi %acc, %b : i32
        sf.yield %0 : i32
      } : (tensor<?x8xi8>, tensor<1x8xi8, #sf.weight<sp24>>) -> tensor<?x1xi32>
      return %y : tensor<?x1xi32>
    }
    {-# dialect_resources: { builtin: { w: "0x010000000102030469" } } #-})",
      {x.host()}, {y.host()});
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_EQ(y[i], x[i * 8] + 2 * x[i * 8 + 3] + 3 * x[i * 8 + 5] + 4 * x[i * 8 + 6] + 5);
}

TEST_F(ReferenceExecutorTest, constants_may_be_found_by_name) {
  Tensor w = pruned(Tensor::random(DType::f16, {6, 16}, 4)), storage = stored(w, true, false);
  size_t split = WeightFormat{DType::f16, 6, 16, true, std::nullopt}.valuesBytes();
  ReferenceOptions options;
  options.findConstant =
      [&](llvm::StringRef name) -> llvm::Expected<llvm::SmallVector<llvm::ArrayRef<char>, 2>> {
    if (name != "layer.w")
      return llvm::createStringError("no tensor '" + name + "'");
    llvm::ArrayRef<char> bytes = storage.bytes;
    return llvm::SmallVector<llvm::ArrayRef<char>, 2>{bytes.take_front(split),
                                                      bytes.drop_front(split)};
  };
  constexpr const char *text = R"(
    func.func @main(%x: tensor<?x16xf16>) -> tensor<?x6xf32> {{
      %w = arith.constant dense_resource<{0}> : tensor<6x16xf16, #sf.weight<sp24>>
      %y = sf.matmul %x, %w : (tensor<?x16xf16>, tensor<6x16xf16, #sf.weight<sp24>>) -> tensor<?x6xf32>
      return %y : tensor<?x6xf32>
    })";
  auto executor = compile(llvm::formatv(text, "\"layer.w\"").str(), options);
  ASSERT_TRUE(bool(executor)) << llvm::toString(executor.takeError());
  Tensor x = Tensor::random(DType::f16, {5, 16}, 5), y(DType::f32, {5, 6});
  ASSERT_EQ(llvm::toString((*executor)->run({x.host()}, {y.host()})), "");
  expectEqual(y, multiply(x, w));

  auto failed = compile(llvm::formatv(text, "other").str(), options);
  ASSERT_FALSE(bool(failed));
  EXPECT_EQ(llvm::toString(failed.takeError()), "reference: no tensor 'other'");
}

TEST_F(ReferenceExecutorTest, rows_may_be_apart) {
  int64_t m = 5, k = 8, n = 3;
  Tensor x = Tensor::random(DType::f16, {m, k}, 1), w = Tensor::random(DType::f16, {n, k}, 2);
  Tensor wideX(DType::f16, {m, 20}), wideY(DType::f16, {m, 9});
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < k; ++j)
      wideX.set(i * 20 + j, x[i * k + j]);
  for (int64_t i = 0; i < wideY.size(); ++i)
    wideY.set(i, 99);
  std::vector<int64_t> xShape = {m, k}, yShape = {m, n}, xStrides = {20, 1}, yStrides = {9, 1};
  run(llvm::formatv(kMatmul, k, n, "f16", "f16", "").str(),
      {{wideX.bytes.data(), DType::f16, xShape, xStrides}, w.host()},
      {{wideY.bytes.data(), DType::f16, yShape, yStrides}});
  std::vector<double> expected = multiply(x, w);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < 9; ++j)
      EXPECT_EQ(wideY[i * 9 + j], j < n ? roundTo(DType::f16, float(expected[i * n + j])) : 99);
}

TEST_F(ReferenceExecutorTest, no_tokens_may_have_any_stride) {
  Tensor w = Tensor::random(DType::f16, {3, 8}, 2);
  std::vector<int64_t> xShape = {0, 8}, yShape = {0, 3}, xStrides = {64, 0}, yStrides = {0, 0};
  run(llvm::formatv(kMatmul, 8, 3, "f16", "f16", "").str(),
      {{nullptr, DType::f16, xShape, xStrides}, w.host()},
      {{nullptr, DType::f16, yShape, yStrides}});
}

TEST_F(ReferenceExecutorTest, input_returned_as_it_is) {
  Tensor x = Tensor::random(DType::e4m3, {3, 4}, 1), y(DType::e4m3, {3, 4});
  run("func.func @main(%x: tensor<?x4xf8E4M3FN>) -> tensor<?x4xf8E4M3FN> { return %x : "
      "tensor<?x4xf8E4M3FN> }",
      {x.host()}, {y.host()});
  EXPECT_EQ(x.bytes, y.bytes);
}

TEST_F(ReferenceExecutorTest, threads_share_one_executor) {
  auto executor = compile(llvm::formatv(kMatmul, 64, 32, "f16", "f32", "").str());
  ASSERT_TRUE(bool(executor)) << llvm::toString(executor.takeError());
  std::vector<std::thread> threads;
  std::vector<int> equal(4, 0);
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      Tensor x = Tensor::random(DType::f16, {16 + t, 64}, t),
             w = Tensor::random(DType::f16, {32, 64}, 9);
      Tensor y(DType::f32, {16 + t, 32});
      llvm::cantFail((*executor)->run({x.host(), w.host()}, {y.host()}));
      std::vector<double> expected = multiply(x, w);
      equal[t] = 1;
      for (int64_t i = 0; i < y.size(); ++i)
        equal[t] &= y[i] == float(expected[i]);
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(equal, std::vector<int>(4, 1));
}

//===----------------------------------------------------------------------===//
// Objections
//===----------------------------------------------------------------------===//

TEST_F(ReferenceExecutorTest, tensors_that_do_not_fit_are_errors) {
  auto executor = compile(R"(
    func.func @main(%x: tensor<?x4xf16> {sf.name = "x"}, %r: tensor<?x4xf16>) -> tensor<?x4xf16> {
      %0 = arith.addf %x, %r : tensor<?x4xf16>
      return %0 : tensor<?x4xf16>
    })");
  ASSERT_TRUE(bool(executor)) << llvm::toString(executor.takeError());
  EXPECT_EQ((*executor)->getInputs()[0].name, "x");
  EXPECT_EQ((*executor)->getOutputs()[0].shape, (std::vector<int64_t>{kDynamicTokens, 4}));
  Tensor x(DType::f16, {3, 4}), wrongType(DType::bf16, {3, 4}), wrongShape(DType::f16, {3, 5});
  Tensor other(DType::f16, {2, 4});
  auto message = [&](HostTensor a, HostTensor b, HostTensor c) {
    return llvm::toString((*executor)->run({a, b}, {c}));
  };
  EXPECT_EQ(message(wrongType.host(), x.host(), x.host()),
            "reference: expected x to be f16, got bf16");
  EXPECT_EQ(message(x.host(), wrongShape.host(), x.host()),
            "reference: expected input 1 to be of the shape [M, 4], got [3, 5]");
  EXPECT_EQ(message(x.host(), other.host(), x.host()),
            "reference: expected input 1 to be of M = 3 tokens like the others, got 2");
  EXPECT_EQ(message(x.host(), x.host(), other.host()),
            "reference: expected output 0 to be of M = 3 tokens like the others, got 2");
  HostTensor null = x.host();
  null.data = nullptr;
  EXPECT_EQ(message(null, x.host(), x.host()),
            "reference: expected x to be in memory, got a null pointer");
  std::vector<int64_t> strides = {2, 1};
  HostTensor overlapping = x.host();
  overlapping.strides = strides;
  EXPECT_EQ(message(overlapping, x.host(), x.host()),
            "reference: expected x to be contiguous, or a matrix of contiguous rows that do not "
            "overlap, got the strides [2, 1]");
  EXPECT_EQ(llvm::toString((*executor)->run({x.host()}, {x.host()})),
            "reference: expected 2 inputs and 1 outputs, got 1 and 1");
}

TEST_F(ReferenceExecutorTest, functions_that_cannot_be_run_are_errors) {
  EXPECT_EQ(compileError("func.func @other() { return }"),
            "reference: expected a function of the module, got 'main'; the module has other");
  EXPECT_EQ(compileError("func.func @main(%x: tensor<4x?xf16>) { return }"),
            "reference: expected input 0 to be dynamic in the first dimension alone, got "
            "tensor<4x?xf16>");
  EXPECT_EQ(compileError("func.func @main(%x: tensor<4xi1>) { return }"),
            "reference: expected input 0 to be a tensor of f16, bf16, f32, i8, i32, f8E4M3FN or "
            "f8E5M2, got tensor<4xi1>");
  EXPECT_EQ(compileError("func.func @main(%x: f32) { return }"),
            "reference: expected input 0 to be a ranked tensor, got f32");
  std::string message = compileError(R"(
    func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
      %0 = call @main(%x) : (tensor<4xf32>) -> tensor<4xf32>
      return %0 : tensor<4xf32>
    })");
  EXPECT_NE(message.find("does not call itself"), std::string::npos) << message;
}

//===----------------------------------------------------------------------===//
// Speed
//===----------------------------------------------------------------------===//

TEST_F(ReferenceExecutorTest, product_of_512_is_fast) {
  Tensor x = Tensor::random(DType::f16, {512, 512}, 1),
         w = Tensor::random(DType::f16, {512, 512}, 2);
  Tensor y(DType::f16, {512, 512});
  auto start = std::chrono::steady_clock::now();
  run(llvm::formatv(kMatmul, 512, 512, "f16", "f16", "").str(), {x.host(), w.host()}, {y.host()});
  std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  RecordProperty("seconds", std::to_string(elapsed.count()));
  EXPECT_LT(elapsed.count(), 3.0); // 0.08 on an idle core
}

} // namespace
