//===- PackedLayoutTest.cpp - The packed weight layout `mma` --------------===//
//
// The layouts are checked against the fragment formulas of the PTX ISA, written out here as the
// manual writes them, so that the bases in the library and these formulas are two statements of the
// same facts.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Support/PackedLayout.h"
#include "sparseflow/Support/Sparse24.h"

#include "llvm/Support/raw_ostream.h"
#include "gtest/gtest.h"

#include <chrono>
#include <cstring>
#include <random>
#include <vector>

using namespace sparseflow;

namespace {

std::vector<char> randomBytes(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<char> bytes(count);
  for (char &byte : bytes)
    byte = char(random() % 100 + 1);
  return bytes;
}

struct Canonical {
  std::vector<char> values;
  std::vector<uint8_t> bitmask;
};

/// Bytes 1 to 100 are finite and not zero in every type.
Canonical randomCanonical(DType type, int64_t n, int64_t k, unsigned seed) {
  std::vector<char> dense = randomBytes(size_t(n * k) * getByteWidth(type), seed);
  Canonical result;
  result.values.resize(canonicalValuesBytes(n, k, type));
  result.bitmask.resize(canonicalBitmaskBytes(n, k));
  llvm::cantFail(compress24(type, n, k, dense.data(), CompressMode::Prune, result.values.data(),
                            result.bitmask.data()));
  return result;
}

struct Packed {
  std::vector<char> values;
  std::vector<uint32_t> metadata;
};

Packed pack(PackOrder order, DType type, int64_t n, int64_t k, const Canonical &canonical) {
  Packed result;
  result.values.resize(packedValuesBytes(n, k, type), char(0xee));
  result.metadata.resize(packedMetadataBytes(n, k, type) / 4, 0xeeeeeeee);
  llvm::cantFail(packWeight(order, type, n, k, canonical.values.data(), canonical.bitmask.data(),
                            result.values.data(), result.metadata.data()));
  return result;
}

constexpr PackOrder kOrders[] = {PackOrder::Mma, PackOrder::Wgmma};
constexpr DType kPackedTypes[] = {DType::f16, DType::bf16, DType::i8, DType::e4m3, DType::e5m2};
/// Row g + 8h of a warp's 16 is feature 2g + h.
uint64_t wgmmaFeature(uint64_t row) { return row / 16 * 16 + row % 8 * 2 + row / 8 % 2; }

constexpr std::pair<int64_t, int64_t> kShapes[] = {{1, 4},     {64, 128}, {63, 60}, {65, 132},
                                                   {128, 256}, {1, 1024}, {200, 4}, {40, 68},
                                                   {0, 64},    {64, 0}};

//===----------------------------------------------------------------------===//
// The layouts are what the instructions want
//===----------------------------------------------------------------------===//

TEST(PackedLayout, layouts_are_bijections_of_a_chunk) {
  for (PackOrder order : kOrders)
    for (unsigned bytes : {1u, 2u}) {
      for (bool sparse : {false, true}) {
        LinearLayout values = packedValuesLayout(order, sparse, bytes);
        EXPECT_TRUE(values.isBijective());
        EXPECT_EQ(uint64_t(1) << values.getTotalInBits(),
                  uint64_t(packedChunkElements(sparse, bytes)));
        EXPECT_EQ(values.getInSize("elem") * bytes, 16u);
      }
      LinearLayout metadata = packedMetadataLayout(order, bytes);
      EXPECT_TRUE(metadata.isBijective());
      EXPECT_EQ(uint64_t(1) << metadata.getTotalInBits(),
                uint64_t(packedChunkMetadataWords(bytes) * 8));
    }
}

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and "... mma.m16n8k32";
// mma.sp keeps the fragment and reads its columns as kept elements.
TEST(PackedLayout, values_are_the_a_fragments_of_the_instructions) {
  for (unsigned bytes : {1u, 2u})
    for (bool sparse : {false, true}) {
      LinearLayout layout = packedValuesLayout(PackOrder::Mma, sparse, bytes);
      uint64_t perRegister = 4 / bytes;
      for (uint64_t index = 0; index < (uint64_t(1) << layout.getTotalInBits()); ++index) {
        uint64_t elem = index % (16 / bytes), rest = index / (16 / bytes);
        uint64_t lane = rest % 32, block = rest / 32 % 4, step = rest / 128;
        uint64_t groupId = lane >> 2, threadInGroup = lane % 4, reg = elem / perRegister;
        uint64_t row = reg == 0 || reg == 2 ? groupId : groupId + 8;
        uint64_t column =
            threadInGroup * perRegister + elem % perRegister + (reg >= 2 ? 4 * perRegister : 0);
        // Row g + 8h of block i is feature 8g + 2i + h.
        uint64_t feature = (row % 8) * 8 + block * 2 + row / 8;
        LinearLayout::Coords coords =
            layout.apply({{"elem", elem}, {"lane", lane}, {"block", block}, {"step", step}});
        ASSERT_EQ(coords[0].second, feature);
        ASSERT_EQ(coords[1].second, column + step * 8 * perRegister);
        ASSERT_EQ(layout.applyFlat(index), feature | (column + step * 8 * perRegister) << 6);
      }
    }
}

// PTX ISA, "Matrix Fragments for sparse mma.m16n8k32 with .f16 and .bf16 types", metadata: lanes 4g
// + 2F and 4g + 2F + 1 contribute for selector F, columns 0-15 and 16-31, rows g (low half) and g +
// 8 (high half).
TEST(PackedLayout, metadata_of_16_bit_types_follows_the_selector) {
  LinearLayout layout = packedMetadataLayout(PackOrder::Mma, 2);
  for (uint64_t lane = 0; lane < 32; ++lane)
    for (uint64_t block = 0; block < 4; ++block)
      for (uint64_t nibble = 0; nibble < 8; ++nibble) {
        uint64_t selector = lane >> 1 & 1, row = (lane >> 2) + (nibble >= 4 ? 8 : 0);
        uint64_t column = selector * 32 + (lane & 1) * 16 + nibble % 4 * 4;
        LinearLayout::Coords coords =
            layout.apply({{"nibble", nibble}, {"block", block}, {"lane", lane}});
        EXPECT_EQ(coords[0].second, (row % 8) * 8 + block * 2 + row / 8);
        EXPECT_EQ(coords[1].second, column / 4);
        EXPECT_EQ(layout.applyFlat(((lane * 4 + block) * 8) + nibble),
                  coords[0].second | coords[1].second << 6);
      }
}

// "... sparse mma.m16n8k64 with .u8/.s8/.e4m3/.e5m2 types": every lane contributes, rows g (even
// lanes) and g + 8 (odd lanes), columns 0-31 (lanes 0 and 1 of four) and 32-63.
TEST(PackedLayout, metadata_of_8_bit_types_uses_all_lanes) {
  LinearLayout layout = packedMetadataLayout(PackOrder::Mma, 1);
  for (uint64_t word = 0; word < 256; ++word)
    for (uint64_t nibble = 0; nibble < 8; ++nibble) {
      uint64_t block = word % 4, lane = word / 4 % 32, step = word / 128;
      uint64_t row = (lane >> 2) + (lane & 1) * 8,
               column = step * 64 + (lane >> 1 & 1) * 32 + nibble * 4;
      EXPECT_EQ(layout.applyFlat(word * 8 + nibble),
                ((row % 8) * 8 + block * 2 + row / 8) | (column / 4) << 6);
    }
}

TEST(PackedLayout, lane_owns_eight_contiguous_features) {
  LinearLayout layout = packedValuesLayout(PackOrder::Mma, /*sparse=*/true, 2);
  for (uint64_t lane = 0; lane < 32; ++lane)
    for (uint64_t block = 0; block < 4; ++block)
      for (uint64_t half = 0; half < 2; ++half)
        EXPECT_EQ(layout.apply({{"elem", half * 2}, {"lane", lane}, {"block", block}}, "feature"),
                  (lane >> 2) * 8 + block * 2 + half);
}

TEST(PackedLayout, fragment_reads_are_free_of_bank_conflicts) {
  for (unsigned bytes : {1u, 2u})
    for (bool sparse : {false, true}) {
      // An element's offset is its flat input index, so a lane's 16 bytes start where its bit does.
      LinearLayout layout = packedValuesLayout(PackOrder::Mma, sparse, bytes);
      LinearLayout::InDim lane{"lane", {}};
      for (unsigned bit = 0; bit < 5; ++bit)
        lane.second.push_back({layout.getInSize("elem") * bytes << bit});
      EXPECT_TRUE(bankConflicts(LinearLayout({lane}, {{"offset", 1024}}), 16).isFree());
    }
}

// PTX ISA, 9.7.15.5.1, "Shared Memory Matrix Layout" without a swizzle: an instruction's operand of
// 64 rows by 32 bytes is two columns of core matrices, each 8 rows of 16 bytes, one behind the
// other. Here 128 bytes lie between those along the rows and 1024 between those along k.
TEST(PackedLayout, values_for_wgmma_are_core_matrices) {
  for (unsigned bytes : {1u, 2u})
    for (bool sparse : {false, true}) {
      LinearLayout layout = packedValuesLayout(PackOrder::Wgmma, sparse, bytes);
      uint64_t columns = packedChunkInner(bytes) / (sparse ? 2 : 1);
      for (uint64_t row = 0; row < 64; ++row)
        for (uint64_t column = 0; column < columns; ++column) {
          uint64_t byte = column * bytes, step = byte / 32, half = byte / 16 % 2;
          uint64_t offset = step * 2048 + half * 1024 + row / 8 * 128 + row % 8 * 16 + byte % 16;
          ASSERT_EQ(layout.applyFlat(offset / bytes), wgmmaFeature(row) | column << 6);
        }
    }
}

// PTX ISA, 9.7.15.6.1: warp w has the metadata of rows 16w to 16w + 15, as mma.sp has it. A thread
// reads its words at a distance of a warpgroup's 128.
TEST(PackedLayout, metadata_for_wgmma_is_a_word_a_thread) {
  for (unsigned bytes : {1u, 2u}) {
    LinearLayout layout = packedMetadataLayout(PackOrder::Wgmma, bytes);
    for (uint64_t word = 0; word < uint64_t(packedChunkMetadataWords(bytes)); ++word)
      for (uint64_t nibble = 0; nibble < 8; ++nibble) {
        uint64_t thread = word % 128, lane = thread % 32, row = thread / 32 * 16 + lane / 4, column;
        if (bytes == 2) {
          row += 8 * (nibble / 4);
          column = (lane >> 1 & 1) * 32 + (lane & 1) * 16 + nibble % 4 * 4;
        } else {
          row += 8 * (lane & 1);
          column = word / 128 * 64 + (lane >> 1 & 1) * 32 + nibble * 4;
        }
        ASSERT_EQ(layout.applyFlat(word * 8 + nibble), wgmmaFeature(row) | (column / 4) << 6);
      }
  }
}

//===----------------------------------------------------------------------===//
// Packing
//===----------------------------------------------------------------------===//

// Element by element through the layout, without the permutation tables.
TEST(PackedLayout, packing_places_every_element_where_the_layout_says) {
  for (auto [order, type] : {std::pair(PackOrder::Mma, DType::f16),
                             {PackOrder::Mma, DType::i8},
                             {PackOrder::Wgmma, DType::f16},
                             {PackOrder::Wgmma, DType::i8}}) {
    int64_t n = 70, k = 140, bytes = getByteWidth(type), inner = packedChunkInner(bytes);
    Canonical canonical = randomCanonical(type, n, k, 11);
    Packed packed = pack(order, type, n, k, canonical);
    LinearLayout values = packedValuesLayout(order, /*sparse=*/true, bytes);
    LinearLayout metadata = packedMetadataLayout(order, bytes);
    int64_t innerChunks = (k + inner - 1) / inner, chunks = (n + 63) / 64 * innerChunks;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      int64_t row0 = chunk / innerChunks * 64, k0 = chunk % innerChunks * inner;
      int64_t elements = packedChunkElements(true, bytes);
      for (int64_t index = 0; index < elements; ++index) {
        uint64_t where = values.applyFlat(index);
        int64_t row = row0 + where % 64, kept = k0 / 2 + where / 64;
        std::vector<char> expected(bytes, 0);
        if (row < n && kept < k / 2)
          std::memcpy(expected.data(), &canonical.values[(row * (k / 2) + kept) * bytes], bytes);
        ASSERT_EQ(
            std::memcmp(expected.data(), &packed.values[(chunk * elements + index) * bytes], bytes),
            0);
      }
      int64_t words = packedChunkMetadataWords(bytes);
      for (int64_t index = 0; index < words * 8; ++index) {
        uint64_t where = metadata.applyFlat(index);
        int64_t row = row0 + where % 64, group = k0 / 4 + where / 64;
        uint8_t expected = 4;
        if (row < n && group < k / 4)
          expected = maskToNibble24(
              canonical.bitmask[row * ((k + 7) / 8) + group / 2] >> (group % 2 * 4) & 0xf);
        ASSERT_EQ(packed.metadata[chunk * words + index / 8] >> (index % 8 * 4) & 0xf, expected);
      }
    }
  }
}

// Read back as the instruction does: by descriptor without a swizzle (128 bytes along the rows,
// 1024 along k), metadata from each thread's registers, without a layout of this library.
TEST(PackedLayout, wgmma_reads_the_weight_that_was_packed) {
  int64_t n = 70, k = 140;
  for (DType type : kPackedTypes) {
    int64_t bytes = getByteWidth(type), inner = packedChunkInner(bytes);
    Canonical canonical = randomCanonical(type, n, k, 12);
    Packed packed = pack(PackOrder::Wgmma, type, n, k, canonical);
    std::vector<char> expected(n * k * bytes), read(n * k * bytes, 0);
    llvm::cantFail(decompress24(type, n, k, canonical.values.data(), canonical.bitmask.data(),
                                expected.data()));
    int64_t chunkBytes = packedChunkElements(/*sparse=*/true, bytes) * bytes;
    int64_t chunkWords = packedChunkMetadataWords(bytes), innerChunks = (k + inner - 1) / inner;
    for (int64_t chunk = 0; chunk < (n + 63) / 64 * innerChunks; ++chunk)
      for (int64_t row = 0; row < 64; ++row)
        for (int64_t group = 0; group < inner / 4; ++group) {
          int64_t feature = chunk / innerChunks * 64 + int64_t(wgmmaFeature(row));
          int64_t first = chunk % innerChunks * inner + group * 4;
          if (feature >= n || first >= k)
            continue;
          // 16-bit types: four groups a half word, the thread's pair chosen by the step. 8-bit
          // ones: eight groups a word.
          int64_t thread = row / 16 * 32 + row % 8 * 4, word = 0, nibble = 0;
          if (bytes == 2) {
            word = thread + group / 4;
            nibble = row / 8 % 2 * 4 + group % 4;
          } else {
            word = group / 16 * 128 + thread + group / 8 % 2 * 2 + row / 8 % 2;
            nibble = group % 8;
          }
          uint32_t positions = packed.metadata[chunk * chunkWords + word] >> nibble * 4 & 0xf;
          for (int64_t i : {0, 1}) {
            int64_t byte = (group * 2 + i) * bytes;
            int64_t offset = chunk * chunkBytes + byte / 32 * 2048 + byte / 16 % 2 * 1024 +
                             row / 8 * 128 + row % 8 * 16 + byte % 16;
            int64_t column = first + (positions >> i * 2 & 3);
            std::memcpy(&read[(feature * k + column) * bytes], &packed.values[offset], bytes);
          }
        }
    EXPECT_EQ(read, expected) << stringifyDType(type).str();
  }
}

TEST(PackedLayout, unpacking_inverts_packing_for_every_type_and_shape) {
  for (PackOrder order : kOrders)
    for (DType type : kPackedTypes)
      for (auto [n, k] : kShapes) {
        Canonical canonical = randomCanonical(type, n, k, unsigned(n + k));
        Packed packed = pack(order, type, n, k, canonical);
        Canonical back;
        back.values.resize(canonical.values.size());
        back.bitmask.resize(canonical.bitmask.size());
        ASSERT_EQ(llvm::toString(unpackWeight(order, type, n, k, packed.values.data(),
                                              packed.metadata.data(), back.values.data(),
                                              back.bitmask.data())),
                  "");
        EXPECT_EQ(back.values, canonical.values) << stringifyDType(type).str() << n << 'x' << k;
        EXPECT_EQ(back.bitmask, canonical.bitmask);
      }
}

TEST(PackedLayout, dense_unpacking_inverts_packing) {
  for (PackOrder order : kOrders)
    for (DType type : kPackedTypes)
      for (auto [n, k] :
           {std::pair<int64_t, int64_t>{64, 64}, {65, 130}, {1, 1}, {33, 77}, {128, 256}}) {
        std::vector<char> dense = randomBytes(size_t(n * k) * getByteWidth(type), unsigned(n * k));
        std::vector<char> packed(packedValuesBytes(n, k, type, /*sparse=*/false), char(0xee));
        ASSERT_EQ(llvm::toString(packDenseWeight(order, type, n, k, dense.data(), packed.data())),
                  "");
        std::vector<char> back(dense.size());
        ASSERT_EQ(llvm::toString(unpackDenseWeight(order, type, n, k, packed.data(), back.data())),
                  "");
        EXPECT_EQ(back, dense);
      }
}

TEST(PackedLayout, sizes_cover_whole_chunks) {
  EXPECT_EQ(packedValuesBytes(64, 64, DType::f16), 64u * 32 * 2);
  EXPECT_EQ(packedMetadataBytes(64, 64, DType::f16), 128u * 4);
  EXPECT_EQ(packedValuesBytes(65, 132, DType::i8), 4u * 64 * 64);
  EXPECT_EQ(packedMetadataBytes(65, 132, DType::i8), 4u * 256 * 4);
  EXPECT_EQ(packedValuesBytes(64, 128, DType::i8, /*sparse=*/false), 64u * 128);
}

TEST(PackedLayout, wide_types_and_damaged_metadata_are_errors) {
  EXPECT_EQ(
      llvm::toString(
          packWeight(PackOrder::Mma, DType::f32, 0, 0, nullptr, nullptr, nullptr, nullptr)),
      "expected an element type of 8 or 16 bits in a packed weight, got f32; the tensor core's 2:4 "
      "operand is f16, bf16, i8, e4m3 or e5m2");
  for (PackOrder order : kOrders) {
    Canonical canonical = randomCanonical(DType::f16, 64, 64, 5);
    Packed packed = pack(order, DType::f16, 64, 64, canonical);
    packed.metadata[3] = 0;
    std::string message = llvm::toString(
        unpackWeight(order, DType::f16, 64, 64, packed.values.data(), packed.metadata.data(),
                     canonical.values.data(), canonical.bitmask.data()));
    EXPECT_NE(message.find("expected metadata nibbles"), std::string::npos);
  }
}

TEST(PackedLayout, packs_a_large_weight_quickly) {
  Canonical canonical = randomCanonical(DType::f16, 4096, 4096, 9);
  Packed packed;
  packed.values.resize(packedValuesBytes(4096, 4096, DType::f16));
  packed.metadata.resize(packedMetadataBytes(4096, 4096, DType::f16) / 4);
  auto start = std::chrono::steady_clock::now();
  llvm::cantFail(packWeight(PackOrder::Mma, DType::f16, 4096, 4096, canonical.values.data(),
                            canonical.bitmask.data(), packed.values.data(),
                            packed.metadata.data()));
  std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
  llvm::outs() << "pack 4096x4096 f16: " << elapsed.count() << " ms\n";
  EXPECT_LT(elapsed.count(), 1000);
}

} // namespace
