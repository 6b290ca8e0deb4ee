//===- SharedAccess.h - How a tile is read from a stage ---------*- C++ -*-===//
//
// The composition of a tile's layout with a stage's decides which instruction reads it and at which
// addresses. The layout pass proves from this plan that the banks do not conflict; the lowering
// emits exactly the plan. Where the tensor core itself reads shared memory, the plan is a
// descriptor.
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

/// How a warpgroup's instruction finds a tile in a stage. PTX ISA, 9.7.15.5.1 "Shared Memory Matrix
/// Layout" and "Matrix Descriptor Format".
struct DescriptorPlan {
  /// The descriptor without the address.
  uint64_t fields = 0;
  /// Bytes from the stage's begin to the tile's.
  uint32_t start = 0;
  /// Bytes from the rows of one warpgroup to those of the next; 0 where all read the same.
  uint32_t warpgroupStride = 0;
};

/// Plans the read of `tile`, from the static coordinates `start`, out of a stage of `ring`, by
/// instructions that each take `rows` rows of it. `rowBases` are the tile's rows that the bits of
/// an instruction's row stand for. Fails, with a reason, when no descriptor describes that.
llvm::Expected<DescriptorPlan> planDescriptor(RingType ring, TileType tile,
                                              llvm::ArrayRef<int64_t> start, int64_t rows,
                                              llvm::ArrayRef<uint64_t> rowBases);

/// The descriptor of the tile that `load`, a load of a tile that stays in shared memory, gives to
/// its instruction.
llvm::Expected<DescriptorPlan> planDescriptor(LoadOp load);

} // namespace sparseflow::sf_tile

#endif // SPARSEFLOW_DIALECT_SFTILE_IR_SHAREDACCESS_H
