//===- CostModel.cpp - Estimated time of a matmul kernel --------------------===//
//
// A multiprocessor works on its resident blocks one stage at a time. A stage costs what its slowest
// resource takes: the tensor cores, the shared-memory port (fragments read and stages filled), the
// L2, or the latency that the ring cannot hide. Blocks come in waves; the whole is never faster
// than DRAM delivers each operand once. The constants come from measurements on an H100 of kernels
// with these tiles.
//
//===----------------------------------------------------------------------===//

#include "CostModel.h"

#include "sparseflow/Dialect/SF/IR/PipelineDepth.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"
#include "sparseflow/Dialect/SF/Transforms/Tuning.h"
#include "sparseflow/Support/PackedLayout.h"

#include "llvm/Support/MathExtras.h"

#include <numeric>

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;
using llvm::divideCeil;

namespace {

/// Bytes that one multiprocessor's shared memory moves in a clock.
constexpr double kSharedBytesPerClock = 128;
/// Bytes that the L2 gives one multiprocessor in a clock when all ask: its threads, or its copy
/// engine.
constexpr double kL2BytesPerClock = 40, kCopyEngineBytesPerClock = 64;
/// What a row of x costs the copy engine beside its bytes where it straddles two lines of the L2.
constexpr double kStraddleCost = 1.1;
/// Clocks from a global load to its data, under load; those of the copy engine's come from DRAM.
constexpr double kLatencyClocks = 900, kCopyEngineLatencyClocks = 2000;
/// Clocks of a warpgroup's step that multiplies little: its barriers, and each product, which waits
/// for the one before.
constexpr double kStepClocks = 115, kProductClocks = 75;
/// Two resources that work at once, as the tensor cores and the shared-memory port, or a kernel and
/// DRAM, overlap but for this part of the lesser one's time.
constexpr double kOverlapLoss = 0.1;
/// The same for warpgroups and DRAM.
constexpr double kWarpgroupOverlapLoss = 0.2;
/// Clocks that a block loses at the barrier of each stage; another resident block hides them.
constexpr double kBarrierClocks = 100;
/// Clocks to fill the ring and to write the result, for each wave.
constexpr double kWaveClocks = 1000;
/// The same for warpgroups: to fill the ring, and to write an element of a tile.
constexpr double kFillClocks = 700, kEpilogueClocks = 0.05;
/// The blocks of a cluster that divide K meet when they begin and when they add up, and send parts
/// at so many bytes a clock.
constexpr double kMeetingClocks = 1500, kClusterBytesPerClock = 32;
/// Share of the multiprocessors that clusters of more than two blocks can use: a group of them has
/// no room for whole clusters.
constexpr double kClusterOccupancy = 0.91;
/// Share of the DRAM's nominal rate that is reached.
constexpr double kDramEfficiency = 0.85;
constexpr double kLaunchMicroseconds = 2.5;
/// By how much longer a kernel of clusters takes, and one whose clusters divide K beside that:
/// fitted to 78 random shapes.
constexpr double kClusterMicroseconds = 1.2, kSplitLoss = 0.07;

/// Registers beside the accumulators: fragments, addresses; warpgroups have no fragments, or those
/// of one weight's values in two steps.
constexpr int64_t kOtherRegisters = 100, kOtherWarpgroupRegisters = 32, kValueRegisters = 16;
constexpr int64_t kMaxRegisters = 255;

/// Features x tokens of a tile, and its warps. A warp's features are a whole packed chunk, 64.
/// Missing are tiles that four warps would fill with 128 accumulators a thread: with twice the
/// copies for each thread they spill.
struct TileShape {
  int64_t features, tokens, warpsFeatures, warpsTokens;
};
constexpr TileShape kTiles[] = {
    {256, 128, 4, 2}, {128, 128, 2, 4}, {256, 64, 4, 2}, {128, 64, 2, 2}, {64, 64, 1, 4},
    {128, 32, 2, 2},  {64, 32, 1, 4},   {256, 16, 4, 2}, {128, 16, 2, 2}, {64, 16, 1, 2},
};
/// The sides of warpgroups' tiles. A warpgroup takes 64 features and all tokens; the more tokens,
/// the less reading the weight from shared memory costs beside them, the fewer, the fuller the
/// waves.
constexpr int64_t kWarpgroupFeatures[] = {64, 128, 192, 256};
constexpr int64_t kWarpgroupTokens[] = {8,  16,  24,  32,  48,  64,  80,
                                        96, 112, 128, 160, 192, 224, 256};
constexpr int64_t kSplits[] = {1, 2, 4, 8};
/// Each copy holds addresses and a predicate; more than this spills.
constexpr int64_t kMaxTokenCopiesPerThread = 8;

SmallVector<TileShape> getTiles(bool warpgroups) {
  if (!warpgroups)
    return SmallVector<TileShape>(ArrayRef(kTiles));
  constexpr int64_t warpFeatures = 16;
  SmallVector<TileShape> tiles;
  for (int64_t features : kWarpgroupFeatures)
    for (int64_t tokens : kWarpgroupTokens)
      tiles.push_back({features, tokens, features / warpFeatures, 1});
  return tiles;
}

/// Asynchronous copies by which a thread brings its share of x into one stage. They move 16 bytes,
/// but only as many as rows of x are aligned to.
int64_t getTokenCopiesPerThread(const MatmulShape &shape, KernelConfigAttr config) {
  int64_t rowBytes = shape.inner * shape.elementBits / 8;
  int64_t copyBytes = rowBytes % 16 == 0 ? 16 : rowBytes % 8 == 0 ? 8 : 4;
  int64_t bytes = config.getTileTokens() * config.getTileK() * shape.elementBits / 8;
  return bytes / copyBytes / config.getNumThreads();
}

/// Products that a warpgroup issues in a step.
double countProducts(const MatmulShape &shape, KernelConfigAttr config) {
  double rowBytes = double(config.getTileK()) * shape.elementBits / 8,
         productBytes = shape.isSparse ? 64 : 32;
  return shape.numWeights * rowBytes / productBytes;
}

/// Clocks in which one multiprocessor computes one stage of one block.
double getStageClocks(const MatmulShape &shape, KernelConfigAttr config, const ChipInfo &chip,
                      int64_t stageBytes) {
  double rowBytes = double(config.getTileK()) * shape.elementBits / 8;
  if (config.isWarpSpecialized()) {
    // wgmma takes half a clock a token, and where it is sparse 16 more to read 64 features from
    // shared memory: measured. Values that come by registers pass the same port.
    double operandClocks = shape.isSparse ? 16 : 8;
    return countProducts(shape, config) *
           (config.getTileFeatures() / double(kPackedChunkFeatures)) *
           (config.getTileTokens() / 2.0 + operandClocks);
  }
  double macs = double(shape.isSparse ? chip.sparseF16PerClock : chip.denseF16PerClock) * 16 /
                shape.elementBits;
  double weightBytes = stageBytes - config.getTileTokens() * rowBytes;
  double fragmentBytes = weightBytes * config.getWarpsTokens() +
                         config.getTileTokens() * rowBytes * config.getWarpsFeatures();
  double tensor = double(shape.numWeights) * config.getTileFeatures() * config.getTileTokens() *
                  config.getTileK() / macs;
  double shared = (fragmentBytes + stageBytes) / kSharedBytesPerClock;
  return std::max(tensor, shared) + kOverlapLoss * std::min(tensor, shared);
}

/// The share of x's rows that straddle two lines: all but those whose pitch happens to be aligned.
double getStraddlingShare(const MatmulShape &shape) {
  constexpr int64_t lineBytes = 128;
  return 1 - double(std::gcd(shape.inner * shape.elementBits / 8, lineBytes)) / lineBytes;
}

/// Bytes that the copy of a stage takes the time of. No row of x is copied that is not there. The
/// blocks of a cluster share what straddling rows cost; the bytes that arrive they do not share.
double getCopiedBytes(const MatmulShape &shape, int64_t tokens, KernelConfigAttr config,
                      int64_t stageBytes) {
  double rowBytes = double(config.getTileK()) * shape.elementBits / 8;
  int64_t rows = std::min(config.getTileTokens(), tokens);
  double bytes = stageBytes - (config.getTileTokens() - rows) * rowBytes;
  if (config.isWarpSpecialized())
    bytes +=
        rows * rowBytes * kStraddleCost * getStraddlingShare(shape) / config.getFeatureCluster();
  return bytes;
}

double getL2BytesPerClock(KernelConfigAttr config) {
  return config.isWarpSpecialized() ? kCopyEngineBytesPerClock : kL2BytesPerClock;
}

double getDramBytesPerMicrosecond(const ChipInfo &chip) {
  return chip.dramGBPerSecond * 1e3 * kDramEfficiency;
}

/// What memory takes at least: every operand once from DRAM, and the weight again from the L2.
double getMemoryMicroseconds(const MatmulShape &shape, int64_t tokens, KernelConfigAttr config,
                             const ChipInfo &chip) {
  double weightRow = double(shape.inner) * shape.elementBits / 8 * (shape.isSparse ? 0.5 : 1) +
                     (shape.isSparse ? shape.inner / 8.0 : 0);
  double dramBytes = shape.numWeights * shape.features * weightRow +
                     double(tokens) * shape.inner * shape.elementBits / 8 +
                     double(tokens) * shape.features * shape.edgeBits / 8;
  double microseconds = dramBytes / getDramBytesPerMicrosecond(chip);
  if (config.isWarpSpecialized()) {
    // Tiles of other tokens read the weight again, from the L2, while it still comes from DRAM:
    // the times add up, as measured.
    double again = (divideCeil(tokens, config.getTileTokens()) - 1.0) * shape.numWeights *
                   shape.features * weightRow;
    microseconds +=
        again / (getL2BytesPerClock(config) * chip.multiprocessors * chip.clockGHz * 1e3);
  }
  return microseconds;
}

} // namespace

MatmulShape sf::getShape(MatmulOp op) {
  MatmulShape shape;
  shape.features = op.getNumFeatures();
  shape.inner = op.getInnerSize();
  shape.elementBits = op.getXType().getElementTypeBitWidth();
  shape.numWeights = op.getWeights().size();
  shape.isSparse = op.hasSparseWeights();
  if (WeightAttr encoding = op.getWeightEncoding())
    shape.packOrder = encoding.getPackOrder();
  shape.edgeBits = op.getResultType().getElementTypeBitWidth();
  for (auto [i, operand] : llvm::enumerate(op.getEpilogueOperands()))
    if (op.getEpilogueBroadcast(i) == Broadcast::Full)
      shape.edgeBits += getElementTypeOrSelf(operand.getType()).getIntOrFloatBitWidth();
  return shape;
}

int64_t sf::getAccumulatorsPerThread(KernelConfigAttr config, unsigned numWeights) {
  return numWeights * config.getTileFeatures() * config.getTileTokens() /
         (config.getNumWarps() * 32);
}

bool sf::leavesRegisters(KernelConfigAttr config, const MatmulShape &shape,
                         int64_t maxAccumulators) {
  // Fewer than usual are asked for where registers are short, and two warpgroups have the most for
  // each thread.
  constexpr int64_t featuresOfTwoWarpgroups = 128;
  if (config.isWarpSpecialized() && maxAccumulators < kMostAccumulators &&
      config.getTileFeatures() > featuresOfTwoWarpgroups)
    return false;
  // The smallest tile has to do for everything.
  constexpr int64_t fewestAccumulators = 16;
  return getAccumulatorsPerThread(config, shape.numWeights) <=
         std::max<int64_t>(maxAccumulators, fewestAccumulators * shape.numWeights);
}

bool sf::isKnownSlow(MatmulOp op, KernelConfigAttr config) {
  auto slow = op->getAttrOfType<ArrayAttr>(kSlowConfigsAttrName);
  unsigned numWeights = op.getWeights().size();
  return slow && llvm::any_of(slow, [&](Attribute attr) {
           auto known = dyn_cast<KernelConfigAttr>(attr);
           return known && known.getNumThreads() == config.getNumThreads() &&
                  getAccumulatorsPerThread(known, numWeights) <=
                      getAccumulatorsPerThread(config, numWeights);
         });
}

bool sf::usesWarpgroups(const MatmulShape &shape, const ChipInfo &chip) {
  return chip.hasWgmma && shape.inner * shape.elementBits % (kCopyEngineRowBytes * 8) == 0 &&
         shape.packOrder != PackOrder::Mma;
}

std::optional<double> sf::estimateMicroseconds(const MatmulShape &shape, int64_t tokens,
                                               KernelConfigAttr config, const ChipInfo &chip) {
  int64_t stageBytes = config.getStageBytes(shape.elementBits, shape.numWeights);
  int64_t inboxBytes = config.getInboxBytes(shape.numWeights);
  int64_t stages = config.getStages().value_or(
      planPipelineDepth(stageBytes, chip.sharedMemoryPerBlock - inboxBytes).value_or(0));
  int64_t sharedBytes = stages * stageBytes + inboxBytes;
  bool warpgroups = config.isWarpSpecialized();
  int64_t registers = getAccumulatorsPerThread(config, shape.numWeights) +
                      (warpgroups ? kOtherWarpgroupRegisters : kOtherRegisters);
  if (config.hasValuesInRegisters())
    registers += kValueRegisters * shape.numWeights;
  // Registers are given to whole warpgroups where there are any.
  int64_t threads = llvm::alignTo(config.getNumThreads(), warpgroups ? 128 : 32);
  if (stages < kMinPipelineStages || sharedBytes > chip.sharedMemoryPerBlock ||
      getResidentBlocks(chip, threads, std::min(registers, kMaxRegisters), sharedBytes) == 0)
    return std::nullopt;
  int64_t residentBlocks =
      std::max<int64_t>(getResidentBlocks(chip, threads, registers, sharedBytes), 1);

  double busy = getStageClocks(shape, config, chip, stageBytes);
  // A wave of so many blocks on one multiprocessor, in clocks.
  double steps = divideCeil(divideCeil(shape.inner, config.getTileK()), config.getSplitK());
  double edgeClocks =
      warpgroups ? kFillClocks + kEpilogueClocks * config.getTileFeatures() * config.getTileTokens()
                 : kWaveClocks;
  int64_t multiprocessors = chip.multiprocessors;
  if (config.splitsInCluster()) {
    edgeClocks += kMeetingClocks + inboxBytes / kClusterBytesPerClock;
    if (config.getCluster() > 2)
      multiprocessors *= kClusterOccupancy;
  }
  double copiedBytes = getCopiedBytes(shape, tokens, config, stageBytes);
  double l2BytesPerClock = getL2BytesPerClock(config);
  double latency = (warpgroups ? kCopyEngineLatencyClocks : kLatencyClocks) / (stages - 1);
  if (warpgroups)
    latency = std::max(latency, kStepClocks + kProductClocks * countProducts(shape, config));
  auto waveClocks = [&](int64_t blocks) -> double {
    if (blocks == 0)
      return 0;
    double step = std::max(
        {blocks * busy + kBarrierClocks / blocks, blocks * copiedBytes / l2BytesPerClock, latency});
    return steps * step + edgeClocks;
  };
  int64_t blocks = divideCeil(shape.features, config.getTileFeatures()) *
                   divideCeil(tokens, config.getTileTokens()) * config.getSplitK();
  int64_t perWave = residentBlocks * multiprocessors;
  double clocks = (blocks / perWave) * waveClocks(residentBlocks) +
                  waveClocks(divideCeil(blocks % perWave, multiprocessors));
  // Blocks that share tokens wait for each other, as measured.
  constexpr double clusterLoss = 1.01;
  if (config.getFeatureCluster() > 1)
    clocks *= clusterLoss;
  double microseconds = clocks / (chip.clockGHz * 1e3);

  double memoryMicroseconds = getMemoryMicroseconds(shape, tokens, config, chip);
  double overlapLoss = warpgroups ? kWarpgroupOverlapLoss : kOverlapLoss;
  microseconds = std::max(microseconds, memoryMicroseconds) +
                 overlapLoss * std::min(microseconds, memoryMicroseconds) + kLaunchMicroseconds;
  if (config.splitsInCluster())
    microseconds *= 1 + kSplitLoss;
  if (config.getCluster() > 1)
    microseconds += kClusterMicroseconds;

  // The parts are written and read once more, in a kernel of its own.
  if (config.getSplitK() > 1 && !config.splitsInCluster()) {
    double partBytes = 2.0 * config.getSplitK() * shape.numWeights * tokens * shape.features * 4;
    microseconds += kLaunchMicroseconds + partBytes / getDramBytesPerMicrosecond(chip);
  }
  return microseconds;
}

namespace {

/// The candidates of one tile, which differ in the depth of the ring and in clusters.
class TileCandidates {
public:
  TileCandidates(MLIRContext *context, const MatmulShape &shape, const ChipInfo &chip,
                 int64_t maxAccumulators)
      : context(context), shape(shape), chip(chip), maxAccumulators(maxAccumulators),
        warpgroups(usesWarpgroups(shape, chip)), chunk(packedChunkInner(shape.elementBits / 8)) {}

  /// Adds those with so many chunks of k a stage and so many parts of K; perhaps none.
  void add(const TileShape &tile, int64_t chunks, int64_t split,
           SmallVectorImpl<KernelConfigAttr> &candidates) const;

private:
  /// What is worth a try at all.
  bool isSensible(const TileShape &tile, int64_t chunks, int64_t split) const;
  /// Whether registers and shared memory suffice.
  bool fits(KernelConfigAttr config, int64_t chunks) const;

  KernelConfigAttr get(const TileShape &tile, int64_t chunks, int64_t split,
                       std::optional<int64_t> stages, int64_t cluster) const {
    Atom atom = warpgroups ? (shape.isSparse ? Atom::WgmmaSp : Atom::Wgmma)
                           : (shape.isSparse ? Atom::MmaSp : Atom::Mma);
    int64_t raster = warpgroups ? 16 : 8;
    return KernelConfigAttr::get(context, /*maxTokens=*/std::nullopt, tile.features, tile.tokens,
                                 chunks * chunk, tile.warpsFeatures, tile.warpsTokens, stages,
                                 split, cluster, raster, atom);
  }

  static constexpr int64_t fewTokens = 64;

  MLIRContext *context;
  const MatmulShape &shape;
  const ChipInfo &chip;
  int64_t maxAccumulators;
  bool warpgroups;
  int64_t chunk; // of k
};

bool TileCandidates::isSensible(const TileShape &tile, int64_t chunks, int64_t split) const {
  // A part of K is at least a few steps, else the ring never fills.
  constexpr int64_t minSteps = 4;
  if (split > 1 && shape.inner < split * minSteps * chunks * chunk)
    return false;
  // A warpgroup waits rarely enough with one chunk, but for few tokens; rows of x then lie in two
  // panels, which only powers of two can.
  return chunks == 1 ||
         (shape.inner > chunk &&
          !(warpgroups && (tile.tokens > fewTokens || !llvm::isPowerOf2_64(tile.tokens))));
}

bool TileCandidates::fits(KernelConfigAttr config, int64_t chunks) const {
  // Two chunks of k a stage need fewer barriers and more registers: fragments and addresses of
  // both.
  constexpr int64_t maxAccumulatorsOfTwoChunks = 64;
  bool isTight = getAccumulatorsPerThread(config, shape.numWeights) > maxAccumulatorsOfTwoChunks ||
                 shape.numWeights > 1;
  if (!leavesRegisters(config, shape, maxAccumulators) || (chunks > 1 && isTight))
    return false;
  if (!warpgroups && getTokenCopiesPerThread(shape, config) > kMaxTokenCopiesPerThread)
    return false;
  // Two stages only alternate between loading and computing; three overlap.
  constexpr int64_t minStages = 3;
  int64_t stageBytes = config.getStageBytes(shape.elementBits, shape.numWeights);
  return (chip.sharedMemoryPerBlock - config.getInboxBytes(shape.numWeights)) / stageBytes >=
         minStages;
}

void TileCandidates::add(const TileShape &tile, int64_t chunks, int64_t split,
                         SmallVectorImpl<KernelConfigAttr> &candidates) const {
  if (!isSensible(tile, chunks, split))
    return;
  // Two parts of K are added up inside of a cluster; more of its blocks find no room together.
  constexpr int64_t pair = 2, atomTokens = 8;
  int64_t cluster =
      warpgroups && split == pair && tile.tokens % (pair * atomTokens) == 0 ? pair : 1;
  KernelConfigAttr config = get(tile, chunks, split, /*stages=*/std::nullopt, cluster);
  if (!fits(config, chunks))
    return;
  candidates.push_back(config);
  if (!warpgroups)
    return;
  // Shallower rings let one more small block be resident, which may save a wave. Deeper ones hide
  // what DRAM takes where few blocks ask.
  constexpr int64_t shallowStages = 5, deepStages = 16;
  if (tile.tokens <= fewTokens) {
    candidates.push_back(get(tile, chunks, split, shallowStages, cluster));
    int64_t stageBytes = config.getStageBytes(shape.elementBits, shape.numWeights);
    if (config.getInboxBytes(shape.numWeights) + deepStages * stageBytes <
        chip.sharedMemoryPerBlock)
      candidates.push_back(get(tile, chunks, split, deepStages, cluster));
  }
  // Clusters save copies. Where no row straddles only tiles of many tokens wait for these.
  constexpr int64_t manyTokens = 160;
  int64_t fewestTokens = getStraddlingShare(shape) > 0 ? fewTokens : manyTokens;
  if (tile.tokens >= fewestTokens && split == 1 &&
      divideCeil(shape.features, tile.features) % pair == 0)
    candidates.push_back(get(tile, chunks, split, /*stages=*/std::nullopt, pair));
}

} // namespace

SmallVector<KernelConfigAttr> sf::getCandidates(MLIRContext *context, const MatmulShape &shape,
                                                const ChipInfo &chip, int64_t maxAccumulators) {
  // Rows of x that are no multiple of 16 bytes arrive in more and narrower pieces, whose addresses
  // need registers.
  constexpr int64_t pieceBits = 128;
  if (shape.inner * shape.elementBits % pieceBits)
    maxAccumulators /= 2;
  TileCandidates tiles(context, shape, chip, maxAccumulators);
  SmallVector<KernelConfigAttr> candidates;
  for (const TileShape &tile : getTiles(usesWarpgroups(shape, chip)))
    for (int64_t chunks : {2, 1})
      for (int64_t split : kSplits)
        tiles.add(tile, chunks, split, candidates);
  return candidates;
}
