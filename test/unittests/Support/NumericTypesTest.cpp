//===- NumericTypesTest.cpp - Conversions against LLVM's APFloat ----------===//

#include "sparseflow/Support/NumericTypes.h"

#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/bit.h"
#include "gtest/gtest.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

using namespace sparseflow;
using llvm::APFloat;

namespace {

uint64_t convertByAPFloat(float value, const llvm::fltSemantics &semantics) {
  APFloat result(value);
  bool losesInfo;
  result.convert(semantics, APFloat::rmNearestTiesToEven, &losesInfo);
  return result.bitcastToAPInt().getZExtValue();
}

/// Values around every rounding decision: all f16 patterns' neighbourhoods, and random patterns.
std::vector<float> interestingFloats() {
  std::vector<float> values = {0.0f,
                               -0.0f,
                               1e30f,
                               -1e30f,
                               464.0f,
                               465.0f,
                               448.0f,
                               61440.0f,
                               65519.9f,
                               65520.0f,
                               std::numeric_limits<float>::infinity(),
                               -std::numeric_limits<float>::infinity(),
                               std::numeric_limits<float>::denorm_min(),
                               std::numeric_limits<float>::max()};
  for (uint32_t high = 0; high < 0x10000; ++high)
    for (uint32_t low : {0u, 1u, 0x0fffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u})
      values.push_back(llvm::bit_cast<float>(high << 16 | low));
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i)
    values.push_back(llvm::bit_cast<float>(uint32_t(random())));
  return values;
}

template <typename Convert>
void expectLikeAPFloat(const llvm::fltSemantics &semantics, Convert convert, float limit) {
  for (float value : interestingFloats()) {
    if (std::isnan(value) || std::abs(value) > limit)
      continue;
    ASSERT_EQ(uint64_t(convert(value)), convertByAPFloat(value, semantics)) << value;
  }
}

constexpr float kNoLimit = std::numeric_limits<float>::infinity();

TEST(NumericTypes, names_round_trip) {
  for (unsigned index = 0; index < 8; ++index)
    EXPECT_EQ(parseDType(stringifyDType(DType(index))), DType(index));
  EXPECT_EQ(stringifyDType(DType::e4m3), "e4m3");
  EXPECT_FALSE(parseDType("f8").has_value());
  EXPECT_EQ(getByteWidth(DType::bf16), 2u);
}

TEST(NumericTypes, f16_rounds_like_apfloat) {
  expectLikeAPFloat(APFloat::IEEEhalf(), floatToF16, kNoLimit);
}
TEST(NumericTypes, bf16_rounds_like_apfloat) {
  expectLikeAPFloat(APFloat::BFloat(), floatToBF16, kNoLimit);
}
TEST(NumericTypes, e5m2_rounds_like_apfloat) {
  expectLikeAPFloat(APFloat::Float8E5M2(), floatToE5M2Sat, 57344);
}
TEST(NumericTypes, e4m3_rounds_like_apfloat) {
  expectLikeAPFloat(APFloat::Float8E4M3FN(), floatToE4M3Sat, 448);
}

TEST(NumericTypes, every_pattern_survives_the_round_trip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if (!std::isnan(f16ToFloat(bits)))
      ASSERT_EQ(floatToF16(f16ToFloat(bits)), bits);
    if (!std::isnan(bf16ToFloat(bits)))
      ASSERT_EQ(floatToBF16(bf16ToFloat(bits)), bits);
  }
  for (uint32_t bits = 0; bits < 0x100; ++bits) {
    if (!std::isnan(e4m3ToFloat(bits)))
      ASSERT_EQ(floatToE4M3Sat(e4m3ToFloat(bits)), bits);
    if (std::isfinite(e5m2ToFloat(bits)))
      ASSERT_EQ(floatToE5M2Sat(e5m2ToFloat(bits)), bits);
  }
}

TEST(NumericTypes, nan_stays_nan) {
  float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(f16ToFloat(floatToF16(nan))));
  EXPECT_TRUE(std::isnan(bf16ToFloat(floatToBF16(llvm::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(e4m3ToFloat(floatToE4M3Sat(nan))));
  EXPECT_TRUE(std::isnan(e5m2ToFloat(floatToE5M2Sat(nan))));
  EXPECT_EQ(floatToI8Sat(nan), 0);
}

TEST(NumericTypes, float8_saturates) {
  EXPECT_EQ(e4m3ToFloat(floatToE4M3Sat(1e9f)), 448.0f);
  EXPECT_EQ(e4m3ToFloat(floatToE4M3Sat(-470.0f)), -448.0f);
  EXPECT_EQ(e5m2ToFloat(floatToE5M2Sat(kNoLimit)), 57344.0f);
}

TEST(NumericTypes, i8_rounds_to_even_and_saturates) {
  EXPECT_EQ(floatToI8Sat(2.5f), 2);
  EXPECT_EQ(floatToI8Sat(3.5f), 4);
  EXPECT_EQ(floatToI8Sat(-2.5f), -2);
  EXPECT_EQ(floatToI8Sat(-0.4f), 0);
  EXPECT_EQ(floatToI8Sat(1e9f), 127);
  EXPECT_EQ(floatToI8Sat(-1e9f), -128);
}

TEST(NumericTypes, arrays_convert_in_every_type) {
  float values[] = {0.0f, 1.0f, 2.0f, 100.0f};
  for (unsigned index = 0; index < 8; ++index) {
    char bytes[16];
    float back[4];
    convertFromFloat(DType(index), values, bytes, 4);
    convertToFloat(DType(index), bytes, back, 4);
    for (int i = 0; i < 3; ++i)
      EXPECT_EQ(back[i], values[i]);
    storeFromFloat(DType(index), bytes, 3, 5.0f);
    EXPECT_EQ(loadAsFloat(DType(index), bytes, 3), 5.0f);
  }
  int32_t extremes[2];
  float large[2] = {3e9f, -3e9f};
  convertFromFloat(DType::i32, large, extremes, 2);
  EXPECT_EQ(extremes[0], INT32_MAX);
  EXPECT_EQ(extremes[1], INT32_MIN);
}

} // namespace
