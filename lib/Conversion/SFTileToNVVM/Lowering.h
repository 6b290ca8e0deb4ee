//===- Lowering.h - What the pattern sets share -----------------*- C++ -*-===//
//
// Tiles become 32-bit registers: one for each element of 32 bits, one for 2, 4 or 8 smaller
// elements. A memref becomes its pointer, its dynamic extents and its dynamic strides; a ring its
// byte offset in shared memory and its stride. Layouts become the arithmetic of this file.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_CONVERSION_SFTILETONVVM_LOWERING_H
#define SPARSEFLOW_LIB_CONVERSION_SFTILETONVVM_LOWERING_H

#include "sparseflow/Dialect/SF/IR/SFAttributes.h"
#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"
#include "sparseflow/Dialect/SFTile/IR/SharedAccess.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Transforms/DialectConversion.h"

namespace sparseflow {

/// The symbol of the block's dynamic shared memory.
inline constexpr llvm::StringLiteral kSharedMemorySymbol = "sf_smem";

class TileTypeConverter : public mlir::TypeConverter {
public:
  TileTypeConverter();
};

/// Elements that one thread holds, and the registers that hold them.
unsigned getNumElements(sf_tile::TileType type);
unsigned getElementsPerRegister(mlir::Type elementType);

/// Emits integer and address arithmetic at one place.
class Emitter {
public:
  Emitter(mlir::OpBuilder &b, mlir::Location loc) : b(b), loc(loc) {}

  mlir::Value i32(int64_t value);
  mlir::Value i64(int64_t value);
  mlir::Value add(mlir::Value x, mlir::Value y);
  mlir::Value mul(mlir::Value x, mlir::Value y);
  mlir::Value bitXor(mlir::Value x, mlir::Value y);
  mlir::Value lessThan(mlir::Value x, mlir::Value y);
  mlir::Value both(mlir::Value x, mlir::Value y); ///< x && y; either may be null (true).
  mlir::Value minimum(mlir::Value x, mlir::Value y);
  mlir::Value select(mlir::Value condition, mlir::Value x, mlir::Value y);
  /// An index, i32 or i64 as i32 or i64.
  mlir::Value toI32(mlir::Value value);
  mlir::Value toI64(mlir::Value value);

  mlir::Value threadId();
  mlir::Value laneId();
  /// Of this thread; known to the assembler to be the same in a warp.
  mlir::Value warpgroupId();
  /// Of this block in its cluster.
  mlir::Value blockRank();
  /// Position of this thread's warp along axis `axis` of a row-major grid.
  mlir::Value warpCoordinate(llvm::ArrayRef<int64_t> grid, unsigned axis);

  /// What this thread's lane and warp add to the coordinate of a tile's elements along `dim`;
  /// registers add disjoint bits.
  mlir::Value threadCoordinate(sf_tile::LayoutAttr layout, unsigned dim);

  /// XOR of `bases[i]` over the set bits i of `value`, an i32; grouped so that bits that move by
  /// the same distance cost one mask and one shift.
  mlir::Value applyLinear(mlir::Value value, llvm::ArrayRef<uint32_t> bases);

  /// The pointer `bytes` (an i32) into shared memory.
  mlir::Value sharedPointer(mlir::Value bytes);
  mlir::Value offsetPointer(mlir::Value pointer, int64_t bytes);

  /// 32-bit registers as scalars of `type`, and back. 8-bit floats and i4 are their bits as
  /// integers.
  llvm::SmallVector<mlir::Value> unpack(mlir::ValueRange registers, mlir::Type type,
                                        unsigned count);
  llvm::SmallVector<mlir::Value> pack(mlir::ValueRange scalars, mlir::Type type);

  mlir::Value callIntrinsic(llvm::StringRef name, mlir::Type result, mlir::ValueRange operands);

  mlir::OpBuilder &b;
  mlir::Location loc;
};

/// The scalar that stands for an element in registers: itself, or an integer of its width for what
/// LLVM has no arithmetic of.
mlir::Type getScalarType(mlir::Type elementType);

/// A converted memref.
struct GlobalMemory {
  GlobalMemory(Emitter &e, mlir::MemRefType type, mlir::ValueRange converted);

  mlir::Value base;
  llvm::SmallVector<mlir::Value> sizes;   ///< i64
  llvm::SmallVector<mlir::Value> strides; ///< i64, in elements
  llvm::SmallVector<int64_t> staticSizes, staticStrides;
  unsigned elementBits;
  int64_t byteOffset = 0; ///< Of a view in its buffer.
};

/// An index as one that varies and a constant behind it; null and a constant, or itself and 0.
std::pair<mlir::Value, int64_t> splitConstant(mlir::Value index);
/// Whether `size` elements from `start` on may reach beyond `extent`, the static or dynamic size of
/// a dimension. Tiles start inside; a part of a tile, at a constant behind its start, need not.
bool mayLeave(mlir::Value start, int64_t size, int64_t extent);

/// Spreads the reads of shared memory in front of a run of matrix products, which the run does not
/// use, over the run.
void interleaveLoads(mlir::Block &block);

void populateKernelPatterns(const TileTypeConverter &converter, mlir::RewritePatternSet &patterns);
/// Meets all threads of the cluster.
void emitClusterBarrier(Emitter &e);

/// Bytes of one barrier.
constexpr int64_t kBarrierBytes = 8;
/// The barrier that says that stage `stage` (an i32) is full.
mlir::Value getFullBarrier(Emitter &e, mlir::Value barriers, mlir::Value stage);
/// The barrier that says that all other blocks have sent what `reduce_scatter` adds.
mlir::Value getInboxBarrier(Emitter &e, sf_tile::BarriersType type, mlir::Value barriers);
/// Waits until the barrier's phase of that parity (an i32) is over.
void emitWait(Emitter &e, mlir::Value barrier, mlir::Value parity,
              mlir::NVVM::MemScopeKind scope = mlir::NVVM::MemScopeKind::CTA);
/// Runs what `emit` emits where `condition` holds.
void emitIf(Emitter &e, mlir::Value condition, llvm::function_ref<void()> emit);
/// The pointer to the same place in the shared memory of the cluster's block `rank` (an i32).
mlir::Value mapToBlock(Emitter &e, mlir::Value pointer, mlir::Value rank);

void populateRolesPatterns(const TileTypeConverter &converter, mlir::RewritePatternSet &patterns);
void populateReduceScatterPatterns(const TileTypeConverter &converter,
                                   mlir::RewritePatternSet &patterns);
void populateBulkCopyPatterns(const TileTypeConverter &converter,
                              mlir::RewritePatternSet &patterns);
void populateWgmmaPatterns(const TileTypeConverter &converter, mlir::RewritePatternSet &patterns);
void populateCopyPatterns(const TileTypeConverter &converter, mlir::RewritePatternSet &patterns);
void populateMemoryPatterns(const TileTypeConverter &converter, mlir::RewritePatternSet &patterns);
void populateMmaPatterns(const TileTypeConverter &converter, mlir::RewritePatternSet &patterns);
void populateElementwisePatterns(const TileTypeConverter &converter,
                                 mlir::RewritePatternSet &patterns);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_CONVERSION_SFTILETONVVM_LOWERING_H
