//===- WeightFormat.h - Any stored form of a weight -------------*- C++ -*-===//
//
// What #sf.weight says of a tensor, without MLIR: whoever holds the bytes of a weight can ask how
// many there are and get at its elements. Conversions go through the canonical form.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_SUPPORT_WEIGHTFORMAT_H
#define SPARSEFLOW_SUPPORT_WEIGHTFORMAT_H

#include "sparseflow/Support/PackedLayout.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/Support/Error.h"

#include <cstddef>
#include <cstdint>
#include <optional>

namespace sparseflow {

/// A weight [N,K]: dense or 2:4, in plain order or packed for the tensor cores.
struct WeightFormat {
  DType dtype = DType::f16;
  int64_t n = 0, k = 0;
  bool isSparse = false;
  /// The instructions that the weight is packed for; none: plain order.
  std::optional<PackOrder> pack;

  size_t denseBytes() const { return size_t(n) * size_t(k) * getByteWidth(dtype); }
  /// Bytes of the stored elements.
  size_t valuesBytes() const;
  /// Bytes of the bitmask or metadata that follows them; 0 for a dense weight.
  size_t positionsBytes() const;
  size_t storageBytes() const { return valuesBytes() + positionsBytes(); }
};

/// Writes the dense elements [N,K]. `storage` is in one piece or, for a 2:4 weight, elements and
/// positions apart.
llvm::Error decodeWeight(const WeightFormat &format, llvm::ArrayRef<llvm::ArrayRef<char>> storage,
                         llvm::MutableArrayRef<char> dense);

/// The inverse, in one piece. Fails if `format` is 2:4 and the elements are not.
llvm::Error encodeWeight(const WeightFormat &format, llvm::ArrayRef<char> dense,
                         llvm::MutableArrayRef<char> storage);

} // namespace sparseflow

#endif // SPARSEFLOW_SUPPORT_WEIGHTFORMAT_H
