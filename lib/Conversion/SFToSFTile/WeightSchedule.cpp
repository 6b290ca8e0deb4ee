//===- WeightSchedule.cpp - Compression and packing at run time -----------===//
//
// For weights that are arguments. One block takes a tile of the weight: compress and decompress go
// between dense rows and the canonical form (kept values, then a bitmask, four bits a group); pack
// writes one chunk in the order of the matmul kernels.
//
//===----------------------------------------------------------------------===//

#include "Schedule.h"

#include "sparseflow/Support/PackedLayout.h"
#include "sparseflow/Support/Sparse24.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

constexpr int64_t kThreads = 128;

class WeightSchedule {
public:
  WeightSchedule(gpu::GPUModuleOp kernels, Operation *op, StringRef stem)
      : s(kernels, op, stem), op(op), type(cast<RankedTensorType>(op->getOperand(0).getType())),
        element(type.getElementType()), rows(type.getDimSize(0)), columns(type.getDimSize(1)),
        elementBytes(element.getIntOrFloatBitWidth() / 8) {}

  /// Replaces the operation by one kernel over tiles of the weight; `body` gets source, destination
  /// and the tile's row and column (counted in tiles).
  void build(StringRef label, int64_t tileRows, int64_t tileColumns,
             function_ref<void(Value source, Value dest, Value row, Value column)> body) {
    int64_t rowTiles = llvm::divideCeil(rows, tileRows),
            columnTiles = llvm::divideCeil(columns, tileColumns);
    auto dispatch = s.dispatch(
        op->getOperand(0), {-1}, label, op->getResultTypes(), [&](size_t) -> SmallVector<Value> {
          KernelOp kernel = s.startKernel(
              getKernelArgumentTypes(op->getOperands(), op->getResultTypes()), kThreads, {}, "");
          auto tile =
              TileIdOp::create(s.b, s.loc, s.index(rowTiles), columnTiles, 1, 1, columnTiles);
          body(kernel.getArgument(0), kernel.getArgument(1), tile.getToken(), tile.getFeature());
          s.finishKernel();
          return llvm::to_vector(s.launch(
              kernel, op->getOperands(), op->getResultTypes(),
              GridAttr::get(s.b.getContext(), rowTiles * columnTiles, std::nullopt, std::nullopt)));
        });
    op->replaceAllUsesWith(dispatch);
    op->erase();
  }

  Value view(Value bytes, int64_t offset, ArrayRef<int64_t> shape, Type elementType) {
    return ViewOp::create(s.b, s.loc, MemRefType::get(shape, elementType), bytes, offset);
  }
  /// The two parts of the canonical form: kept values, and four bits a group.
  Value viewKept(Value canonical) { return view(canonical, 0, {rows, columns / 2}, element); }
  Value viewMasks(Value canonical) {
    int64_t valuesBytes = rows * (columns / 2) * elementBytes;
    return view(canonical, valuesBytes, {rows, (columns + 7) / 8 * 2}, s.b.getIntegerType(4));
  }

  Value load(Value memref, Value row, Value column, ArrayRef<int64_t> shape) {
    auto tile = TileType::get(shape, cast<MemRefType>(memref.getType()).getElementType());
    return LoadOp::create(s.b, s.loc, tile, memref, ValueRange{row, column}, DenseI64ArrayAttr(),
                          DenseI64ArrayAttr());
  }
  void store(Value tile, Value memref, Value row, Value column) {
    StoreOp::create(s.b, s.loc, tile, memref, ValueRange{row, column}, DenseI64ArrayAttr());
  }
  /// Stores a tile of one chunk in the chunk's order.
  void storeChunk(Value tile, Value memref, Value row, Value column, const LinearLayout &chunk) {
    LinearLayout flat = chunk.flattenIns("offset");
    flat = flat.renameOut(flat.getOutDims()[0].name, "dim0")
               .renameOut(flat.getOutDims()[1].name, "dim1");
    auto packing = LayoutAttr::fromLinearLayout(s.b.getContext(), flat, {}, {});
    StoreOp::create(s.b, s.loc, tile, memref, ValueRange{row, column, s.index(0)},
                    /*from=*/Value(), DenseI64ArrayAttr(), packing);
  }

  /// Replaces each group's four bits by `table[bits]`.
  Value translate(Value tile, function_ref<unsigned(unsigned)> table) {
    uint64_t packed = 0;
    for (unsigned i = 0; i < 16; ++i)
      packed |= uint64_t(table(i) & 15) << (4 * i);
    auto map = MapOp::create(s.b, s.loc, tile.getType(), tile);
    OpBuilder::InsertionGuard guard(s.b);
    Type i4 = s.b.getIntegerType(4), i64 = s.b.getI64Type();
    Block *block = s.b.createBlock(&map.getBody(), {}, {i4}, {s.loc});
    auto constant = [&](int64_t value) {
      return arith::ConstantOp::create(s.b, s.loc, s.b.getI64IntegerAttr(value));
    };
    Value index = arith::ExtUIOp::create(s.b, s.loc, i64, block->getArgument(0));
    Value shift = arith::MulIOp::create(s.b, s.loc, index, constant(4));
    Value entry = arith::ShRUIOp::create(s.b, s.loc, constant(static_cast<int64_t>(packed)), shift);
    YieldOp::create(s.b, s.loc, arith::TruncIOp::create(s.b, s.loc, i4, entry).getResult());
    return map.getResult(0);
  }

  /// Zeroes the masks of groups beyond K: the last byte of a row may be half padding.
  Value clearPadding(Value masks, Value firstGroup) {
    auto type = cast<TileType>(masks.getType());
    Type i32 = s.b.getI32Type();
    Value positions = IotaOp::create(s.b, s.loc, TileType::get(type.getShape(), i32), 1);
    Value left = arith::SubIOp::create(s.b, s.loc, s.index(columns / 4), firstGroup);
    left = arith::IndexCastOp::create(s.b, s.loc, i32, left);
    auto map = MapOp::create(s.b, s.loc, type, ValueRange{masks, positions});
    OpBuilder::InsertionGuard guard(s.b);
    Block *block =
        s.b.createBlock(&map.getBody(), {}, {type.getElementType(), i32}, {s.loc, s.loc});
    Value inside =
        arith::CmpIOp::create(s.b, s.loc, arith::CmpIPredicate::slt, block->getArgument(1), left);
    Value zero = arith::ConstantOp::create(s.b, s.loc, s.b.getZeroAttr(type.getElementType()));
    YieldOp::create(
        s.b, s.loc,
        arith::SelectOp::create(s.b, s.loc, inside, block->getArgument(0), zero).getResult());
    return map.getResult(0);
  }

  Schedule s;
  Operation *op;
  RankedTensorType type;
  Type element;
  int64_t rows, columns, elementBytes;
};

unsigned nibbleToMask(unsigned nibble) { return nibbleToMask24(nibble); }
/// What is not two bits, as in the padding, becomes the first two positions.
unsigned maskToNibble(unsigned mask) {
  return llvm::popcount(mask) == 2 ? maskToNibble24(mask) : 4;
}

constexpr int64_t kTileRows = 16, kTileColumns = 128;

} // namespace

LogicalResult sparseflow::scheduleCompress(gpu::GPUModuleOp kernels, sf::CompressOp op) {
  if (op.getMode() == sf::CompressMode::Verify)
    return op.emitOpError("expected mode = \"prune\" for a weight that is known only at run time, "
                          "got \"verify\"; verify "
                          "it on the host (sf.validate_24) or make it a constant");
  WeightSchedule w(kernels, op, "compress");
  if (w.elementBytes > 2)
    return op.emitOpError("expected 8- or 16-bit elements, which tensor cores multiply, got ")
           << w.element;
  w.build("sf.compress", kTileRows, kTileColumns,
          [&](Value source, Value dest, Value row, Value column) {
            row = w.s.mul(row, kTileRows);
            Value dense =
                w.load(source, row, w.s.mul(column, kTileColumns), {kTileRows, kTileColumns});
            auto compress = CompressOp::create(
                w.s.b, w.s.loc, TileType::get({kTileRows, kTileColumns / 2}, w.element),
                TileType::get({kTileRows, kTileColumns / 4}, w.s.b.getIntegerType(4)), dense);
            w.store(compress.getKept(), w.viewKept(dest), row, w.s.mul(column, kTileColumns / 2));
            Value group = w.s.mul(column, kTileColumns / 4);
            Value masks = w.translate(compress.getMetadata(), nibbleToMask);
            w.store(w.columns % 8 ? w.clearPadding(masks, group) : masks, w.viewMasks(dest), row,
                    group);
          });
  return success();
}

LogicalResult sparseflow::scheduleDecompress(gpu::GPUModuleOp kernels, sf::DecompressOp op) {
  WeightSchedule w(kernels, op, "decompress");
  if (w.elementBytes > 2)
    return op.emitOpError("expected 8- or 16-bit elements, which tensor cores multiply, got ")
           << w.element;
  w.build("sf.decompress", kTileRows, kTileColumns,
          [&](Value source, Value dest, Value row, Value column) {
            row = w.s.mul(row, kTileRows);
            Value kept = w.load(w.viewKept(source), row, w.s.mul(column, kTileColumns / 2),
                                {kTileRows, kTileColumns / 2});
            Value masks = w.load(w.viewMasks(source), row, w.s.mul(column, kTileColumns / 4),
                                 {kTileRows, kTileColumns / 4});
            Value dense = DecompressOp::create(w.s.b, w.s.loc,
                                               TileType::get({kTileRows, kTileColumns}, w.element),
                                               kept, w.translate(masks, maskToNibble));
            w.store(dense, dest, row, w.s.mul(column, kTileColumns));
          });
  return success();
}

LogicalResult sparseflow::schedulePack(gpu::GPUModuleOp kernels, sf::PackOp op) {
  WeightSchedule w(kernels, op, "pack");
  sf::WeightAttr encoding = sf::getWeightEncoding(op.getResult().getType());
  int64_t chunkK = packedChunkInner(w.elementBytes),
          elements = packedChunkElements(encoding.isSparse(), w.elementBytes);
  int64_t chunksF = llvm::divideCeil(w.rows, kPackedChunkFeatures),
          chunksK = llvm::divideCeil(w.columns, chunkK);
  w.build("sf.pack", kPackedChunkFeatures, chunkK,
          [&](Value source, Value dest, Value row, Value column) {
            Value firstRow = w.s.mul(row, kPackedChunkFeatures);
            Value values = w.view(dest, 0, {chunksF, chunksK, elements}, w.element);
            LinearLayout chunk =
                packedValuesLayout(*encoding.getPackOrder(), encoding.isSparse(), w.elementBytes);
            if (!encoding.isSparse()) {
              Value dense =
                  w.load(source, firstRow, w.s.mul(column, chunkK), {kPackedChunkFeatures, chunkK});
              return w.storeChunk(dense, values, row, column, chunk);
            }
            Value kept = w.load(w.viewKept(source), firstRow, w.s.mul(column, chunkK / 2),
                                {kPackedChunkFeatures, chunkK / 2});
            Value masks = w.load(w.viewMasks(source), firstRow, w.s.mul(column, chunkK / 4),
                                 {kPackedChunkFeatures, chunkK / 4});
            w.storeChunk(kept, values, row, column, chunk);
            Value metadata =
                w.view(dest, chunksF * chunksK * elements * w.elementBytes,
                       {chunksF, chunksK, packedChunkMetadataWords(w.elementBytes) * 8},
                       w.s.b.getIntegerType(4));
            w.storeChunk(w.translate(masks, maskToNibble), metadata, row, column,
                         packedMetadataLayout(*encoding.getPackOrder(), w.elementBytes));
          });
  return success();
}
