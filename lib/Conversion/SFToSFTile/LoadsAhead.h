//===- LoadsAhead.h - How early an epilogue loads its operands --*- C++ -*-===//
//
// Private to SFToSFTile.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_CONVERSION_SFTOSFTILE_LOADSAHEAD_H
#define SPARSEFLOW_LIB_CONVERSION_SFTOSFTILE_LOADSAHEAD_H

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "llvm/Support/MathExtras.h"

namespace sparseflow {

/// How many slices' operands are loaded ahead, since they take as long to come as several slices
/// take to compute: as many as there are registers for.
class LoadsAhead {
public:
  LoadsAhead(sf::KernelConfigAttr config, sf::MatmulOp op) {
    constexpr int64_t warpgroupThreads = 128;
    if (!config.isWarpSpecialized())
      return;
    size_t own = 0, common = 0;
    countRegisters(op, own, common);
    own = std::max<size_t>(own, 1);
    if (config.getNumThreads() > 3 * warpgroupThreads) {
      // A thread of so many has hardly any registers left.
      first = std::max<size_t>(kSums / own, 1);
      more = 1;
      return;
    }
    early = (kEarlyRegisters - std::min(common, kEarlyRegisters)) / own;
    first = std::max<size_t>((kFreeRegisters - std::min(common, kFreeRegisters)) / own, 1);
    more = std::max<size_t>(kSums / own, 1);
  }

  size_t beforeProducts() const { return early; }
  /// Behind a number of slices that are stored, whose accumulators are free.
  size_t behind(size_t stored) const { return std::min(first + stored * more, kMost); }

private:
  /// Two features of two tokens are a thread's part of a slice.
  static constexpr size_t kSums = 4, kTokens = 2, kFeatures = 2;
  /// ptxas has room for as many beside the 128 sums of 128 x 256; with 10 and 16 it spills there
  /// where the epilogue has a bias and a residual.
  static constexpr size_t kEarlyRegisters = 6, kFreeRegisters = 10;
  static constexpr size_t kMost = 8; // slices

  /// Of a thread, for what each slice has of its own and for what all have in common.
  static void countRegisters(sf::MatmulOp op, size_t &own, size_t &common) {
    for (auto [i, operand] : llvm::enumerate(op.getEpilogueOperands())) {
      size_t bits = mlir::getElementTypeOrSelf(operand).getIntOrFloatBitWidth();
      switch (op.getEpilogueBroadcast(i)) {
      case sf::Broadcast::Full:
        own += llvm::divideCeil(kSums * bits, 32);
        break;
      case sf::Broadcast::Token:
        own += kTokens;
        break;
      case sf::Broadcast::Feature:
        common += llvm::divideCeil(kFeatures * bits, 32);
        break;
      case sf::Broadcast::Scalar:
        ++common;
        break;
      }
    }
  }

  size_t early = 0, first = 1, more = 0;
};

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_CONVERSION_SFTOSFTILE_LOADSAHEAD_H
