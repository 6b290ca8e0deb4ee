//===- Sparse24.h - The canonical form of a 2:4 weight ----------*- C++ -*-===//
//
// A weight W[N,K] is 2:4 when each group of four consecutive elements of a row holds at most two
// nonzeros. Its canonical form is what files store and what every packed layout is made from:
//
//   values   [N, K/2]        the two kept elements of each group, in ascending position
//   bitmask  [N, ceil(K/8)]  bit j of byte b is element 8b+j; exactly two bits of each group are
//   set
//
// It can be cut along N anywhere and along K at multiples of 8, and equal weights have equal bytes:
// a group with fewer than two nonzeros keeps zeros at its lowest free positions, and -0.0 becomes
// 0. NaN and infinity are rejected: which elements they would displace is not something to decide
// silently.
//
// All arrays are dense and row-major and the code is single-threaded; a caller splits by rows.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_SUPPORT_SPARSE24_H
#define SPARSEFLOW_SUPPORT_SPARSE24_H

#include "sparseflow/Support/NumericTypes.h"
#include "llvm/Support/Error.h"

#include <cstddef>
#include <cstdint>

namespace sparseflow {

/// What to do with a weight that is not 2:4.
enum class CompressMode {
  Verify, ///< A group with more than two nonzeros is an error.
  Prune   ///< Keep the two largest magnitudes of each group, ties to the lower position.
};

/// Bytes of each array. K is a multiple of 4.
inline size_t canonicalValuesBytes(int64_t n, int64_t k, DType type) {
  return size_t(n) * size_t(k / 2) * getByteWidth(type);
}
inline size_t canonicalBitmaskBytes(int64_t n, int64_t k) {
  return size_t(n) * size_t((k + 7) / 8);
}

/// What stands in the way of compressing a dense weight. Positions are of the first offence in
/// row-major order; groups count along K.
struct Sparse24Report {
  int64_t offendingGroups = 0; ///< Groups with more than two nonzeros.
  int64_t firstRow = -1, firstGroup = -1;
  unsigned firstNonzeros = 0;
  int64_t nonFinite = 0; ///< NaNs and infinities.
  int64_t nonFiniteRow = -1, nonFiniteColumn = -1;

  bool isValid() const { return offendingGroups == 0 && nonFinite == 0; }
};

/// Inspects a dense weight [N,K]; K must be a multiple of 4 (an error otherwise).
llvm::Expected<Sparse24Report> inspect24(DType type, int64_t n, int64_t k, const void *dense);

/// Fails with a sentence that names the count and the first offence if `dense` is not a finite 2:4
/// weight.
llvm::Error validate24(DType type, int64_t n, int64_t k, const void *dense);

/// Dense [N,K] to canonical. On failure the outputs hold no meaning.
llvm::Error compress24(DType type, int64_t n, int64_t k, const void *dense, CompressMode mode,
                       void *values, uint8_t *bitmask);

/// Canonical to dense [N,K]; the exact inverse of compress24 on a 2:4 weight without -0.0. Fails if
/// the bitmask is not one of two bits a group.
llvm::Error decompress24(DType type, int64_t n, int64_t k, const void *values,
                         const uint8_t *bitmask, void *dense);

/// Fails if a group of the bitmask does not have exactly two bits, or a padding bit beyond K is
/// set.
llvm::Error validateBitmask24(int64_t n, int64_t k, const uint8_t *bitmask);

/// Zeroes all but the two largest magnitudes of each group, in place.
llvm::Error prune24(DType type, int64_t n, int64_t k, void *dense);

/// The hardware's metadata nibble of a group, idx1 << 2 | idx0, from its four mask bits: one of 4,
/// 8, 9, C, D, E. Masks without exactly two bits give 0, which is not legal.
uint8_t maskToNibble24(uint8_t mask);
/// The four mask bits of a legal nibble, else 0.
uint8_t nibbleToMask24(uint8_t nibble);

} // namespace sparseflow

#endif // SPARSEFLOW_SUPPORT_SPARSE24_H
