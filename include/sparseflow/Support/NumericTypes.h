//===- NumericTypes.h - Element types and their conversions -----*- C++ -*-===//
//
// The element types that SparseFlow stores, under the names that IR text, manifests and Python use,
// and scalar conversions that the runtime, the emulator and the tests share. Conversions round to
// nearest, ties to even, like the device's; they are plain bit code, so that no path depends on the
// host's support for half precision.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_SUPPORT_NUMERICTYPES_H
#define SPARSEFLOW_SUPPORT_NUMERICTYPES_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Compiler.h"

#include <cstddef>
#include <cstdint>
#include <optional>

namespace sparseflow {

/// `e4m3` is the finite-only form (f8E4M3FN: no infinity, one NaN pattern a sign).
enum class DType : uint8_t { f16, bf16, f32, i8, e4m3, e5m2, i32, u8 };

/// "f16", "bf16", "f32", "i8", "e4m3", "e5m2", "i32", "u8".
llvm::StringRef stringifyDType(DType type);
/// The inverse: nothing for another text.
std::optional<DType> parseDType(llvm::StringRef name);

constexpr unsigned getByteWidth(DType type) {
  switch (type) {
  case DType::f16:
  case DType::bf16:
    return 2;
  case DType::f32:
  case DType::i32:
    return 4;
  case DType::i8:
  case DType::e4m3:
  case DType::e5m2:
  case DType::u8:
    return 1;
  }
  LLVM_BUILTIN_UNREACHABLE;
}
constexpr bool isFloat(DType type) {
  return type != DType::i8 && type != DType::i32 && type != DType::u8;
}
constexpr bool isFloat8(DType type) { return type == DType::e4m3 || type == DType::e5m2; }

//===----------------------------------------------------------------------===//
// Scalars
//===----------------------------------------------------------------------===//

/// Exact.
float f16ToFloat(uint16_t bits);
float bf16ToFloat(uint16_t bits);
float e4m3ToFloat(uint8_t bits);
float e5m2ToFloat(uint8_t bits);

/// Overflow gives infinity.
uint16_t floatToF16(float value);
uint16_t floatToBF16(float value);
/// As the hardware's `cvt.rn.satfinite`: overflow and infinity give the largest finite value; NaN
/// stays.
uint8_t floatToE4M3Sat(float value);
uint8_t floatToE5M2Sat(float value);
/// Rounds to nearest even and saturates to [-128, 127]; NaN gives 0.
int8_t floatToI8Sat(float value);

//===----------------------------------------------------------------------===//
// Arrays and single elements of a run-time type
//===----------------------------------------------------------------------===//

/// Reads element `index` of an array of `type`; exact except for i32 beyond 2^24.
float loadAsFloat(DType type, const void *data, size_t index);
/// Writes element `index`; integers and float8 saturate.
void storeFromFloat(DType type, void *data, size_t index, float value);

/// As loadAsFloat, `count` elements.
void convertToFloat(DType type, const void *source, float *target, size_t count);
/// Integers and float8 saturate.
void convertFromFloat(DType type, const float *source, void *target, size_t count);

} // namespace sparseflow

#endif // SPARSEFLOW_SUPPORT_NUMERICTYPES_H
