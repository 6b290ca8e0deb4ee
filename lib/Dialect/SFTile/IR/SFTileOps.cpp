//===- SFTileOps.cpp - Verifiers, parsers and printers --------------------===//

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"

#include "sparseflow/Support/PackedLayout.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/FunctionImplementation.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

#define GET_OP_CLASSES
#include "sparseflow/Dialect/SFTile/IR/SFTileOps.cpp.inc"

//===----------------------------------------------------------------------===//
// KernelOp
//===----------------------------------------------------------------------===//

void KernelOp::build(OpBuilder &builder, OperationState &state, StringRef name, TypeRange inputs,
                     int64_t threads, Attribute config) {
  state.addAttribute(getSymNameAttrName(state.name), builder.getStringAttr(name));
  state.addAttribute(getFunctionTypeAttrName(state.name),
                     TypeAttr::get(builder.getFunctionType(inputs, {})));
  state.addAttribute(getThreadsAttrName(state.name), builder.getI64IntegerAttr(threads));
  if (config)
    state.addAttribute(getConfigAttrName(state.name), config);
  Region *body = state.addRegion();
  body->emplaceBlock().addArguments(inputs, SmallVector<Location>(inputs.size(), state.location));
}

bool KernelOp::isConstant(Value memref) {
  while (auto view = memref.getDefiningOp<ViewOp>())
    memref = view.getSource();
  auto argument = dyn_cast<BlockArgument>(memref);
  return argument && argument.getOwner()->getParentOp() == *this &&
         getArgAttr(argument.getArgNumber(), kConstantAttrName);
}

ParseResult KernelOp::parse(OpAsmParser &parser, OperationState &result) {
  auto buildType = [](Builder &builder, ArrayRef<Type> inputs, ArrayRef<Type> results,
                      function_interface_impl::VariadicFlag,
                      std::string &) { return builder.getFunctionType(inputs, results); };
  return function_interface_impl::parseFunctionOp(
      parser, result, /*allowVariadic=*/false, getFunctionTypeAttrName(result.name), buildType,
      getArgAttrsAttrName(result.name), getResAttrsAttrName(result.name));
}

void KernelOp::print(OpAsmPrinter &printer) {
  function_interface_impl::printFunctionOp(printer, *this, /*isVariadic=*/false,
                                           getFunctionTypeAttrName(), getArgAttrsAttrName(),
                                           getResAttrsAttrName());
}

LogicalResult KernelOp::verify() {
  if (!getFunctionType().getResults().empty())
    return emitOpError("expected no results, got ")
           << getFunctionType().getResults().size() << "; write through a memref argument";
  int64_t threads = getThreads();
  if (threads < 32 || threads > 1024 || threads % 32)
    return emitOpError("expected `threads` to be a multiple of 32 up to 1024, got ") << threads;
  for (Type type : getFunctionType().getInputs()) {
    auto memref = dyn_cast<MemRefType>(type);
    if (!memref)
      continue;
    for (int64_t i = 1; i < memref.getRank(); ++i)
      if (memref.isDynamicDim(i))
        return emitOpError("expected only the leading dimension of a memref to be dynamic, got ")
               << memref;
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Verifiers
//===----------------------------------------------------------------------===//

LogicalResult TileIdOp::verify() {
  for (auto [name, value] :
       {std::pair("feature_tiles", getFeatureTiles()), std::pair("tile_tokens", getTileTokens()),
        std::pair("splits", getSplits()), std::pair("raster", getRaster())})
    if (static_cast<int64_t>(value) < 1)
      return emitOpError("expected `") << name << "` to be positive, got " << value;
  int64_t cluster = getCluster(), splits = getSplits();
  if (cluster < 1 || (splits > 1 ? cluster != 1 && cluster != splits
                                 : static_cast<int64_t>(getFeatureTiles()) % cluster != 0))
    return emitOpError("expected a cluster that divides ")
           << getFeatureTiles()
           << " feature tiles or, where there are splits, has a block for each of " << splits
           << ", got " << cluster;
  return success();
}

static int64_t product(ArrayRef<int64_t> sizes) {
  int64_t result = 1;
  for (int64_t s : sizes)
    result *= s;
  return result;
}

/// Bytes of so many elements; -1 where there are none such in memory.
static int64_t countBytes(ArrayRef<int64_t> sizes, Type element) {
  int64_t bits = element.getIntOrFloatBitWidth();
  for (int64_t size : sizes)
    if (size < 0 || llvm::MulOverflow(bits, size, bits))
      return -1;
  return bits / 8;
}

void CopyAsyncOp::build(OpBuilder &builder, OperationState &state, Value source, ValueRange offsets,
                        Value ring, Value stage, ArrayRef<int64_t> sizes, CopyOrder order) {
  build(builder, state, source, offsets, ring, stage, /*predicate=*/Value(), /*barriers=*/Value(),
        sizes, order);
}

LogicalResult CopyAsyncOp::verify() {
  RingType ring = getRing().getType();
  if (auto map = dyn_cast<TensorMapType>(getSource().getType())) {
    if (!getBarriers() || getPredicate() || getOrder() != CopyOrder::Logical)
      return emitOpError(
          "expected a copy through a tensor map to be logical, to signal barriers and "
          "to have no condition");
    if (map.getElementType() != ring.getElementType() || getSizes() != ring.getShape() ||
        getOffsets().size() != ring.getShape().size())
      return emitOpError("expected the box to have the stage's shape and element type, got ")
             << map << " and " << ring;
    return success();
  }
  auto source = dyn_cast<MemRefType>(getSource().getType());
  if (!source)
    return emitOpError("expected a memref or a tensor map, got ") << getSource().getType();
  if (getBarriers() && (getOrder() == CopyOrder::Logical || getPredicate()))
    return emitOpError(
        "expected a copy of a memref that signals barriers to be in storage order and "
        "to have no condition");
  if (static_cast<int64_t>(getOffsets().size()) != source.getRank() ||
      static_cast<int64_t>(getSizes().size()) != source.getRank())
    return emitOpError("expected ") << source.getRank() << " offsets and sizes, got "
                                    << getOffsets().size() << " and " << getSizes().size();
  if (getOrder() == CopyOrder::Logical) {
    if (source.getElementType() != ring.getElementType() || getSizes() != ring.getShape())
      return emitOpError("expected the box to have the stage's shape and element type in logical "
                         "order");
    return success();
  }
  if (!source.getElementType().isIntOrFloat())
    return emitOpError("expected integer or float elements, got ") << source.getElementType();
  int64_t bytes = countBytes(getSizes(), source.getElementType());
  if (bytes != ring.getStageBytes())
    return emitOpError("expected a box of ")
           << ring.getStageBytes() << " bytes, a stage's size, got " << bytes;
  return success();
}

LogicalResult ViewOp::verify() {
  auto source = cast<MemRefType>(getSource().getType());
  auto result = cast<MemRefType>(getResult().getType());
  if (!source.hasStaticShape() || !result.hasStaticShape())
    return emitOpError("expected static shapes");
  if (!source.getElementType().isIntOrFloat() || !result.getElementType().isIntOrFloat())
    return emitOpError("expected integer or float elements, got ")
           << source.getElementType() << " and " << result.getElementType();
  if (static_cast<int64_t>(getByteOffset()) < 0)
    return emitOpError("expected a byte_offset of at least 0, got ")
           << static_cast<int64_t>(getByteOffset());
  int64_t have = countBytes(source.getShape(), source.getElementType());
  int64_t want = countBytes(result.getShape(), result.getElementType());
  if (have < 0 || want < 0 || llvm::AddOverflow(want, int64_t(getByteOffset()), want))
    return emitOpError("expected sizes that memory has, got ") << source << " and " << result;
  if (want > have)
    return emitOpError("expected a source of at least ") << want << " bytes, got " << have;
  return success();
}

static SmallVector<int64_t> fillDims(std::optional<ArrayRef<int64_t>> dims, int64_t rank) {
  if (dims)
    return SmallVector<int64_t>(*dims);
  return llvm::to_vector(llvm::seq<int64_t>(0, rank));
}

SmallVector<int64_t> LoadOp::getDimMap() {
  return fillDims(getDims(), cast<MemRefType>(getSource().getType()).getRank());
}

SmallVector<int64_t> StoreOp::getDimMap() {
  return fillDims(getDims(), getDest().getType().getRank());
}

static LogicalResult verifyDimMap(Operation *op, ArrayRef<int64_t> dims, MemRefType memref,
                                  TileType tile, size_t numIndices) {
  if (static_cast<int64_t>(numIndices) != memref.getRank() ||
      static_cast<int64_t>(dims.size()) != memref.getRank())
    return op->emitOpError("expected ")
           << memref.getRank() << " indices and dims, got " << numIndices << " and " << dims.size();
  if (memref.getElementType() != tile.getElementType())
    return op->emitOpError("expected equal element types, got ")
           << memref.getElementType() << " and " << tile.getElementType();
  for (int64_t dim : dims)
    if (dim < -1 || dim >= tile.getRank())
      return op->emitOpError("expected dims from -1 to ") << tile.getRank() - 1 << ", got " << dim;
  for (int64_t i = 0; i < tile.getRank(); ++i)
    if (tile.getShape()[i] != 1 && !llvm::is_contained(dims, i))
      return op->emitOpError("expected tile dimension ")
             << i << " to run along a memref dimension or to have size 1";
  return success();
}

LogicalResult LoadOp::verify() {
  if (auto ring = dyn_cast<RingType>(getSource().getType())) {
    if (getIndices().size() != 1 || getDims())
      return emitOpError("expected one index, the stage, and no dims for a ring");
    if (ring.getElementType() != getResult().getType().getElementType())
      return emitOpError("expected equal element types, got ")
             << ring.getElementType() << " and " << getResult().getType().getElementType();
    if (getResult().getType().getRank() != ring.getRank())
      return emitOpError("expected a tile of rank ")
             << ring.getRank() << ", the ring's, got " << getResult().getType();
    if (getStart() && static_cast<int64_t>(getStart()->size()) != ring.getRank())
      return emitOpError("expected ") << ring.getRank() << " start coordinates";
    for (auto [i, size] : llvm::enumerate(getResult().getType().getShape())) {
      int64_t start = getStart() ? (*getStart())[i] : 0;
      if (start < 0 || start > ring.getShape()[i] - size)
        return emitOpError("expected the tile to lie inside the stage, got ")
               << start << " + " << size << " of " << ring.getShape()[i];
    }
    return success();
  }
  auto memref = dyn_cast<MemRefType>(getSource().getType());
  if (!memref)
    return emitOpError("expected a memref or a ring, got ") << getSource().getType();
  if (getStart())
    return emitOpError("expected no start for a memref: add it to the indices");
  return verifyDimMap(*this, getDimMap(), memref, getResult().getType(), getIndices().size());
}

LogicalResult StoreOp::verify() {
  MemRefType dest = cast<MemRefType>(getDest().getType());
  if (!getPacking())
    return verifyDimMap(*this, getDimMap(), dest, getValue().getType(), getIndices().size());
  if (static_cast<int64_t>(getIndices().size()) != dest.getRank())
    return emitOpError("expected ") << dest.getRank() << " indices, got " << getIndices().size();
  TileType tile = getValue().getType();
  if (tile.getRank() != 2 || getPacking()->getWarpTile() != SmallVector<int64_t>(tile.getShape()) ||
      !getPacking()->toLinearLayout().isBijective())
    return emitOpError(
               "expected a packing that maps `offset` one to one onto a tile of rank 2, got ")
           << *getPacking() << " and " << tile;
  if (getFrom())
    return emitOpError("expected no `from` beside a packing, which is stored as a whole");
  return success();
}

static LogicalResult verifyYield(Operation *op, Region &region, TypeRange expected,
                                 StringRef what) {
  // A block's terminator is verified later than this operation.
  auto yield = region.front().empty() ? YieldOp() : dyn_cast<YieldOp>(region.front().back());
  if (!yield)
    return op->emitOpError("expected ") << what << " to end in sf_tile.yield";
  if (yield.getValues().getTypes() != expected)
    return op->emitOpError("expected ") << what << " to yield (" << expected << "), got ("
                                        << yield.getValues().getTypes() << ")";
  return success();
}

LogicalResult PipelineOp::verify() {
  auto verifyArguments = [&](Region &region, TypeRange tail, StringRef what) -> LogicalResult {
    SmallVector<Type> expected = {IndexType::get(getContext()), IndexType::get(getContext())};
    llvm::append_range(expected, tail);
    if (region.getArgumentTypes() != TypeRange(expected))
      return emitOpError("expected the ") << what << "'s arguments to be (" << expected
                                          << "), got (" << region.getArgumentTypes() << ")";
    return success();
  };
  if (getInits().getTypes() != getResultTypes())
    return emitOpError("expected results of the same types as the carried values");
  if (failed(verifyArguments(getProducer(), {}, "producer")) ||
      failed(verifyArguments(getConsumer(), getInits().getTypes(), "consumer")))
    return failure();
  if (failed(verifyYield(*this, getProducer(), {}, "the producer")))
    return failure();
  return verifyYield(*this, getConsumer(), getResultTypes(), "the consumer");
}

LogicalResult RoleOp::verify() {
  constexpr int64_t warpgroupWarps = 4;
  int64_t consumers = getConsumers();
  if (consumers < 1 || consumers % warpgroupWarps)
    return emitOpError("expected whole warpgroups of 4 warps as consumers, got ")
           << consumers << " warps";
  return success();
}

bool PipelineOp::hasAsynchronousProducts() {
  return getConsumer()
      .walk([](MmaOp mma) {
        return mma.getAtom().getAtom().isWarpgroup() ? WalkResult::interrupt()
                                                     : WalkResult::advance();
      })
      .wasInterrupted();
}

LogicalResult SplatOp::verify() {
  if (getValue().getType() != getResult().getType().getElementType())
    return emitOpError("expected a value of type ")
           << getResult().getType().getElementType() << ", got " << getValue().getType();
  return success();
}

LogicalResult SliceOp::verify() {
  TileType source = getSource().getType(), result = getResult().getType();
  if (source.getElementType() != result.getElementType() ||
      source.getElementType().getIntOrFloatBitWidth() != 32)
    return emitOpError("expected equal element types of 32 bits, got ")
           << source << " and " << result;
  if (source.getRank() != result.getRank() ||
      static_cast<int64_t>(getStart().size()) != source.getRank())
    return emitOpError("expected tiles of equal rank and as many start coordinates, got ")
           << source << " and " << result;
  for (auto [start, size, whole] :
       llvm::zip_equal(getStart(), result.getShape(), source.getShape()))
    if (start < 0 || start > whole - size ||
        (size != whole && (!llvm::isPowerOf2_64(size) || start % size)))
      return emitOpError("expected whole dimensions, or sizes that are powers of two and starts "
                         "that are multiples of them inside the source, got ")
             << size << " from " << start << " on of " << whole;
  return success();
}

int64_t BarriersOp::getBytes() {
  constexpr int64_t inboxBytes = 8;
  return getResult().getType().getBytes() + (getSenders() ? inboxBytes : 0);
}

int64_t ReduceScatterOp::getBlocks() {
  return cast<TileType>(getInputs()[0].getType()).getShape().back() /
         cast<TileType>(getResult(0).getType()).getShape().back();
}

int64_t ReduceScatterOp::getBytesSent() {
  constexpr int64_t elementBytes = 4;
  int64_t bytes = 0;
  for (Type type : getResultTypes())
    bytes += product(cast<TileType>(type).getShape()) * elementBytes;
  return bytes;
}

LogicalResult ReduceScatterOp::verify() {
  if (getInputs().empty() || getInputs().size() != getNumResults())
    return emitOpError("expected as many results as tiles, at least one, got ")
           << getNumResults() << " for " << getInputs().size();
  auto kernel = (*this)->getParentOfType<KernelOp>();
  int64_t blocks = kernel ? kernel.getCluster().value_or(1) : 1;
  constexpr int64_t multiple = 8, bits = 32;
  for (auto [input, result] : llvm::zip_equal(getInputs(), getResults())) {
    auto whole = cast<TileType>(input.getType()), part = cast<TileType>(result.getType());
    SmallVector<int64_t> shape(whole.getShape());
    shape.back() /= blocks;
    if (blocks < 2 || whole.getShape().back() % (blocks * multiple) ||
        shape != SmallVector<int64_t>(part.getShape()) ||
        whole.getElementType() != part.getElementType() ||
        whole.getElementType().getIntOrFloatBitWidth() != bits)
      return emitOpError(
                 "expected a cluster of blocks, and tiles of 32-bit elements whose last dimension "
                 "it divides into multiples of 8, got ")
             << whole << " to " << part << " in a cluster of " << blocks;
  }
  if (auto barriers = getBarriers() ? getBarriers().getDefiningOp<BarriersOp>() : BarriersOp();
      barriers && !barriers.getSenders())
    return emitOpError("expected barriers with an inbox, got none; give them `senders`");
  return success();
}

LogicalResult IotaOp::verify() {
  TileType type = getResult().getType();
  int64_t dim = getDim();
  if (dim < 0 || dim >= type.getRank() || !type.getElementType().isInteger(32))
    return emitOpError("expected a tile of i32 that has dimension ") << dim << ", got " << type;
  return success();
}

static Type getElementType(MLIRContext *context, DType type) {
  switch (type) {
  case DType::f16:
    return Float16Type::get(context);
  case DType::bf16:
    return BFloat16Type::get(context);
  case DType::i8:
    return IntegerType::get(context, 8);
  case DType::e4m3:
    return Float8E4M3FNType::get(context);
  case DType::e5m2:
    return Float8E5M2Type::get(context);
  default:
    return {};
  }
}

LogicalResult MmaOp::verify() {
  const Atom &atom = getAtom().getAtom();
  TileType a = getA().getType(), b = getB().getType(), acc = getAcc().getType();
  if (acc != getResult().getType())
    return emitOpError("expected the result to have the accumulator's type, got ")
           << getResult().getType() << " and " << acc;
  if (a.getRank() != 2 || b.getRank() != 2 || acc.getRank() != 2)
    return emitOpError("expected tiles of rank 2");
  int64_t keptRatio = atom.sparse ? 2 : 1;
  if (a.getShape()[0] != acc.getShape()[0] || b.getShape()[0] != acc.getShape()[1] ||
      a.getShape()[1] * keptRatio != b.getShape()[1])
    return emitOpError("expected a: features x k")
           << (atom.sparse ? "/2" : "") << ", b: tokens x k, acc: features x tokens, got " << a
           << ", " << b << ", " << acc;
  if (atom.isWarpgroup() && !isWgmmaTokens(b.getShape()[0]))
    return emitOpError("expected 8, 24 or a multiple of 16 up to ")
           << kMaxWgmmaTokens << " tokens, got " << b.getShape()[0];
  if (b.getShape()[1] != atom.k)
    return emitOpError("expected one step of ") << atom.k << " along k, got " << b.getShape()[1];
  if (atom.sparse != static_cast<bool>(getMetadata()))
    return emitOpError(atom.sparse ? "expected metadata for a sparse atom"
                                   : "expected no metadata for a dense atom");
  Type element = getElementType(getContext(), atom.type);
  Type accElement = atom.accumulatesIntegers() ? Type(IntegerType::get(getContext(), 32))
                                               : Type(Float32Type::get(getContext()));
  if (a.getElementType() != element || b.getElementType() != element ||
      acc.getElementType() != accElement)
    return emitOpError("expected a and b of ") << element << ", accumulated in " << accElement
                                               << ", got " << a << ", " << b << ", " << acc;
  if (!atom.sparse)
    return success();
  TileType metadata = getMetadata().getType();
  int64_t groups = atom.k / 4, covered = groups * atom.selectors(), start = getMetadataStart();
  if (metadata.getRank() != 2 || metadata.getShape()[0] != a.getShape()[0] ||
      metadata.getShape()[1] != covered || !metadata.getElementType().isInteger(4))
    return emitOpError("expected metadata of features x ") << covered << " as i4, got " << metadata;
  if (start < 0 || start % groups || start + groups > covered)
    return emitOpError("expected metadata_start to be a multiple of ")
           << groups << " below " << covered << ", got " << start;
  return success();
}

LogicalResult MmaWaitOp::verify() {
  if (getRegisters().getTypes() != getResultTypes())
    return emitOpError("expected results of the operands' types");
  return success();
}

LogicalResult MapOp::verify() {
  if (getNumResults() == 0)
    return emitOpError("expected at least one result");
  SmallVector<int64_t> shape;
  for (Type type : getResultTypes()) {
    ArrayRef<int64_t> resultShape = cast<TileType>(type).getShape();
    if (!shape.empty() && shape != SmallVector<int64_t>(resultShape))
      return emitOpError("expected results of equal shape");
    shape.assign(resultShape.begin(), resultShape.end());
  }
  if (getBody().getNumArguments() != getInputs().size())
    return emitOpError("expected ")
           << getInputs().size() << " region arguments, got " << getBody().getNumArguments();
  for (auto [input, argument] : llvm::zip_equal(getInputs(), getBody().getArguments())) {
    auto tile = cast<TileType>(input.getType());
    if (tile.getElementType() != argument.getType())
      return emitOpError("expected a region argument of type ")
             << tile.getElementType() << ", got " << argument.getType();
    if (tile.getRank() != static_cast<int64_t>(shape.size()))
      return emitOpError("expected tiles of equal rank");
    for (auto [size, full] : llvm::zip_equal(tile.getShape(), shape))
      if (size != full && size != 1)
        return emitOpError("expected inputs of the result's shape, or of size 1 to broadcast, got ")
               << tile;
  }
  SmallVector<Type> elements;
  for (Type type : getResultTypes())
    elements.push_back(cast<TileType>(type).getElementType());
  return verifyYield(*this, getBody(), elements, "the region");
}

LogicalResult ReduceOp::verify() {
  TileType input = getInput().getType(), result = getResult().getType();
  int64_t dim = getDim();
  if (dim < 0 || dim >= input.getRank())
    return emitOpError("expected dim from 0 to ") << input.getRank() - 1 << ", got " << dim;
  SmallVector<int64_t> shape(input.getShape());
  shape[dim] = 1;
  if (ArrayRef<int64_t>(shape) != result.getShape() ||
      input.getElementType() != result.getElementType())
    return emitOpError("expected the result to be the input with size 1 in dim ")
           << dim << ", got " << result;
  return success();
}

bool ReduceOp::crossesWarps() {
  LayoutAttr layout = getInput().getType().getLayout();
  if (!layout)
    return false;
  for (auto [along, warps] : llvm::zip_equal(layout.getAlong(), layout.getWarps()))
    if (along == int64_t(getDim()) && warps > 1)
      return true;
  return false;
}

/// Dense columns, half as many kept, and a nibble for every four.
static LogicalResult verifyGroups(Operation *op, TileType dense, TileType kept, TileType metadata) {
  auto divided = [&](TileType type, int64_t by) {
    return type.getRank() == 2 && type.getShape()[0] == dense.getShape()[0] &&
           type.getShape()[1] * by == dense.getShape()[1];
  };
  if (dense.getRank() != 2 || dense.getShape()[1] % 4)
    return op->emitOpError(
               "expected a dense tile of rank 2 whose columns are a multiple of 4, got ")
           << dense;
  if (!divided(kept, 2) || kept.getElementType() != dense.getElementType())
    return op->emitOpError("expected kept elements of half the columns and the same type, got ")
           << kept;
  if (!divided(metadata, 4) || !metadata.getElementType().isInteger(4))
    return op->emitOpError("expected metadata of a quarter of the columns as i4, got ") << metadata;
  return success();
}

LogicalResult CompressOp::verify() {
  return verifyGroups(*this, getInput().getType(), getKept().getType(), getMetadata().getType());
}

LogicalResult DecompressOp::verify() {
  return verifyGroups(*this, getResult().getType(), getKept().getType(), getMetadata().getType());
}

LogicalResult LaunchOp::verify() {
  if (GridAttr grid = getGrid(); grid.getRowsOf()) {
    if (!grid.getRowsPerBlock() || *grid.getRowsPerBlock() < 1)
      return emitOpError("expected a positive rows_per_block with rows_of");
    if (*grid.getRowsOf() < 0 || *grid.getRowsOf() >= static_cast<int64_t>(getInputs().size()))
      return emitOpError("expected rows_of to name an operand, got ") << *grid.getRowsOf();
  }
  return success();
}

LogicalResult LibraryMatmulOp::verify() {
  auto x = cast<RankedTensorType>(getX().getType()),
       weight = cast<RankedTensorType>(getWeight().getType()),
       result = cast<RankedTensorType>(getType());
  bool agrees = x.getRank() == 2 && weight.getRank() == 2 && result.getRank() == 2 &&
                x.getDimSize(1) == weight.getDimSize(1) &&
                result.getDimSize(0) == x.getDimSize(0) &&
                result.getDimSize(1) == weight.getDimSize(0);
  if (!agrees || x.getElementType() != weight.getElementType())
    return emitOpError("expected [M,K] and [N,K] of one element type, and the result [M,N], got ")
           << x << ", " << weight << " and " << result;
  return success();
}

LogicalResult DispatchOp::verify() {
  if (getMaxRows().empty() || getMaxRows().size() != getVariants().size())
    return emitOpError("expected one max_rows for each variant, got ")
           << getMaxRows().size() << " for " << getVariants().size();
  int64_t previous = 0;
  bool isBehindLibrary = false;
  for (auto [rows, variant] : llvm::zip_equal(getMaxRows(), getVariants())) {
    int64_t end = rows == -1 ? std::numeric_limits<int64_t>::max() : rows;
    if (end < 1 || end < previous || (end == previous && !isBehindLibrary))
      return emitOpError("expected ascending max_rows that end in -1");
    previous = end;
    isBehindLibrary = !variant.front().getOps<LibraryMatmulOp>().empty();
  }
  if (getMaxRows().back() != -1)
    return emitOpError("expected ascending max_rows that end in -1");
  if (isBehindLibrary)
    return emitOpError("expected a last variant that needs no library");
  for (Region &variant : getVariants())
    if (failed(verifyYield(*this, variant, getResultTypes(), "every variant")))
      return failure();
  return success();
}
