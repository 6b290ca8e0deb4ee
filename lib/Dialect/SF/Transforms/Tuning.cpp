//===- Tuning.cpp - Products as the tuner sees them -----------------------===//
//
// An entry's words and the cost model's description of a product say the same thing; this file
// turns one into the other, so that what is timed is what is looked up.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SF/Transforms/Tuning.h"

#include "CostModel.h"
#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/Transforms/Passes.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

/// Generation, small batches, prompts; the last is enough for many waves.
static constexpr int64_t kTokenBuckets[] = {16, 32, 64, 128, 256, 512, 1024, 4096};

ArrayRef<int64_t> sf::getTokenBuckets() { return kTokenBuckets; }

int64_t sf::getTokenBucket(int64_t tokens) {
  const int64_t *bucket = llvm::lower_bound(kTokenBuckets, tokens);
  return bucket == std::end(kTokenBuckets) ? std::end(kTokenBuckets)[-1] : *bucket;
}

//===----------------------------------------------------------------------===//
// Words
//===----------------------------------------------------------------------===//

/// For `weights`. cuBLASLt's are dense too, and those of a kernel's product with their zeros.
static constexpr llvm::StringLiteral sparseWord = "sp24", denseWord = "dense",
                                     libraryWord = "cublaslt";
/// Follows the word where the weight came packed for the warp-wide instructions, on a chip that
/// would otherwise use others.
static constexpr llvm::StringLiteral packedForMma = ", pack = mma";
static constexpr llvm::StringLiteral plainWord = "plain", gatedWord = "gated";
static constexpr unsigned plainBits = 16;

/// "plain", "gated", "plain, 32 bits": weights, and bits moved for each element of the result.
static std::string describeEpilogue(const MatmulShape &shape) {
  std::string text = shape.numWeights == 1   ? plainWord.str()
                     : shape.numWeights == 2 ? gatedWord.str()
                                             : llvm::formatv("{0} weights", shape.numWeights).str();
  if (shape.edgeBits != plainBits)
    text += llvm::formatv(", {0} bits", shape.edgeBits);
  return text;
}

static LogicalResult parseEpilogue(StringRef text, MatmulShape &shape) {
  auto [weights, bits] = text.split(", ");
  shape.edgeBits = plainBits;
  if (!bits.empty() && (!bits.consume_back(" bits") || bits.getAsInteger(10, shape.edgeBits)))
    return failure();
  if (weights == plainWord)
    shape.numWeights = 1;
  else if (weights == gatedWord)
    shape.numWeights = 2;
  else if (!weights.consume_back(" weights") || weights.getAsInteger(10, shape.numWeights))
    return failure();
  return success(shape.edgeBits > 0 && shape.numWeights > 0);
}

/// Of element types that run on the same units at the same rate, the one that is entered.
static DType getEnteredDType(DType type) {
  return type == DType::bf16 ? DType::f16 : type == DType::e5m2 ? DType::e4m3 : type;
}

tuning::TuningKey sf::getTuningKey(MatmulOp op, TargetAttr target) {
  MatmulShape shape = getShape(op);
  tuning::TuningKey key;
  key.chip = target.getChip().str();
  key.dtype = stringifyDType(getEnteredDType(*getDType(op.getXType().getElementType()))).str();
  key.weights = shape.isSparse ? sparseWord : denseWord;
  if (target.getInfo().hasWgmma && shape.packOrder == PackOrder::Mma)
    key.weights += packedForMma;
  key.features = shape.features;
  key.inner = shape.inner;
  key.epilogue = describeEpilogue(shape);
  key.compiler = tuning::getCompilerVersion();
  return key;
}

tuning::TuningKey sf::getLibraryKey(tuning::TuningKey key) {
  key.weights = libraryWord;
  return key;
}

//===----------------------------------------------------------------------===//
// Ranking
//===----------------------------------------------------------------------===//

static llvm::Error invalid(const char *what, const llvm::Twine &wanted, StringRef given) {
  return llvm::createStringError(llvm::Twine("expected ") + what + " " + wanted + ", got '" +
                                 given + "'");
}

static llvm::Expected<MatmulShape> readKey(const tuning::TuningKey &key) {
  MatmulShape shape;
  std::optional<DType> dtype = parseDType(key.dtype);
  if (!dtype ||
      (*dtype != DType::f16 && *dtype != DType::bf16 && *dtype != DType::i8 && !isFloat8(*dtype)))
    return invalid("a dtype of", "f16, bf16, i8, e4m3 or e5m2", key.dtype);
  shape.elementBits = 8 * getByteWidth(*dtype);
  StringRef weights = key.weights;
  if (weights.consume_back(packedForMma))
    shape.packOrder = PackOrder::Mma;
  if (weights != sparseWord && weights != denseWord && weights != libraryWord)
    return invalid("weights of", sparseWord + ", " + denseWord + " or " + libraryWord, key.weights);
  shape.isSparse = weights == sparseWord;
  if (failed(parseEpilogue(key.epilogue, shape)))
    return invalid("an epilogue such as", "'plain', 'gated' or 'plain, 32 bits'", key.epilogue);
  // A group of a 2:4 weight is four elements; addresses are 32 bits wide.
  constexpr int64_t group = 4, largest = int64_t(1) << 31;
  if (key.features < 1 || key.features >= largest || key.inner < group || key.inner >= largest ||
      key.inner % group)
    return invalid("a product of at least", "1x4, K a multiple of 4",
                   llvm::formatv("{0}x{1}", key.features, key.inner).str());
  if (key.tokens < 1)
    return invalid("at least", "1 token", std::to_string(key.tokens));
  if (!lookupChip(key.chip))
    return invalid("a chip of", listChips(), key.chip);
  shape.features = key.features;
  shape.inner = key.inner;
  return shape;
}

llvm::Expected<tuning::TuningKey> sf::normalizeKey(tuning::TuningKey key) {
  if (llvm::Error error = readKey(key).takeError())
    return std::move(error);
  key.dtype = stringifyDType(getEnteredDType(*parseDType(key.dtype))).str();
  key.tokens = getTokenBucket(key.tokens);
  key.compiler = tuning::getCompilerVersion();
  return key;
}

llvm::Expected<SmallVector<RankedConfig>> sf::rankConfigs(MLIRContext *context,
                                                          const tuning::TuningKey &key) {
  llvm::Expected<MatmulShape> shape = readKey(key);
  if (!shape)
    return shape.takeError();
  if (key.weights == libraryWord)
    return invalid("weights of", sparseWord + " or " + denseWord, key.weights);
  const ChipInfo *chip = lookupChip(key.chip);
  SmallVector<RankedConfig> ranked;
  for (KernelConfigAttr config :
       getCandidates(context, *shape, *chip, SFSelectConfigPassOptions().maxAccumulators)) {
    std::optional<double> time = estimateMicroseconds(*shape, key.tokens, config, *chip);
    if (!time)
      continue;
    // Of equal estimates selection takes the first.
    auto slower = llvm::upper_bound(ranked, *time, [](double time, const RankedConfig &other) {
      return time < other.microseconds;
    });
    ranked.insert(slower, {config, *time});
  }
  return ranked;
}
