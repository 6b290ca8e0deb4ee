//===- Wgmma.h - wgmma.mma_async, dense and sparse --------------*- C++ -*-===//
//
// The instruction reaches the emulator as the text of inline assembly, because NVVM has no
// operation for the sparse form. The text is parsed, not recognized: it is what a GPU would get.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_WGMMA_H
#define SPARSEFLOW_LIB_EMULATOR_WGMMA_H

#include "Elements.h"
#include "Warpgroup.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <optional>
#include <string>

namespace sparseflow::emulator {

class Block;
class Clocks;
struct Thread;

/// One wgmma.mma_async, with the operands that are part of its text.
struct WgmmaOp {
  std::string name;
  unsigned n = 0, k = 0;
  Element a = Element::F16, b = Element::F16;
  bool sparse = false;
  /// Sums in s32 rather than f32.
  bool isInteger = false;
  /// A is in registers, rather than in shared memory.
  bool hasRegisterA = false;
  /// One of the two factors is negated.
  bool isNegated = false;
  uint32_t selector = 0;
  /// scale-d, if it is an immediate.
  std::optional<bool> addsToAccumulators;

  unsigned getKeptK() const { return sparse ? k / 2 : k; }
  unsigned getRegisterCount() const { return n / 2; }
  unsigned getAWords() const { return hasRegisterA ? 4 : 2; }
  // The words that each thread contributes, after its accumulators and A.
  unsigned getBWord() const { return getRegisterCount() + getAWords(); }
  unsigned getMetadataWord() const { return getBWord() + 2; }
  unsigned getScaleWord() const { return getBWord() + 3; }
  /// The thread's wgmma.fence count when it wrote its registers of A.
  unsigned getWriteFencesWord() const { return getBWord() + 4; }
  unsigned getWordCount() const { return getBWord() + 5; }
};

/// The statement's operands, as numbers of the assembly's: outputs first, then inputs.
struct WgmmaAssembly {
  const WgmmaOp *op = nullptr;
  llvm::SmallVector<unsigned> accumulators;
  llvm::SmallVector<unsigned, 4> a;
  unsigned b = 0;
  std::optional<unsigned> metadata, scale;
};

/// Whether the text is a wgmma.mma_async at all.
bool isWgmma(llvm::StringRef text);
/// Fails with what is wrong with the text. Operations stay valid for good.
llvm::Expected<WgmmaAssembly> parseWgmma(llvm::StringRef text);

/// WgmmaProduct.cpp: checks the operands in shared memory, which `thread` reads for its warpgroup,
/// whose warps all know `known`, and records that it reads them until their group has finished.
void checkWgmmaOperands(Thread &thread, const Warpgroup &group, const PendingWgmma &pending,
                        const Clocks &known);
/// Ends the block with a report if the metadata is illegal.
void checkWgmmaMetadata(Block &block, const Warpgroup &group, const PendingWgmma &pending);
/// Reads the operands and adds the product to the accumulators.
void executeWgmma(Block &block, Warpgroup &group, const PendingWgmma &pending);

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_WGMMA_H
