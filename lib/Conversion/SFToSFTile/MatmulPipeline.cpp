//===- MatmulPipeline.cpp - The main loop of a matmul's kernel ------------===//
//
// The producer brings, a k-tile a stage, a box of each packed weight (as it lies in memory) and a
// box of X; the consumer walks the stage in the atom's steps.
//
//===----------------------------------------------------------------------===//

#include "MatmulPipeline.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Support/PackedLayout.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

/// An array of a packed weight, [feature chunk][k chunk][elements of a chunk], and the ring that it
/// is copied to.
struct Source {
  Value view, ring;
};

class MatmulPipeline {
public:
  MatmulPipeline(Schedule &s, sf::MatmulOp op, sf::KernelConfigAttr config, TileIdOp tile)
      : s(s), op(op), config(config), tile(tile), elementType(op.getXType().getElementType()),
        atom(*findAtom(*sf::getDType(elementType), config.isSparse(), config.getPackOrder(),
                       config.hasValuesInRegisters())),
        numWeights(op.getWeights().size()), tileF(config.getTileFeatures()),
        tileT(config.getTileTokens()), tileK(config.getTileK()),
        chunkK(packedChunkInner(atom.elementBytes())) {}

  SmallVector<Value> build(ValueRange arguments, Value firstToken);

private:
  void makeRings(ValueRange weights);
  /// The range of k-tiles of this split.
  std::pair<Value, Value> getSteps();
  void buildProducer(PipelineOp pipeline, Value x, Value firstToken);
  void buildConsumer(PipelineOp pipeline);

  Value makeRing(ArrayRef<int64_t> shape, Type type) {
    return RingOp::create(s.b, s.loc, RingType::get(ShapedType::kDynamic, shape, type));
  }
  /// Elements of a row of x for each of a row of values.
  int64_t keptRatio() const { return atom.sparse ? 2 : 1; }

  Schedule &s;
  sf::MatmulOp op;
  sf::KernelConfigAttr config;
  TileIdOp tile;
  Type elementType;
  const Atom &atom;
  int64_t numWeights, tileF, tileT, tileK, chunkK;
  Value xRing;
  SmallVector<Source> sources; // of each weight: values and, if it is sparse, metadata
};

} // namespace

void MatmulPipeline::makeRings(ValueRange weights) {
  int64_t chunksF = llvm::divideCeil(op.getNumFeatures(), kPackedChunkFeatures);
  int64_t chunksK = llvm::divideCeil(op.getInnerSize(), chunkK);
  int64_t chunkElements = packedChunkElements(atom.sparse, atom.elementBytes());
  int64_t chunkWords = packedChunkMetadataWords(atom.elementBytes());
  xRing = makeRing({tileT, tileK}, elementType);
  for (Value weight : weights) {
    Value values = makeRing({tileF, tileK / keptRatio()}, elementType);
    auto valuesType = MemRefType::get({chunksF, chunksK, chunkElements}, elementType);
    sources.push_back({ViewOp::create(s.b, s.loc, valuesType, weight, 0), values});
    if (!atom.sparse)
      continue;
    auto metadataType = MemRefType::get({chunksF, chunksK, chunkWords}, s.b.getI32Type());
    int64_t offset = chunksF * chunksK * chunkElements * atom.elementBytes();
    Value view = ViewOp::create(s.b, s.loc, metadataType, weight, offset);
    sources.push_back({view, makeRing({tileF, tileK / 4}, s.b.getIntegerType(4))});
  }
}

std::pair<Value, Value> MatmulPipeline::getSteps() {
  int64_t steps = llvm::divideCeil(op.getInnerSize(), tileK);
  Value lower = s.index(0), upper = s.index(steps);
  if (config.getSplitK() == 1)
    return {lower, upper};
  int64_t share = llvm::divideCeil(steps, config.getSplitK());
  Value first = s.mul(tile.getSplit(), share);
  if (steps % config.getSplitK() == 0) // of a known number of steps one can stay in flight
    return {first, s.add(first, s.index(share))};
  lower = arith::MinSIOp::create(s.b, s.loc, first, upper);
  return {lower, arith::MinSIOp::create(s.b, s.loc, s.add(lower, s.index(share)), upper)};
}

void MatmulPipeline::buildProducer(PipelineOp pipeline, Value x, Value firstToken) {
  Type index = s.b.getIndexType();
  Block *producer = s.b.createBlock(&pipeline.getProducer(), {}, {index, index}, {s.loc, s.loc});
  Value step = producer->getArgument(0), stage = producer->getArgument(1);
  Value firstChunkF = s.mul(tile.getFeature(), tileF / kPackedChunkFeatures);
  Value firstChunkK = s.mul(step, tileK / chunkK);
  for (auto [view, ring] : sources) {
    int64_t length = cast<MemRefType>(view.getType()).getDimSize(2);
    auto copy = CopyAsyncOp::create(
        s.b, s.loc, view, ValueRange{firstChunkF, firstChunkK, s.index(0)}, ring, stage,
        {tileF / kPackedChunkFeatures, tileK / chunkK, length}, CopyOrder::Storage);
    copy.setClamped(cast<RingType>(ring.getType()).getElementType().isInteger(4));
  }
  CopyAsyncOp::create(s.b, s.loc, x, ValueRange{firstToken, s.mul(step, tileK)}, xRing, stage,
                      {tileT, tileK}, CopyOrder::Logical);
  YieldOp::create(s.b, s.loc, ValueRange());
}

void MatmulPipeline::buildConsumer(PipelineOp pipeline) {
  SmallVector<Type> argTypes(2, s.b.getIndexType());
  llvm::append_range(argTypes, pipeline.getInits().getTypes());
  Block *consumer = s.b.createBlock(&pipeline.getConsumer(), {}, argTypes,
                                    SmallVector<Location>(argTypes.size(), s.loc));
  Value stage = consumer->getArgument(1);
  SmallVector<Value> accumulators(consumer->getArguments().drop_front(2));
  auto load = [&](Value ring, ArrayRef<int64_t> shape, int64_t column) -> Value {
    auto type = TileType::get(shape, cast<RingType>(ring.getType()).getElementType());
    return LoadOp::create(s.b, s.loc, type, ring, stage, DenseI64ArrayAttr(),
                          s.b.getDenseI64ArrayAttr({0, column}));
  };
  unsigned ringsPerWeight = atom.sparse ? 2 : 1;
  int64_t groups = atom.k / 4;
  SmallVector<Value> metadata(numWeights);
  for (int64_t k = 0; k < tileK; k += atom.k) {
    int64_t kStep = k / atom.k, selector = kStep % atom.selectors();
    Value x = load(xRing, {tileT, atom.k}, k);
    for (int64_t w = 0; w < numWeights; ++w) {
      Value values = sources[w * ringsPerWeight].ring;
      if (atom.sparse && selector == 0)
        metadata[w] = load(sources[w * ringsPerWeight + 1].ring, {tileF, groups * atom.selectors()},
                           kStep * groups);
      Value a = load(values, {tileF, atom.keptPerStep()}, k / keptRatio());
      accumulators[w] =
          MmaOp::create(s.b, s.loc, accumulators[w].getType(), a, x, accumulators[w], metadata[w],
                        selector * groups, AtomAttr::get(s.b.getContext(), atom.name));
    }
  }
  YieldOp::create(s.b, s.loc, accumulators);
}

SmallVector<Value> MatmulPipeline::build(ValueRange arguments, Value firstToken) {
  makeRings(arguments.slice(1, numWeights));
  SmallVector<Value> rings = {xRing};
  for (const Source &source : sources)
    rings.push_back(source.ring);
  auto [lower, upper] = getSteps();
  auto accType = TileType::get({tileF, tileT}, op.getAccumulatorType());
  Value zero = arith::ConstantOp::create(s.b, s.loc, s.b.getZeroAttr(op.getAccumulatorType()));
  SmallVector<Value> inits(numWeights, SplatOp::create(s.b, s.loc, accType, zero));
  auto pipeline = PipelineOp::create(s.b, s.loc, TypeRange(ValueRange(inits)), lower, upper, inits,
                                     rings, IntegerAttr());
  OpBuilder::InsertionGuard guard(s.b);
  buildProducer(pipeline, arguments[0], firstToken);
  buildConsumer(pipeline);
  return pipeline.getResults();
}

SmallVector<Value> sparseflow::buildMatmulPipeline(Schedule &s, sf::MatmulOp op,
                                                   sf::KernelConfigAttr config,
                                                   ValueRange arguments, TileIdOp tile,
                                                   Value firstToken) {
  return MatmulPipeline(s, op, config, tile).build(arguments, firstToken);
}
