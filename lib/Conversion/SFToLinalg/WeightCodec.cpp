//===- WeightCodec.cpp - Bytes of an encoded weight, and its elements -----===//
//
// The canonical form stands between: a packed weight is unpacked first and packed last.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Conversion/SFToLinalg.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Support/PackedLayout.h"
#include "sparseflow/Support/Sparse24.h"
#include "llvm/Support/FormatVariadic.h"

#include <cstring>
#include <vector>

using namespace mlir;
using namespace sparseflow;

namespace {

/// What the codec needs to know of a type.
struct Weight {
  DType dtype;
  int64_t n, k;
  sf::WeightAttr encoding;

  explicit Weight(RankedTensorType type)
      : dtype(*sf::getDType(type.getElementType())), n(type.getDimSize(0)), k(type.getDimSize(1)),
        encoding(sf::getWeightEncoding(type)) {}

  /// Bytes of the elements alone, without bitmask or metadata.
  size_t valuesBytes() const {
    return encoding.isPacked() ? packedValuesBytes(n, k, dtype, encoding.isSparse())
                               : canonicalValuesBytes(n, k, dtype);
  }
};

struct Canonical {
  std::vector<char> values;
  std::vector<uint8_t> bitmask;
  explicit Canonical(const Weight &weight)
      : values(canonicalValuesBytes(weight.n, weight.k, weight.dtype)),
        bitmask(canonicalBitmaskBytes(weight.n, weight.k)) {}
};

} // namespace

llvm::Error sparseflow::decodeWeight(RankedTensorType type, ArrayRef<ArrayRef<char>> pieces,
                                     MutableArrayRef<char> dense) {
  Weight weight(type);
  size_t total = *sf::getStorageBytes(type), valuesBytes = weight.valuesBytes();
  size_t given = 0;
  for (ArrayRef<char> piece : pieces)
    given += piece.size();
  bool isWhole = pieces.size() == 1 || (pieces.size() == 2 && pieces[0].size() == valuesBytes);
  if (given != total || !isWhole)
    return llvm::createStringError(
        llvm::formatv("expected {0} bytes of elements and {1} of positions, got {2} bytes in {3} "
                      "piece(s)",
                      valuesBytes, total - valuesBytes, given, pieces.size())
            .str());

  const char *values = pieces[0].data();
  const char *positions = pieces.size() == 2 ? pieces[1].data() : values + valuesBytes;
  if (!weight.encoding.isSparse())
    return unpackDenseWeight(weight.dtype, weight.n, weight.k, values, dense.data());
  if (!weight.encoding.isPacked())
    return decompress24(weight.dtype, weight.n, weight.k, values,
                        reinterpret_cast<const uint8_t *>(positions), dense.data());

  Canonical canonical(weight);
  // The metadata may lie anywhere in a file; words want to be aligned.
  std::vector<uint32_t> metadata((total - valuesBytes) / sizeof(uint32_t));
  if (!metadata.empty())
    std::memcpy(metadata.data(), positions, total - valuesBytes);
  if (llvm::Error error = unpackWeight(weight.dtype, weight.n, weight.k, values, metadata.data(),
                                       canonical.values.data(), canonical.bitmask.data()))
    return error;
  return decompress24(weight.dtype, weight.n, weight.k, canonical.values.data(),
                      canonical.bitmask.data(), dense.data());
}

llvm::Error sparseflow::encodeWeight(RankedTensorType type, ArrayRef<char> dense,
                                     MutableArrayRef<char> storage) {
  Weight weight(type);
  char *values = storage.data(), *positions = values + weight.valuesBytes();
  if (!weight.encoding.isSparse())
    return packDenseWeight(weight.dtype, weight.n, weight.k, dense.data(), values);
  if (!weight.encoding.isPacked())
    return compress24(weight.dtype, weight.n, weight.k, dense.data(), CompressMode::Verify, values,
                      reinterpret_cast<uint8_t *>(positions));

  Canonical canonical(weight);
  if (llvm::Error error =
          compress24(weight.dtype, weight.n, weight.k, dense.data(), CompressMode::Verify,
                     canonical.values.data(), canonical.bitmask.data()))
    return error;
  std::vector<uint32_t> metadata(packedMetadataBytes(weight.n, weight.k, weight.dtype) /
                                 sizeof(uint32_t));
  if (llvm::Error error = packWeight(weight.dtype, weight.n, weight.k, canonical.values.data(),
                                     canonical.bitmask.data(), values, metadata.data()))
    return error;
  if (!metadata.empty())
    std::memcpy(positions, metadata.data(), metadata.size() * sizeof(uint32_t));
  return llvm::Error::success();
}
