//===- Elements.h - Operand elements to numbers -----------------*- C++ -*-===//
//
// What the multiplications share: the element types of their operands, and how 32-bit units of
// packed elements become floats or integers. The decoders are inlined into callers that are
// compiled for several instruction sets.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_ELEMENTS_H
#define SPARSEFLOW_LIB_EMULATOR_ELEMENTS_H

#include "sparseflow/Support/NumericTypes.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/bit.h"
#include "llvm/Support/Compiler.h"

#include <cstdint>
#include <optional>

namespace sparseflow::emulator {

enum class Element : uint32_t { F16, BF16, TF32, E4M3, E5M2, S8, U8 };

inline unsigned getBits(Element type) {
  switch (type) {
  case Element::F16:
  case Element::BF16:
    return 16;
  case Element::TF32:
    return 32;
  case Element::E4M3:
  case Element::E5M2:
  case Element::S8:
  case Element::U8:
    return 8;
  }
  LLVM_BUILTIN_UNREACHABLE;
}

inline std::optional<Element> parseElement(llvm::StringRef name) {
  if (name == "f16")
    return Element::F16;
  if (name == "bf16")
    return Element::BF16;
  if (name == "tf32")
    return Element::TF32;
  if (name == "e4m3")
    return Element::E4M3;
  if (name == "e5m2")
    return Element::E5M2;
  if (name == "s8")
    return Element::S8;
  if (name == "u8")
    return Element::U8;
  return std::nullopt;
}

struct Float8Tables {
  float e4m3[256], e5m2[256];
  Float8Tables() {
    for (unsigned bits = 0; bits != 256; ++bits) {
      e4m3[bits] = e4m3ToFloat(bits);
      e5m2[bits] = e5m2ToFloat(bits);
    }
  }
};

inline const Float8Tables &getFloat8Tables() {
  static const Float8Tables tables;
  return tables;
}

/// Exact, without branches, so that it vectorizes.
LLVM_ATTRIBUTE_ALWAYS_INLINE float decodeF16(uint32_t bits) {
  // Shift exponent and mantissa into place and let a multiplication fix the exponent's bias: it
  // also makes subnormals right. Infinity and NaN need the full exponent.
  uint32_t magnitude = (bits & 0x7fff) << 13;
  float value = llvm::bit_cast<float>(magnitude) * 0x1p112f;
  uint32_t special = (bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0;
  return llvm::bit_cast<float>(llvm::bit_cast<uint32_t>(value) | special | (bits & 0x8000) << 16);
}

/// Spreads `units` 32-bit units of `stride` columns into elements: element e of unit u goes to row
/// u * elementsPerUnit + e. With a stride of 1 that is simply a row of elements.
template <typename Number, typename Decode>
LLVM_ATTRIBUTE_ALWAYS_INLINE void spread(const uint32_t *source, unsigned units, unsigned stride,
                                         unsigned bits, Number *target, Decode decode) {
  unsigned perUnit = 32 / bits;
  uint32_t mask = bits == 32 ? ~0u : (1u << bits) - 1;
  for (unsigned unit = 0; unit != units; ++unit)
    for (unsigned part = 0; part != perUnit; ++part)
      for (unsigned column = 0; column != stride; ++column)
        target[(unit * perUnit + part) * stride + column] =
            decode(source[unit * stride + column] >> (part * bits) & mask);
}

LLVM_ATTRIBUTE_ALWAYS_INLINE void decodeFloats(Element type, const uint32_t *source, unsigned units,
                                               unsigned stride, float *target) {
  switch (type) {
  case Element::F16:
    return spread(source, units, stride, 16, target, [](uint32_t bits) { return decodeF16(bits); });
  case Element::BF16:
    return spread(source, units, stride, 16, target,
                  [](uint32_t bits) { return llvm::bit_cast<float>(bits << 16); });
  case Element::TF32:
    return spread(source, units, stride, 32, target,
                  [](uint32_t bits) { return llvm::bit_cast<float>(bits & 0xffffe000u); });
  case Element::E4M3: {
    const float *table = getFloat8Tables().e4m3;
    return spread(source, units, stride, 8, target, [=](uint32_t bits) { return table[bits]; });
  }
  case Element::E5M2: {
    const float *table = getFloat8Tables().e5m2;
    return spread(source, units, stride, 8, target, [=](uint32_t bits) { return table[bits]; });
  }
  case Element::S8:
  case Element::U8:
    LLVM_BUILTIN_UNREACHABLE;
  }
}

LLVM_ATTRIBUTE_ALWAYS_INLINE void decodeIntegers(Element type, const uint32_t *source,
                                                 unsigned units, unsigned stride, int32_t *target) {
  if (type == Element::S8)
    return spread(source, units, stride, 8, target,
                  [](uint32_t bits) { return int32_t(int8_t(bits)); });
  return spread(source, units, stride, 8, target, [](uint32_t bits) { return int32_t(bits); });
}

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_ELEMENTS_H
