// Element types of tensors at run time: in the manifest, in safetensors files and in the C ABI.
//
// One table (SPARSEFLOW_DTYPES) gives each type its C ABI number, its name in text, its safetensors
// name and its size, so that the three cannot drift apart. The numbers are part of the ABI: append
// only.
#ifndef SPARSEFLOW_RUNTIME_DTYPE_H
#define SPARSEFLOW_RUNTIME_DTYPE_H

#include "llvm/ADT/StringRef.h"
#include <cstdint>
#include <optional>
#include <string>

//      enumerator, ABI number, text, safetensors name, bytes
#define SPARSEFLOW_DTYPES(X)                                                                       \
  X(F16, 1, "f16", "F16", 2)                                                                       \
  X(BF16, 2, "bf16", "BF16", 2)                                                                    \
  X(F32, 3, "f32", "F32", 4)                                                                       \
  X(I8, 4, "i8", "I8", 1)                                                                          \
  X(E4M3, 5, "e4m3", "F8_E4M3", 1)                                                                 \
  X(E5M2, 6, "e5m2", "F8_E5M2", 1)                                                                 \
  X(I32, 7, "i32", "I32", 4)                                                                       \
  X(U8, 8, "u8", "U8", 1)                                                                          \
  X(U32, 9, "u32", "U32", 4)                                                                       \
  X(I16, 10, "i16", "I16", 2)                                                                      \
  X(U16, 11, "u16", "U16", 2)                                                                      \
  X(I64, 12, "i64", "I64", 8)                                                                      \
  X(U64, 13, "u64", "U64", 8)                                                                      \
  X(F64, 14, "f64", "F64", 8)                                                                      \
  X(Bool, 15, "bool", "BOOL", 1)

namespace sparseflow::runtime {

/// An element type; its value is its number in the C ABI.
enum class DType : uint8_t {
#define SPARSEFLOW_DTYPE(name, number, text, safe, bytes) name = number,
  SPARSEFLOW_DTYPES(SPARSEFLOW_DTYPE)
#undef SPARSEFLOW_DTYPE
};

/// Of one element.
unsigned byteSize(DType type);
/// The name used in the manifest, in sf IR text and in messages: "f16", "e4m3".
llvm::StringRef stringify(DType type);
/// The name used in a safetensors header: "F16", "F8_E4M3".
llvm::StringRef safeTensorsName(DType type);

/// The inverses: nothing for a text or a number that no type has.
std::optional<DType> parseDType(llvm::StringRef text);
std::optional<DType> parseSafeTensorsDType(llvm::StringRef text);
std::optional<DType> dtypeFromNumber(int64_t number);
/// `"f16", "bf16", ...`, for messages.
std::string dtypeList();

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_DTYPE_H
