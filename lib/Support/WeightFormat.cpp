//===- WeightFormat.cpp - Any stored form of a weight ---------------------===//

#include "sparseflow/Support/WeightFormat.h"

#include "sparseflow/Support/PackedLayout.h"
#include "sparseflow/Support/Sparse24.h"
#include "llvm/Support/FormatVariadic.h"

#include <cstring>
#include <vector>

using namespace llvm;

namespace sparseflow {
namespace {

/// A canonical weight between two other forms.
struct Canonical {
  std::vector<char> values;
  std::vector<uint8_t> bitmask;
  explicit Canonical(const WeightFormat &format)
      : values(canonicalValuesBytes(format.n, format.k, format.dtype)),
        bitmask(canonicalBitmaskBytes(format.n, format.k)) {}
};

uint8_t *asBytes(char *data) { return reinterpret_cast<uint8_t *>(data); }
const uint8_t *asBytes(const char *data) { return reinterpret_cast<const uint8_t *>(data); }

/// Metadata may lie anywhere in a file; as words it wants to be aligned.
std::vector<uint32_t> makeMetadata(const WeightFormat &format) {
  return std::vector<uint32_t>(format.positionsBytes() / sizeof(uint32_t));
}

} // namespace

size_t WeightFormat::valuesBytes() const {
  if (pack)
    return packedValuesBytes(n, k, dtype, isSparse);
  return isSparse ? canonicalValuesBytes(n, k, dtype) : denseBytes();
}

size_t WeightFormat::positionsBytes() const {
  if (!isSparse)
    return 0;
  return pack ? packedMetadataBytes(n, k, dtype) : canonicalBitmaskBytes(n, k);
}

Error decodeWeight(const WeightFormat &format, ArrayRef<ArrayRef<char>> storage,
                   MutableArrayRef<char> dense) {
  size_t given = 0;
  for (ArrayRef<char> piece : storage)
    given += piece.size();
  bool isKnown =
      storage.size() == 1 || (storage.size() == 2 && storage[0].size() == format.valuesBytes());
  if (given != format.storageBytes() || !isKnown)
    return createStringError(formatv("expected {0} bytes of elements and {1} of positions for a "
                                     "weight [{2}, {3}] of {4}, got {5} bytes in {6} piece(s)",
                                     format.valuesBytes(), format.positionsBytes(), format.n,
                                     format.k, stringifyDType(format.dtype), given, storage.size())
                                 .str());

  const char *values = storage[0].data();
  const char *positions = storage.size() == 2 ? storage[1].data() : values + format.valuesBytes();
  if (!format.isSparse && !format.pack) {
    llvm::copy(storage[0], dense.begin());
    return Error::success();
  }
  if (!format.isSparse)
    return unpackDenseWeight(*format.pack, format.dtype, format.n, format.k, values, dense.data());
  if (!format.pack)
    return decompress24(format.dtype, format.n, format.k, values, asBytes(positions), dense.data());

  Canonical canonical(format);
  std::vector<uint32_t> metadata = makeMetadata(format);
  if (!metadata.empty())
    std::memcpy(metadata.data(), positions, format.positionsBytes());
  if (Error error =
          unpackWeight(*format.pack, format.dtype, format.n, format.k, values, metadata.data(),
                       canonical.values.data(), canonical.bitmask.data()))
    return error;
  return decompress24(format.dtype, format.n, format.k, canonical.values.data(),
                      canonical.bitmask.data(), dense.data());
}

Error encodeWeight(const WeightFormat &format, ArrayRef<char> dense,
                   MutableArrayRef<char> storage) {
  char *values = storage.data(), *positions = values + format.valuesBytes();
  if (!format.isSparse && !format.pack) {
    llvm::copy(dense, storage.begin());
    return Error::success();
  }
  if (!format.isSparse)
    return packDenseWeight(*format.pack, format.dtype, format.n, format.k, dense.data(), values);
  if (!format.pack)
    return compress24(format.dtype, format.n, format.k, dense.data(), CompressMode::Verify, values,
                      asBytes(positions));

  Canonical canonical(format);
  if (Error error = compress24(format.dtype, format.n, format.k, dense.data(), CompressMode::Verify,
                               canonical.values.data(), canonical.bitmask.data()))
    return error;
  std::vector<uint32_t> metadata = makeMetadata(format);
  if (Error error =
          packWeight(*format.pack, format.dtype, format.n, format.k, canonical.values.data(),
                     canonical.bitmask.data(), values, metadata.data()))
    return error;
  if (!metadata.empty())
    std::memcpy(positions, metadata.data(), format.positionsBytes());
  return Error::success();
}

} // namespace sparseflow
