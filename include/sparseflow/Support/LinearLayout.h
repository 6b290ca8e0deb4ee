//===- LinearLayout.h - GF(2)-linear maps between index spaces --*- C++ -*-===//
//
// Where does an element live? The fragment of a tensor-core instruction, the order of 2:4 metadata,
// a 128-byte swizzle and the bytes of a packed weight are all answers to that question, and all of
// them are linear over GF(2): every bit of the answer is an XOR of bits of the index. So one class
// holds them all, composes them, inverts them and proves facts about them (conflict-free,
// vectorizable, a bijection), instead of one hand-written index function for every pair.
//
// A layout is given by its bases: where each single bit of each input dimension goes. Everything
// else follows from L(a ^ b) = L(a) ^ L(b). Example, a row of four 16-byte chunks in shared memory,
// stored at chunk ^ (row & 3):
//
//   LinearLayout swizzle({{"chunk", {{1}, {2}}}, {"row", {{5}, {10}}}}, {{"offset", 16}});
//
//   row bit 0 moves by 4 and flips chunk bit 0 (5 = 4 ^ 1), row bit 1 moves by 8 and flips chunk
//   bit 1. swizzle.apply({{"chunk", 3}, {"row", 1}}) is {{"offset", 1 ^ 2 ^ 5}} = {{"offset", 6}}.
//
// Dimensions are named and ordered; sizes are powers of two. Internally a layout is one matrix of
// at most 64 by 64 bits: the first dimension of each side holds the lowest bits of the flat index.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_SUPPORT_LINEARLAYOUT_H
#define SPARSEFLOW_SUPPORT_LINEARLAYOUT_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/Hashing.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace llvm {
class raw_ostream;
} // namespace llvm

namespace sparseflow {

/// A named dimension of 2^bits positions.
struct LayoutDim {
  std::string name;
  unsigned bits = 0;

  uint64_t size() const { return uint64_t(1) << bits; }
  friend bool operator==(const LayoutDim &a, const LayoutDim &b) {
    return a.bits == b.bits && a.name == b.name;
  }
  friend bool operator!=(const LayoutDim &a, const LayoutDim &b) { return !(a == b); }
};

/// A linear map over GF(2) from named input dimensions to named output dimensions.
class LinearLayout {
public:
  /// An input dimension and, for each of its bits from the lowest, the output coordinates that the
  /// bit alone maps to (one coordinate for every output dimension, in their order).
  using Basis = std::vector<uint64_t>;
  using InDim = std::pair<std::string, std::vector<Basis>>;
  /// An output dimension and its size, a power of two.
  using OutDim = std::pair<std::string, uint64_t>;
  /// A coordinate: a dimension's name and a position in it.
  using Coord = std::pair<llvm::StringRef, uint64_t>;
  using Coords = llvm::SmallVector<Coord, 4>;

  /// The empty layout: no dimensions, neutral for the product.
  LinearLayout() = default;

  /// The arguments must be valid as `create` says; this form is for layouts written in code.
  LinearLayout(llvm::ArrayRef<InDim> inDims, llvm::ArrayRef<OutDim> outDims);

  /// As the constructor, for bases that come from a user. Fails on a size that is not a power of
  /// two, a basis of the wrong length or out of range, a repeated name, and more than 64 bits on a
  /// side.
  static llvm::Expected<LinearLayout> create(llvm::ArrayRef<InDim> inDims,
                                             llvm::ArrayRef<OutDim> outDims);

  llvm::ArrayRef<LayoutDim> getInDims() const { return ins; }
  llvm::ArrayRef<LayoutDim> getOutDims() const { return outs; }
  bool hasOut(llvm::StringRef name) const;
  /// The dimension must exist.
  unsigned getInBits(llvm::StringRef name) const;
  unsigned getOutBits(llvm::StringRef name) const;
  uint64_t getInSize(llvm::StringRef name) const { return uint64_t(1) << getInBits(name); }
  uint64_t getOutSize(llvm::StringRef name) const { return uint64_t(1) << getOutBits(name); }
  unsigned getTotalInBits() const { return columns.size(); }
  unsigned getTotalOutBits() const;

  /// The coordinate of `out` that bit `bit` of `in` alone maps to.
  uint64_t getBasis(llvm::StringRef in, unsigned bit, llvm::StringRef out) const;

  /// Maps one position. Dimensions that are not named are at 0; an unknown name is a programming
  /// error. The result's names point into this layout.
  Coords apply(llvm::ArrayRef<Coord> position) const;
  /// As apply, for one output dimension.
  uint64_t apply(llvm::ArrayRef<Coord> position, llvm::StringRef out) const;
  /// Maps a flat input index to a flat output index.
  uint64_t applyFlat(uint64_t index) const {
    uint64_t result = 0;
    for (uint64_t column : columns) {
      result ^= column & -(index & 1);
      index >>= 1;
    }
    return result;
  }
  /// The product: side by side. A dimension of both sides gets the bits of `outer` above those of
  /// `inner`; this is how a tile is built from a fragment, a warp grid and a repetition.
  friend LinearLayout operator*(const LinearLayout &inner, const LinearLayout &outer);
  LinearLayout &operator*=(const LinearLayout &outer) { return *this = *this * outer; }

  /// First this layout, then `next`: next(this(x)). `next` must have exactly this layout's output
  /// dimensions as its inputs, in any order, each at least as large.
  LinearLayout compose(const LinearLayout &next) const;

  /// The inverse of a bijection.
  LinearLayout invert() const;
  /// A right inverse of a surjection: this(result(y)) = y, with every free input bit at 0. Of a
  /// layout that does not cover its outputs: defined on what is covered, the other output bits are
  /// ignored.
  LinearLayout pseudoInvert() const;
  /// Keeps the named inputs and outputs, in the given order; the others are fixed at 0 and dropped.
  LinearLayout sublayout(llvm::ArrayRef<llvm::StringRef> inNames,
                         llvm::ArrayRef<llvm::StringRef> outNames) const;
  /// The same map with its outputs in another order (all of them must be named).
  LinearLayout transposeOuts(llvm::ArrayRef<llvm::StringRef> names) const;
  /// The same flat map of one input dimension.
  LinearLayout flattenIns(llvm::StringRef name) const;
  LinearLayout renameOut(llvm::StringRef from, llvm::StringRef to) const;

  unsigned getRank() const;
  bool isBijective() const {
    return getTotalInBits() == getTotalOutBits() && getRank() == getTotalInBits();
  }

  /// How many low bits of `in` run along the low bits of `out`, aligned: bit j of `in` maps to bit
  /// j of `out` and to nothing else, and no other input bit touches them. 2^result positions make
  /// one vector.
  unsigned getContiguousBits(llvm::StringRef in, llvm::StringRef out) const;

  /// `{chunk: [1] [2]; row: [5] [10]} -> {offset: 16}`; every basis lists the output coordinates in
  /// order.
  std::string toString() const;
  void print(llvm::raw_ostream &os) const;

  friend bool operator==(const LinearLayout &a, const LinearLayout &b) {
    return a.ins == b.ins && a.outs == b.outs && a.columns == b.columns;
  }
  friend bool operator!=(const LinearLayout &a, const LinearLayout &b) { return !(a == b); }
  friend llvm::hash_code hash_value(const LinearLayout &layout);

private:
  LinearLayout(llvm::SmallVector<LayoutDim, 4> ins, llvm::SmallVector<LayoutDim, 4> outs,
               llvm::SmallVector<uint64_t, 16> columns);

  llvm::SmallVector<LayoutDim, 4> ins, outs;
  llvm::SmallVector<uint64_t, 16> columns;
};

/// What one warp-wide shared-memory access costs.
struct BankConflicts {
  unsigned wavefronts; ///< Passes that the access needs.
  unsigned ideal;      ///< Passes that the bytes alone need: 1, 2 or 4 for 4, 8 or 16 bytes a lane.
  bool isFree() const { return wavefronts == ideal; }
};

/// Counts the wavefronts of a warp access of `vectorBytes` (4, 8 or 16) bytes a lane.
/// `laneToOffset` maps the dimension "lane" (32) to one output, a byte offset that is a multiple of
/// `vectorBytes`; other input dimensions are at 0. Shared memory gives 128 bytes a clock from 32
/// banks of 4 bytes. 8-byte accesses go half-warp by half-warp and 16-byte ones quarter by quarter
/// (so an ldmatrix counts as 16 bytes a lane); lanes of a phase that read the same word share it.
BankConflicts bankConflicts(const LinearLayout &laneToOffset, unsigned vectorBytes);

} // namespace sparseflow

#endif // SPARSEFLOW_SUPPORT_LINEARLAYOUT_H
