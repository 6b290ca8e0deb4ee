//===- ScalarMath.cpp - Arithmetic intrinsics of one thread ---------------===//
//
// Approximate functions (ex2, lg2, rcp, rsqrt, sin, ...) are the host's exact ones, rounded to f32:
// closer to the truth than the hardware, hence within its error bound of the hardware's value.
// `.ftz` flushes subnormal operands and results, as the hardware does.
//
//===----------------------------------------------------------------------===//

#include "Operations.h"

#include "sparseflow/Support/NumericTypes.h"

#include "llvm/ADT/bit.h"

#include <algorithm>
#include <cmath>

using namespace sparseflow;
using namespace sparseflow::emulator;

namespace {

template <typename T> T fromBits(uint64_t bits);
template <> float fromBits<float>(uint64_t bits) { return llvm::bit_cast<float>(uint32_t(bits)); }
template <> double fromBits<double>(uint64_t bits) { return llvm::bit_cast<double>(bits); }
uint64_t toBits(float value) { return llvm::bit_cast<uint32_t>(value); }
uint64_t toBits(double value) { return llvm::bit_cast<uint64_t>(value); }

template <bool ftz, typename T> T flush(T value) {
  return ftz && std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(T(0), value) : value;
}

//===----------------------------------------------------------------------===//
// One, two and three floating-point operands
//===----------------------------------------------------------------------===//

struct Exp2 {
  template <typename T> static T apply(T x) { return std::exp2(x); }
};
struct Log2 {
  template <typename T> static T apply(T x) { return std::log2(x); }
};
struct Reciprocal {
  template <typename T> static T apply(T x) { return T(1) / x; }
};
struct ReciprocalRoot {
  template <typename T> static T apply(T x) { return T(1.0 / std::sqrt(double(x))); }
};
struct SquareRoot {
  template <typename T> static T apply(T x) { return std::sqrt(x); }
};
struct Sine {
  template <typename T> static T apply(T x) { return std::sin(x); }
};
struct Cosine {
  template <typename T> static T apply(T x) { return std::cos(x); }
};
struct HyperbolicTangent {
  template <typename T> static T apply(T x) { return std::tanh(x); }
};
struct Absolute {
  template <typename T> static T apply(T x) { return std::fabs(x); }
};
struct Floor {
  template <typename T> static T apply(T x) { return std::floor(x); }
};
struct Ceiling {
  template <typename T> static T apply(T x) { return std::ceil(x); }
};
struct Truncate {
  template <typename T> static T apply(T x) { return std::trunc(x); }
};
struct RoundEven {
  template <typename T> static T apply(T x) { return std::nearbyint(x); }
};
struct Saturate {
  template <typename T> static T apply(T x) { return x > T(0) ? std::min(x, T(1)) : T(0); }
};
struct Add {
  template <typename T> static T apply(T x, T y) { return x + y; }
};
struct Multiply {
  template <typename T> static T apply(T x, T y) { return x * y; }
};
struct Divide {
  template <typename T> static T apply(T x, T y) { return x / y; }
};
/// A NaN operand loses unless both are NaN.
struct Minimum {
  template <typename T> static T apply(T x, T y) { return std::fmin(x, y); }
};
struct Maximum {
  template <typename T> static T apply(T x, T y) { return std::fmax(x, y); }
};
struct MinimumNaN {
  template <typename T> static T apply(T x, T y) {
    return std::isunordered(x, y) ? T(NAN) : std::fmin(x, y);
  }
};
struct MaximumNaN {
  template <typename T> static T apply(T x, T y) {
    return std::isunordered(x, y) ? T(NAN) : std::fmax(x, y);
  }
};
struct Fused {
  template <typename T> static T apply(T x, T y, T z) { return std::fma(x, y, z); }
};

template <typename Op, typename T, bool ftz>
uint64_t unary(uint64_t a, uint64_t, uint64_t, uint64_t) {
  return toBits(flush<ftz>(Op::apply(flush<ftz>(fromBits<T>(a)))));
}
template <typename Op, typename T, bool ftz>
uint64_t binary(uint64_t a, uint64_t b, uint64_t, uint64_t) {
  return toBits(flush<ftz>(Op::apply(flush<ftz>(fromBits<T>(a)), flush<ftz>(fromBits<T>(b)))));
}
template <typename Op, typename T, bool ftz>
uint64_t ternary(uint64_t a, uint64_t b, uint64_t c, uint64_t) {
  return toBits(flush<ftz>(Op::apply(flush<ftz>(fromBits<T>(a)), flush<ftz>(fromBits<T>(b)),
                                     flush<ftz>(fromBits<T>(c)))));
}

//===----------------------------------------------------------------------===//
// 16-bit floats, single and in pairs
//===----------------------------------------------------------------------===//

struct Half {
  static double decode(uint16_t bits) { return f16ToFloat(bits); }
  static uint16_t encode(float value) { return floatToF16(value); }
};
struct Brain {
  static double decode(uint16_t bits) { return bf16ToFloat(bits); }
  static uint16_t encode(float value) { return floatToBF16(value); }
};

/// A double rounded to f32 to odd: a second rounding, to 16 bits, is then the correct one.
float roundToOdd(double value) {
  float nearest = static_cast<float>(value);
  if (double(nearest) == value || std::isnan(value) || std::isinf(nearest))
    return nearest;
  uint32_t bits = llvm::bit_cast<uint32_t>(nearest);
  if (bits & 1)
    return nearest;
  bool tooFar = std::fabs(double(nearest)) > std::fabs(value);
  return llvm::bit_cast<float>(tooFar ? bits - 1 : bits + 1);
}

template <typename Type, typename Op, unsigned lanes, bool relu>
uint64_t fused16(uint64_t a, uint64_t b, uint64_t c, uint64_t) {
  uint64_t result = 0;
  for (unsigned lane = 0; lane != lanes; ++lane) {
    auto decode = [lane](uint64_t bits) { return Type::decode(uint16_t(bits >> (16 * lane))); };
    // The product of two 16-bit floats is exact in a double, and the sum nearly always.
    double value = Op::apply(decode(a), decode(b), decode(c));
    if (relu && !(value > 0) && !std::isnan(value))
      value = 0;
    result |= uint64_t(Type::encode(roundToOdd(value))) << (16 * lane);
  }
  return result;
}
template <typename Type, typename Op, unsigned lanes>
uint64_t binary16(uint64_t a, uint64_t b, uint64_t, uint64_t) {
  uint64_t result = 0;
  for (unsigned lane = 0; lane != lanes; ++lane) {
    auto decode = [lane](uint64_t bits) { return Type::decode(uint16_t(bits >> (16 * lane))); };
    result |= uint64_t(Type::encode(roundToOdd(Op::apply(decode(a), decode(b))))) << (16 * lane);
  }
  return result;
}
template <typename Type, typename Op> uint64_t unary16(uint64_t a, uint64_t, uint64_t, uint64_t) {
  return Type::encode(roundToOdd(Op::apply(Type::decode(uint16_t(a)))));
}
template <typename Type, typename Op> uint64_t unary16x2(uint64_t a, uint64_t, uint64_t, uint64_t) {
  return unary16<Type, Op>(a & 0xffff, 0, 0, 0) | unary16<Type, Op>(a >> 16 & 0xffff, 0, 0, 0)
                                                      << 16;
}
template <uint32_t signs> uint64_t negate(uint64_t a, uint64_t, uint64_t, uint64_t) {
  return a ^ signs;
}

//===----------------------------------------------------------------------===//
// Integers
//===----------------------------------------------------------------------===//

uint32_t selectByte(uint64_t pool, uint32_t index, bool sign) {
  uint32_t byte = pool >> (8 * index) & 0xff;
  return sign ? (byte & 0x80 ? 0xff : 0) : byte;
}
uint64_t permute(uint64_t low, uint64_t high, uint64_t selector, uint64_t) {
  uint64_t pool = uint32_t(low) | high << 32, result = 0;
  for (unsigned i = 0; i != 4; ++i) {
    uint32_t nibble = selector >> (4 * i) & 15;
    result |= uint64_t(selectByte(pool, nibble & 7, nibble & 8)) << (8 * i);
  }
  return result;
}
uint64_t permuteForward(uint64_t low, uint64_t high, uint64_t selector, uint64_t) {
  uint64_t pool = uint32_t(low) | high << 32, result = 0;
  for (unsigned i = 0; i != 4; ++i)
    result |= uint64_t(selectByte(pool, (selector & 3) + i, false)) << (8 * i);
  return result;
}
uint64_t permuteBackward(uint64_t low, uint64_t high, uint64_t selector, uint64_t) {
  uint64_t pool = uint32_t(low) | high << 32, result = 0;
  for (unsigned i = 0; i != 4; ++i)
    result |= uint64_t(selectByte(pool, ((selector & 3) - i) & 7, false)) << (8 * i);
  return result;
}

template <bool signedA, bool signedB> uint64_t dot4(uint64_t a, uint64_t b, uint64_t c, uint64_t) {
  uint32_t sum = uint32_t(c);
  for (unsigned i = 0; i != 4; ++i) {
    int32_t x = signedA ? int8_t(a >> (8 * i)) : int32_t(uint8_t(a >> (8 * i)));
    int32_t y = signedB ? int8_t(b >> (8 * i)) : int32_t(uint8_t(b >> (8 * i)));
    sum += uint32_t(x * y);
  }
  return sum;
}

uint64_t mulHighSigned(uint64_t a, uint64_t b, uint64_t, uint64_t) {
  return uint32_t(int64_t(int32_t(a)) * int32_t(b) >> 32);
}
uint64_t mulHighUnsigned(uint64_t a, uint64_t b, uint64_t, uint64_t) {
  return uint64_t(uint32_t(a)) * uint32_t(b) >> 32;
}
uint64_t mulHighSigned64(uint64_t a, uint64_t b, uint64_t, uint64_t) {
  return static_cast<uint64_t>(static_cast<__int128>(int64_t(a)) * int64_t(b) >> 64);
}
uint64_t mulHighUnsigned64(uint64_t a, uint64_t b, uint64_t, uint64_t) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}

/// A funnel shift whose amount stops at 32.
uint64_t funnelLeftClamp(uint64_t high, uint64_t low, uint64_t amount, uint64_t) {
  uint64_t value = high << 32 | uint32_t(low);
  uint32_t shift = std::min<uint32_t>(uint32_t(amount), 32);
  return uint32_t(value << shift >> 32);
}
uint64_t funnelRightClamp(uint64_t high, uint64_t low, uint64_t amount, uint64_t) {
  uint64_t value = high << 32 | uint32_t(low);
  uint32_t shift = std::min<uint32_t>(uint32_t(amount), 32);
  return uint32_t(value >> shift);
}

} // namespace

#define SF_UNARY(NAME, OP)                                                                         \
  {NAME ".f", unary<OP, float, false>}, { NAME ".ftz.f", unary<OP, float, true> }
#define SF_UNARY_D(NAME, OP)                                                                       \
  SF_UNARY(NAME, OP), { NAME ".d", unary<OP, double, false> }
#define SF_BINARY(NAME, OP)                                                                        \
  {NAME ".f", binary<OP, float, false>}, { NAME ".ftz.f", binary<OP, float, true> }
#define SF_BINARY_D(NAME, OP)                                                                      \
  SF_BINARY(NAME, OP), { NAME ".d", binary<OP, double, false> }
#define SF_BINARY_16(NAME, OP)                                                                     \
  {NAME ".f16", binary16<Half, OP, 1>}, {NAME ".f16x2", binary16<Half, OP, 2>},                    \
      {NAME ".bf16", binary16<Brain, OP, 1>}, {                                                    \
    NAME ".bf16x2", binary16<Brain, OP, 2>                                                         \
  }

llvm::ArrayRef<PureOp> sparseflow::emulator::getScalarMathOps() {
  static const PureOp ops[] = {
      {"ex2.approx.f32", unary<Exp2, float, false>},
      {"ex2.approx.ftz.f32", unary<Exp2, float, true>},
      {"ex2.approx.f16", unary16<Half, Exp2>},
      {"ex2.approx.v2f16", unary16x2<Half, Exp2>},
      SF_UNARY("lg2.approx", Log2),
      SF_UNARY_D("rcp.approx", Reciprocal),
      SF_UNARY_D("rcp.rn", Reciprocal),
      SF_UNARY_D("rsqrt.approx", ReciprocalRoot),
      SF_UNARY("sqrt.approx", SquareRoot),
      SF_UNARY_D("sqrt.rn", SquareRoot),
      {"sqrt.f", unary<SquareRoot, float, false>},
      SF_UNARY("sin.approx", Sine),
      SF_UNARY("cos.approx", Cosine),
      {"tanh.approx.f32", unary<HyperbolicTangent, float, false>},
      {"tanh.approx.f16", unary16<Half, HyperbolicTangent>},
      {"tanh.approx.f16x2", unary16x2<Half, HyperbolicTangent>},
      {"tanh.approx.bf16x2", unary16x2<Brain, HyperbolicTangent>},
      {"fabs.f32", unary<Absolute, float, false>},
      {"fabs.ftz.f32", unary<Absolute, float, true>},
      {"fabs.f64", unary<Absolute, double, false>},
      SF_UNARY_D("floor", Floor),
      SF_UNARY_D("ceil", Ceiling),
      SF_UNARY_D("trunc", Truncate),
      SF_UNARY_D("round", RoundEven),
      SF_UNARY_D("saturate", Saturate),
      SF_BINARY_D("add.rn", Add),
      SF_BINARY_D("mul.rn", Multiply),
      SF_BINARY_D("div.rn", Divide),
      SF_BINARY("div.approx", Divide),
      {"div.full", binary<Divide, float, false>},
      {"div.full.ftz", binary<Divide, float, true>},
      SF_BINARY_D("fmin", Minimum),
      SF_BINARY_D("fmax", Maximum),
      SF_BINARY("fmin.nan", MinimumNaN),
      {"fmin.ftz.nan.f", binary<MinimumNaN, float, true>},
      SF_BINARY("fmax.nan", MaximumNaN),
      {"fmax.ftz.nan.f", binary<MaximumNaN, float, true>},
      SF_BINARY_16("fmin", Minimum),
      SF_BINARY_16("fmax", Maximum),
      SF_BINARY_16("fmin.nan", MinimumNaN),
      SF_BINARY_16("fmax.nan", MaximumNaN),
      {"fma.rn.f", ternary<Fused, float, false>},
      {"fma.rn.ftz.f", ternary<Fused, float, true>},
      {"fma.rn.d", ternary<Fused, double, false>},
      {"fma.rn.f16", fused16<Half, Fused, 1, false>},
      {"fma.rn.f16x2", fused16<Half, Fused, 2, false>},
      {"fma.rn.relu.f16", fused16<Half, Fused, 1, true>},
      {"fma.rn.relu.f16x2", fused16<Half, Fused, 2, true>},
      {"fma.rn.bf16", fused16<Brain, Fused, 1, false>},
      {"fma.rn.bf16x2", fused16<Brain, Fused, 2, false>},
      {"fma.rn.relu.bf16", fused16<Brain, Fused, 1, true>},
      {"fma.rn.relu.bf16x2", fused16<Brain, Fused, 2, true>},
      {"neg.bf16", negate<0x8000>},
      {"neg.bf16x2", negate<0x80008000>},
      {"prmt", permute},
      {"prmt.f4e", permuteForward},
      {"prmt.b4e", permuteBackward},
      {"idp4a.s.s", dot4<true, true>},
      {"idp4a.s.u", dot4<true, false>},
      {"idp4a.u.s", dot4<false, true>},
      {"idp4a.u.u", dot4<false, false>},
      {"mulhi.i", mulHighSigned},
      {"mulhi.ui", mulHighUnsigned},
      {"mulhi.ll", mulHighSigned64},
      {"mulhi.ull", mulHighUnsigned64},
      {"fshl.clamp.i32", funnelLeftClamp},
      {"fshr.clamp.i32", funnelRightClamp},
  };
  return ops;
}
