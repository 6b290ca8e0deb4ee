//===- Operations.h - What each NVVM operation does -------------*- C++ -*-===//
//
// The three shapes that an operation of a GPU thread can have, and the tables that map an
// intrinsic's name to one of them. Each family of operations has its file; a new one adds a table
// there and a line in Operations.cpp. Values cross the boundary as bits: a PureOp and a ThreadOp
// see every operand in 64 bits, a CollectiveOp sees the 32-bit registers that a lane contributes.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_OPERATIONS_H
#define SPARSEFLOW_LIB_EMULATOR_OPERATIONS_H

#include "Block.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

#include <string>

namespace sparseflow::emulator {

struct WgmmaOp;

/// A function of its operands alone.
struct PureOp {
  using Function = uint64_t (*)(uint64_t, uint64_t, uint64_t, uint64_t);
  const char *name;
  Function function;
};

/// An effect of one thread: an asynchronous copy, a barrier, a fence.
struct ThreadOp {
  using Function = void (*)(Thread &thread, uint32_t site, const uint64_t *arguments,
                            uint64_t *results);
  const char *name;
  Function function;
};

/// The registers of the lanes that met; absent lanes are null.
struct WarpCall {
  Warp &warp;
  const CollectiveOp &op;
  /// The lanes that take part, and the one on whose fiber this runs.
  uint32_t mask;
  Thread &runner;
  const std::array<const uint32_t *, warpSize> &arguments;
  const std::array<uint32_t *, warpSize> &results;

  Thread &getThread(unsigned lane) const;
};

/// An operation of a warp: it happens once, when the last lane comes.
struct CollectiveOp {
  using Function = void (*)(const WarpCall &call);
  std::string name;
  Function function = nullptr;
  /// All 32 lanes must execute the same instruction (`.aligned`), rather than those of a mask.
  bool aligned = false;
  /// The operand that holds the mask, if not aligned.
  unsigned maskOperand = 0;
  /// Parameters of the family, e.g. the shape of a matrix multiplication.
  std::array<uint32_t, 12> traits = {};
};

/// The tables. Names lack the prefix "llvm.nvvm."; null if unknown.
const PureOp *lookupPureOp(llvm::StringRef name);
const ThreadOp *lookupThreadOp(llvm::StringRef name);
const CollectiveOp *lookupCollectiveOp(llvm::StringRef name);

/// Inline assembly that NVVM has no operation for, by its exact text (white space aside), as the
/// name of an entry in the tables above; empty if unknown.
llvm::StringRef lookupInlineAsm(llvm::StringRef text);

// One of each for each family.
llvm::ArrayRef<PureOp> getConversionOps();
llvm::ArrayRef<PureOp> getScalarMathOps();
llvm::ArrayRef<ThreadOp> getAsyncCopyOps();
llvm::ArrayRef<ThreadOp> getBarrierOps();
llvm::ArrayRef<ThreadOp> getBulkCopyOps();
llvm::ArrayRef<ThreadOp> getClusterOps();
llvm::ArrayRef<ThreadOp> getMbarrierOps();
llvm::ArrayRef<ThreadOp> getWgmmaOps();
llvm::ArrayRef<CollectiveOp> getWarpCollectiveOps();
llvm::ArrayRef<CollectiveOp> getMatrixMoveOps();
/// Fills `op` from the name of an mma intrinsic; false if it is none that the emulator has.
bool parseMatrixMultiply(llvm::StringRef name, CollectiveOp &op);

// What generated code calls for memory, loops and traps.
namespace entry {
enum AccessFlags : uint32_t { isWrite = 1, isConcurrent = 2, isReadWrite = 4 };
void accessShared(Thread *thread, uint64_t address, uint64_t size, uint32_t align, uint32_t flags);
void accessGlobal(Thread *thread, uint64_t address, uint64_t size, uint32_t align, uint32_t flags);
void accessGeneric(Thread *thread, uint64_t address, uint64_t size, uint32_t align, uint32_t flags);
void collective(Thread *thread, const CollectiveOp *op, uint32_t site, const uint32_t *arguments,
                uint32_t *results);
/// The words of a thread's operands are as WgmmaOp says; the result is the first register's tag,
/// and register i's is i more. If chained, the accumulators are those of one wgmma, and only the
/// first one's tag is there.
uint32_t wgmma(Thread *thread, const WgmmaOp *op, uint32_t site, const uint32_t *operands,
               bool isChained);
/// Exchanges tags of accumulators for their values; other values stay.
void readAccumulators(Thread *thread, uint32_t count, const uint32_t *operands, uint32_t *results);
void spendTurn(Thread *thread);
void trap(Thread *thread);
void fence(Thread *thread);
} // namespace entry

/// Ends the block with a report: the memory of `owner` is gone.
[[noreturn]] void failFinished(Thread &thread, Block &owner, const char *what);

/// Ends the block with a report unless [address, address + size) lies in a known range.
void checkGlobal(Thread &thread, uint64_t address, uint64_t size, uint32_t align, bool write,
                 const char *what);

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_OPERATIONS_H
