//===- EpilogueFusion.h - Building one epilogue out of many operations --------===//
//
// The part of sf-fuse-epilogue that turns tensor operations into the scalar operations of one
// epilogue; which operations those are is decided in FuseEpilogue.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_EPILOGUEFUSION_H
#define SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_EPILOGUEFUSION_H

#include "sparseflow/Dialect/SF/IR/SFOps.h"

#include "mlir/IR/AffineMap.h"
#include "mlir/IR/Builders.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/SetVector.h"

namespace sparseflow::sf {

/// What a matmul multiplies when its operands' dequantizations are taken into account: the product
/// of the quantized operands, of which the scales are a factor. Without dequantizations the scales
/// are null.
struct Product {
  mlir::Value x, xScale;
  llvm::SmallVector<mlir::Value> weights, weightScales;

  static Product get(MatmulOp op);
  bool isDequantized() const { return xScale != nullptr; }
  /// Whether one kernel can compute both: they read the same x, and weights of one type.
  bool canShareKernel(const Product &other) const;
};

/// Whether the operation computes each element of its result from elements of its operands at
/// places given by affine maps, with scalar operations that an epilogue may hold.
bool isElementwise(mlir::Operation *op);

/// Whether the operation only repeats elements, so that inlining it costs nothing even if others
/// use it too.
bool isBroadcast(mlir::Operation *op);

/// Builds the epilogue that computes `sink` from the products of the matmuls among `absorbed`.
class EpilogueBuilder {
public:
  /// `absorbed` holds matmuls and elementwise operations, among them the one that defines `sink`.
  EpilogueBuilder(mlir::Value sink, const llvm::SetVector<mlir::Operation *> &absorbed,
                  llvm::ArrayRef<MatmulOp> matmuls);

  /// Fills the region; fails if an access is of a form that no epilogue operand has. Nothing
  /// outside of the region is touched.
  mlir::LogicalResult build();

  /// Whether the epilogue reads the tensor as one of its operands.
  bool hasOperand(mlir::Value tensor) const;

  /// Creates the fused matmul in front of the operation that defines the sink.
  MatmulOp create();

private:
  using Element = mlir::FailureOr<mlir::Value>;

  /// The element of `tensor` at `map`(token, feature).
  Element emitElement(mlir::Value tensor, mlir::AffineMap map);
  Element emitNewElement(mlir::Value tensor, mlir::AffineMap map);
  Element emitMatmul(MatmulOp op);
  Element emitElementwise(mlir::Operation *op, mlir::AffineMap map);
  /// An element that is read from memory, as an epilogue operand.
  Element emitOperand(mlir::Value tensor, mlir::AffineMap map);
  /// Repeats a scalar operation in f32, with its operands as `scalars` maps them, and maps its
  /// result.
  void emitScalar(mlir::Operation *op, mlir::IRMapping &scalars);
  /// All of a block; returns what it yields.
  mlir::Value emitBlock(mlir::Block &block, mlir::IRMapping &scalars);
  mlir::Value emitConstant(mlir::TypedAttr value);

  /// The operand in the shape that sf.matmul asks for.
  mlir::Value reshapeOperand(mlir::OpBuilder &at, mlir::Value tensor, Broadcast broadcast);
  mlir::AffineMap getMap(llvm::ArrayRef<mlir::AffineExpr> results) const;

  mlir::Value sink;
  const llvm::SetVector<mlir::Operation *> &absorbed;
  llvm::SmallVector<MatmulOp> matmuls;
  Product product;
  int64_t numTokens, numFeatures;

  mlir::MLIRContext *context;
  mlir::OpBuilder builder;
  mlir::Location loc;
  mlir::Region region;
  mlir::Block *block;
  /// Accumulators come first among the block's arguments, then operands.
  llvm::SmallVector<mlir::Value> accumulators;
  llvm::SmallVector<std::pair<mlir::Value, Broadcast>> operands;
  llvm::DenseMap<std::pair<mlir::Value, mlir::AffineMap>, mlir::Value> elements;
};

} // namespace sparseflow::sf

#endif // SPARSEFLOW_LIB_DIALECT_SF_TRANSFORMS_EPILOGUEFUSION_H
