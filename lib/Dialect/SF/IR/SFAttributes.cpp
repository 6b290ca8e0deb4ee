//===- SFAttributes.cpp - Attributes of the `sf` dialect --------------------===//
//
// Verification and syntax of the attributes, and the table of chips.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SF/IR/SFAttributes.h"

#include "sparseflow/Support/PackedLayout.h"

#include "mlir/AsmParser/AsmParser.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

#include "sparseflow/Dialect/SF/IR/SFAttrInterfaces.cpp.inc"
#include "sparseflow/Dialect/SF/IR/SFEnums.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "sparseflow/Dialect/SF/IR/SFAttributes.cpp.inc"

void SFDialect::registerAttributes() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "sparseflow/Dialect/SF/IR/SFAttributes.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// Chips
//===----------------------------------------------------------------------===//

// Figures of, in order: A100 SXM, RTX 3090, Jetson AGX Orin, L40S, H100 SXM (twice), B200, RTX
// 5090. The rates of sm_90 are measured (6.15 clocks for a dense m16n8k16 and 8.14 for a sparse
// m16n8k32), the others are the vendor's. ptx85 is the first version with mma.sp::ordered_metadata;
// sm_100 and later need ptx88.
static constexpr int64_t K = 1024;
// clang-format off
static constexpr ChipInfo kChips[] = {
    {"sm_80",   80, 163 * K, 164 * K, 2048, 32, "+ptx85", "12.5", 108, 1024, 2048, false, false, 1.41, 1555},
    {"sm_86",   86,  99 * K, 100 * K, 1536, 16, "+ptx85", "12.5",  82,  256,  512, false, false, 1.70,  936},
    {"sm_87",   87, 163 * K, 164 * K, 1536, 16, "+ptx85", "12.5",  16, 1024, 2048, false, false, 1.30,  204},
    {"sm_89",   89,  99 * K, 100 * K, 1536, 24, "+ptx85", "12.5", 142,  512, 1024, true,  false, 2.52,  864},
    {"sm_90",   90, 227 * K, 228 * K, 2048, 32, "+ptx85", "12.5", 132, 1332, 2012, false, false, 1.76, 3350},
    {"sm_90a",  90, 227 * K, 228 * K, 2048, 32, "+ptx85", "12.5", 132, 1332, 2012, false, true,  1.76, 3350},
    {"sm_100", 100, 227 * K, 228 * K, 2048, 32, "+ptx88", "12.9", 148, 1332, 2012, false, false, 1.85, 8000},
    {"sm_120", 120,  99 * K, 100 * K, 1536, 24, "+ptx88", "12.9", 170,  256,  512, true,  false, 2.41, 1792},
};
// clang-format on

int64_t sf::getResidentBlocks(const ChipInfo &chip, int64_t threads, int64_t registers,
                              int64_t sharedBytes) {
  // On every chip since sm_80. Registers are given out by warps, 256 at a time; each block has some
  // shared memory that its kernel does not see.
  constexpr int64_t registersPerMultiprocessor = 65536, registerUnit = 256, warpThreads = 32,
                    reservedShared = 1024;
  int64_t warps = llvm::divideCeil(threads, warpThreads);
  int64_t blocks =
      std::min({chip.blocksPerMultiprocessor, chip.threadsPerMultiprocessor / (warps * warpThreads),
                chip.sharedMemoryPerMultiprocessor / (sharedBytes + reservedShared)});
  if (registers)
    blocks =
        std::min(blocks, registersPerMultiprocessor /
                             int64_t(llvm::alignTo(registers * warpThreads, registerUnit)) / warps);
  return blocks;
}

ArrayRef<ChipInfo> sf::getChips() { return kChips; }

const ChipInfo *sf::lookupChip(StringRef name) {
  const auto *it = llvm::find_if(kChips, [&](const ChipInfo &chip) { return chip.name == name; });
  return it == std::end(kChips) ? nullptr : it;
}

std::string sf::listChips() {
  return llvm::join(llvm::map_range(kChips, [](const ChipInfo &chip) { return chip.name.str(); }),
                    ", ");
}

LogicalResult TargetAttr::verify(function_ref<InFlightDiagnostic()> emitError, StringRef chip) {
  if (!lookupChip(chip))
    return emitError() << "expected a known target, got '" << chip << "'; known targets are "
                       << listChips();
  return success();
}

const ChipInfo &TargetAttr::getInfo() const { return *lookupChip(getChip()); }

//===----------------------------------------------------------------------===//
// WeightAttr
//===----------------------------------------------------------------------===//

LogicalResult WeightAttr::verify(function_ref<InFlightDiagnostic()> emitError, Sparsity sparsity,
                                 Pack pack) {
  if (sparsity == Sparsity::Dense && pack == Pack::None)
    return emitError() << "expected a dense weight's encoding to be packed, got "
                          "#sf.weight<dense>; leave the encoding out, or add `pack = mma`";
  return success();
}

LogicalResult WeightAttr::verifyEncoding(ArrayRef<int64_t> shape, Type elementType,
                                         function_ref<InFlightDiagnostic()> emitError) const {
  if (shape.size() != 2)
    return emitError() << "expected a weight of rank 2, [N, K], got rank " << shape.size()
                       << "; collapse the weight to two dimensions";
  if (ShapedType::isDynamicShape(shape))
    return emitError() << "expected a weight of static shape, got a dynamic "
                       << (ShapedType::isDynamic(shape[0]) ? "N" : "K")
                       << "; only the number of tokens may be dynamic";
  if (isSparse() && shape[1] % 4 != 0)
    return emitError() << "expected K to be a multiple of 4 for 2:4 weights, got " << shape[1]
                       << "; pad K to " << llvm::alignTo(shape[1], 4);
  constexpr int64_t maxExtent = int64_t(1) << 30; // rows and columns are counted in 32 bits
  if (llvm::any_of(shape, [](int64_t size) { return size > maxExtent; }))
    return emitError() << "expected N and K of a weight of at most 2^30, got " << shape[0]
                       << " and " << shape[1];
  constexpr int64_t maxElements = int64_t(1) << 46; // a manifest's sizes go up to 2^48 bytes
  if (shape[0] * shape[1] > maxElements)
    return emitError() << "expected a weight of at most 2^46 elements, got " << shape[0] << " x "
                       << shape[1] << "; split it into several products";
  bool isOperandType =
      isa<Float16Type, BFloat16Type, Float8E4M3FNType, Float8E5M2Type>(elementType) ||
      elementType.isSignlessInteger(8);
  if (!isOperandType && !(isCanonical() && elementType.isF32()))
    return emitError() << "expected a weight of f16, bf16, i8, f8E4M3FN or f8E5M2"
                       << (isPacked() ? "" : " (or f32, to be decompressed)") << ", got "
                       << elementType;
  return success();
}

std::optional<PackOrder> WeightAttr::getPackOrder() const {
  switch (getPack()) {
  case Pack::None:
    return std::nullopt;
  case Pack::Mma:
    return PackOrder::Mma;
  case Pack::Wgmma:
    return PackOrder::Wgmma;
  }
  llvm_unreachable("all cases are covered");
}

//===----------------------------------------------------------------------===//
// KernelConfigAttr
//===----------------------------------------------------------------------===//

static bool isWarpgroups(Atom atom) { return atom != Atom::Mma && atom != Atom::MmaSp; }

bool KernelConfigAttr::isSparse() const {
  return getAtom() != Atom::Mma && getAtom() != Atom::Wgmma;
}

PackOrder KernelConfigAttr::getPackOrder() const {
  return isWarpgroups(getAtom()) ? PackOrder::Wgmma : PackOrder::Mma;
}

// The limits exist so that a bad configuration is a sentence here and not a failure deep inside a
// kernel.
static constexpr int64_t kChunkFeatures = kPackedChunkFeatures;
static constexpr int64_t kChunkElements = packedChunkInner(/*elementBytes=*/2);
static constexpr int64_t kAtomFeatures = 16, kAtomTokens = 8;
static constexpr int64_t kMaxCluster = 4;
/// The most that every chip with clusters runs.
static constexpr int64_t kMaxSplitCluster = 8;
static constexpr int64_t kMaxWarps = 16, kMaxStages = 16, kMaxSplitK = 64, kMaxRaster = 64,
                         kMaxTile = 1024;

static LogicalResult verifyMaxTokens(function_ref<InFlightDiagnostic()> emitError,
                                     std::optional<int64_t> maxTokens) {
  if (maxTokens && *maxTokens < 1)
    return emitError() << "expected max_tokens to be at least 1, got " << *maxTokens
                       << "; leave it out for any number of tokens";
  return success();
}

LogicalResult KernelConfigAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                       std::optional<int64_t> maxTokens, int64_t tileFeatures,
                                       int64_t tileTokens, int64_t tileK, int64_t warpsFeatures,
                                       int64_t warpsTokens, std::optional<int64_t> stages,
                                       int64_t splitK, int64_t cluster, int64_t raster, Atom atom) {
  if (failed(verifyMaxTokens(emitError, maxTokens)))
    return failure();
  for (int64_t size : {tileFeatures, tileTokens, tileK})
    if (size > kMaxTile)
      return emitError() << "expected a tile of at most " << kMaxTile << " along each side, got "
                         << tileFeatures << "x" << tileTokens << "x" << tileK;
  if (tileFeatures < 1 || tileFeatures % kChunkFeatures != 0)
    return emitError() << "expected the tile's features to be a multiple of " << kChunkFeatures
                       << ", got " << tileFeatures << "; a packed weight comes in chunks of "
                       << kChunkFeatures << " features";
  if (tileTokens < 1 || tileTokens % kAtomTokens != 0)
    return emitError() << "expected the tile's tokens to be a multiple of " << kAtomTokens
                       << ", got " << tileTokens << "; use "
                       << llvm::alignTo(std::max<int64_t>(tileTokens, 1), kAtomTokens);
  if (tileK < 1 || tileK % kChunkElements != 0)
    return emitError() << "expected the tile's k to be a multiple of " << kChunkElements
                       << " elements, got " << tileK
                       << "; a chunk is 128 bytes: 64 elements of 16 bits, 128 of 8 bits";
  // Layouts are linear over GF(2), so sides are powers of two, except that of the accumulators of a
  // warpgroup and of the stages it reads the last bits may leave some out.
  bool isWarpgroup = isWarpgroups(atom);
  if (!llvm::isPowerOf2_64(tileK) ||
      (!isWarpgroup && (!llvm::isPowerOf2_64(tileFeatures) || !llvm::isPowerOf2_64(tileTokens))))
    return emitError() << "expected powers of two for the tile, got " << tileFeatures << "x"
                       << tileTokens << "x" << tileK << "; use " << llvm::PowerOf2Ceil(tileFeatures)
                       << "x" << llvm::PowerOf2Ceil(tileTokens) << "x" << llvm::PowerOf2Ceil(tileK);
  if (isWarpgroup && tileFeatures > kMaxWarps * kAtomFeatures)
    return emitError() << "expected at most " << kMaxWarps * kAtomFeatures << " features for "
                       << stringifyAtom(atom) << ", a warpgroup for each 64, got " << tileFeatures;
  if (warpsFeatures < 1 || warpsTokens < 1 ||
      (!isWarpgroup && !llvm::isPowerOf2_64(warpsFeatures)) || !llvm::isPowerOf2_64(warpsTokens) ||
      warpsFeatures > kMaxWarps || warpsTokens > kMaxWarps ||
      warpsFeatures * warpsTokens > kMaxWarps)
    return emitError() << "expected powers of two with a product of at most " << kMaxWarps
                       << " for the warps, got " << warpsFeatures << "x" << warpsTokens;
  if (tileFeatures % (warpsFeatures * kAtomFeatures) != 0)
    return emitError() << "expected each warp to get a multiple of " << kAtomFeatures
                       << " features, got " << tileFeatures << " features for " << warpsFeatures
                       << " warps; use fewer warps along the features";
  if (tileTokens % (warpsTokens * kAtomTokens) != 0)
    return emitError() << "expected each warp to get a multiple of " << kAtomTokens
                       << " tokens, got " << tileTokens << " tokens for " << warpsTokens
                       << " warps; use fewer warps along the tokens";
  if (isWarpgroup) {
    if (warpsTokens != 1 || tileFeatures != warpsFeatures * kAtomFeatures || warpsFeatures % 4 != 0)
      return emitError() << "expected " << tileFeatures / kAtomFeatures << "x1 warps for "
                         << stringifyAtom(atom) << " and " << tileFeatures
                         << " features, a warpgroup for each 64, got " << warpsFeatures << "x"
                         << warpsTokens;
    if (!isWgmmaTokens(tileTokens))
      return emitError() << "expected 8, 24 or a multiple of 16 up to " << kMaxWgmmaTokens
                         << " tokens for " << stringifyAtom(atom) << ", got " << tileTokens;
  }
  if (stages && (*stages < 2 || *stages > kMaxStages))
    return emitError() << "expected from 2 to " << kMaxStages << " stages, got " << *stages
                       << "; leave stages out to have them chosen";
  if (splitK < 1 || splitK > kMaxSplitK)
    return emitError() << "expected split_k from 1 to " << kMaxSplitK << ", got " << splitK;
  if (cluster != 1 && (atom == Atom::Mma || atom == Atom::MmaSp))
    return emitError() << "expected no cluster for " << stringifyAtom(atom) << ", got " << cluster;
  if (raster < 1 || raster > kMaxRaster)
    return emitError() << "expected raster from 1 to " << kMaxRaster << ", got " << raster;
  if (splitK > 1 && cluster > 1) {
    if (!llvm::isPowerOf2_64(cluster) || cluster > kMaxSplitCluster || cluster != splitK ||
        tileTokens % (kAtomTokens * cluster) != 0)
      return emitError() << "expected a cluster with split_k to have a block for each of 2, 4 or 8 "
                            "parts, and to divide the tile's tokens into multiples of "
                         << kAtomTokens << ", got " << cluster << " blocks for " << splitK
                         << " parts and " << tileTokens << " tokens";
  } else if (cluster < 1 || !llvm::isPowerOf2_64(cluster) || cluster > kMaxCluster ||
             raster % cluster != 0 || tileTokens % (kAtomTokens * cluster) != 0) {
    return emitError()
           << "expected a cluster of 1, 2 or 4 blocks that divides raster and the tile's "
              "tokens into multiples of "
           << kAtomTokens << ", got " << cluster << " for raster " << raster << " and "
           << tileTokens << " tokens";
  }
  return success();
}

KernelConfigAttr KernelConfigAttr::withStages(int64_t stages) const {
  return get(getContext(), getMaxTokens(), getTileFeatures(), getTileTokens(), getTileK(),
             getWarpsFeatures(), getWarpsTokens(), stages, getSplitK(), getCluster(), getRaster(),
             getAtom());
}

KernelConfigAttr KernelConfigAttr::withMaxTokens(std::optional<int64_t> maxTokens) const {
  return get(getContext(), maxTokens, getTileFeatures(), getTileTokens(), getTileK(),
             getWarpsFeatures(), getWarpsTokens(), getStages(), getSplitK(), getCluster(),
             getRaster(), getAtom());
}

int64_t KernelConfigAttr::getInboxBytes(unsigned numWeights) const {
  constexpr int64_t elementBytes = 4;
  if (!splitsInCluster())
    return 0;
  return numWeights * elementBytes * getTileFeatures() * getTileTokens() / getCluster() *
         (getCluster() - 1);
}

int64_t KernelConfigAttr::getStageBytes(unsigned elementBits, unsigned numWeights) const {
  int64_t rowBytes = getTileK() * elementBits / 8;
  // A 2:4 row holds half the elements, and four bits of metadata for each group of four.
  int64_t weightRowBytes = isSparse() ? rowBytes / 2 + getTileK() / 8 : rowBytes;
  return numWeights * getTileFeatures() * weightRowBytes + getTileTokens() * rowBytes;
}

// `<key = value, ...>`, the keys in any order. Sizes are joined by `x`.
Attribute KernelConfigAttr::parse(AsmParser &parser, Type) {
  SMLoc start = parser.getCurrentLocation();
  std::optional<int64_t> maxTokens, stages, splitK, cluster, raster;
  SmallVector<int64_t, 3> tile, warps;
  std::optional<Atom> atom;

  auto parseInteger = [&](std::optional<int64_t> &value) -> ParseResult {
    return parser.parseInteger(value.emplace());
  };
  auto parseSizes = [&](StringRef key, SmallVectorImpl<int64_t> &sizes, size_t rank,
                        StringRef form) -> ParseResult {
    SMLoc loc = parser.getCurrentLocation();
    if (parser.parseDimensionList(sizes, /*allowDynamic=*/false, /*withTrailingX=*/false))
      return failure();
    if (sizes.size() != rank)
      return parser.emitError(loc) << "expected " << key << " to be " << form;
    return success();
  };
  auto parseField = [&]() -> ParseResult {
    SMLoc loc = parser.getCurrentLocation();
    StringRef key;
    if (parser.parseKeyword(&key) || parser.parseEqual())
      return failure();
    auto repeated = [&](bool isSet) -> ParseResult {
      return isSet ? ParseResult(parser.emitError(loc)
                                 << "expected '" << key << "' once, got it twice")
                   : success();
    };
    if (key == "max_tokens")
      return failure(repeated(maxTokens.has_value()) || parseInteger(maxTokens));
    if (key == "tile")
      return failure(repeated(!tile.empty()) || parseSizes(key, tile, 3, "features x tokens x k"));
    if (key == "warps")
      return failure(repeated(!warps.empty()) || parseSizes(key, warps, 2, "features x tokens"));
    if (key == "stages")
      return failure(repeated(stages.has_value()) || parseInteger(stages));
    if (key == "split_k")
      return failure(repeated(splitK.has_value()) || parseInteger(splitK));
    if (key == "cluster")
      return failure(repeated(cluster.has_value()) || parseInteger(cluster));
    if (key == "raster")
      return failure(repeated(raster.has_value()) || parseInteger(raster));
    if (key == "atom") {
      StringRef name;
      SMLoc nameLoc = parser.getCurrentLocation();
      if (repeated(atom.has_value()) || parser.parseKeyword(&name))
        return failure();
      atom = symbolizeAtom(name);
      if (!atom)
        return parser.emitError(nameLoc)
               << "expected the atom to be mma, mma_sp, wgmma, wgmma_sp or wgmma_sp_rs, got "
               << name;
      return success();
    }
    return parser.emitError(loc) << "expected one of max_tokens, tile, warps, stages, split_k, "
                                    "cluster, raster, atom, got '"
                                 << key << "'";
  };
  if (parser.parseCommaSeparatedList(AsmParser::Delimiter::LessGreater, parseField))
    return {};
  if (tile.empty() || warps.empty() || !atom) {
    parser.emitError(start)
        << "expected a kernel configuration to have tile, warps and atom, got no "
        << (tile.empty()    ? "tile"
            : warps.empty() ? "warps"
                            : "atom");
    return {};
  }
  constexpr int64_t defaultSplitK = 1, defaultCluster = 1, defaultRaster = 8;
  return parser.getChecked<KernelConfigAttr>(
      start, parser.getContext(), maxTokens, tile[0], tile[1], tile[2], warps[0], warps[1], stages,
      splitK.value_or(defaultSplitK), cluster.value_or(defaultCluster),
      raster.value_or(defaultRaster), *atom);
}

void KernelConfigAttr::print(AsmPrinter &printer) const {
  printer << "<";
  if (getMaxTokens())
    printer << "max_tokens = " << *getMaxTokens() << ", ";
  printer << "tile = " << getTileFeatures() << "x" << getTileTokens() << "x" << getTileK()
          << ", warps = " << getWarpsFeatures() << "x" << getWarpsTokens();
  if (getStages())
    printer << ", stages = " << *getStages();
  printer << ", split_k = " << getSplitK();
  if (getCluster() != 1)
    printer << ", cluster = " << getCluster();
  printer << ", raster = " << getRaster() << ", atom = " << stringifyAtom(getAtom()) << ">";
}

//===----------------------------------------------------------------------===//
// LibraryConfigAttr
//===----------------------------------------------------------------------===//

LogicalResult LibraryConfigAttr::verify(function_ref<InFlightDiagnostic()> emitError, Library,
                                        std::optional<int64_t> maxTokens) {
  return verifyMaxTokens(emitError, maxTokens);
}

VariantConfig sf::parseVariantConfig(MLIRContext *context, StringRef text) {
  text = text.trim();
  bool isLibrary = symbolizeLibrary(text.split(',').first.trim()).has_value();
  std::string attribute =
      text.starts_with("#")
          ? text.str()
          : ((isLibrary ? "#sf.library_config<" : "#sf.kernel_config<") + text + ">").str();
  return dyn_cast_or_null<VariantConfig>(parseAttribute(attribute, context));
}

TargetAttr sf::getTarget(Operation *op) {
  MLIRContext *context = op->getContext();
  for (; op; op = op->getParentOp())
    if (auto target = op->getAttrOfType<TargetAttr>("sf.target"))
      return target;
  return TargetAttr::get(context, "sm_80");
}
