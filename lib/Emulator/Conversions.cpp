//===- Conversions.cpp - The cvt family -----------------------------------===//
//
// Pairs: in a packed result the *first* operand is the high half, as in PTX; packed operands and
// results of the x2 forms keep their order.
//
//===----------------------------------------------------------------------===//

#include "Operations.h"

#include "sparseflow/Support/NumericTypes.h"

#include "llvm/ADT/bit.h"

#include <cmath>
#include <limits>

using namespace sparseflow;
using namespace sparseflow::emulator;

namespace {

float toFloat(uint64_t bits) { return llvm::bit_cast<float>(uint32_t(bits)); }

/// `relu` turns negative values into +0 and leaves NaN.
template <bool relu> float clampNegative(float value) { return relu && value < 0 ? 0.0f : value; }

//===----------------------------------------------------------------------===//
// To 16-bit and 8-bit floats
//===----------------------------------------------------------------------===//

uint16_t towardZero(float value, uint16_t nearest, float decoded) {
  return std::fabs(decoded) > std::fabs(value) ? nearest - 1 : nearest;
}

enum class Rounding { Nearest, Zero };

template <Rounding rounding, bool saturate> uint16_t encodeF16(float value) {
  uint16_t bits = floatToF16(value);
  if (rounding == Rounding::Zero && !std::isinf(value))
    bits = towardZero(value, bits, f16ToFloat(bits));
  if (saturate && (bits & 0x7fff) == 0x7c00)
    bits -= 1;
  return bits;
}
template <Rounding rounding, bool saturate> uint16_t encodeBF16(float value) {
  uint16_t bits = floatToBF16(value);
  if (rounding == Rounding::Zero && !std::isnan(value))
    bits = llvm::bit_cast<uint32_t>(value) >> 16;
  if (saturate && (bits & 0x7fff) == 0x7f80)
    bits -= 1;
  return bits;
}

template <uint16_t (*encode)(float), bool relu>
uint64_t single16(uint64_t a, uint64_t, uint64_t, uint64_t) {
  return encode(clampNegative<relu>(toFloat(a)));
}
template <uint16_t (*encode)(float), bool relu>
uint64_t pair16(uint64_t a, uint64_t b, uint64_t, uint64_t) {
  return encode(clampNegative<relu>(toFloat(b))) | uint32_t(encode(clampNegative<relu>(toFloat(a))))
                                                       << 16;
}
template <uint8_t (*encode)(float), bool relu>
uint64_t pair8(uint64_t a, uint64_t b, uint64_t, uint64_t) {
  return encode(clampNegative<relu>(toFloat(b))) | uint32_t(encode(clampNegative<relu>(toFloat(a))))
                                                       << 8;
}
template <uint8_t (*encode)(float), bool relu>
uint64_t halves8(uint64_t a, uint64_t, uint64_t, uint64_t) {
  return encode(clampNegative<relu>(f16ToFloat(uint16_t(a)))) |
         uint32_t(encode(clampNegative<relu>(f16ToFloat(uint16_t(a >> 16))))) << 8;
}
/// Every 8-bit float is an f16.
template <float (*decode)(uint8_t), bool relu>
uint64_t toHalves(uint64_t a, uint64_t, uint64_t, uint64_t) {
  return floatToF16(clampNegative<relu>(decode(uint8_t(a)))) |
         uint32_t(floatToF16(clampNegative<relu>(decode(uint8_t(a >> 8))))) << 16;
}

/// Ten mantissa bits: nearest with ties away (rna), nearest even (rn), or cut off (rz).
enum class TF32Rounding { Away, Even, Zero };
template <TF32Rounding rounding, bool relu>
uint64_t toTF32(uint64_t a, uint64_t, uint64_t, uint64_t) {
  float value = clampNegative<relu>(toFloat(a));
  uint32_t bits = llvm::bit_cast<uint32_t>(value);
  if (!std::isfinite(value))
    return bits;
  if (rounding == TF32Rounding::Away)
    bits += 0x1000;
  else if (rounding == TF32Rounding::Even)
    bits += 0xfff + (bits >> 13 & 1);
  return bits & 0xffffe000u;
}

//===----------------------------------------------------------------------===//
// Between floats and integers: saturating, NaN to zero
//===----------------------------------------------------------------------===//

struct ToNearest {
  static double apply(double x) { return std::nearbyint(x); }
};
struct ToZero {
  static double apply(double x) { return std::trunc(x); }
};
struct Down {
  static double apply(double x) { return std::floor(x); }
};
struct Up {
  static double apply(double x) { return std::ceil(x); }
};

template <typename Source> double decode(uint64_t bits);
template <> double decode<float>(uint64_t bits) { return toFloat(bits); }
template <> double decode<double>(uint64_t bits) { return llvm::bit_cast<double>(bits); }

template <typename Source, typename Integer, typename Rounding>
uint64_t toInteger(uint64_t a, uint64_t, uint64_t, uint64_t) {
  double value = Rounding::apply(decode<Source>(a));
  using Limits = std::numeric_limits<Integer>;
  Integer result = 0;
  if (value >= std::ldexp(1.0, Limits::digits))
    result = Limits::max();
  else if (value <= double(Limits::min()))
    result = Limits::min();
  else if (value == value)
    result = static_cast<Integer>(value);
  return static_cast<std::make_unsigned_t<Integer>>(result);
}

uint64_t encode(float value) { return llvm::bit_cast<uint32_t>(value); }
uint64_t encode(double value) { return llvm::bit_cast<uint64_t>(value); }
template <typename Integer, typename Target>
uint64_t fromInteger(uint64_t a, uint64_t, uint64_t, uint64_t) {
  return encode(static_cast<Target>(static_cast<Integer>(a)));
}

uint64_t doubleToFloat(uint64_t a, uint64_t, uint64_t, uint64_t) {
  return encode(static_cast<float>(decode<double>(a)));
}
uint64_t doubleLow(uint64_t a, uint64_t, uint64_t, uint64_t) { return uint32_t(a); }
uint64_t doubleHigh(uint64_t a, uint64_t, uint64_t, uint64_t) { return a >> 32; }
uint64_t joinDouble(uint64_t low, uint64_t high, uint64_t, uint64_t) {
  return uint32_t(low) | high << 32;
}

} // namespace

#define SF_TO_INTEGER(NAME, SOURCE, INTEGER)                                                       \
  {NAME ".rn", toInteger<SOURCE, INTEGER, ToNearest>},                                             \
      {NAME ".rz", toInteger<SOURCE, INTEGER, ToZero>},                                            \
      {NAME ".rm", toInteger<SOURCE, INTEGER, Down>}, {                                            \
    NAME ".rp", toInteger<SOURCE, INTEGER, Up>                                                     \
  }
#define SF_F_TO_INTEGER(NAME, INTEGER)                                                             \
  SF_TO_INTEGER(NAME, float, INTEGER), {NAME ".rn.ftz", toInteger<float, INTEGER, ToNearest>}, {   \
    NAME ".rz.ftz", toInteger<float, INTEGER, ToZero>                                              \
  }
#define SF_TO_16(NAME, FUNCTION, ENCODE)                                                           \
  {NAME ".rn", FUNCTION<ENCODE<Rounding::Nearest, false>, false>},                                 \
      {NAME ".rn.relu", FUNCTION<ENCODE<Rounding::Nearest, false>, true>},                         \
      {NAME ".rn.satfinite", FUNCTION<ENCODE<Rounding::Nearest, true>, false>},                    \
      {NAME ".rn.relu.satfinite", FUNCTION<ENCODE<Rounding::Nearest, true>, true>},                \
      {NAME ".rz", FUNCTION<ENCODE<Rounding::Zero, false>, false>}, {                              \
    NAME ".rz.relu", FUNCTION<ENCODE<Rounding::Zero, false>, true>                                 \
  }

llvm::ArrayRef<PureOp> sparseflow::emulator::getConversionOps() {
  static const PureOp ops[] = {
      SF_TO_16("f2f16", single16, encodeF16),
      SF_TO_16("f2bf16", single16, encodeBF16),
      SF_TO_16("ff2f16x2", pair16, encodeF16),
      SF_TO_16("ff2bf16x2", pair16, encodeBF16),
      {"f2h.rn", single16<floatToF16, false>},
      {"ff.to.e4m3x2.rn", pair8<floatToE4M3Sat, false>},
      {"ff.to.e4m3x2.rn.relu", pair8<floatToE4M3Sat, true>},
      {"ff.to.e5m2x2.rn", pair8<floatToE5M2Sat, false>},
      {"ff.to.e5m2x2.rn.relu", pair8<floatToE5M2Sat, true>},
      {"f16x2.to.e4m3x2.rn", halves8<floatToE4M3Sat, false>},
      {"f16x2.to.e4m3x2.rn.relu", halves8<floatToE4M3Sat, true>},
      {"f16x2.to.e5m2x2.rn", halves8<floatToE5M2Sat, false>},
      {"f16x2.to.e5m2x2.rn.relu", halves8<floatToE5M2Sat, true>},
      {"e4m3x2.to.f16x2.rn", toHalves<e4m3ToFloat, false>},
      {"e4m3x2.to.f16x2.rn.relu", toHalves<e4m3ToFloat, true>},
      {"e5m2x2.to.f16x2.rn", toHalves<e5m2ToFloat, false>},
      {"e5m2x2.to.f16x2.rn.relu", toHalves<e5m2ToFloat, true>},
      {"f2tf32.rna", toTF32<TF32Rounding::Away, false>},
      {"f2tf32.rn", toTF32<TF32Rounding::Even, false>},
      {"f2tf32.rn.relu", toTF32<TF32Rounding::Even, true>},
      {"f2tf32.rz", toTF32<TF32Rounding::Zero, false>},
      {"f2tf32.rz.relu", toTF32<TF32Rounding::Zero, true>},
      SF_F_TO_INTEGER("f2i", int32_t),
      SF_F_TO_INTEGER("f2ui", uint32_t),
      SF_F_TO_INTEGER("f2ll", int64_t),
      SF_F_TO_INTEGER("f2ull", uint64_t),
      SF_TO_INTEGER("d2i", double, int32_t),
      SF_TO_INTEGER("d2ui", double, uint32_t),
      SF_TO_INTEGER("d2ll", double, int64_t),
      SF_TO_INTEGER("d2ull", double, uint64_t),
      {"i2f.rn", fromInteger<int32_t, float>},
      {"ui2f.rn", fromInteger<uint32_t, float>},
      {"ll2f.rn", fromInteger<int64_t, float>},
      {"ull2f.rn", fromInteger<uint64_t, float>},
      {"i2d.rn", fromInteger<int32_t, double>},
      {"ui2d.rn", fromInteger<uint32_t, double>},
      {"ll2d.rn", fromInteger<int64_t, double>},
      {"ull2d.rn", fromInteger<uint64_t, double>},
      {"d2f.rn", doubleToFloat},
      {"d2i.lo", doubleLow},
      {"d2i.hi", doubleHigh},
      {"lohi.i2d", joinDouble},
  };
  return ops;
}
