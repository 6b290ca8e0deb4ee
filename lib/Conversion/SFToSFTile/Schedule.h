//===- Schedule.h - What the schedule builders share ------------*- C++ -*-===//
//
// A schedule builder writes the kernels of one operation as `sf_tile` and returns the values that
// replace its results. It says what is computed in which order on which tiles; layouts, depths,
// offsets and synchronization come later.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_CONVERSION_SFTOSFTILE_SCHEDULE_H
#define SPARSEFLOW_LIB_CONVERSION_SFTOSFTILE_SCHEDULE_H

#include "sparseflow/Dialect/SF/IR/SFAttributes.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"
#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "llvm/ADT/STLFunctionalExtras.h"

namespace sparseflow {

/// The memref that a kernel takes for a tensor: a packed or canonical weight is its bytes; a matrix
/// may have a row stride. Null for a tensor that kernels cannot take (a dynamic dimension that does
/// not lead).
mlir::MemRefType getKernelArgumentType(mlir::RankedTensorType type);
llvm::SmallVector<mlir::MemRefType> getKernelArgumentTypes(mlir::ValueRange inputs,
                                                           mlir::TypeRange results);

/// Writes the kernels of one operation, and their launches where the operation stands.
class Schedule {
public:
  /// `op` is the operation that the kernels compute; kernels are named after its function.
  Schedule(mlir::gpu::GPUModuleOp kernels, mlir::Operation *op, llvm::StringRef stem);

  /// Starts a kernel with those arguments and moves the builder into its body.
  sf_tile::KernelOp startKernel(llvm::ArrayRef<mlir::MemRefType> arguments, int64_t threads,
                                mlir::Attribute config, llvm::StringRef suffix);
  /// Ends the kernel and moves the builder back.
  void finishKernel();

  /// Launches `kernel` on the host side, and tells it which of its arguments are constants.
  mlir::ValueRange launch(sf_tile::KernelOp kernel, mlir::ValueRange inputs,
                          mlir::TypeRange results, sf_tile::GridAttr grid);

  /// Builds a dispatch with one region for each of `maxRows`.
  sf_tile::DispatchOp
  dispatch(mlir::Value rows, llvm::ArrayRef<int64_t> maxRows, llvm::StringRef label,
           mlir::TypeRange results,
           llvm::function_ref<llvm::SmallVector<mlir::Value>(size_t variant)> build);

  /// Emits what `build` does when the condition, an i1, holds and when it does not.
  void branch(mlir::Value condition, llvm::function_ref<void(bool holds)> build);

  mlir::Value index(int64_t value);
  mlir::Value add(mlir::Value a, mlir::Value b);
  mlir::Value mul(mlir::Value a, int64_t factor);

  mlir::OpBuilder b;
  mlir::Location loc;

private:
  mlir::gpu::GPUModuleOp kernels;
  std::string stem;
  mlir::OpBuilder::InsertPoint host;
};

/// Copies the scalar operations of `source`, its block arguments replaced by `arguments`, to where
/// the builder stands, and returns what the terminator's operands became. Values from outside of
/// `source` are constants, which are copied too.
llvm::SmallVector<mlir::Value> cloneScalars(mlir::OpBuilder &builder, mlir::Block &source,
                                            mlir::ValueRange arguments);

/// Tile operands that broadcast against a tile of the result, loaded at one position of the grid.
struct Axis {
  mlir::Value start; ///< First index of this block's tile.
  int64_t size;      ///< Extent of the tile.
};

/// Loads what an epilogue or elementwise operand of shape [], [N], [1,N], [M,1] or [M,N] gives to the
/// tile (tokens, features). The tile's dimensions are (features, tokens) when `transposed`. `inBounds`:
/// all of it is there.
mlir::Value loadBroadcast(Schedule &schedule, mlir::Value memref, sf::Broadcast broadcast,
                          Axis tokens, Axis features, bool transposed, bool inBounds = false);

/// One tensor that an elementwise kernel reads, and how it meets the result.
struct ElementwiseOperand {
  mlir::Value tensor;
  sf::Broadcast broadcast;
  bool isTransposed = false; ///< It meets the result's transpose: [columns, rows], or one a row.
};
/// Emits the scalar function of an elementwise kernel: one argument an operand, one value a result.
using ScalarBuilder = llvm::function_ref<llvm::SmallVector<mlir::Value>(
    mlir::OpBuilder &, mlir::Location, mlir::ValueRange)>;
/// Replaces `op` by a kernel that maps its operands, element by element, to its results of
/// `columns` columns.
mlir::LogicalResult buildElementwise(mlir::gpu::GPUModuleOp kernels, mlir::Operation *op,
                                     llvm::StringRef stem, llvm::StringRef label,
                                     llvm::ArrayRef<ElementwiseOperand> operands, int64_t columns,
                                     ScalarBuilder scalars);

/// Scales that cover consecutive members of a row, found or given.
mlir::LogicalResult scheduleGroupedQuantize(mlir::gpu::GPUModuleOp kernels, sf::QuantizeOp op);
mlir::LogicalResult scheduleGroupedDequantize(mlir::gpu::GPUModuleOp kernels, sf::DequantizeOp op);

// The builders. Each replaces its operation or reports why it cannot.
mlir::LogicalResult scheduleMatmul(mlir::gpu::GPUModuleOp kernels, sf::MatmulOp op);
mlir::LogicalResult scheduleElementwise(mlir::gpu::GPUModuleOp kernels, mlir::linalg::GenericOp op);
mlir::LogicalResult scheduleQuantize(mlir::gpu::GPUModuleOp kernels, sf::QuantizeOp op);
mlir::LogicalResult scheduleDequantize(mlir::gpu::GPUModuleOp kernels, sf::DequantizeOp op);
mlir::LogicalResult schedulePack(mlir::gpu::GPUModuleOp kernels, sf::PackOp op);
mlir::LogicalResult scheduleCompress(mlir::gpu::GPUModuleOp kernels, sf::CompressOp op);
mlir::LogicalResult scheduleDecompress(mlir::gpu::GPUModuleOp kernels, sf::DecompressOp op);

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_CONVERSION_SFTOSFTILE_SCHEDULE_H
