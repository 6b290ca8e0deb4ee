// Tensor maps: how a kernel names a matrix to the copy engine (TMA) of Hopper and later chips.
//
// The manifest says which box of which buffer a kernel copies at a time (TensorMapSpec), a call
// adds where the matrix lies (HostTensorMap), and a device makes of it the bytes that the kernel
// takes by value: a GPU in a form that only its driver knows, a device on the host just this
// struct.
#ifndef SPARSEFLOW_RUNTIME_TENSORMAP_H
#define SPARSEFLOW_RUNTIME_TENSORMAP_H

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace sparseflow::runtime {

/// CUtensorMap of cuda.h.
inline constexpr size_t tensorMapBytes = 128;
inline constexpr size_t tensorMapAlignment = 64;
/// Limits of cuTensorMapEncodeTiled.
inline constexpr int64_t maxTensorMapBox = 256;
inline constexpr int64_t maxTensorMapExtent = int64_t(1) << 32;
inline constexpr uint64_t maxTensorMapStride = (uint64_t(1) << 40) - 1; // bytes
inline constexpr uint64_t tensorMapUnit = 16; // bytes: addresses, row strides and rows of a box

/// The box that one copy moves, and how its rows are swizzled in shared memory.
struct TensorMapSpec {
  int64_t boxRows = 0;
  int64_t boxColumns = 0; // elements
  int64_t swizzle = 0;    // bytes: 0 (none), 32, 64 or 128
  bool fits = false;      // Of a matrix with fewer rows the box has only those.

  /// What is wrong with it for elements of a size: "expected ..., got ...". Nothing: it is valid.
  std::optional<std::string> findFault(unsigned elementBytes) const;
};

/// A matrix of a call with its box. Elements outside of the matrix read as zeros and are not
/// written.
struct HostTensorMap {
  const void *base = nullptr;
  uint64_t rows = 0;
  uint64_t columns = 0;
  uint64_t rowStrideBytes = 0;
  uint32_t elementBytes = 0;
  uint32_t boxRows = 0;
  uint32_t boxColumns = 0;
  uint32_t swizzleBytes = 0;
};
static_assert(sizeof(HostTensorMap) <= tensorMapBytes);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_TENSORMAP_H
