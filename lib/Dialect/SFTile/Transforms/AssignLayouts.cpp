//===- AssignLayouts.cpp - sf-tile-assign-layouts -------------------------===//
//
// Tiles that must agree form groups: the inputs and results of a map, the input and result of a
// reduction, carried values. A group takes its layout from a matrix instruction or a compression
// when one of its tiles belongs to one, and otherwise gets the layout for streaming its largest
// tile through memory. A tile with dimensions of size 1 gets the slice.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SFTile/Transforms/Passes.h"

#include "sparseflow/Dialect/SF/IR/SFAttributes.h"
#include "sparseflow/Dialect/SFTile/IR/SharedAccess.h"
#include "sparseflow/Support/PackedLayout.h"

#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/ADT/EquivalenceClasses.h"
#include "llvm/Support/MathExtras.h"

namespace sparseflow::sf_tile {
#define GEN_PASS_DEF_SFTILEASSIGNLAYOUTS
#include "sparseflow/Dialect/SFTile/Transforms/Passes.h.inc"
} // namespace sparseflow::sf_tile

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

static bool isTile(Value value) { return isa<TileType>(value.getType()); }

//===----------------------------------------------------------------------===//
// The layouts themselves
//===----------------------------------------------------------------------===//

/// A thread holds 16 contiguous bytes along the last dimension, a warp contiguous rows; warps go to
/// the leading dimensions first, so that a reduction along the last one stays inside a warp where
/// it can.
static LayoutAttr getStreamingLayout(MLIRContext *context, ArrayRef<int64_t> shape,
                                     unsigned elementBytes, int64_t warps) {
  int64_t rank = shape.size();
  SmallVector<int64_t> covered(rank, 1);
  auto take = [&](std::vector<LinearLayout::Basis> &bases, int64_t dim) {
    LinearLayout::Basis basis(rank, 0);
    basis[dim] = covered[dim];
    covered[dim] *= 2;
    bases.push_back(basis);
  };
  std::vector<LinearLayout::Basis> registers, lanes;
  while (covered.back() < shape.back() && covered.back() * elementBytes < 16)
    take(registers, rank - 1);
  for (int64_t dim = rank - 1; dim >= 0 && lanes.size() < 5; --dim)
    while (covered[dim] < shape[dim] && lanes.size() < 5)
      take(lanes, dim);
  while (lanes.size() < 5)
    lanes.push_back(LinearLayout::Basis(rank, 0));

  // The grid of warps, and what is left to registers.
  SmallVector<int64_t> grid(rank, 1), along = llvm::to_vector(llvm::seq<int64_t>(0, rank));
  int64_t spare = warps;
  for (int64_t dim = 0; dim < rank; ++dim) {
    grid[dim] = std::min(spare, shape[dim] / covered[dim]);
    spare /= grid[dim];
  }
  for (int64_t dim = rank - 1; dim >= 0; --dim)
    while (covered[dim] * grid[dim] < shape[dim])
      take(registers, dim);
  if (spare > 1) {
    grid.push_back(spare);
    along.push_back(-1);
  }
  std::vector<LinearLayout::OutDim> outs;
  for (int64_t dim = 0; dim < rank; ++dim)
    outs.emplace_back("dim" + std::to_string(dim), covered[dim]);
  return LayoutAttr::fromLinearLayout(
      context, LinearLayout({{"register", registers}, {"lane", lanes}}, outs), grid, along);
}

/// Bases of a stage's elements from the lowest offset bit on.
static LayoutAttr getStageLayout(MLIRContext *context, ArrayRef<LinearLayout::Basis> bases,
                                 ArrayRef<int64_t> shape) {
  LinearLayout map(
      {{"offset", std::vector<LinearLayout::Basis>(bases)}},
      {{"dim0", llvm::PowerOf2Ceil(shape[0])}, {"dim1", llvm::PowerOf2Ceil(shape[1])}});
  return LayoutAttr::fromLinearLayout(context, map, {}, {});
}

/// Whether a stage consists of blocks of so many rows and columns. Of those along the rows, the
/// last in memory, there may be any number.
static bool isMadeOf(RingType ring, int64_t rows, int64_t columns) {
  return ring.getShape()[0] % rows == 0 && ring.getShape()[1] >= columns &&
         llvm::isPowerOf2_64(ring.getShape()[1]);
}

/// A stage of `b`: panels of 128 bytes along k; in a panel one row after the other, its 16-byte
/// pieces permuted by the row. Null if the stage holds no whole panel.
static LayoutAttr getSwizzledStage(RingType ring) {
  unsigned bytes = ring.getElementType().getIntOrFloatBitWidth() / 8;
  uint64_t rows = ring.getShape()[0], columns = ring.getShape()[1], piece = 16 / bytes,
           panel = packedChunkInner(bytes);
  // Panels stand one behind the other, so that where there are several their size is a power of
  // two.
  if (!isMadeOf(ring, 1, panel) || (columns > panel && !llvm::isPowerOf2_64(rows)))
    return {};
  std::vector<LinearLayout::Basis> bases;
  for (uint64_t c = 1; c < panel; c *= 2)
    bases.push_back({0, c});
  for (uint64_t r = 1; r < rows; r *= 2)
    bases.push_back({r, r < 8 ? r * piece : 0});
  for (uint64_t c = panel; c < columns; c *= 2)
    bases.push_back({0, c});
  return getStageLayout(ring.getContext(), bases, ring.getShape());
}

/// A stage of packed weights or metadata: chunks as they lie in memory, then chunks along k, then
/// along features. Null if the stage holds no whole chunk.
static LayoutAttr getPackedStage(RingType ring, const LinearLayout &chunk) {
  LinearLayout flat = chunk.flattenIns("offset");
  StringRef column = flat.getOutDims()[1].name;
  if (!isMadeOf(ring, flat.getOutSize("feature"), flat.getOutSize(column)))
    return {};
  std::vector<LinearLayout::Basis> bases;
  for (unsigned bit = 0; bit < flat.getTotalInBits(); ++bit)
    bases.push_back(
        {flat.getBasis("offset", bit, "feature"), flat.getBasis("offset", bit, column)});
  for (int64_t c = flat.getOutSize(column); c < ring.getShape()[1]; c *= 2)
    bases.push_back({0, uint64_t(c)});
  for (int64_t f = flat.getOutSize("feature"); f < ring.getShape()[0]; f *= 2)
    bases.push_back({uint64_t(f), 0});
  return getStageLayout(ring.getContext(), bases, ring.getShape());
}

/// Drops the lowest register bits that tell the members of a group apart and halves or quarters the
/// columns.
static LayoutAttr divideColumns(LayoutAttr layout, unsigned log2) {
  SmallVector<DenseI32ArrayAttr> bases;
  for (StringAttr name : layout.getInputs()) {
    SmallVector<int32_t> flat;
    for (ArrayRef<int32_t> basis : layout.getBases(name.getValue())) {
      if (name == "register" && basis[1] && basis[1] < (1 << log2))
        continue;
      flat.push_back(basis[0]);
      flat.push_back(basis[1] >> log2);
    }
    bases.push_back(DenseI32ArrayAttr::get(layout.getContext(), flat));
  }
  return LayoutAttr::get(layout.getContext(), layout.getInputs(), bases, 2, layout.getWarps(),
                         layout.getAlong());
}

/// The layout without the registers that tell a part of that shape from its neighbours.
static LayoutAttr restrict(LayoutAttr layout, ArrayRef<int64_t> shape) {
  SmallVector<DenseI32ArrayAttr> bases;
  for (StringAttr name : layout.getInputs()) {
    SmallVector<int32_t> flat;
    for (ArrayRef<int32_t> basis : layout.getBases(name.getValue()))
      if (name != "register" || llvm::all_of(llvm::zip_equal(basis, shape), [](auto entry) {
            return std::get<0>(entry) < std::get<1>(entry);
          }))
        llvm::append_range(flat, basis);
    bases.push_back(DenseI32ArrayAttr::get(layout.getContext(), flat));
  }
  return LayoutAttr::get(layout.getContext(), layout.getInputs(), bases, layout.getRank(),
                         layout.getWarps(), layout.getAlong());
}

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

namespace {
struct AssignLayoutsPass : sf_tile::impl::SFTileAssignLayoutsBase<AssignLayoutsPass> {
  void runOnOperation() override {
    groups = {};
    KernelOp kernel = getOperation();
    collectGroups(kernel);
    WalkResult result = kernel.walk([&](Operation *op) -> WalkResult {
      if (auto mma = dyn_cast<MmaOp>(op))
        return seed(mma);
      return success();
    });
    if (result.wasInterrupted() || failed(assignStreaming(kernel)) ||
        failed(proveConflictFree(kernel)))
      signalPassFailure();
  }

private:
  void collectGroups(KernelOp kernel) {
    auto unite = [&](ValueRange values) {
      Value first;
      for (Value value : values) {
        if (!isTile(value))
          continue;
        groups.insert(value.getAsOpaquePointer());
        if (first)
          groups.unionSets(first.getAsOpaquePointer(), value.getAsOpaquePointer());
        first = value;
      }
    };
    kernel.walk([&](Operation *op) {
      for (Value result : op->getResults())
        unite(result);
      if (auto map = dyn_cast<MapOp>(op)) {
        SmallVector<Value> values(map.getInputs());
        llvm::append_range(values, map.getResults());
        unite(values);
      } else if (auto reduce = dyn_cast<ReduceOp>(op)) {
        unite({reduce.getInput(), reduce.getResult()});
      } else if (auto mma = dyn_cast<MmaOp>(op)) {
        unite({mma.getAcc(), mma.getResult()});
      } else if (auto pipeline = dyn_cast<PipelineOp>(op)) {
        for (auto [i, init] : llvm::enumerate(pipeline.getInits()))
          unite({init, pipeline.getResult(i), pipeline.getConsumer().getArgument(i + 2),
                 pipeline.getConsumer().front().getTerminator()->getOperand(i)});
      } else if (auto loop = dyn_cast<scf::ForOp>(op)) {
        for (auto [i, init] : llvm::enumerate(loop.getInits()))
          unite({init, loop.getResult(i), loop.getRegionIterArg(i),
                 loop.getBody()->getTerminator()->getOperand(i)});
      }
    });
  }

  /// Gives every tile of `member`'s group the layout, or the slice of it that its shape leaves.
  LogicalResult assign(Value member, LayoutAttr layout) {
    for (auto it = groups.findLeader(member.getAsOpaquePointer()); it != groups.member_end();
         ++it) {
      Value value = Value::getFromOpaquePointer(*it);
      auto type = cast<TileType>(value.getType());
      SmallVector<bool> kept =
          llvm::map_to_vector(type.getShape(), [](int64_t s) { return s != 1; });
      LayoutAttr own = layout.slice(kept);
      if (type.getLayout() && type.getLayout() != own)
        return emitError(value.getLoc())
               << "expected one layout for a tile, got " << type.getLayout() << " and " << own;
      if (own.getBlockTile() != SmallVector<int64_t>(type.getShape()))
        return emitError(value.getLoc())
               << "expected a tile that the layout " << own << " covers, got " << type;
      value.setType(type.withLayout(own));
    }
    return success();
  }

  LogicalResult assignRing(Value tile, StringRef parts,
                           function_ref<LayoutAttr(RingType)> getLayout) {
    auto load = tile.getDefiningOp<LoadOp>();
    if (!load || !load.isFromRing())
      return success();
    auto ring = cast<RingType>(load.getSource().getType());
    LayoutAttr layout = getLayout(ring);
    if (!layout)
      return load.emitOpError("expected a stage of whole ")
             << parts << ", a power of two of them along k, got " << ring;
    if (ring.getLayout() && ring.getLayout() != layout)
      return load.emitOpError("expected one layout for the ring, got ")
             << ring.getLayout() << " and " << layout;
    load.getSource().setType(ring.withLayout(layout));
    return success();
  }

  LogicalResult seed(MmaOp mma) {
    const Atom &atom = mma.getAtom().getAtom();
    auto config = dyn_cast_or_null<sf::KernelConfigAttr>(getOperation().getConfigAttr());
    if (!config)
      return mma.emitOpError(
          "expected the kernel to have a configuration, which says how warps divide tiles");
    MLIRContext *context = &getContext();
    SmallVector<int64_t> warps = {config.getWarpsFeatures(), config.getWarpsTokens()};
    int64_t features = config.getWarpTileFeatures(), tokens = config.getWarpTileTokens();
    if (features % atom.featureStep() || (atom.isWarpgroup() && features != atom.featureStep()))
      return mma.emitOpError("expected a warp's tile to have ")
             << (atom.isWarpgroup() ? "" : "a multiple of ") << atom.featureStep()
             << " features, got " << features << "; use another number of warps along features";
    auto layout = [&](const LinearLayout &map, ArrayRef<int64_t> along) {
      return LayoutAttr::fromLinearLayout(context, map, warps, along);
    };
    // Tokens are the accumulators' last bits.
    int64_t countable = llvm::PowerOf2Ceil(tokens);
    LayoutAttr accumulators = layout(atom.accLayout(features, countable), {0, 1});
    accumulators = accumulators.withRegisters(accumulators.getNumRegisters() * tokens / countable);
    if (failed(assign(mma.getAcc(), accumulators)))
      return failure();
    if (atom.loadsA() && failed(assign(mma.getA(), layout(atom.aLayout(features), {0, -1}))))
      return failure();
    if (!atom.isWarpgroup() && failed(assign(mma.getB(), layout(atom.bLayout(tokens), {-1, 0}))))
      return failure();
    constexpr StringLiteral kChunks = "packed chunks";
    if (mma.getMetadata()) {
      if (failed(assign(mma.getMetadata(), layout(atom.metadataLayout(features), {0, -1}))) ||
          failed(assignRing(mma.getMetadata(), kChunks, [&](RingType ring) {
            return getPackedStage(ring,
                                  packedMetadataLayout(atom.packOrder(), atom.elementBytes()));
          })))
        return failure();
    }
    if (failed(assignRing(mma.getB(), "rows of 128 bytes", getSwizzledStage)))
      return failure();
    if (failed(assignRing(mma.getA(), kChunks, [&](RingType ring) {
          return getPackedStage(
              ring, packedValuesLayout(atom.packOrder(), atom.sparse, atom.elementBytes()));
        })))
      return failure();
    return atom.isWarpgroup() ? leaveInSharedMemory(mma) : success();
  }

  /// What a warpgroup does not load stays where it is.
  static LogicalResult leaveInSharedMemory(MmaOp mma) {
    SmallVector<Value> operands = {mma.getB()};
    if (!mma.getAtom().getAtom().loadsA())
      operands.push_back(mma.getA());
    for (Value operand : operands) {
      auto load = operand.getDefiningOp<LoadOp>();
      if (!load || !load.isFromRing())
        return mma.emitOpError(
            "expected the operands of a warpgroup's product to be loaded from rings");
      auto type = cast<TileType>(operand.getType());
      operand.setType(type.withLayout(cast<RingType>(load.getSource().getType()).getLayout()));
    }
    return success();
  }

  /// Layouts of the groups that no instruction dictates. Dense tiles that are compressed, or come
  /// from it, pass theirs on.
  LogicalResult assignStreaming(KernelOp kernel) {
    auto derive = [&](Value dense, Value kept, Value metadata) -> LogicalResult {
      if (failed(assignGroup(kernel, dense)))
        return failure();
      LayoutAttr layout = cast<TileType>(dense.getType()).getLayout();
      return failure(failed(assign(kept, divideColumns(layout, 1))) ||
                     failed(assign(metadata, divideColumns(layout, 2))));
    };
    WalkResult derived = kernel.walk([&](Operation *op) -> WalkResult {
      if (auto slice = dyn_cast<SliceOp>(op))
        return failure(
            failed(assignGroup(kernel, slice.getSource())) ||
            failed(assign(slice.getResult(), restrict(slice.getSource().getType().getLayout(),
                                                      slice.getResult().getType().getShape()))));
      if (auto scatter = dyn_cast<ReduceScatterOp>(op))
        return assignShares(kernel, scatter);
      if (auto compress = dyn_cast<CompressOp>(op))
        return derive(compress.getInput(), compress.getKept(), compress.getMetadata());
      if (auto decompress = dyn_cast<DecompressOp>(op))
        return derive(decompress.getResult(), decompress.getKept(), decompress.getMetadata());
      return success();
    });
    if (derived.wasInterrupted())
      return failure();
    SmallVector<Value> values;
    kernel.walk([&](Operation *op) {
      llvm::copy_if(op->getResults(), std::back_inserter(values), isTile);
    });
    for (Value value : values)
      if (failed(assignGroup(kernel, value)))
        return failure();
    return success();
  }

  /// A block's share has the accumulators' layout: tokens are its last bits, so a share's registers
  /// are contiguous.
  LogicalResult assignShares(KernelOp kernel, ReduceScatterOp scatter) {
    for (auto [input, result] : llvm::zip_equal(scatter.getInputs(), scatter.getResults())) {
      if (failed(assignGroup(kernel, input)))
        return failure();
      LayoutAttr whole = cast<TileType>(input.getType()).getLayout();
      LayoutAttr share = restrict(whole, cast<TileType>(result.getType()).getShape())
                             .withRegisters(whole.getNumRegisters() / scatter.getBlocks());
      if (failed(assign(result, share)))
        return failure();
    }
    return success();
  }

  LogicalResult assignGroup(KernelOp kernel, Value member) {
    if (cast<TileType>(member.getType()).getLayout())
      return success();
    SmallVector<int64_t> shape(cast<TileType>(member.getType()).getRank(), 1);
    unsigned elementBytes = 1;
    for (auto it = groups.findLeader(member.getAsOpaquePointer()); it != groups.member_end();
         ++it) {
      Value value = Value::getFromOpaquePointer(*it);
      auto type = cast<TileType>(value.getType());
      bool touchesMemory =
          isa_and_nonnull<LoadOp>(value.getDefiningOp()) ||
          llvm::any_of(value.getUsers(), [](Operation *op) { return isa<StoreOp>(op); });
      for (auto [size, other] : llvm::zip_equal(shape, type.getShape()))
        size = std::max(size, other);
      if (touchesMemory)
        elementBytes = std::max(elementBytes, type.getElementType().getIntOrFloatBitWidth() / 8);
    }
    if (!llvm::all_of(shape, [](int64_t s) { return llvm::isPowerOf2_64(s); }))
      return emitError(member.getLoc())
             << "expected tiles of power-of-two sizes, got " << member.getType();
    return assign(member,
                  getStreamingLayout(&getContext(), shape, elementBytes, kernel.getThreads() / 32));
  }

  LogicalResult proveConflictFree(KernelOp kernel) {
    WalkResult result = kernel.walk([&](LoadOp load) -> WalkResult {
      if (!load.isFromRing())
        return success();
      if (load.getResult().getType().isInSharedMemory()) {
        // The tensor core reads core matrices without conflicts; whether these are some is the
        // question.
        llvm::Expected<DescriptorPlan> plan = planDescriptor(load);
        return plan ? success()
                    : load.emitOpError("cannot describe the tile: ")
                          << llvm::toString(plan.takeError());
      }
      SmallVector<int64_t> start(load.getResult().getType().getRank(), 0);
      if (load.getStart())
        start.assign(load.getStart()->begin(), load.getStart()->end());
      llvm::Expected<SharedReadPlan> plan = planSharedRead(
          cast<RingType>(load.getSource().getType()), load.getResult().getType(), start);
      if (!plan)
        return load.emitOpError("cannot read the ring: ") << llvm::toString(plan.takeError());
      BankConflicts conflicts = plan->getBankConflicts();
      if (!conflicts.isFree())
        return load.emitOpError("expected a read without bank conflicts: ")
               << conflicts.ideal << " passes, got " << conflicts.wavefronts;
      return success();
    });
    return failure(result.wasInterrupted());
  }

  llvm::EquivalenceClasses<void *> groups;
};
} // namespace
