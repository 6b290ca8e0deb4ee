//===- Atoms.h - Tensor-core instructions as data ---------------*- C++ -*-===//
//
// One atom is one warp-wide tensor-core instruction. Everything that depends on the instruction
// stands here: shape, element types, where each operand's elements lie in registers and lanes, how
// it is emitted, which chips have it. A new instruction of a known family is one more row in
// Atoms.cpp.
//
// A warp's tile of `a` and of the accumulator is made of 64-feature chunks whose rows are permuted
// as in Support/PackedLayout.h, so a lane owns 8 contiguous features.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SFTILE_IR_ATOMS_H
#define SPARSEFLOW_DIALECT_SFTILE_IR_ATOMS_H

#include "sparseflow/Support/LinearLayout.h"
#include "sparseflow/Support/NumericTypes.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

namespace sparseflow::sf_tile {

struct Atom {
  llvm::StringLiteral name;
  DType type;  ///< Of a and b.
  bool sparse; ///< a is 2:4 along k.
  unsigned m, n, k;
  llvm::StringLiteral intrinsic; ///< LLVM's name of the instruction.
  bool halfVectors;              ///< a and b registers are <2 x half>, not i32.
  unsigned minComputeCapability; ///< 80 for sm_80.

  unsigned elementBytes() const { return getByteWidth(type); }
  bool accumulatesIntegers() const { return type == DType::i8; }
  /// Elements of one row of `a` along k: half of k when sparse.
  unsigned keptPerStep() const { return sparse ? k / 2 : k; }
  unsigned aRegisters() const { return m * keptPerStep() * elementBytes() / 32 / 4; }
  unsigned bRegisters() const { return n * k * elementBytes() / 32 / 4; }
  /// Steps of k that one metadata register serves, told apart by the sparsity selector.
  unsigned selectors() const { return sparse && elementBytes() == 2 ? 2 : 1; }

  // Warp tiles, from (register, lane) to two coordinates named dim0 and dim1. `features` is a
  // multiple of 64, `tokens` of 8, both powers of two; a, b and metadata cover one k-step
  // (metadata: the `selectors()` steps of its register).
  LinearLayout aLayout(unsigned features) const; ///< dim0 feature, dim1 kept element
  LinearLayout bLayout(unsigned tokens) const;   ///< dim0 token, dim1 k
  LinearLayout accLayout(unsigned features, unsigned tokens) const; ///< dim0 feature, dim1 token
  LinearLayout metadataLayout(unsigned features) const;             ///< dim0 feature, dim1 group
};

/// All atoms.
llvm::ArrayRef<Atom> getAtoms();
/// Null if there is none of that name.
const Atom *findAtom(llvm::StringRef name);
/// The atom for operands of `type`; null if none exists.
const Atom *findAtom(DType type, bool sparse);

} // namespace sparseflow::sf_tile

#endif // SPARSEFLOW_DIALECT_SFTILE_IR_ATOMS_H
