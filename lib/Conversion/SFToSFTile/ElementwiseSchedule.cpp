//===- ElementwiseSchedule.cpp - Elementwise operations as kernels --------===//
//
// What the fusion could not put into a product's epilogue: one block maps a tile of rows x columns.
// Operands broadcast by their indexing maps. sf.dequantize and the static sf.quantize are the same
// schedule with their own scalar function.
//
//===----------------------------------------------------------------------===//

#include "Schedule.h"

#include "sparseflow/Dialect/SF/IR/SFScalar.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

static constexpr int64_t kThreads = 128;
/// Elements of a tile: 16 a thread keep several loads in flight.
static constexpr int64_t kTileElements = kThreads * 16;
/// Where an operand is transposed, tiles are 32 x 64, so that a block uses whole sectors of it too.
static constexpr int64_t kTransposedColumns = 64;

LogicalResult sparseflow::buildElementwise(gpu::GPUModuleOp kernels, Operation *op, StringRef stem,
                                           StringRef label, ArrayRef<ElementwiseOperand> operands,
                                           int64_t columns, ScalarBuilder scalars) {
  Schedule s(kernels, op, stem);
  auto result = cast<RankedTensorType>(op->getResult(0).getType());
  bool matrix = result.getRank() == 2;
  bool isTransposing = llvm::any_of(
      operands, [](const ElementwiseOperand &operand) { return operand.isTransposed; });
  int64_t maxColumns = isTransposing ? kTransposedColumns : kTileElements / 2;
  int64_t tileColumns = std::min<int64_t>(llvm::PowerOf2Ceil(columns), maxColumns);
  int64_t tileRows = matrix ? kTileElements / tileColumns : 1;
  tileColumns = matrix ? tileColumns : std::max(tileColumns, kThreads);
  int64_t columnTiles = llvm::divideCeil(columns, tileColumns);

  SmallVector<Value> inputs;
  for (const ElementwiseOperand &operand : operands)
    inputs.push_back(operand.tensor);
  SmallVector<MemRefType> types = getKernelArgumentTypes(inputs, op->getResultTypes());

  // The rows of the launch are those of an operand or, when all broadcast, there is a fixed number.
  std::optional<int64_t> rowsOf, rowsPerBlock;
  auto findRows = [&](auto hasRows) {
    auto found = llvm::find_if(operands, hasRows);
    if (matrix && !rowsOf && found != operands.end())
      rowsOf = found - operands.begin(), rowsPerBlock = tileRows;
  };
  findRows([](const ElementwiseOperand &operand) {
    return !operand.isTransposed &&
           (operand.broadcast == sf::Broadcast::Full || operand.broadcast == sf::Broadcast::Token);
  });
  // A vector with an element for each row.
  findRows([](const ElementwiseOperand &operand) {
    return operand.isTransposed && operand.broadcast == sf::Broadcast::Feature &&
           cast<RankedTensorType>(operand.tensor.getType()).getRank() == 1;
  });
  int64_t fixedRows = matrix ? result.getDimSize(0) : 1;
  if (!rowsOf && ShapedType::isDynamic(fixedRows))
    return op->emitOpError("expected an operand that has the result's rows");
  int64_t blocks = columnTiles * (rowsOf ? 1 : llvm::divideCeil(fixedRows, tileRows));

  auto dispatch = s.dispatch(
      inputs[rowsOf.value_or(0)], {-1}, label, op->getResultTypes(),
      [&](size_t) -> SmallVector<Value> {
        KernelOp kernel = s.startKernel(types, kThreads, {}, "");
        SmallVector<Value> arguments(kernel.getBody().getArguments());
        Value rows =
            rowsOf ? memref::DimOp::create(s.b, s.loc, arguments[*rowsOf], s.index(0)).getResult()
                   : s.index(fixedRows);
        auto tile = TileIdOp::create(s.b, s.loc, rows, columnTiles, tileRows, 1, 1);
        Axis rowAxis = {s.mul(tile.getToken(), tileRows), tileRows};
        Axis columnAxis = {s.mul(tile.getFeature(), tileColumns), tileColumns};

        SmallVector<Value> tiles;
        SmallVector<Type> elements;
        for (auto [operand, argument] : llvm::zip(operands, arguments)) {
          // The rows of a transposed operand are the result's columns.
          Axis tokens = operand.isTransposed ? columnAxis : rowAxis;
          Axis features = operand.isTransposed ? rowAxis : columnAxis;
          tiles.push_back(loadBroadcast(s, argument, operand.broadcast, tokens, features,
                                        operand.isTransposed));
          elements.push_back(cast<TileType>(tiles.back().getType()).getElementType());
        }
        SmallVector<Type> results;
        for (Type type : op->getResultTypes())
          results.push_back(TileType::get({tileRows, tileColumns},
                                          cast<RankedTensorType>(type).getElementType()));
        auto map = MapOp::create(s.b, s.loc, results, tiles);
        {
          OpBuilder::InsertionGuard guard(s.b);
          Block *body = s.b.createBlock(&map.getBody(), {}, elements,
                                        SmallVector<Location>(elements.size(), s.loc));
          YieldOp::create(s.b, s.loc, scalars(s.b, s.loc, body->getArguments()));
        }
        for (auto [value, dest] :
             llvm::zip(map.getResults(), ArrayRef(arguments).drop_front(inputs.size()))) {
          SmallVector<Value> indices = {rowAxis.start, columnAxis.start};
          SmallVector<int64_t> dims = {0, 1};
          int64_t rank = cast<MemRefType>(dest.getType()).getRank();
          StoreOp::create(s.b, s.loc, value, dest, ArrayRef(indices).take_back(rank),
                          s.b.getDenseI64ArrayAttr(ArrayRef(dims).take_back(rank)));
        }
        s.finishKernel();
        return llvm::to_vector(
            s.launch(kernel, inputs, op->getResultTypes(),
                     GridAttr::get(s.b.getContext(), blocks, rowsOf, rowsPerBlock)));
      });
  op->replaceAllUsesWith(dispatch);
  op->erase();
  return success();
}

/// How an operand of `type`, indexed by `map`, meets the iteration space (rows, columns).
static std::optional<sf::Broadcast> getBroadcast(AffineMap map, RankedTensorType type) {
  MLIRContext *context = map.getContext();
  unsigned loops = map.getNumDims();
  auto dim = [&](unsigned i) { return getAffineDimExpr(i, context); };
  auto isZero = [](AffineExpr e) {
    auto constant = dyn_cast<AffineConstantExpr>(e);
    return constant && constant.getValue() == 0;
  };
  if (map.getNumResults() == 0)
    return sf::Broadcast::Scalar;
  if (map.getNumResults() == 1 && map.getResult(0) == dim(loops - 1))
    return sf::Broadcast::Feature;
  if (map.getNumResults() != 2 || loops != 2)
    return std::nullopt;
  if (isZero(map.getResult(0)) && map.getResult(1) == dim(1) && type.getDimSize(0) == 1)
    return sf::Broadcast::Feature;
  if (map.getResult(0) != dim(0))
    return std::nullopt;
  if (map.getResult(1) == dim(1))
    return sf::Broadcast::Full;
  if (isZero(map.getResult(1)) && type.getDimSize(1) == 1)
    return sf::Broadcast::Token;
  return std::nullopt;
}

/// The operand as the kernel reads it; none if no kernel can.
static std::optional<ElementwiseOperand> getOperand(OpOperand *input, AffineMap map) {
  auto type = dyn_cast<RankedTensorType>(input->get().getType());
  if (!type)
    return std::nullopt;
  if (std::optional<sf::Broadcast> broadcast = getBroadcast(map, type))
    return ElementwiseOperand{input->get(), *broadcast};
  if (map.getNumDims() == 1 && map.getNumResults() == 2) {
    // A vector as a matrix of one row or of one column.
    AffineExpr zero = getAffineConstantExpr(0, map.getContext()),
               element = getAffineDimExpr(0, map.getContext());
    if (type.getDimSize(0) == 1 && map.getResult(0) == zero && map.getResult(1) == element)
      return ElementwiseOperand{input->get(), sf::Broadcast::Full};
    if (type.getDimSize(1) == 1 && map.getResult(0) == element && map.getResult(1) == zero)
      return ElementwiseOperand{input->get(), sf::Broadcast::Token, /*isTransposed=*/true};
  }
  if (map.getNumDims() != 2)
    return std::nullopt;
  AffineMap swap = AffineMap::getPermutationMap(ArrayRef<unsigned>{1, 0}, map.getContext());
  if (std::optional<sf::Broadcast> broadcast = getBroadcast(map.compose(swap), type))
    return ElementwiseOperand{input->get(), *broadcast, /*isTransposed=*/true};
  return std::nullopt;
}

LogicalResult sparseflow::scheduleElementwise(gpu::GPUModuleOp kernels, linalg::GenericOp op) {
  if (op.getNumReductionLoops() > 0 && op.getNumDpsInputs() == 2)
    return op.emitOpError("expected a product of two matrices, both of f16, bf16, i8 (into i32), "
                          "f8E4M3FN or f8E5M2, got ")
           << op.getDpsInputOperand(0)->get().getType() << " and "
           << op.getDpsInputOperand(1)->get().getType() << " into " << op.getResultTypes()
           << "; convert its operands";
  auto result =
      dyn_cast<RankedTensorType>(op->getNumResults() ? op->getResult(0).getType() : Type());
  if (op.getNumParallelLoops() != op.getNumLoops() || !result || result.getRank() < 1 ||
      result.getRank() > 2)
    return op.emitOpError(
        "expected an elementwise operation on a vector or matrix: all iterators parallel, one or "
        "two of them");
  if (result.getRank() == 1 && !result.hasStaticShape())
    return op.emitOpError("expected the size of a vector that is computed to be known, got ")
           << result << "; give values of tokens the shape [M,1]";
  for (OpOperand &init : op.getDpsInitsMutable()) {
    if (!op.getMatchingIndexingMap(&init).isIdentity())
      return op.emitOpError("expected results that are indexed by the identity, got ")
             << AffineMapAttr::get(op.getMatchingIndexingMap(&init));
    if (op.payloadUsesValueFromOperand(&init))
      return op.emitOpError("expected an elementwise operation that does not read its destination");
  }
  if (op.getNumDpsInputs() == 0)
    return op.emitOpError("expected at least one input; make a result without inputs a constant");
  SmallVector<ElementwiseOperand> operands;
  for (OpOperand *input : op.getDpsInputOperands()) {
    AffineMap map = op.getMatchingIndexingMap(input);
    std::optional<ElementwiseOperand> operand = getOperand(input, map);
    if (!operand)
      return op.emitOpError(
                 "expected inputs of shape [], [N], [1,N], [M,1] or [M,N], or their transposes, "
                 "against a result [M,N], got ")
             << input->get().getType() << " indexed by " << AffineMapAttr::get(map);
    operands.push_back(*operand);
  }
  if (op->walk([](linalg::IndexOp) { return WalkResult::interrupt(); }).wasInterrupted())
    return op.emitOpError("expected an elementwise operation that does not use its indices");
  for (Operation &nested : op.getBody()->without_terminator())
    if (!sf::isScalarOperation(&nested))
      return nested.emitOpError("expected an operation on scalars that kernels can compute: ")
             << sf::scalarOperationsHelp;
  return buildElementwise(kernels, op, "elementwise", "elementwise", operands,
                          result.getShape().back(),
                          [&](OpBuilder &b, Location, ValueRange arguments) {
                            SmallVector<Value> all(arguments);
                            return cloneScalars(b, *op.getBody(), all);
                          });
}

static sf::Broadcast getScaleBroadcast(sf::ScaleGranularity granularity) {
  switch (granularity) {
  case sf::ScaleGranularity::Tensor:
    return sf::Broadcast::Scalar;
  case sf::ScaleGranularity::Feature:
    return sf::Broadcast::Feature;
  case sf::ScaleGranularity::Token:
  case sf::ScaleGranularity::Group:
    return sf::Broadcast::Token;
  }
  llvm_unreachable("unknown granularity");
}

LogicalResult sparseflow::scheduleDequantize(gpu::GPUModuleOp kernels, sf::DequantizeOp op) {
  auto result = cast<RankedTensorType>(op.getResult().getType());
  if (sf::getWeightEncoding(result))
    return op.emitOpError(
               "expected a dequantized weight to be a constant or an operand of sf.matmul, whose "
               "epilogue takes the scales; got ")
           << result;
  if (op.getGranularity() == sf::ScaleGranularity::Group)
    return scheduleGroupedDequantize(kernels, op);
  return buildElementwise(
      kernels, op, "dequantize", "sf.dequantize",
      {{op.getInput(), sf::Broadcast::Full},
       {op.getScale(), getScaleBroadcast(op.getGranularity())}},
      result.getDimSize(1),
      [&](OpBuilder &b, Location loc, ValueRange arguments) -> SmallVector<Value> {
        return {sf::emitDequantize(b, loc, arguments[0], arguments[1], result.getElementType())};
      });
}

LogicalResult sparseflow::scheduleQuantize(gpu::GPUModuleOp kernels, sf::QuantizeOp op) {
  if (op.isDynamic() || op.getGranularity() == sf::ScaleGranularity::Group)
    return scheduleGroupedQuantize(kernels, op);
  auto result = cast<RankedTensorType>(op.getResult().getType());
  return buildElementwise(
      kernels, op, "quantize", "sf.quantize",
      {{op.getInput(), sf::Broadcast::Full},
       {op.getScale(), getScaleBroadcast(op.getGranularity())}},
      result.getDimSize(1),
      [&](OpBuilder &b, Location loc, ValueRange arguments) -> SmallVector<Value> {
        Value x = sf::emitToF32(b, loc, arguments[0]);
        return {sf::emitQuantize(b, loc, x, arguments[1], result.getElementType())};
      });
}
