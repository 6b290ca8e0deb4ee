//===- CostModel.h - Estimated time of a matmul kernel -----------*- C++ -*-===//
//
// What sf-select-config ranks candidates by. The estimate is for comparing configurations of one
// product on one chip; as a prediction of microseconds it is good to a few tens of percent.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_COSTMODEL_H
#define SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_COSTMODEL_H

#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "llvm/ADT/SmallVector.h"

#include <optional>

namespace sparseflow::sf {

/// What a product looks like to the model.
struct MatmulShape {
  int64_t features = 0, inner = 0;
  unsigned elementBits = 16;
  unsigned numWeights = 1;
  bool isSparse = true;
  /// The order in which the weights are packed already; none: as the kernels want it.
  std::optional<PackOrder> packOrder;
  /// Bits moved for each element of the result: its own, and those of operands of its shape.
  unsigned edgeBits = 16;
};

MatmulShape getShape(MatmulOp op);

/// Of a thread that computes.
int64_t getAccumulatorsPerThread(KernelConfigAttr config, unsigned numWeights);

/// Whether the product runs on Hopper's warpgroups: the chip has them, rows of x begin where the
/// copy engine can start, and the weights are not packed for other instructions.
bool usesWarpgroups(const MatmulShape &shape, const ChipInfo &chip);

/// Whether a thread holds at most so many accumulators, and where that is fewer than most epilogues
/// leave room for, has many registers beside them.
bool leavesRegisters(KernelConfigAttr config, const MatmulShape &shape, int64_t maxAccumulators);

/// Whether a kernel of the product that needs no more registers is known to be slow: one of as many
/// threads and no more accumulators.
bool isKnownSlow(MatmulOp op, KernelConfigAttr config);

/// Configurations worth comparing for the product on the chip: those of which three stages fit in
/// shared memory, with at most so many accumulators a thread. Unbounded, without a depth.
llvm::SmallVector<KernelConfigAttr> getCandidates(mlir::MLIRContext *context,
                                                  const MatmulShape &shape, const ChipInfo &chip,
                                                  int64_t maxAccumulators);

/// Microseconds for `tokens` tokens; nothing if the configuration does not fit on the chip.
std::optional<double> estimateMicroseconds(const MatmulShape &shape, int64_t tokens,
                                           KernelConfigAttr config, const ChipInfo &chip);

} // namespace sparseflow::sf

#endif // SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_COSTMODEL_H
