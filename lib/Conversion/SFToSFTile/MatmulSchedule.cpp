//===- MatmulSchedule.cpp - sf.matmul as kernels --------------------------===//
//
// One block computes a tile of features x tokens of Y^T = W * X^T (MatmulPipeline). The epilogue
// runs on the accumulators in registers and stores straight to Y: the packed order of W gives a
// lane contiguous features. With split-K every block writes its accumulators to a workspace and a
// second kernel adds them in order; or the blocks of a cluster divide K and add up among
// themselves. That second kernel also runs the epilogue behind a library's products, so the
// arithmetic does not depend on who multiplies.
//
//===----------------------------------------------------------------------===//

#include "LoadsAhead.h"
#include "MatmulPipeline.h"
#include "Schedule.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFScalar.h"
#include "sparseflow/Support/PackedLayout.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

/// Accumulators in memory: columns of one of a kernel's arguments.
struct Part {
  unsigned argument;
  int64_t column;
};

/// What the epilogue reads for the slices of a tile, loaded so far.
struct LoadedOperands {
  /// Of each operand, for all slices; null where each slice has its own.
  SmallVector<Value> common;
  /// Of each slice, for all operands.
  SmallVector<SmallVector<Value>> slices;
};

/// The shape of one matmul and of one of its variants.
class MatmulSchedule {
public:
  MatmulSchedule(gpu::GPUModuleOp kernels, sf::MatmulOp op)
      : s(kernels, op, "matmul"), op(op), elementType(op.getXType().getElementType()),
        elementBytes(elementType.getIntOrFloatBitWidth() / 8), features(op.getNumFeatures()),
        inner(op.getInnerSize()), numWeights(op.getWeights().size()) {}

  LogicalResult run();

private:
  /// Launches of what a configuration asks for. Variants that differ in their numbers of tokens
  /// alone share their kernels, which serve any.
  SmallVector<Value> buildVariant(Attribute config);
  SmallVector<Value> buildKernelVariant(sf::KernelConfigAttr config);
  SmallVector<Value> buildLibraryVariant(sf::LibraryConfigAttr config);
  /// The kernel with tensor cores; with `partial` it stores accumulators instead of running the
  /// epilogue.
  KernelOp buildMainKernel(sf::KernelConfigAttr config, ValueRange inputs, Type output,
                           bool partial);
  /// The tokens whose sums over its cluster the block gets, and those sums.
  Axis getShare(Axis tokens, TileIdOp tile);
  SmallVector<Value> addUp(ValueRange accumulators, Axis share);
  /// Tokens of a tile that the epilogue computes at a time, and the accumulators of one such slice.
  SmallVector<Axis> sliceTokens(Axis tokens, sf::KernelConfigAttr config);
  SmallVector<Value> sliceAccumulators(ValueRange accumulators, size_t slice, size_t numSlices);
  /// Stores accumulators to their split's part of the workspace.
  void storePartial(ValueRange accumulators, Value workspace, TileIdOp tile, ArrayRef<Axis> slices,
                    Axis features, sf::KernelConfigAttr config, bool inBounds, Value from);
  /// Loads what the epilogue reads for slices up to `end`; `operands` are the kernel's memrefs.
  void loadOperands(LoadedOperands &loaded, size_t end, ValueRange operands, ArrayRef<Axis> slices,
                    Axis features, bool inBounds);
  /// Runs the epilogue, of which `loaded` is there, and stores to `y`.
  void storeResult(ValueRange accumulators, LoadedOperands loaded, LoadsAhead ahead,
                   ValueRange operands, Value y, ArrayRef<Axis> slices, Axis features,
                   bool inBounds, Value from);
  /// A tile that would reach beyond the last token, as one that ends there.
  Axis moveInside(Axis tokens, Value numTokens);
  /// Whether all of a tile lies in the result and is this tile's to store, and what the epilogue
  /// reads and writes, `edges`, is contiguous; an i1.
  Value isPlain(Axis tokens, Value from, Value numTokens, Axis tileFeatures, ValueRange edges);
  /// A matrix known to be contiguous.
  Value castToContiguous(Value memory);
  /// Launches the kernel that adds each weight's parts, in order, and runs the epilogue.
  SmallVector<Value> launchReduction(Attribute config, StringRef suffix, ValueRange workspaces,
                                     ArrayRef<SmallVector<Part>> weights);
  /// A block of it adds up so many tokens and features.
  static constexpr int64_t kReductionRows = 4, kReductionColumns = 256;
  KernelOp buildReduction(Attribute config, StringRef suffix, ValueRange inputs,
                          ArrayRef<SmallVector<Part>> weights);
  Value addTiles(Value x, Value y);
  /// Applies the epilogue to tiles: the accumulators, and what it reads.
  Value buildEpilogue(ValueRange inputs);

  int64_t featureTiles(sf::KernelConfigAttr config) const {
    return llvm::divideCeil(features, config.getTileFeatures());
  }
  /// Features of one part of the split-K workspace: whole tiles, so parts never need an edge.
  int64_t paddedFeatures(sf::KernelConfigAttr config) const {
    return featureTiles(config) * config.getTileFeatures();
  }

  Schedule s;
  sf::MatmulOp op;
  Type elementType;
  unsigned elementBytes;
  int64_t features, inner, numWeights;
  /// What was built, by configurations without a number of tokens.
  llvm::DenseMap<Attribute, KernelOp> mainKernels, reductions;
};

LogicalResult MatmulSchedule::run() {
  if (!op.getConfigs() || op.getConfigs()->empty())
    return op.emitOpError("expected kernel configurations; run sf-select-config before tiling");
  sf::WeightAttr encoding = op.getWeightEncoding();
  if (!encoding || !encoding.isPacked())
    return op.emitOpError("expected packed weights, got ")
           << op.getWeightType() << "; run sf-pack-weights before tiling";
  // Rows of x arrive in pieces of at least this many bytes; K of a 2:4 weight always fits.
  constexpr int64_t pieceBytes = 4;
  if (inner * elementBytes % pieceBytes) {
    int64_t multiple = pieceBytes / elementBytes;
    return op.emitOpError("expected K to be a multiple of ")
           << multiple << " for a dense product of " << elementType << ", got " << inner
           << "; pad K of x and of the weight with zeros to " << llvm::alignTo(inner, multiple);
  }

  for (sf::KernelConfigAttr config : op.getKernelConfigs())
    if (featureTiles(config) % config.getFeatureCluster())
      return op.emitOpError("expected a cluster that divides the ")
             << featureTiles(config) << " tiles along features, got " << config.getCluster();

  SmallVector<int64_t> maxRows;
  for (auto config : op.getConfigsAttr().getAsRange<sf::VariantConfig>())
    maxRows.push_back(config.getMaxTokens().value_or(-1));
  std::string label;
  llvm::raw_string_ostream(label) << "sf.matmul " << features << "x" << inner << " " << elementType
                                  << (encoding.isSparse() ? " 2:4" : " dense")
                                  << (numWeights > 1 ? " gated" : "")
                                  << (op.hasEpilogue() ? " + epilogue" : "");
  auto dispatch = s.dispatch(op.getX(), maxRows, label, op.getResultType(),
                             [&](size_t i) { return buildVariant(op.getConfigsAttr()[i]); });
  // What was noted about the product, as why it has these configurations.
  dispatch->setDiscardableAttrs(op->getDiscardableAttrDictionary());
  op->replaceAllUsesWith(dispatch);
  op.erase();
  return success();
}

SmallVector<Value> MatmulSchedule::buildVariant(Attribute config) {
  if (auto library = dyn_cast<sf::LibraryConfigAttr>(config))
    return buildLibraryVariant(
        sf::LibraryConfigAttr::get(config.getContext(), library.getLibrary(), std::nullopt));
  return buildKernelVariant(cast<sf::KernelConfigAttr>(config).withMaxTokens(std::nullopt));
}

SmallVector<Value> MatmulSchedule::buildLibraryVariant(sf::LibraryConfigAttr config) {
  RankedTensorType type = op.getResultType();
  bool hasKernel = op.hasEpilogue() || op.findLibraryFault(type.getElementType());
  if (hasKernel)
    type = type.clone(op.getAccumulatorType());
  SmallVector<Value> products;
  SmallVector<SmallVector<Part>> parts;
  for (auto [i, weight] : llvm::enumerate(op.getLibraryWeights())) {
    products.push_back(LibraryMatmulOp::create(s.b, s.loc, type, op.getX(), weight));
    parts.push_back({{unsigned(i), 0}});
  }
  return hasKernel ? launchReduction(config, "epilogue", products, parts) : products;
}

SmallVector<Value> MatmulSchedule::buildKernelVariant(sf::KernelConfigAttr config) {
  SmallVector<Value> inputs = {op.getX()};
  llvm::append_range(inputs, op.getWeights());
  auto grid = GridAttr::get(s.b.getContext(), featureTiles(config) * config.getSplitK(), 0,
                            config.getTileTokens());
  if (config.getSplitK() == 1 || config.splitsInCluster()) {
    llvm::append_range(inputs, op.getEpilogueOperands());
    KernelOp &kernel = mainKernels[config];
    if (!kernel)
      kernel = buildMainKernel(config, inputs, op.getResultType(), /*partial=*/false);
    return s.launch(kernel, inputs, op.getResultType(), grid);
  }
  auto partial = RankedTensorType::get(
      {op.getXType().getDimSize(0), config.getSplitK() * numWeights * paddedFeatures(config)},
      op.getAccumulatorType());
  KernelOp &kernel = mainKernels[config];
  if (!kernel)
    kernel = buildMainKernel(config, inputs, partial, /*partial=*/true);
  Value workspace = s.launch(kernel, inputs, partial, grid).front();
  SmallVector<SmallVector<Part>> parts(numWeights);
  for (int64_t split = 0; split < config.getSplitK(); ++split)
    for (int64_t w = 0; w < numWeights; ++w)
      parts[w].push_back({0, (split * numWeights + w) * paddedFeatures(config)});
  return launchReduction(config, "reduce", workspace, parts);
}

KernelOp MatmulSchedule::buildMainKernel(sf::KernelConfigAttr config, ValueRange inputs,
                                         Type output, bool partial) {
  KernelOp kernel = s.startKernel(getKernelArgumentTypes(inputs, output), config.getNumThreads(),
                                  config, partial ? "partial" : "");
  if (config.getCluster() > 1)
    kernel.setCluster(config.getCluster());
  SmallVector<Value> arguments(kernel.getBody().getArguments());
  Value numTokens = memref::DimOp::create(s.b, s.loc, arguments[0], s.index(0));
  auto tile = TileIdOp::create(s.b, s.loc, numTokens, featureTiles(config), config.getTileTokens(),
                               config.getSplitK(), config.getRaster(), config.getCluster());
  Axis tokens = {s.mul(tile.getToken(), config.getTileTokens()), config.getTileTokens()};
  // The tile's own tokens; those before, where it has moved, are another's.
  Value from;
  if (config.isWarpSpecialized()) {
    from = tokens.start;
    tokens = moveInside(tokens, numTokens);
  }
  Axis features = {s.mul(tile.getFeature(), config.getTileFeatures()), config.getTileFeatures()};
  Axis stored = config.splitsInCluster() ? getShare(tokens, tile) : tokens;
  SmallVector<Axis> slices = sliceTokens(stored, config);
  SmallVector<Value> edges(arguments.begin() + 1 + numWeights, arguments.end());
  LoadsAhead ahead(config, op);
  LoadedOperands loaded;
  // Nothing hides how long they take to come but the products.
  if (!partial)
    loadOperands(loaded, std::min(ahead.beforeProducts(), slices.size()),
                 ValueRange(edges).drop_back(), slices, features, /*inBounds=*/false);

  SmallVector<Value> accumulators =
      buildMatmulPipeline(s, op, config, arguments, tile, tokens.start);
  if (config.splitsInCluster())
    accumulators = addUp(accumulators, stored);
  auto store = [&](bool plain) {
    SmallVector<Value> memory =
        plain ? llvm::map_to_vector(edges, [&](Value v) { return castToContiguous(v); }) : edges;
    Value below = plain ? Value() : from;
    if (partial)
      storePartial(accumulators, memory.back(), tile, slices, features, config, plain, below);
    else
      storeResult(accumulators, loaded, ahead, ValueRange(memory).drop_back(), memory.back(),
                  slices, features, plain, below);
  };
  // A warpgroup's threads store to many rows: most tiles need not ask for each whether it is there
  // and where. Beside a branch ptxas would serialize the products of two weights.
  if (config.isWarpSpecialized() && numWeights == 1)
    s.branch(isPlain(stored, from, numTokens, features, edges), store);
  else
    store(/*plain=*/false);
  s.finishKernel();
  return kernel;
}

Axis MatmulSchedule::getShare(Axis tokens, TileIdOp tile) {
  int64_t share = tokens.size / tile.getSplits();
  return {s.add(tokens.start, s.mul(tile.getSplit(), share)), share};
}

SmallVector<Value> MatmulSchedule::addUp(ValueRange accumulators, Axis share) {
  SmallVector<Type> types = llvm::map_to_vector(accumulators.getTypes(), [&](Type type) -> Type {
    auto whole = cast<TileType>(type);
    return TileType::get({whole.getShape()[0], share.size}, whole.getElementType());
  });
  auto sums =
      ReduceScatterOp::create(s.b, s.loc, types, accumulators, /*barriers=*/Value(), IntegerAttr());
  return sums.getResults();
}

/// The copy engine takes ten times as long for a row outside of its matrix as for one inside. What
/// two tiles share both compute, and one stores: their epilogues may round differently.
Axis MatmulSchedule::moveInside(Axis tokens, Value numTokens) {
  Value last = arith::SubIOp::create(s.b, s.loc, numTokens, s.index(tokens.size));
  last = arith::MaxSIOp::create(s.b, s.loc, last, s.index(0));
  return {arith::MinSIOp::create(s.b, s.loc, tokens.start, last), tokens.size};
}

Value MatmulSchedule::castToContiguous(Value memory) {
  auto type = cast<MemRefType>(memory.getType());
  if (type.getLayout().isIdentity())
    return memory;
  Type contiguous = MemRefType::get(type.getShape(), type.getElementType());
  return memref::CastOp::create(s.b, s.loc, contiguous, memory);
}

Value MatmulSchedule::isPlain(Axis tokens, Value from, Value numTokens, Axis tileFeatures,
                              ValueRange edges) {
  auto isInside = [&](Axis axis, Value extent) -> Value {
    return arith::CmpIOp::create(s.b, s.loc, arith::CmpIPredicate::sle,
                                 s.add(axis.start, s.index(axis.size)), extent);
  };
  Value isOwn = arith::CmpIOp::create(s.b, s.loc, arith::CmpIPredicate::sge, tokens.start, from);
  SmallVector<Value> conditions = {isInside(tokens, numTokens),
                                   isInside(tileFeatures, s.index(features)), isOwn};
  for (Value memory : edges)
    if (!cast<MemRefType>(memory.getType()).getLayout().isIdentity())
      conditions.push_back(IsContiguousOp::create(s.b, s.loc, s.b.getI1Type(), memory));
  Value all = conditions[0];
  for (Value condition : ArrayRef(conditions).drop_front())
    all = arith::AndIOp::create(s.b, s.loc, all, condition);
  return all;
}

SmallVector<Axis> MatmulSchedule::sliceTokens(Axis tokens, sf::KernelConfigAttr config) {
  // A warp of a warpgroup has all tokens of its features, too many to hold operands for at once.
  constexpr int64_t warpgroupTokens = 8;
  if (!config.isWarpSpecialized())
    return {tokens};
  SmallVector<Axis> slices;
  for (int64_t first = 0; first < tokens.size; first += warpgroupTokens)
    slices.push_back({first ? s.add(tokens.start, s.index(first)) : tokens.start, warpgroupTokens});
  return slices;
}

SmallVector<Value> MatmulSchedule::sliceAccumulators(ValueRange accumulators, size_t slice,
                                                     size_t numSlices) {
  if (numSlices == 1)
    return SmallVector<Value>(accumulators);
  return llvm::map_to_vector(accumulators, [&](Value accumulator) -> Value {
    auto type = cast<TileType>(accumulator.getType());
    int64_t tokens = type.getShape()[1] / numSlices;
    auto part = TileType::get({type.getShape()[0], tokens}, type.getElementType());
    return SliceOp::create(s.b, s.loc, part, accumulator,
                           ArrayRef<int64_t>{0, static_cast<int64_t>(slice) * tokens});
  });
}

void MatmulSchedule::storePartial(ValueRange accumulators, Value workspace, TileIdOp tile,
                                  ArrayRef<Axis> slices, Axis features, sf::KernelConfigAttr config,
                                  bool inBounds, Value from) {
  Value part = s.mul(tile.getSplit(), numWeights * paddedFeatures(config));
  for (auto [i, tokens] : llvm::enumerate(slices))
    for (auto [w, sums] : llvm::enumerate(sliceAccumulators(accumulators, i, slices.size()))) {
      Value column = s.add(features.start, s.add(part, s.index(w * paddedFeatures(config))));
      StoreOp::create(s.b, s.loc, sums, workspace, ValueRange{tokens.start, column},
                      s.b.getDenseI64ArrayAttr({1, 0}), inBounds, from);
    }
}

void MatmulSchedule::loadOperands(LoadedOperands &loaded, size_t end, ValueRange operands,
                                  ArrayRef<Axis> slices, Axis features, bool inBounds) {
  loaded.common.resize(operands.size());
  while (loaded.slices.size() < end) {
    Axis tokens = slices[loaded.slices.size()];
    SmallVector<Value> &slice = loaded.slices.emplace_back();
    for (auto [i, operand] : llvm::enumerate(operands)) {
      sf::Broadcast broadcast = op.getEpilogueBroadcast(i);
      Value tile = loaded.common[i];
      if (!tile)
        tile =
            loadBroadcast(s, operand, broadcast, tokens, features, /*transposed=*/true, inBounds);
      if (broadcast == sf::Broadcast::Scalar || broadcast == sf::Broadcast::Feature)
        loaded.common[i] = tile;
      slice.push_back(tile);
    }
  }
}

void MatmulSchedule::storeResult(ValueRange accumulators, LoadedOperands loaded, LoadsAhead ahead,
                                 ValueRange operands, Value y, ArrayRef<Axis> slices, Axis features,
                                 bool inBounds, Value from) {
  for (auto [i, tokens] : llvm::enumerate(slices)) {
    loadOperands(loaded, std::min(i + ahead.behind(i), slices.size()), operands, slices, features,
                 inBounds);
    SmallVector<Value> inputs = sliceAccumulators(accumulators, i, slices.size());
    llvm::append_range(inputs, loaded.slices[i]);
    StoreOp::create(s.b, s.loc, buildEpilogue(inputs), y, ValueRange{tokens.start, features.start},
                    s.b.getDenseI64ArrayAttr({1, 0}), inBounds, from);
  }
}

Value MatmulSchedule::buildEpilogue(ValueRange inputs) {
  ArrayRef<int64_t> shape = cast<TileType>(inputs[0].getType()).getShape();
  Type resultElement = op.getResultType().getElementType();
  auto map = MapOp::create(s.b, s.loc, TileType::get(shape, resultElement), inputs);
  OpBuilder::InsertionGuard guard(s.b);
  SmallVector<Type> scalars;
  for (Value input : inputs)
    scalars.push_back(cast<TileType>(input.getType()).getElementType());
  Block *body =
      s.b.createBlock(&map.getBody(), {}, scalars, SmallVector<Location>(scalars.size(), s.loc));
  SmallVector<Value> results;
  if (op.hasEpilogue())
    results = cloneScalars(s.b, op.getEpilogue().front(), body->getArguments());
  else
    results = {sf::emitCast(s.b, s.loc, body->getArgument(0), resultElement)};
  YieldOp::create(s.b, s.loc, results);
  return map.getResult(0);
}

SmallVector<Value> MatmulSchedule::launchReduction(Attribute config, StringRef suffix,
                                                   ValueRange workspaces,
                                                   ArrayRef<SmallVector<Part>> weights) {
  SmallVector<Value> inputs(workspaces);
  llvm::append_range(inputs, op.getEpilogueOperands());
  KernelOp &kernel = reductions[config];
  if (!kernel)
    kernel = buildReduction(config, suffix, inputs, weights);
  return s.launch(kernel, inputs, op.getResultType(),
                  GridAttr::get(s.b.getContext(), llvm::divideCeil(features, kReductionColumns), 0,
                                kReductionRows));
}

KernelOp MatmulSchedule::buildReduction(Attribute config, StringRef suffix, ValueRange inputs,
                                        ArrayRef<SmallVector<Part>> weights) {
  constexpr int64_t threads = 128, rows = kReductionRows, columns = kReductionColumns;
  KernelOp kernel =
      s.startKernel(getKernelArgumentTypes(inputs, op.getResultType()), threads, config, suffix);
  SmallVector<Value> arguments(kernel.getBody().getArguments());
  int64_t columnTiles = llvm::divideCeil(features, columns);
  Value numTokens = memref::DimOp::create(s.b, s.loc, arguments[0], s.index(0));
  auto tile = TileIdOp::create(s.b, s.loc, numTokens, columnTiles, rows, 1, 1);
  Axis tokenAxis = {s.mul(tile.getToken(), rows), rows};
  Axis featureAxis = {s.mul(tile.getFeature(), columns), columns};

  auto accType = TileType::get({rows, columns}, op.getAccumulatorType());
  SmallVector<Value> sums;
  for (ArrayRef<Part> parts : weights) {
    Value sum;
    for (Part part : parts) {
      Value column =
          part.column ? s.add(featureAxis.start, s.index(part.column)) : featureAxis.start;
      Value addend = LoadOp::create(s.b, s.loc, accType, arguments[part.argument],
                                    ValueRange{tokenAxis.start, column}, DenseI64ArrayAttr(),
                                    DenseI64ArrayAttr());
      sum = sum ? addTiles(sum, addend) : addend;
    }
    sums.push_back(sum);
  }
  size_t numOperands = op.getEpilogueOperands().size();
  ValueRange operands = ValueRange(arguments).drop_back().take_back(numOperands);
  for (auto [i, operand] : llvm::enumerate(operands))
    sums.push_back(loadBroadcast(s, operand, op.getEpilogueBroadcast(i), tokenAxis, featureAxis,
                                 /*transposed=*/false));
  StoreOp::create(s.b, s.loc, buildEpilogue(sums), arguments.back(),
                  ValueRange{tokenAxis.start, featureAxis.start}, DenseI64ArrayAttr());
  s.finishKernel();
  return kernel;
}

Value MatmulSchedule::addTiles(Value x, Value y) {
  auto type = cast<TileType>(x.getType());
  auto map = MapOp::create(s.b, s.loc, type, ValueRange{x, y});
  OpBuilder::InsertionGuard guard(s.b);
  Type element = type.getElementType();
  Block *body = s.b.createBlock(&map.getBody(), {}, {element, element}, {s.loc, s.loc});
  Value sum = isa<FloatType>(element)
                  ? arith::AddFOp::create(s.b, s.loc, body->getArgument(0), body->getArgument(1))
                        .getResult()
                  : arith::AddIOp::create(s.b, s.loc, body->getArgument(0), body->getArgument(1))
                        .getResult();
  YieldOp::create(s.b, s.loc, sum);
  return map.getResult(0);
}

} // namespace

LogicalResult sparseflow::scheduleMatmul(gpu::GPUModuleOp kernels, sf::MatmulOp op) {
  return MatmulSchedule(kernels, op).run();
}
