// The element type table, expanded.
#include "sparseflow/Runtime/DType.h"
#include "sparseflow/Runtime/ElementType.h"

using sparseflow::runtime::DType;

unsigned sparseflow::runtime::byteSize(DType type) {
  switch (type) {
#define SPARSEFLOW_DTYPE(name, number, text, safe, bytes)                                          \
  case DType::name:                                                                                \
    return bytes;
    SPARSEFLOW_DTYPES(SPARSEFLOW_DTYPE)
#undef SPARSEFLOW_DTYPE
  }
  return 0;
}

llvm::StringRef sparseflow::runtime::stringify(DType type) {
  switch (type) {
#define SPARSEFLOW_DTYPE(name, number, text, safe, bytes)                                          \
  case DType::name:                                                                                \
    return text;
    SPARSEFLOW_DTYPES(SPARSEFLOW_DTYPE)
#undef SPARSEFLOW_DTYPE
  }
  return "?";
}

llvm::StringRef sparseflow::runtime::safeTensorsName(DType type) {
  switch (type) {
#define SPARSEFLOW_DTYPE(name, number, text, safe, bytes)                                          \
  case DType::name:                                                                                \
    return safe;
    SPARSEFLOW_DTYPES(SPARSEFLOW_DTYPE)
#undef SPARSEFLOW_DTYPE
  }
  return "?";
}

std::optional<DType> sparseflow::runtime::parseDType(llvm::StringRef spelled) {
#define SPARSEFLOW_DTYPE(name, number, text, safe, bytes)                                          \
  if (spelled == text)                                                                             \
    return DType::name;
  SPARSEFLOW_DTYPES(SPARSEFLOW_DTYPE)
#undef SPARSEFLOW_DTYPE
  return std::nullopt;
}

std::optional<DType> sparseflow::runtime::parseSafeTensorsDType(llvm::StringRef spelled) {
#define SPARSEFLOW_DTYPE(name, number, text, safe, bytes)                                          \
  if (spelled == safe)                                                                             \
    return DType::name;
  SPARSEFLOW_DTYPES(SPARSEFLOW_DTYPE)
#undef SPARSEFLOW_DTYPE
  return std::nullopt;
}

std::optional<DType> sparseflow::runtime::dtypeFromNumber(int64_t wanted) {
#define SPARSEFLOW_DTYPE(name, number, text, safe, bytes)                                          \
  if (wanted == number)                                                                            \
    return DType::name;
  SPARSEFLOW_DTYPES(SPARSEFLOW_DTYPE)
#undef SPARSEFLOW_DTYPE
  return std::nullopt;
}

DType sparseflow::runtime::fromElementType(sparseflow::DType type) {
  switch (type) {
  case sparseflow::DType::f16:
    return DType::F16;
  case sparseflow::DType::bf16:
    return DType::BF16;
  case sparseflow::DType::f32:
    return DType::F32;
  case sparseflow::DType::i8:
    return DType::I8;
  case sparseflow::DType::e4m3:
    return DType::E4M3;
  case sparseflow::DType::e5m2:
    return DType::E5M2;
  case sparseflow::DType::i32:
    return DType::I32;
  case sparseflow::DType::u8:
    return DType::U8;
  }
  LLVM_BUILTIN_UNREACHABLE;
}

std::optional<sparseflow::DType> sparseflow::runtime::toElementType(DType type) {
  // One name stands for one type in both.
  return sparseflow::parseDType(stringify(type));
}

std::string sparseflow::runtime::dtypeList() {
  std::string list;
#define SPARSEFLOW_DTYPE(name, number, text, safe, bytes)                                          \
  list += list.empty() ? "\"" text "\"" : ", \"" text "\"";
  SPARSEFLOW_DTYPES(SPARSEFLOW_DTYPE)
#undef SPARSEFLOW_DTYPE
  return list;
}
