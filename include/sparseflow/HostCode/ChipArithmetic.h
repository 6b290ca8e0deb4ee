//===- ChipArithmetic.h - What LLVM leaves open, as chips do it -*- C++ -*-===//
//
// LLVM leaves a division by zero undefined, and the host's instruction for it ends the process. It
// leaves open what a conversion of NaN to an integer gives, and a shift by more than the width, and
// there the host does otherwise than a chip. Code that anybody's data flows through, and that
// stands for a kernel's, must not depend on that.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_HOSTCODE_CHIPARITHMETIC_H
#define SPARSEFLOW_HOSTCODE_CHIPARITHMETIC_H

namespace llvm {
class Module;
} // namespace llvm

namespace sparseflow {

/// Gives these operations the chips' results for every operand (PTX ISA, "cvt", "shl", "shr");
/// x / 0, which PTX leaves open, is x. To be called ahead of all optimizations.
void useChipArithmetic(llvm::Module &module);

} // namespace sparseflow

#endif // SPARSEFLOW_HOSTCODE_CHIPARITHMETIC_H
