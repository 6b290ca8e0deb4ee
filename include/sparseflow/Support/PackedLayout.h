//===- PackedLayout.h - The packed orders of weights ------------*- C++ -*-===//
//
// A packed weight is cut into chunks of 64 features by 128 bytes of activation along K, zero-padded
// in N and K to whole chunks, ordered [feature chunk][k chunk]. Inside a chunk the elements stand
// in the order in which one family of tensor-core instructions consumes them, whatever tile a
// kernel has:
//
// `mma` (mma.sync, mma.sp): by lane. A lane reads 16 contiguous bytes for each m16 block and
// k-step, a warp 512, so global loads, cp.async copies and shared-memory reads are all contiguous
// and free of bank conflicts. Rows are permuted so that a lane owns 8 contiguous features of the
// result: row g + 8h of m16 block i is feature 8g + 2i + h.
//
// `wgmma` (wgmma.mma_async[.sp]): by core matrix, 8 rows of 16 bytes, which the instruction finds
// through a shared-memory descriptor without a swizzle. Rows are permuted inside the 16 rows of a
// warp so that a lane owns 2 contiguous features: row 16w + g + 8h is feature 16w + 2g + h.
//
// The order is one LinearLayout for each array. Host packing here, the pack kernel and the GEMM's
// addressing derive from it; docs/Layouts.md draws it. It depends on the element's width alone.
//
// Fragment conventions: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type",
// "... mma.m16n8k32", and "Matrix Fragments for sparse mma.m16n8k32 with .f16 and .bf16 types",
// "... sparse mma.m16n8k64 with .u8/.s8/.e4m3/.e5m2 type" (9.7.14.5 and 9.7.14.6.2 in PTX 8.x
// and 9.0); for wgmma "Matrix Fragments for wgmma.mma_async", its sparse variant and "Shared Memory
// Matrix Layout" (9.7.15.5).
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_SUPPORT_PACKEDLAYOUT_H
#define SPARSEFLOW_SUPPORT_PACKEDLAYOUT_H

#include "sparseflow/Support/LinearLayout.h"
#include "sparseflow/Support/NumericTypes.h"
#include "llvm/Support/Error.h"

#include <cstddef>
#include <cstdint>

namespace sparseflow {

/// The instructions that a weight is packed for.
enum class PackOrder { Mma, Wgmma };

/// Features of one chunk: four m16 blocks.
constexpr int64_t kPackedChunkFeatures = 64;
/// For wgmma: the feature that each bit of an instruction's row stands for.
constexpr uint64_t kWgmmaRowFeatures[] = {2, 4, 8, 1, 16, 32};
/// Whether one wgmma multiplies so many tokens, whatever their type. PTX ISA, 9.7.15.5.1.
constexpr int64_t kMaxWgmmaTokens = 256;
constexpr bool isWgmmaTokens(int64_t tokens) {
  return tokens == 8 || tokens == 24 ||
         (tokens >= 16 && tokens <= kMaxWgmmaTokens && tokens % 16 == 0);
}
/// Bytes of one activation row that one chunk covers: one 128-byte swizzle span.
constexpr int64_t kPackedChunkRowBytes = 128;

/// K positions of one chunk: 64 for 2-byte elements, 128 for 1-byte ones.
constexpr int64_t packedChunkInner(unsigned elementBytes) {
  return kPackedChunkRowBytes / elementBytes;
}
/// Stored elements of one chunk.
constexpr int64_t packedChunkElements(bool sparse, unsigned elementBytes) {
  return kPackedChunkFeatures * packedChunkInner(elementBytes) / (sparse ? 2 : 1);
}
/// 32-bit metadata words of one chunk: 128 for 2-byte elements, 256 for 1-byte ones.
constexpr int64_t packedChunkMetadataWords(unsigned elementBytes) {
  return kPackedChunkFeatures * packedChunkInner(elementBytes) / 4 / 8;
}

/// Where an element of a chunk belongs. Inputs, from the lowest bit of the element's offset:
///   mma: elem (8 or 16: one lane's 16 bytes), lane (32), block (4: m16 block), step (k-step: 2
///   sparse, 4 dense)
///   wgmma: elem (8 or 16: 16 bytes of a row), row (64), half (2: of the k-step), step
/// Outputs: feature (64) and, for a sparse weight, kept (the position among the kept elements of
/// the row: two a group), for a dense one, k. `elementBytes` is 1 or 2.
LinearLayout packedValuesLayout(PackOrder order, bool sparse, unsigned elementBytes);

/// Where a metadata nibble of a chunk belongs. Inputs, from the lowest: nibble (8: in a 32-bit
/// word, first in the low bits), then for mma block (4) and lane (32), for wgmma lane (32) and warp
/// (4), and, for 1-byte elements, step (2). Outputs: feature (64), group (16 or 32: k / 4). For
/// 2-byte elements lane bit 1 is the k-step, chosen by the instruction's sparsity selector.
LinearLayout packedMetadataLayout(PackOrder order, unsigned elementBytes);

/// Bytes of the packed arrays, padding included. Metadata is for sparse weights only.
size_t packedValuesBytes(int64_t n, int64_t k, DType type, bool sparse = true);
size_t packedMetadataBytes(int64_t n, int64_t k, DType type);

/// Canonical (see Sparse24.h) to packed. `values` and `metadata` receive packedValuesBytes and
/// packedMetadataBytes; every byte is written. A padded group has value 0 and the legal nibble 4.
/// Fails if the type is not 1 or 2 bytes wide or the bitmask is not two bits a group.
llvm::Error packWeight(PackOrder order, DType type, int64_t n, int64_t k,
                       const void *canonicalValues, const uint8_t *bitmask, void *values,
                       uint32_t *metadata);
/// Packed to canonical. Fails on an illegal nibble.
llvm::Error unpackWeight(PackOrder order, DType type, int64_t n, int64_t k, const void *values,
                         const uint32_t *metadata, void *canonicalValues, uint8_t *bitmask);

/// Dense [N,K] to packed dense, and back. Any K.
llvm::Error packDenseWeight(PackOrder order, DType type, int64_t n, int64_t k, const void *dense,
                            void *values);
llvm::Error unpackDenseWeight(PackOrder order, DType type, int64_t n, int64_t k, const void *values,
                              void *dense);

} // namespace sparseflow

#endif // SPARSEFLOW_SUPPORT_PACKEDLAYOUT_H
