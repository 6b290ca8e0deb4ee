//===- PackedLayout.cpp - The packed orders of weights --------------------===//
//
// The layouts are written down once, bit by bit; packing reads its permutation off them. Both
// arrays permute in units that no layout splits (32 bits of values, 16 bits of metadata), and every
// chunk passes through a zero-padded row-major copy of itself, so that edges need no code of their
// own.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Support/PackedLayout.h"

#include "sparseflow/Support/Sparse24.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FormatVariadic.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

using namespace llvm;

namespace sparseflow {
namespace {

/// The units in which the arrays permute.
using ValueUnit = uint32_t;
using MetadataUnit = uint16_t;
constexpr unsigned kNibblesPerUnit = 4;

/// A legal nibble for groups that do not exist: positions 0 and 1.
constexpr uint8_t kPaddingNibble = 0x4;

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

static_assert(llvm::endianness::native == llvm::endianness::little,
              "packed weights are little-endian and written as words");

//===----------------------------------------------------------------------===//
// Permutations
//===----------------------------------------------------------------------===//

/// For each unit of a packed chunk, in order, the unit of the chunk's row-major form that it holds.
using Permutation = SmallVector<uint32_t, 0>;

/// `inDim` is the layout's fastest input, `columnDim` its output within a row, `unit` the positions
/// in a unit.
Permutation makePermutation(const LinearLayout &layout, StringRef inDim, StringRef columnDim,
                            unsigned unit) {
  assert(layout.isBijective());
  assert((1u << layout.getContiguousBits(inDim, columnDim)) >= unit && "a unit would be split");
  LinearLayout rowMajor = layout.transposeOuts({columnDim, "feature"});
  Permutation permutation;
  for (uint64_t index = 0; index < (uint64_t(1) << layout.getTotalInBits()); index += unit)
    permutation.push_back(uint32_t(rowMajor.applyFlat(index) / unit));
  return permutation;
}

const Permutation &valuesPermutation(PackOrder order, bool sparse, unsigned elementBytes) {
  auto make = [](PackOrder order, bool sparse, unsigned elementBytes) {
    return makePermutation(packedValuesLayout(order, sparse, elementBytes), "elem",
                           sparse ? "kept" : "k", sizeof(ValueUnit) / elementBytes);
  };
  constexpr PackOrder Mma = PackOrder::Mma, Wgmma = PackOrder::Wgmma;
  static const Permutation tables[2][2][2] = {
      {{make(Mma, false, 1), make(Mma, false, 2)}, {make(Mma, true, 1), make(Mma, true, 2)}},
      {{make(Wgmma, false, 1), make(Wgmma, false, 2)},
       {make(Wgmma, true, 1), make(Wgmma, true, 2)}}};
  return tables[unsigned(order)][sparse][elementBytes - 1];
}

const Permutation &metadataPermutation(PackOrder order, unsigned elementBytes) {
  auto make = [](PackOrder order, unsigned elementBytes) {
    return makePermutation(packedMetadataLayout(order, elementBytes), "nibble", "group",
                           kNibblesPerUnit);
  };
  constexpr PackOrder Mma = PackOrder::Mma, Wgmma = PackOrder::Wgmma;
  static const Permutation tables[2][2] = {{make(Mma, 1), make(Mma, 2)},
                                           {make(Wgmma, 1), make(Wgmma, 2)}};
  return tables[unsigned(order)][elementBytes - 1];
}

//===----------------------------------------------------------------------===//
// Chunks
//===----------------------------------------------------------------------===//

/// A row-major array of bytes, seen as a grid of chunks of 64 rows.
struct RowMajor {
  int64_t rows, rowBytes, chunkRowBytes;

  /// Calls `function(firstRow, rows, firstByte, bytes)` for each chunk in packed order.
  template <typename Function> void forEachChunk(int64_t innerChunks, Function function) const {
    for (int64_t row = 0; row < rows; row += kPackedChunkFeatures)
      for (int64_t chunk = 0; chunk < innerChunks; ++chunk) {
        int64_t byte = chunk * chunkRowBytes;
        function(row, std::min(kPackedChunkFeatures, rows - row), byte,
                 std::clamp<int64_t>(rowBytes - byte, 0, chunkRowBytes));
      }
  }
};

void packValues(const RowMajor &source, int64_t innerChunks, const Permutation &permutation,
                const void *rowMajor, void *packed) {
  auto *in = static_cast<const char *>(rowMajor);
  auto *out = static_cast<char *>(packed);
  SmallVector<ValueUnit, 0> scratch(permutation.size());
  source.forEachChunk(innerChunks, [&](int64_t row, int64_t rows, int64_t byte, int64_t bytes) {
    if (rows < kPackedChunkFeatures || bytes < source.chunkRowBytes)
      std::fill(scratch.begin(), scratch.end(), 0);
    auto *scratchBytes = reinterpret_cast<char *>(scratch.data());
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(scratchBytes + r * source.chunkRowBytes, in + (row + r) * source.rowBytes + byte,
                  size_t(bytes));
    for (uint32_t from : permutation) {
      std::memcpy(out, &scratch[from], sizeof(ValueUnit));
      out += sizeof(ValueUnit);
    }
  });
}

void unpackValues(const RowMajor &target, int64_t innerChunks, const Permutation &permutation,
                  const void *packed, void *rowMajor) {
  auto *in = static_cast<const char *>(packed);
  auto *out = static_cast<char *>(rowMajor);
  SmallVector<ValueUnit, 0> scratch(permutation.size());
  target.forEachChunk(innerChunks, [&](int64_t row, int64_t rows, int64_t byte, int64_t bytes) {
    for (uint32_t to : permutation) {
      std::memcpy(&scratch[to], in, sizeof(ValueUnit));
      in += sizeof(ValueUnit);
    }
    auto *scratchBytes = reinterpret_cast<const char *>(scratch.data());
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(out + (row + r) * target.rowBytes + byte, scratchBytes + r * target.chunkRowBytes,
                  size_t(bytes));
  });
}

/// Two groups' masks to two nibbles and back; an illegal half gives 0.
template <uint8_t (*Convert)(uint8_t)> std::array<uint8_t, 256> makePairTable() {
  std::array<uint8_t, 256> table;
  for (unsigned byte = 0; byte < 256; ++byte)
    table[byte] = uint8_t(Convert(byte & 0xf) | Convert(byte >> 4) << 4);
  return table;
}

Error checkType(DType type) {
  if (getByteWidth(type) <= 2)
    return Error::success();
  return createStringError(
      formatv(
          "expected an element type of 8 or 16 bits in a packed weight, got {0}; the tensor core's "
          "2:4 operand is f16, bf16, i8, e4m3 or e5m2",
          stringifyDType(type))
          .str());
}

int64_t innerChunkCount(int64_t k, DType type) {
  return ceilDiv(k, packedChunkInner(getByteWidth(type)));
}
int64_t chunkCount(int64_t n, int64_t k, DType type) {
  return ceilDiv(n, kPackedChunkFeatures) * innerChunkCount(k, type);
}

RowMajor valuesGrid(int64_t n, int64_t k, DType type, bool sparse) {
  int64_t bytes = getByteWidth(type), divisor = sparse ? 2 : 1;
  return {n, k / divisor * bytes, kPackedChunkRowBytes / divisor};
}
/// The bitmask's rows; nibbles take as many bits as masks do.
RowMajor metadataGrid(int64_t n, int64_t k, DType type) {
  return {n, ceilDiv(k, 8), packedChunkInner(getByteWidth(type)) / 8};
}

} // namespace

//===----------------------------------------------------------------------===//
// Layouts
//===----------------------------------------------------------------------===//

static LinearLayout::Basis featureBasis(uint64_t value) { return {value, 0}; }
static LinearLayout::Basis columnBasis(uint64_t value) { return {0, value}; }

/// Rows of 16 bytes: the unit of a core matrix (8 rows).
static LinearLayout packedCoreMatrices(bool sparse, unsigned elementBytes) {
  uint64_t columns = uint64_t(packedChunkInner(elementBytes)) / (sparse ? 2 : 1);
  uint64_t perRow = 16 / elementBytes;
  LinearLayout::InDim elem = {"elem", {}}, row = {"row", {}}, half = {"half", {}},
                      step = {"step", {}};
  for (uint64_t bit = 1; bit < perRow; bit *= 2)
    elem.second.push_back(columnBasis(bit));
  for (uint64_t feature : kWgmmaRowFeatures)
    row.second.push_back(featureBasis(feature));
  half.second.push_back(columnBasis(perRow));
  for (uint64_t bit = 2 * perRow; bit < columns; bit *= 2)
    step.second.push_back(columnBasis(bit));
  return LinearLayout({elem, row, half, step}, {{"feature", uint64_t(kPackedChunkFeatures)},
                                                {sparse ? "kept" : "k", columns}});
}

/// The metadata of one m16 block has the fragments of mma.sp; a warp of the warpgroup has one.
static LinearLayout packedWarpgroupMetadata(unsigned elementBytes) {
  auto row = [](unsigned bit) { return featureBasis(kWgmmaRowFeatures[bit]); };
  LinearLayout::InDim nibble = {"nibble", {columnBasis(1), columnBasis(2)}}, lane = {"lane", {}},
                      warp = {"warp", {row(4), row(5)}};
  nibble.second.push_back(elementBytes == 2 ? row(3) : columnBasis(4));
  lane.second.push_back(elementBytes == 2 ? columnBasis(4) : row(3));
  lane.second.push_back(columnBasis(8));
  for (unsigned bit : {0, 1, 2})
    lane.second.push_back(row(bit));
  std::vector<LinearLayout::InDim> ins = {nibble, lane, warp};
  if (elementBytes == 1)
    ins.push_back({"step", {columnBasis(16)}});
  return LinearLayout(ins, {{"feature", uint64_t(kPackedChunkFeatures)},
                            {"group", uint64_t(packedChunkInner(elementBytes)) / 4}});
}

LinearLayout packedValuesLayout(PackOrder order, bool sparse, unsigned elementBytes) {
  assert(elementBytes == 1 || elementBytes == 2);
  if (order == PackOrder::Wgmma)
    return packedCoreMatrices(sparse, elementBytes);
  std::string column = sparse ? "kept" : "k";
  uint64_t columns = uint64_t(packedChunkInner(elementBytes)) / (sparse ? 2 : 1);
  // A fragment of m16 by 32 bytes of stored elements; PTX ISA "Matrix Fragments for mma.m16n8k16"
  // (16-bit) and "mma.m16n8k32" (8-bit). mma.sp's A has the same fragment with the kept elements as
  // its columns: the columns of thread t start at 4t (16-bit) or 8t (8-bit), which is kept element
  // 2t or 4t.
  LinearLayout::InDim elem, lane, block, step;
  auto toFeature = [](uint64_t value) { return LinearLayout::Basis{value, 0}; };
  auto toColumn = [](uint64_t value) { return LinearLayout::Basis{0, value}; };
  uint64_t perRegister = 4 / elementBytes;
  elem.first = "elem";
  for (uint64_t bit = 1; bit < perRegister; bit *= 2)
    elem.second.push_back(toColumn(bit));
  elem.second.push_back(toFeature(1));              // a register of row g + 8
  elem.second.push_back(toColumn(perRegister * 4)); // the fragment's second half
  lane = {"lane", {toColumn(perRegister), toColumn(perRegister * 2)}};
  for (uint64_t feature : {8, 16, 32})
    lane.second.push_back(toFeature(feature));
  block = {"block", {toFeature(2), toFeature(4)}};
  step.first = "step";
  for (uint64_t bit = perRegister * 8; bit < columns; bit *= 2)
    step.second.push_back(toColumn(bit));
  return LinearLayout({elem, lane, block, step},
                      {{"feature", uint64_t(kPackedChunkFeatures)}, {column, columns}});
}

LinearLayout packedMetadataLayout(PackOrder order, unsigned elementBytes) {
  assert(elementBytes == 1 || elementBytes == 2);
  if (order == PackOrder::Wgmma)
    return packedWarpgroupMetadata(elementBytes);
  auto feature = [](uint64_t value) { return LinearLayout::Basis{value, 0}; };
  auto group = [](uint64_t value) { return LinearLayout::Basis{0, value}; };
  LinearLayout::InDim block = {"block", {feature(2), feature(4)}};
  LinearLayout::OutDim features = {"feature", uint64_t(kPackedChunkFeatures)};
  if (elementBytes == 2) {
    // PTX ISA, sparse mma.m16n8k32 with .f16/.bf16: of each four lanes, two (chosen by the
    // selector) hold one m16 by k32 block, each 16 consecutive k: row g in the low half of the
    // word, row g + 8 in the high half.
    return LinearLayout({{"nibble", {group(1), group(2), feature(1)}},
                         block,
                         {"lane", {group(4), group(8), feature(8), feature(16), feature(32)}}},
                        {features, {"group", 16}});
  }
  // PTX ISA, sparse mma.m16n8k64 with 8-bit types: all lanes hold metadata, each 32 consecutive k
  // of one row; lane bit 0 is the row's h, lane bit 1 the half of k64.
  return LinearLayout({{"nibble", {group(1), group(2), group(4)}},
                       block,
                       {"lane", {feature(1), group(8), feature(8), feature(16), feature(32)}},
                       {"step", {group(16)}}},
                      {features, {"group", 32}});
}

size_t packedValuesBytes(int64_t n, int64_t k, DType type, bool sparse) {
  unsigned bytes = getByteWidth(type);
  return size_t(chunkCount(n, k, type) * packedChunkElements(sparse, bytes)) * bytes;
}

size_t packedMetadataBytes(int64_t n, int64_t k, DType type) {
  return size_t(chunkCount(n, k, type) * packedChunkMetadataWords(getByteWidth(type))) * 4;
}

//===----------------------------------------------------------------------===//
// Packing
//===----------------------------------------------------------------------===//

Error packWeight(PackOrder order, DType type, int64_t n, int64_t k, const void *canonicalValues,
                 const uint8_t *bitmask, void *values, uint32_t *metadata) {
  if (Error error = checkType(type))
    return error;
  if (Error error = validateBitmask24(n, k, bitmask))
    return error;
  unsigned elementBytes = getByteWidth(type);
  packValues(valuesGrid(n, k, type, /*sparse=*/true), innerChunkCount(k, type),
             valuesPermutation(order, /*sparse=*/true, elementBytes), canonicalValues, values);

  static const std::array<uint8_t, 256> nibbles = makePairTable<maskToNibble24>();
  constexpr uint8_t kPaddingByte = kPaddingNibble << 4 | kPaddingNibble;
  const Permutation &permutation = metadataPermutation(order, elementBytes);
  SmallVector<MetadataUnit, 0> scratch(permutation.size());
  auto *scratchBytes = reinterpret_cast<uint8_t *>(scratch.data());
  auto *out = reinterpret_cast<char *>(metadata);
  RowMajor grid = metadataGrid(n, k, type);
  grid.forEachChunk(
      innerChunkCount(k, type), [&](int64_t row, int64_t rows, int64_t byte, int64_t bytes) {
        if (rows < kPackedChunkFeatures || bytes < grid.chunkRowBytes)
          std::memset(scratchBytes, kPaddingByte, scratch.size() * sizeof(MetadataUnit));
        for (int64_t r = 0; r < rows; ++r) {
          const uint8_t *masks = bitmask + (row + r) * grid.rowBytes + byte;
          uint8_t *target = scratchBytes + r * grid.chunkRowBytes;
          for (int64_t b = 0; b < bytes; ++b)
            target[b] = nibbles[masks[b]];
          if (k % 8 && byte + bytes == grid.rowBytes)
            target[bytes - 1] |= kPaddingNibble << 4; // the last byte has one group
        }
        for (uint32_t from : permutation) {
          std::memcpy(out, &scratch[from], sizeof(MetadataUnit));
          out += sizeof(MetadataUnit);
        }
      });
  return Error::success();
}

Error unpackWeight(PackOrder order, DType type, int64_t n, int64_t k, const void *values,
                   const uint32_t *metadata, void *canonicalValues, uint8_t *bitmask) {
  if (Error error = checkType(type))
    return error;
  unsigned elementBytes = getByteWidth(type);
  static const std::array<uint8_t, 256> masks = makePairTable<nibbleToMask24>();
  const Permutation &permutation = metadataPermutation(order, elementBytes);
  SmallVector<MetadataUnit, 0> scratch(permutation.size());
  auto *scratchBytes = reinterpret_cast<const uint8_t *>(scratch.data());
  auto *in = reinterpret_cast<const char *>(metadata);
  RowMajor grid = metadataGrid(n, k, type);
  grid.forEachChunk(innerChunkCount(k, type),
                    [&](int64_t row, int64_t rows, int64_t byte, int64_t bytes) {
                      for (uint32_t to : permutation) {
                        std::memcpy(&scratch[to], in, sizeof(MetadataUnit));
                        in += sizeof(MetadataUnit);
                      }
                      for (int64_t r = 0; r < rows; ++r) {
                        const uint8_t *source = scratchBytes + r * grid.chunkRowBytes;
                        uint8_t *target = bitmask + (row + r) * grid.rowBytes + byte;
                        for (int64_t b = 0; b < bytes; ++b)
                          target[b] = masks[source[b]];
                        if (k % 8 && byte + bytes == grid.rowBytes)
                          target[bytes - 1] &= 0xf;
                      }
                    });
  if (Error error = validateBitmask24(n, k, bitmask)) {
    consumeError(std::move(error));
    return createStringError(
        "expected metadata nibbles of two ascending positions (4, 8, 9, C, D or "
        "E), got another; the packed weight is damaged or of another type");
  }
  unpackValues(valuesGrid(n, k, type, /*sparse=*/true), innerChunkCount(k, type),
               valuesPermutation(order, /*sparse=*/true, elementBytes), values, canonicalValues);
  return Error::success();
}

Error packDenseWeight(PackOrder order, DType type, int64_t n, int64_t k, const void *dense,
                      void *values) {
  if (Error error = checkType(type))
    return error;
  packValues(valuesGrid(n, k, type, /*sparse=*/false), innerChunkCount(k, type),
             valuesPermutation(order, /*sparse=*/false, getByteWidth(type)), dense, values);
  return Error::success();
}

Error unpackDenseWeight(PackOrder order, DType type, int64_t n, int64_t k, const void *values,
                        void *dense) {
  if (Error error = checkType(type))
    return error;
  unpackValues(valuesGrid(n, k, type, /*sparse=*/false), innerChunkCount(k, type),
               valuesPermutation(order, /*sparse=*/false, getByteWidth(type)), values, dense);
  return Error::success();
}

} // namespace sparseflow
