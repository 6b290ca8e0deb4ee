//===- NumericTypes.cpp - Element types and their conversions -------------===//
//
// The narrow formats differ in two numbers, so one pair of templates serves them all. Rounding
// happens in the integer domain for normal results and in one float addition for subnormal ones.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Support/NumericTypes.h"

#include "llvm/ADT/bit.h"
#include "llvm/Support/ErrorHandling.h"

#include <array>
#include <cmath>
#include <cstring>

using llvm::bit_cast;
using llvm::StringRef;

namespace sparseflow {
namespace {

// In the order of the enumeration.
constexpr StringRef kDTypes[] = {"f16", "bf16", "f32", "i8", "e4m3", "e5m2", "i32", "u8"};

/// A binary format with subnormals, of at most 16 bits. `FiniteOnly`: the highest exponent holds
/// finite values too, and all ones is NaN (e4m3fn); otherwise it holds infinity and NaN, as in IEEE
/// 754.
template <unsigned ExponentBits, unsigned MantissaBits, bool FiniteOnly> struct Narrow {
  static constexpr unsigned kBias = (1u << (ExponentBits - 1)) - 1;
  static constexpr unsigned kShift = 23 - MantissaBits;
  static constexpr uint32_t kMagnitude = (1u << (ExponentBits + MantissaBits)) - 1;
  static constexpr uint32_t kInfinity = ((1u << ExponentBits) - 1) << MantissaBits;
  /// The pattern of overflow without saturation, and the largest finite one.
  static constexpr uint32_t kOverflow = FiniteOnly ? kMagnitude : kInfinity;
  static constexpr uint32_t kMaxFinite = kOverflow - 1;
  static constexpr uint32_t kNaN = FiniteOnly ? kMagnitude : kInfinity | (1u << (MantissaBits - 1));

  static uint32_t encode(float value, bool saturate) {
    uint32_t bits = bit_cast<uint32_t>(value);
    uint32_t sign = bits >> 31 << (ExponentBits + MantissaBits);
    bits &= 0x7fffffffu;
    // Adding 2^k aligns a subnormal result's lowest bit with the sum's, so that the addition rounds
    // it.
    constexpr uint32_t kSubnormalMagic = (127 - kBias + kShift + 1) << 23;
    constexpr uint32_t kSmallestNormal = (127 - kBias + 1) << 23;
    constexpr uint32_t kBeyondRange = (127 - kBias + (1u << ExponentBits)) << 23;
    uint32_t result;
    if (bits > 0x7f800000u)
      return sign | kNaN;
    if (bits >= kBeyondRange) {
      result = kOverflow;
    } else if (bits < kSmallestNormal) {
      float sum = bit_cast<float>(bits) + bit_cast<float>(kSubnormalMagic);
      result = bit_cast<uint32_t>(sum) - kSubnormalMagic;
    } else {
      uint32_t odd = bits >> kShift & 1;
      bits += (1u << (kShift - 1)) - 1 + odd;
      result = (bits >> kShift) - ((127 - kBias) << MantissaBits);
    }
    if (result > kMaxFinite)
      result = saturate ? kMaxFinite : kOverflow;
    return sign | result;
  }

  static float decode(uint32_t bits) {
    constexpr uint32_t kRebias = (127 - kBias) << 23;
    uint32_t sign = bits >> (ExponentBits + MantissaBits) << 31, magnitude = bits & kMagnitude;
    uint32_t wide = magnitude << kShift;
    if (FiniteOnly ? magnitude == kMagnitude : magnitude >= kInfinity)
      return bit_cast<float>(sign | 0x7f800000u | (FiniteOnly ? 0x400000u : wide & 0x7fffffu));
    if (magnitude < (1u << MantissaBits)) {
      // A subnormal: give it the smallest normal's exponent, then take the implicit one away again.
      constexpr uint32_t kSmallestNormal = kRebias + (1u << 23);
      float value = bit_cast<float>(wide | kSmallestNormal) - bit_cast<float>(kSmallestNormal);
      return bit_cast<float>(bit_cast<uint32_t>(value) | sign);
    }
    return bit_cast<float>((wide + kRebias) | sign);
  }
};

using F16 = Narrow<5, 10, false>;
using E4M3 = Narrow<4, 3, true>;
using E5M2 = Narrow<5, 2, false>;

template <typename Format> const std::array<float, 256> &decodeTable() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> values;
    for (unsigned bits = 0; bits < 256; ++bits)
      values[bits] = Format::decode(bits);
    return values;
  }();
  return table;
}

/// Rounds to nearest even and clamps to a range within +-2^22; NaN gives 0.
int32_t roundToSmallInt(float value, float low, float high) {
  if (std::isnan(value))
    return 0;
  value = value < low ? low : value > high ? high : value;
  // In [2^23, 2^24) a float's unit is 1, so the addition does the rounding.
  return int32_t(bit_cast<uint32_t>(value + 12582912.0f) - 0x4b400000u);
}

int32_t roundToI32(float value) {
  if (std::isnan(value))
    return 0;
  if (value >= 2147483648.0f)
    return INT32_MAX;
  if (value <= -2147483648.0f)
    return INT32_MIN;
  return int32_t(std::nearbyint(value));
}

} // namespace

StringRef stringifyDType(DType type) { return kDTypes[unsigned(type)]; }

std::optional<DType> parseDType(StringRef name) {
  for (unsigned index = 0; index < std::size(kDTypes); ++index)
    if (name == kDTypes[index])
      return DType(index);
  return std::nullopt;
}

float f16ToFloat(uint16_t bits) { return F16::decode(bits); }
float bf16ToFloat(uint16_t bits) { return bit_cast<float>(uint32_t(bits) << 16); }
float e4m3ToFloat(uint8_t bits) { return decodeTable<E4M3>()[bits]; }
float e5m2ToFloat(uint8_t bits) { return decodeTable<E5M2>()[bits]; }

uint16_t floatToF16(float value) { return F16::encode(value, /*saturate=*/false); }
uint16_t floatToBF16(float value) {
  uint32_t bits = bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return bits >> 16 | 0x40; // A payload in the low half alone must not turn into infinity.
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
uint8_t floatToE4M3Sat(float value) { return E4M3::encode(value, /*saturate=*/true); }
uint8_t floatToE5M2Sat(float value) { return E5M2::encode(value, /*saturate=*/true); }
int8_t floatToI8Sat(float value) { return int8_t(roundToSmallInt(value, -128.0f, 127.0f)); }

void convertToFloat(DType type, const void *source, float *target, size_t count) {
  auto each = [&](auto element, auto convert) {
    using T = decltype(element);
    const auto *bytes = static_cast<const char *>(source);
    for (size_t i = 0; i < count; ++i) {
      T value;
      std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
      target[i] = convert(value);
    }
  };
  switch (type) {
  case DType::f16:
    return each(uint16_t(), f16ToFloat);
  case DType::bf16:
    return each(uint16_t(), bf16ToFloat);
  case DType::f32:
    if (count)
      std::memcpy(target, source, count * sizeof(float));
    return;
  case DType::i8:
    return each(int8_t(), [](int8_t value) { return float(value); });
  case DType::e4m3:
    return each(uint8_t(), e4m3ToFloat);
  case DType::e5m2:
    return each(uint8_t(), e5m2ToFloat);
  case DType::i32:
    return each(int32_t(), [](int32_t value) { return float(value); });
  case DType::u8:
    return each(uint8_t(), [](uint8_t value) { return float(value); });
  }
  llvm_unreachable("unknown element type");
}

void convertFromFloat(DType type, const float *source, void *target, size_t count) {
  auto each = [&](auto convert) {
    using T = decltype(convert(0.0f));
    auto *bytes = static_cast<char *>(target);
    for (size_t i = 0; i < count; ++i) {
      T value = convert(source[i]);
      std::memcpy(bytes + i * sizeof(T), &value, sizeof(T));
    }
  };
  switch (type) {
  case DType::f16:
    return each(floatToF16);
  case DType::bf16:
    return each(floatToBF16);
  case DType::f32:
    if (count)
      std::memcpy(target, source, count * sizeof(float));
    return;
  case DType::i8:
    return each(floatToI8Sat);
  case DType::e4m3:
    return each(floatToE4M3Sat);
  case DType::e5m2:
    return each(floatToE5M2Sat);
  case DType::i32:
    return each(roundToI32);
  case DType::u8:
    return each([](float value) { return uint8_t(roundToSmallInt(value, 0.0f, 255.0f)); });
  }
  llvm_unreachable("unknown element type");
}

float loadAsFloat(DType type, const void *data, size_t index) {
  float value;
  convertToFloat(type, static_cast<const char *>(data) + index * getByteWidth(type), &value, 1);
  return value;
}

void storeFromFloat(DType type, void *data, size_t index, float value) {
  convertFromFloat(type, &value, static_cast<char *>(data) + index * getByteWidth(type), 1);
}

} // namespace sparseflow
