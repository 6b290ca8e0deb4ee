//===- Atoms.h - Tensor-core instructions as data ---------------*- C++ -*-===//
//
// One atom is one tensor-core instruction. Everything that depends on the instruction stands here:
// shape, element types, who executes it, where each operand's elements lie, how it is emitted,
// which chips have it. A new instruction of a known family is one more row in Atoms.cpp.
//
// Warp-wide atoms (mma) are synchronous and take operands in registers. Warpgroup-wide atoms
// (wgmma) are asynchronous and take `b`, and most of them `a`, in shared memory, found through
// descriptors; all else stays in registers.
//
// The features of `a` and of the accumulator are permuted as in Support/PackedLayout.h, so that a
// lane owns contiguous ones: 8 of each 64 in a warp-wide atom, 2 of each 16 in the other.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SFTILE_IR_ATOMS_H
#define SPARSEFLOW_DIALECT_SFTILE_IR_ATOMS_H

#include "sparseflow/Support/LinearLayout.h"
#include "sparseflow/Support/NumericTypes.h"
#include "sparseflow/Support/PackedLayout.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

namespace sparseflow::sf_tile {

/// One tensor-core instruction. What is not a field follows from the fields.
struct Atom {
  llvm::StringLiteral name;
  DType type;  ///< Of a and b.
  bool sparse; ///< a is 2:4 along k.
  /// Of one instruction; where it takes any multiple of `n` up to 256, as wgmma does, the least.
  unsigned m, n, k;
  /// LLVM's name of the intrinsic, or for wgmma, which has none, PTX's with {0} for n.
  llvm::StringLiteral instruction;
  bool halfVectors;              ///< a and b registers are <2 x half>, not i32.
  unsigned minComputeCapability; ///< 80 for sm_80.
  unsigned warps = 1;            ///< That execute the instruction together.
  bool registerA = false;        ///< Of a warpgroup's: a is in registers, not in shared memory.

  /// Asynchronous, with b in shared memory.
  bool isWarpgroup() const { return warps == 4; }
  bool loadsA() const { return registerA || !isWarpgroup(); }
  /// Which packed weights it reads.
  PackOrder packOrder() const { return isWarpgroup() ? PackOrder::Wgmma : PackOrder::Mma; }

  unsigned elementBytes() const { return getByteWidth(type); }
  bool accumulatesIntegers() const { return type == DType::i8; }
  /// Elements of one row of `a` along k: half of k when sparse.
  unsigned keptPerStep() const { return sparse ? k / 2 : k; }
  unsigned aRegisters() const { return m * keptPerStep() * elementBytes() / 32 / 4; }
  unsigned bRegisters() const { return n * k * elementBytes() / 32 / 4; }
  /// Steps of k that one metadata register serves, told apart by the sparsity selector.
  unsigned selectors() const { return sparse && elementBytes() == 2 ? 2 : 1; }

  /// A warp's features come in multiples of so many.
  unsigned featureStep() const { return isWarpgroup() ? 16 : unsigned(kPackedChunkFeatures); }

  // Warp tiles, from (register, lane) to two coordinates named dim0 and dim1. `features` is a
  // multiple of featureStep(), for a warpgroup's atom that itself, `tokens` of 8, both powers of
  // two; a, b and metadata cover one k-step (metadata: the `selectors()` steps of its register).
  LinearLayout aLayout(unsigned features) const; ///< dim0 feature, dim1 kept element
  LinearLayout bLayout(unsigned tokens) const;   ///< dim0 token, dim1 k; warp-wide
  LinearLayout accLayout(unsigned features, unsigned tokens) const; ///< dim0 feature, dim1 token
  LinearLayout metadataLayout(unsigned features) const;             ///< dim0 feature, dim1 group
};

/// All atoms.
llvm::ArrayRef<Atom> getAtoms();
/// Null if there is none of that name.
const Atom *findAtom(llvm::StringRef name);
/// The atom for operands of `type` that reads weights packed in `order`; null if none exists.
const Atom *findAtom(DType type, bool sparse, PackOrder order, bool registerA = false);

} // namespace sparseflow::sf_tile

#endif // SPARSEFLOW_DIALECT_SFTILE_IR_ATOMS_H
