//===- Sparse24Test.cpp - The canonical form of a 2:4 weight --------------===//

#include "sparseflow/Support/Sparse24.h"

#include "llvm/Support/raw_ostream.h"
#include "gtest/gtest.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

using namespace sparseflow;

namespace {

struct Canonical {
  std::vector<char> values;
  std::vector<uint8_t> bitmask;
  std::string error;
};

Canonical compress(DType type, int64_t n, int64_t k, const void *dense, CompressMode mode) {
  Canonical result;
  result.values.resize(canonicalValuesBytes(n, k, type));
  result.bitmask.resize(canonicalBitmaskBytes(n, k));
  result.error = llvm::toString(
      compress24(type, n, k, dense, mode, result.values.data(), result.bitmask.data()));
  return result;
}

Canonical compressFloats(const std::vector<float> &dense, CompressMode mode) {
  return compress(DType::f32, 1, dense.size(), dense.data(), mode);
}

std::vector<float> valuesOf(const Canonical &canonical) {
  std::vector<float> values(canonical.values.size() / sizeof(float));
  std::memcpy(values.data(), canonical.values.data(), canonical.values.size());
  return values;
}

std::vector<char> randomDense(DType type, int64_t n, int64_t k, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> small(-20, 20);
  std::vector<char> dense(size_t(n * k) * getByteWidth(type));
  for (int64_t i = 0; i < n * k; ++i)
    storeFromFloat(type, dense.data(), i,
                   type == DType::u8 ? std::abs(small(random)) : small(random));
  return dense;
}

constexpr DType kAllTypes[] = {DType::f16,  DType::bf16, DType::f32, DType::i8,
                               DType::e4m3, DType::e5m2, DType::i32, DType::u8};

TEST(Sparse24, keeps_the_two_largest_magnitudes) {
  Canonical result = compressFloats({1, -4, 3, 2, 5, 0, -6, 7}, CompressMode::Prune);
  EXPECT_EQ(result.error, "");
  EXPECT_EQ(valuesOf(result), (std::vector<float>{-4, 3, -6, 7}));
  EXPECT_EQ(result.bitmask[0], 0b1100'0110);
}

TEST(Sparse24, ties_go_to_the_lower_position) {
  EXPECT_EQ(compressFloats({2, -2, 2, 2}, CompressMode::Prune).bitmask[0], 0b0011);
  EXPECT_EQ(compressFloats({1, 2, -1, 1}, CompressMode::Prune).bitmask[0], 0b0011);
  EXPECT_EQ(compressFloats({0, 1, 3, -1}, CompressMode::Prune).bitmask[0], 0b0110);
}

TEST(Sparse24, short_group_keeps_zeros_at_the_lowest_free_positions) {
  EXPECT_EQ(compressFloats({0, 0, 0, 0}, CompressMode::Verify).bitmask[0], 0b0011);
  EXPECT_EQ(compressFloats({0, 0, 0, 9}, CompressMode::Verify).bitmask[0], 0b1001);
  EXPECT_EQ(compressFloats({9, 0, 0, 0}, CompressMode::Verify).bitmask[0], 0b0011);
  EXPECT_EQ(valuesOf(compressFloats({0, 0, 9, 0}, CompressMode::Verify)),
            (std::vector<float>{0, 9}));
}

TEST(Sparse24, negative_zero_becomes_zero) {
  for (CompressMode mode : {CompressMode::Verify, CompressMode::Prune}) {
    Canonical result = compressFloats({-0.0f, 1, -0.0f, -0.0f}, mode);
    EXPECT_EQ(result.error, "");
    EXPECT_FALSE(std::signbit(valuesOf(result)[0]));
    EXPECT_EQ(result.bitmask[0], 0b0011);
  }
}

TEST(Sparse24, int8_magnitude_of_the_minimum_is_largest) {
  int8_t dense[4] = {127, -128, 1, 127};
  EXPECT_EQ(compress(DType::i8, 1, 4, dense, CompressMode::Prune).bitmask[0], 0b0011);
  int8_t last[4] = {1, 127, 127, -128};
  EXPECT_EQ(compress(DType::i8, 1, 4, last, CompressMode::Prune).bitmask[0], 0b1010);
}

TEST(Sparse24, verify_names_the_first_offence_and_the_count) {
  std::vector<float> dense(3 * 12, 0.0f);
  for (int column : {4, 5, 6, 7})
    dense[1 * 12 + column] = 1;
  for (int column : {0, 1, 2})
    dense[2 * 12 + column] = 1;
  Canonical result = compress(DType::f32, 3, 12, dense.data(), CompressMode::Verify);
  EXPECT_EQ(result.error,
            "expected at most 2 nonzeros in each group of 4 along K, got 4 in row 1, "
            "group 1 (columns 4 to 7), and 2 such groups in all; prune the weight first");
  EXPECT_EQ(llvm::toString(validate24(DType::f32, 3, 12, dense.data())), result.error);

  llvm::Expected<Sparse24Report> report = inspect24(DType::f32, 3, 12, dense.data());
  ASSERT_TRUE(bool(report));
  EXPECT_EQ(report->offendingGroups, 2);
  EXPECT_FALSE(report->isValid());
}

TEST(Sparse24, non_finite_value_is_an_error_in_every_mode) {
  for (DType type : {DType::f16, DType::bf16, DType::f32, DType::e4m3, DType::e5m2})
    for (CompressMode mode : {CompressMode::Verify, CompressMode::Prune}) {
      std::vector<char> dense(2 * 8 * 4, 0);
      // All ones without the sign is NaN in every format.
      char *element = dense.data() + (8 + 5) * getByteWidth(type);
      std::memset(element, 0xff, getByteWidth(type));
      EXPECT_EQ(compress(type, 2, 8, dense.data(), mode).error,
                "expected finite weights, got nan at row 1, column 5 (1 value is not finite)");
    }
  float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(compressFloats({0, -infinity, infinity, 0}, CompressMode::Prune).error,
            "expected finite weights, got -inf at row 0, column 1 (2 values are not finite)");
}

TEST(Sparse24, largest_finite_float8_is_no_offence) {
  uint8_t e4m3[4] = {0x7e, 0xfe, 0, 0}, e5m2[4] = {0x7b, 0xfb, 0, 0};
  EXPECT_EQ(compress(DType::e4m3, 1, 4, e4m3, CompressMode::Verify).error, "");
  EXPECT_EQ(compress(DType::e5m2, 1, 4, e5m2, CompressMode::Verify).error, "");
}

TEST(Sparse24, inner_size_must_be_a_multiple_of_four) {
  EXPECT_EQ(compress(DType::f32, 0, 6, nullptr, CompressMode::Verify).error,
            "expected K to be a multiple of 4 for 2:4, got 6; pad K to 8");
}

TEST(Sparse24, decompress_inverts_compress_for_every_type_and_shape) {
  for (DType type : kAllTypes)
    for (auto [n, k] :
         {std::pair<int64_t, int64_t>{0, 8}, {5, 0}, {1, 4}, {3, 12}, {17, 64}, {64, 260}}) {
      std::vector<char> dense = randomDense(type, n, k, unsigned(n * 1000 + k));
      ASSERT_EQ(llvm::toString(prune24(type, n, k, dense.data())), "");
      EXPECT_EQ(llvm::toString(validate24(type, n, k, dense.data())), "");
      Canonical canonical = compress(type, n, k, dense.data(), CompressMode::Verify);
      ASSERT_EQ(canonical.error, "");
      EXPECT_EQ(llvm::toString(validateBitmask24(n, k, canonical.bitmask.data())), "");
      std::vector<char> back(dense.size(), 1);
      ASSERT_EQ(llvm::toString(decompress24(type, n, k, canonical.values.data(),
                                            canonical.bitmask.data(), back.data())),
                "");
      EXPECT_EQ(back, dense) << stringifyDType(type).str() << ' ' << n << 'x' << k;
    }
}

TEST(Sparse24, compressing_with_pruning_equals_pruning_then_compressing) {
  for (DType type : kAllTypes) {
    std::vector<char> dense = randomDense(type, 32, 100, 7), pruned = dense;
    ASSERT_EQ(llvm::toString(prune24(type, 32, 100, pruned.data())), "");
    Canonical direct = compress(type, 32, 100, dense.data(), CompressMode::Prune);
    Canonical twoSteps = compress(type, 32, 100, pruned.data(), CompressMode::Verify);
    EXPECT_EQ(direct.values, twoSteps.values);
    EXPECT_EQ(direct.bitmask, twoSteps.bitmask);
  }
}

TEST(Sparse24, arrays_need_not_be_aligned) {
  std::vector<char> dense = randomDense(DType::f32, 3, 20, 8);
  Canonical aligned = compress(DType::f32, 3, 20, dense.data(), CompressMode::Prune);
  std::vector<char> shifted(dense.size() + 1), values(aligned.values.size() + 1);
  std::vector<uint8_t> bitmask(aligned.bitmask.size());
  std::memcpy(shifted.data() + 1, dense.data(), dense.size());
  ASSERT_EQ(llvm::toString(compress24(DType::f32, 3, 20, shifted.data() + 1, CompressMode::Prune,
                                      values.data() + 1, bitmask.data())),
            "");
  EXPECT_EQ(std::vector<char>(values.begin() + 1, values.end()), aligned.values);
  EXPECT_EQ(llvm::toString(decompress24(DType::f32, 3, 20, values.data() + 1, bitmask.data(),
                                        shifted.data() + 1)),
            "");
}

TEST(Sparse24, damaged_bitmask_is_rejected) {
  uint8_t bitmask[2] = {0x33, 0x03};
  EXPECT_EQ(llvm::toString(validateBitmask24(1, 12, bitmask)), "");
  bitmask[1] = 0x33;
  EXPECT_EQ(llvm::toString(validateBitmask24(1, 12, bitmask)),
            "expected 0 mask bits in row 0, group 3 of a 2:4 bitmask, got 2");
  bitmask[1] = 0x07;
  float values[6] = {}, dense[12];
  EXPECT_EQ(llvm::toString(decompress24(DType::f32, 1, 12, values, bitmask, dense)),
            "expected 2 mask bits in row 0, group 2 of a 2:4 bitmask, got 3");
}

TEST(Sparse24, nibbles_are_the_six_legal_ones) {
  std::vector<uint8_t> legal;
  for (unsigned mask = 0; mask < 16; ++mask)
    if (uint8_t nibble = maskToNibble24(mask)) {
      EXPECT_EQ(nibbleToMask24(nibble), mask);
      legal.push_back(nibble);
    }
  EXPECT_EQ(legal, (std::vector<uint8_t>{0x4, 0x8, 0x9, 0xc, 0xd, 0xe}));
  EXPECT_EQ(nibbleToMask24(0x5), 0);
  EXPECT_EQ(nibbleToMask24(0x1), 0);
}

// A guard against an accidentally quadratic or branchy loop, far above what the code needs.
TEST(Sparse24, compresses_a_large_weight_quickly) {
  std::vector<char> dense = randomDense(DType::f16, 4096, 4096, 3);
  auto start = std::chrono::steady_clock::now();
  Canonical result = compress(DType::f16, 4096, 4096, dense.data(), CompressMode::Prune);
  std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(result.error, "");
  RecordProperty("milliseconds", std::to_string(elapsed.count()));
  llvm::outs() << "compress 4096x4096 f16: " << elapsed.count() << " ms\n";
  EXPECT_LT(elapsed.count(), 1000);
}

} // namespace
