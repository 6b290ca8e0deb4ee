//===- SharedAccess.h - How a tile is read from a stage ---------*- C++ -*-===//
//
// The composition of a tile's layout with a stage's decides which instruction reads it and at which
// addresses. The layout pass proves from this plan that the banks do not conflict; the lowering
// emits exactly the plan.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SFTILE_IR_SHAREDACCESS_H
#define SPARSEFLOW_DIALECT_SFTILE_IR_SHAREDACCESS_H

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

namespace sparseflow::sf_tile {

/// All offsets are bytes inside a stage and combine by XOR.
struct SharedReadPlan {
  /// ldmatrix (16-byte rows, 4 bytes a lane a matrix) or plain loads of `vectorBytes` a lane.
  bool ldmatrix = false;
  /// Bytes that one instruction brings to a lane.
  unsigned vectorBytes = 4;
  /// What each bit of the lane adds to the address that the lane gives.
  llvm::SmallVector<uint32_t, 5> lane;
  /// What each bit of the warp's index along each axis of the grid adds.
  llvm::SmallVector<llvm::SmallVector<uint32_t, 4>, 2> warp;
  /// For each bit of the instruction's number. Instruction i brings registers [i * vectorBytes,
  /// ...) of the tile.
  llvm::SmallVector<uint32_t, 8> instruction;
  uint32_t start = 0;

  BankConflicts getBankConflicts() const;
};

/// Plans the read of `tile`, from the static coordinates `start`, out of a stage of `ring`. Fails,
/// with a reason, when the layouts do not fit.
llvm::Expected<SharedReadPlan> planSharedRead(RingType ring, TileType tile,
                                              llvm::ArrayRef<int64_t> start);

} // namespace sparseflow::sf_tile

#endif // SPARSEFLOW_DIALECT_SFTILE_IR_SHAREDACCESS_H
