// The element type table, expanded.
#include "sparseflow/Runtime/DType.h"

using namespace sparseflow::runtime;

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

std::string sparseflow::runtime::dtypeList() {
  std::string list;
#define SPARSEFLOW_DTYPE(name, number, text, safe, bytes)                                          \
  list += list.empty() ? "\"" text "\"" : ", \"" text "\"";
  SPARSEFLOW_DTYPES(SPARSEFLOW_DTYPE)
#undef SPARSEFLOW_DTYPE
  return list;
}
