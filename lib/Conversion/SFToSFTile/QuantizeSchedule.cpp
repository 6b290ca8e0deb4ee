//===- QuantizeSchedule.cpp - Quantization with a scale for each group ----===//
//
// A row is groups x members, and a scale covers one group; one scale a token is the case of one
// group. One block takes several rows. With a scale to find, a group is read twice, for the maximum
// and for the quotients, the second time from the caches; in a loop when it does not fit in
// registers at once.
//
//===----------------------------------------------------------------------===//

#include "Schedule.h"

#include "sparseflow/Dialect/SF/IR/SFScalar.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

constexpr int64_t kThreads = 256;
/// Elements of a group that a block holds at once: 64 a thread.
constexpr int64_t kMaxMembers = kThreads * 64;
constexpr int64_t kTileElements = kThreads * 16;

/// Tiles of rows x groups x members for tensors of M x (groups * members).
struct GroupedSchedule {
  GroupedSchedule(gpu::GPUModuleOp kernels, Operation *op, StringRef stem, StringRef label,
                  int64_t columns, int64_t groupSize)
      : s(kernels, op, stem), op(op), label(label), groups(columns / groupSize),
        members(groupSize) {
    tileMembers = std::min<int64_t>(llvm::PowerOf2Ceil(members), kMaxMembers);
    int64_t room = std::max<int64_t>(kTileElements / tileMembers, 1);
    tileGroups = std::min<int64_t>(llvm::PowerOf2Ceil(groups), room);
    tileRows = room / tileGroups;
    groupTiles = llvm::divideCeil(groups, tileGroups);
  }

  /// M x (groups * members) as M x groups x members.
  MemRefType groupedType(Value tensor) {
    auto type = cast<RankedTensorType>(tensor.getType());
    auto strided = StridedLayoutAttr::get(type.getContext(), 0, {ShapedType::kDynamic, members, 1});
    return MemRefType::get({type.getDimSize(0), groups, members}, type.getElementType(), strided);
  }

  /// Replaces the operation by one kernel; `body` gets the kernel's arguments and the block's first
  /// row and group.
  void build(ValueRange inputs, ArrayRef<MemRefType> types,
             function_ref<void(ValueRange arguments, Value row, Value group)> body) {
    auto dispatch =
        s.dispatch(inputs[0], {-1}, label, op->getResultTypes(), [&](size_t) -> SmallVector<Value> {
          KernelOp kernel = s.startKernel(types, kThreads, {}, "");
          SmallVector<Value> arguments(kernel.getBody().getArguments());
          Value rows = memref::DimOp::create(s.b, s.loc, arguments[0], s.index(0));
          auto tile = TileIdOp::create(s.b, s.loc, rows, groupTiles, tileRows, 1, 1);
          body(arguments, s.mul(tile.getToken(), tileRows), s.mul(tile.getFeature(), tileGroups));
          s.finishKernel();
          return llvm::to_vector(
              s.launch(kernel, inputs, op->getResultTypes(),
                       GridAttr::get(s.b.getContext(), groupTiles, 0, tileRows)));
        });
    op->replaceAllUsesWith(dispatch);
    op->erase();
  }

  Value load(Value memref, Value row, Value group, Value member) {
    Type element = cast<MemRefType>(memref.getType()).getElementType();
    auto type = TileType::get({tileRows, tileGroups, tileMembers}, element);
    return LoadOp::create(s.b, s.loc, type, memref, ValueRange{row, group, member},
                          DenseI64ArrayAttr(), DenseI64ArrayAttr());
  }
  Value loadScale(Value memref, Value row, Value group) {
    auto type = TileType::get({tileRows, tileGroups, 1}, s.b.getF32Type());
    return LoadOp::create(s.b, s.loc, type, memref, ValueRange{row, group},
                          s.b.getDenseI64ArrayAttr({0, 1}), DenseI64ArrayAttr());
  }
  void store(Value tile, Value memref, Value row, Value group, Value member) {
    SmallVector<Value> indices = {row, group, member};
    int64_t rank = cast<MemRefType>(memref.getType()).getRank();
    StoreOp::create(s.b, s.loc, tile, memref, ArrayRef(indices).take_front(rank),
                    s.b.getDenseI64ArrayAttr(ArrayRef<int64_t>{0, 1, 2}.take_front(rank)));
  }
  Value map(ValueRange tiles, Type element, function_ref<Value(ValueRange)> scalar) {
    SmallVector<int64_t> shape(3, 1);
    SmallVector<Type> elements;
    for (Value tile : tiles) {
      auto type = cast<TileType>(tile.getType());
      elements.push_back(type.getElementType());
      for (auto [size, other] : llvm::zip_equal(shape, type.getShape()))
        size = std::max(size, other);
    }
    auto map = MapOp::create(s.b, s.loc, TileType::get(shape, element), tiles);
    OpBuilder::InsertionGuard guard(s.b);
    Block *body = s.b.createBlock(&map.getBody(), {}, elements,
                                  SmallVector<Location>(elements.size(), s.loc));
    YieldOp::create(s.b, s.loc, scalar(body->getArguments()));
    return map.getResult(0);
  }
  /// Calls `body` for every part of a group that the block holds at once.
  void forEachPart(function_ref<void(Value member)> body) {
    if (members <= tileMembers)
      return body(s.index(0));
    auto loop = scf::ForOp::create(s.b, s.loc, s.index(0), s.index(members), s.index(tileMembers));
    OpBuilder::InsertionGuard guard(s.b);
    s.b.setInsertionPointToStart(loop.getBody());
    body(loop.getInductionVar());
  }

  /// The largest magnitude of each group.
  Value maximum(Value x, Value row, Value group) {
    Type f32 = s.b.getF32Type();
    auto magnitude = [&](Value member) {
      return map(load(x, row, group, member), f32, [&](ValueRange v) -> Value {
        return math::AbsFOp::create(s.b, s.loc, sf::emitToF32(s.b, s.loc, v[0]));
      });
    };
    Value tile;
    if (members <= tileMembers) {
      tile = magnitude(s.index(0));
    } else {
      auto type = TileType::get({tileRows, tileGroups, tileMembers}, f32);
      Value zero = arith::ConstantOp::create(s.b, s.loc, s.b.getF32FloatAttr(0));
      Value init = SplatOp::create(s.b, s.loc, type, zero);
      auto loop =
          scf::ForOp::create(s.b, s.loc, s.index(0), s.index(members), s.index(tileMembers), init);
      OpBuilder::InsertionGuard guard(s.b);
      s.b.setInsertionPointToStart(loop.getBody());
      Value larger = map(
          {loop.getRegionIterArg(0), magnitude(loop.getInductionVar())}, f32,
          [&](ValueRange v) -> Value { return arith::MaximumFOp::create(s.b, s.loc, v[0], v[1]); });
      scf::YieldOp::create(s.b, s.loc, larger);
      tile = loop.getResult(0);
    }
    auto type = TileType::get({tileRows, tileGroups, 1}, f32);
    return ReduceOp::create(s.b, s.loc, type, ReduceKind::Max, tile, 2, IntegerAttr());
  }

  Schedule s;
  Operation *op;
  StringRef label;
  int64_t groups, members, tileRows, tileGroups, tileMembers, groupTiles;
};
} // namespace

LogicalResult sparseflow::scheduleGroupedQuantize(gpu::GPUModuleOp kernels, sf::QuantizeOp op) {
  auto type = cast<RankedTensorType>(op.getResult().getType());
  int64_t columns = type.getDimSize(1);
  bool grouped = op.getGranularity() == sf::ScaleGranularity::Group;
  GroupedSchedule g(kernels, op, "quantize", "sf.quantize", columns,
                    grouped ? op.getGroupSize() : columns);
  Schedule &s = g.s;
  SmallVector<Value> inputs = {op.getInput()};
  SmallVector<MemRefType> types = {g.groupedType(op.getInput())};
  auto scaleType = cast<RankedTensorType>(op.getScales().getType());
  if (!op.isDynamic()) {
    inputs.push_back(op.getScale());
    types.push_back(getKernelArgumentType(scaleType));
  }
  types.push_back(g.groupedType(op.getResult()));
  if (op.isDynamic())
    types.push_back(getKernelArgumentType(scaleType));

  bool dynamic = op.isDynamic();
  g.build(inputs, types, [&](ValueRange arguments, Value row, Value group) {
    Value x = arguments[0], q = arguments[dynamic ? 1 : 2], scales = arguments[dynamic ? 2 : 1];
    Value scale;
    if (dynamic) {
      scale = g.map(g.maximum(x, row, group), s.b.getF32Type(), [&](ValueRange v) -> Value {
        return sf::emitDynamicScale(s.b, s.loc, v[0], type.getElementType());
      });
      g.store(scale, scales, row, group, {});
    } else {
      scale = g.loadScale(scales, row, group);
    }
    g.forEachPart([&](Value member) {
      Value tile = g.load(x, row, group, member);
      Value quantized = g.map({tile, scale}, type.getElementType(), [&](ValueRange v) {
        return sf::emitQuantize(s.b, s.loc, sf::emitToF32(s.b, s.loc, v[0]), v[1],
                                type.getElementType());
      });
      g.store(quantized, q, row, group, member);
    });
  });
  return success();
}

LogicalResult sparseflow::scheduleGroupedDequantize(gpu::GPUModuleOp kernels, sf::DequantizeOp op) {
  auto type = cast<RankedTensorType>(op.getResult().getType());
  GroupedSchedule g(kernels, op, "dequantize", "sf.dequantize", type.getDimSize(1),
                    op.getGroupSize());
  Schedule &s = g.s;
  SmallVector<Value> inputs = {op.getInput(), op.getScale()};
  SmallVector<MemRefType> types = {
      g.groupedType(op.getInput()),
      getKernelArgumentType(cast<RankedTensorType>(op.getScale().getType())),
      g.groupedType(op.getResult())};
  g.build(inputs, types, [&](ValueRange arguments, Value row, Value group) {
    Value scale = g.loadScale(arguments[1], row, group);
    g.forEachPart([&](Value member) {
      Value tile = g.load(arguments[0], row, group, member);
      Value x = g.map({tile, scale}, type.getElementType(), [&](ValueRange v) {
        return sf::emitDequantize(s.b, s.loc, v[0], v[1], type.getElementType());
      });
      g.store(x, arguments[2], row, group, member);
    });
  });
  return success();
}
