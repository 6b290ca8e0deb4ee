//===- SFOps.cpp - Operations of the `sf` dialect ---------------------------===//
//
// Syntax, verification and folding. A verifier's message names the place, what was expected, what
// was given and what would work: these are the sentences that users of a front end will read.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SF/IR/SFOps.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Dialect/SF/IR/SFScalar.h"
#include "sparseflow/Runtime/ElementType.h"
#include "sparseflow/Runtime/LibraryMatmul.h"
#include "sparseflow/Support/PackedLayout.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/PatternMatch.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/SmallVector.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf;

WeightAttr sf::getWeightEncoding(Type type) {
  auto tensor = dyn_cast<RankedTensorType>(type);
  return tensor ? dyn_cast_or_null<WeightAttr>(tensor.getEncoding()) : WeightAttr();
}

/// Prints a dimension as types do.
static std::string formatDim(int64_t size) {
  return ShapedType::isDynamic(size) ? "?" : std::to_string(size);
}

static LogicalResult verifyNoEncoding(Operation *op, StringRef what, RankedTensorType type) {
  if (!type.getEncoding())
    return success();
  return op->emitOpError() << "expected " << what << " without an encoding, got " << type;
}

//===----------------------------------------------------------------------===//
// MatmulOp: syntax
//===----------------------------------------------------------------------===//

/// `epilogue(%a, %b : tensor<..>, tensor<..>) { ... }`; both the operands and the whole clause are
/// optional.
static OptionalParseResult parseEpilogue(OpAsmParser &parser,
                                         SmallVectorImpl<OpAsmParser::UnresolvedOperand> &operands,
                                         SmallVectorImpl<Type> &types, Region &region) {
  if (parser.parseOptionalKeyword("epilogue"))
    return std::nullopt;
  if (succeeded(parser.parseOptionalLParen())) {
    if (parser.parseOperandList(operands) || parser.parseColonTypeList(types) ||
        parser.parseRParen())
      return ParseResult(failure());
  }
  return parser.parseRegion(region);
}

static void printEpilogue(OpAsmPrinter &printer, Operation *, OperandRange operands,
                          TypeRange types, Region &region) {
  printer << "epilogue";
  if (!operands.empty())
    printer << '(' << operands << " : " << types << ')';
  printer << ' ';
  printer.printRegion(region);
}

void MatmulOp::build(OpBuilder &builder, OperationState &state, Type result, Value x,
                     ValueRange weights) {
  build(builder, state, result, x, weights, /*libraryWeights=*/ValueRange(),
        /*epilogueOperands=*/ValueRange(), /*configs=*/ArrayAttr());
}

//===----------------------------------------------------------------------===//
// MatmulOp: queries
//===----------------------------------------------------------------------===//

WeightAttr MatmulOp::getWeightEncoding() { return sf::getWeightEncoding(getWeightType()); }

bool MatmulOp::hasSparseWeights() {
  WeightAttr encoding = getWeightEncoding();
  return encoding && encoding.isSparse();
}

Type MatmulOp::getAccumulatorType() {
  Builder builder(getContext());
  if (getXType().getElementType().isInteger())
    return builder.getI32Type();
  return builder.getF32Type();
}

SmallVector<KernelConfigAttr> MatmulOp::getKernelConfigs() {
  SmallVector<KernelConfigAttr> kernels;
  if (ArrayAttr configs = getConfigsAttr())
    for (Attribute config : configs)
      if (auto kernel = dyn_cast<KernelConfigAttr>(config))
        kernels.push_back(kernel);
  return kernels;
}

bool MatmulOp::callsLibrary() {
  ArrayAttr configs = getConfigsAttr();
  return configs && llvm::any_of(configs, llvm::IsaPred<LibraryConfigAttr>);
}

std::optional<std::string> MatmulOp::findLibraryFault(Type result) {
  auto dtypeOf = [](Type type) { return runtime::fromElementType(*getDType(type)); };
  return runtime::MatmulType{dtypeOf(getXType().getElementType()), dtypeOf(result),
                             dtypeOf(getAccumulatorType()), getNumFeatures(), getInnerSize()}
      .findFault();
}

/// Nothing when the shape fits no broadcast.
static std::optional<Broadcast> classifyBroadcast(RankedTensorType operand, int64_t m, int64_t n) {
  ArrayRef<int64_t> shape = operand.getShape();
  if (shape.empty())
    return Broadcast::Scalar;
  if (shape.size() == 1)
    return shape[0] == n ? std::optional(Broadcast::Feature) : std::nullopt;
  if (shape[0] != m)
    return std::nullopt;
  if (shape[1] == 1)
    return Broadcast::Token;
  return shape[1] == n ? std::optional(Broadcast::Full) : std::nullopt;
}

Broadcast MatmulOp::getEpilogueBroadcast(unsigned i) {
  auto type = cast<RankedTensorType>(getEpilogueOperands()[i].getType());
  return *classifyBroadcast(type, getXType().getDimSize(0), getNumFeatures());
}

LogicalResult MatmulOp::reifyResultShapes(OpBuilder &builder, ReifiedRankedShapedTypeDims &shapes) {
  shapes.assign(1, {tensor::getMixedSize(builder, getLoc(), getX(), 0),
                    builder.getIndexAttr(getNumFeatures())});
  return success();
}

//===----------------------------------------------------------------------===//
// MatmulOp: verification
//===----------------------------------------------------------------------===//

static LogicalResult verifyOperands(MatmulOp op) {
  if (op.getWeights().empty())
    return op.emitOpError("expected at least one weight, got none; write `sf.matmul %x, %w`");
  RankedTensorType x = op.getXType(), w = op.getWeightType();
  if (failed(verifyNoEncoding(op, "x", x)))
    return failure();
  for (auto [i, weight] : llvm::enumerate(op.getWeights()))
    if (weight.getType() != w)
      return op.emitOpError() << "expected all weights to have one type, got " << w
                              << " for weight 0 and " << weight.getType() << " for weight " << i;
  if (w.getEncoding() && !isa<WeightAttr>(w.getEncoding()))
    return op.emitOpError() << "expected the weight to be dense or #sf.weight, got the encoding "
                            << w.getEncoding()
                            << "; sf-import-sparse-tensor turns #sparse_tensor encodings into it";
  for (auto [dim, name] : {std::pair(0, "N"), std::pair(1, "K")})
    if (w.isDynamicDim(dim))
      return op.emitOpError() << "expected a static " << name << ", got " << w
                              << "; only the number of tokens may be dynamic";
  // Also what keeps N * K, and the bytes of that, in 64 bits.
  for (auto [dim, name] : {std::pair(0, "N"), std::pair(1, "K")})
    if (w.getDimSize(dim) < 1 || w.getDimSize(dim) > std::numeric_limits<int32_t>::max())
      return op.emitOpError() << "expected " << name << " from 1 to "
                              << std::numeric_limits<int32_t>::max() << ", got " << w;
  int64_t k = w.getDimSize(1);
  if (x.getDimSize(1) != k)
    return op.emitOpError() << "expected x to have the weight's K of " << k << " columns, got "
                            << x;
  if (x.getElementType() != w.getElementType())
    return op.emitOpError() << "expected x and the weight to have one element type, got "
                            << x.getElementType() << " and " << w.getElementType()
                            << "; convert one of them, or quantize x with sf.quantize";
  return success();
}

static LogicalResult verifyResultType(MatmulOp op) {
  RankedTensorType result = op.getResultType();
  if (failed(verifyNoEncoding(op, "the result", result)))
    return failure();
  int64_t m = op.getXType().getDimSize(0), n = op.getNumFeatures();
  if (result.getDimSize(0) != m || result.getDimSize(1) != n)
    return op.emitOpError() << "expected the result to be " << formatDim(m) << "x" << n
                            << " (tokens x features), got " << result;
  Type element = result.getElementType(), acc = op.getAccumulatorType();
  if (element.isInteger(32) && !acc.isInteger(32))
    return op.emitOpError("expected a floating-point or i8 result, got i32; only the product of i8 "
                          "operands is an i32");
  if (op.hasEpilogue())
    return success();
  if (isa<FloatType>(element) != isa<FloatType>(acc))
    return op.emitOpError() << "expected "
                            << (acc.isInteger(32) ? "an i32 or i8" : "a floating-point")
                            << " result for operands of " << op.getXType().getElementType()
                            << " without an epilogue, got " << element
                            << "; scale the product in an epilogue";
  return success();
}

static LogicalResult verifyEpilogueOperands(MatmulOp op) {
  if (!op.hasEpilogue()) {
    if (op.getEpilogueOperands().empty() && op.getWeights().size() == 1)
      return success();
    return op.emitOpError() << "expected an epilogue region for "
                            << (op.getWeights().size() > 1 ? "several weights"
                                                           : "the epilogue operands")
                            << ", got none; say in `epilogue { ... }` how the result is computed";
  }
  int64_t m = op.getXType().getDimSize(0), n = op.getNumFeatures();
  for (auto [i, operand] : llvm::enumerate(op.getEpilogueOperands())) {
    auto type = cast<RankedTensorType>(operand.getType());
    if (failed(verifyNoEncoding(op, "an epilogue operand", type)))
      return failure();
    if (!classifyBroadcast(type, m, n))
      return op.emitOpError() << "expected epilogue operand " << i
                              << " to have the shape [] (scalar), [" << n << "] (per feature), ["
                              << formatDim(m) << ",1] (per token) or [" << formatDim(m) << "," << n
                              << "] (full), got " << type;
  }
  return success();
}

/// `configuration` is its place in the list.
static LogicalResult verifyKernelConfig(MatmulOp op, KernelConfigAttr config, PackOrder order,
                                        size_t configuration) {
  int64_t chunkElements = packedChunkInner(op.getXType().getElementTypeBitWidth() / 8);
  if (config.getPackOrder() != order)
    return op.emitOpError() << "expected configurations whose atoms read one packed weight, got "
                            << stringifyAtom(config.getAtom()) << " in configuration "
                            << configuration;
  if (config.isSparse() != op.hasSparseWeights())
    return op.emitOpError() << "expected atom "
                            << (op.hasSparseWeights() ? "mma_sp, wgmma_sp or wgmma_sp_rs"
                                                      : "mma or wgmma")
                            << " for a " << (op.hasSparseWeights() ? "2:4" : "dense")
                            << " weight, got " << stringifyAtom(config.getAtom())
                            << " in configuration " << configuration;
  if (config.getTileK() % chunkElements != 0)
    return op.emitOpError() << "expected the tile's k to be a multiple of " << chunkElements
                            << " elements of " << op.getXType().getElementType()
                            << " (128 bytes), got " << config.getTileK() << " in configuration "
                            << configuration;
  // Further along k a stage has its tokens again, and a layout steps by powers of two.
  if (!llvm::isPowerOf2_64(config.getTileTokens()) && config.getTileK() != chunkElements)
    return op.emitOpError()
           << "expected the tile's k to be " << chunkElements << " elements of "
           << op.getXType().getElementType()
           << " (128 bytes) beside a number of tokens that is no power of two, got "
           << config.getTileTokens() << " tokens and " << config.getTileK() << " in configuration "
           << configuration;
  return success();
}

/// Every call has a kernel, and every variant has calls.
static LogicalResult verifyRanges(MatmulOp op) {
  constexpr int64_t unbounded = std::numeric_limits<int64_t>::max();
  ArrayRef<Attribute> configs = op.getConfigsAttr().getValue();
  if (!isa<KernelConfigAttr>(configs.back()))
    return op.emitOpError() << "expected a kernel as the last configuration, for where the library "
                               "is missing, got "
                            << configs.back();
  int64_t previous = 0;
  bool isBehindLibrary = false;
  for (auto [i, attr] : llvm::enumerate(configs)) {
    std::optional<int64_t> maxTokens = cast<VariantConfig>(attr).getMaxTokens();
    bool isLast = i + 1 == configs.size(), isLibrary = isa<LibraryConfigAttr>(attr);
    if (isLast ? maxTokens.has_value() : !maxTokens && !isLibrary)
      return op.emitOpError() << "expected max_tokens in every configuration but the last, got "
                              << (isLast ? "it in the last" : "none") << " in configuration " << i;
    int64_t end = maxTokens.value_or(unbounded);
    if (end < previous || (end == previous && (isLibrary || !isBehindLibrary)))
      return op.emitOpError() << "expected ascending max_tokens, got "
                              << (maxTokens ? std::to_string(end) : "none") << " after "
                              << (previous == unbounded ? "none" : std::to_string(previous));
    previous = end;
    isBehindLibrary = isLibrary;
  }
  return success();
}

static LogicalResult verifyConfigs(MatmulOp op) {
  ArrayAttr configs = op.getConfigsAttr();
  if (!configs)
    return success();
  if (configs.empty())
    return op.emitOpError("expected at least one kernel configuration, got an empty list; leave "
                          "`configs` out to have it chosen");
  if (failed(verifyRanges(op)))
    return failure();
  KernelConfigAttr first = op.getKernelConfigs().front();
  PackOrder order = first.getPackOrder();
  WeightAttr encoding = op.getWeightEncoding();
  if (std::optional<PackOrder> given = encoding ? encoding.getPackOrder() : std::nullopt;
      given && given != order)
    return op.emitOpError() << "expected weights packed for the atom of the configurations, got "
                            << op.getWeightType() << " and " << stringifyAtom(first.getAtom());
  for (auto [i, attr] : llvm::enumerate(configs))
    if (auto config = dyn_cast<KernelConfigAttr>(attr);
        config && failed(verifyKernelConfig(op, config, order, i)))
      return failure();
  return success();
}

/// A library's weights come with the packed ones of the kernels.
static LogicalResult verifyLibrary(MatmulOp op) {
  size_t count = op.getLibraryWeights().size();
  if (!op.callsLibrary()) {
    if (count)
      return op.emitOpError("expected weights for a library only beside #sf.library_config, got "
                            "them without");
    return success();
  }
  if (std::optional<std::string> fault = op.findLibraryFault(op.getAccumulatorType()))
    return op.emitOpError() << *fault << " in a library's product; leave #sf.library_config out";
  WeightAttr encoding = op.getWeightEncoding();
  size_t expected = encoding && encoding.isPacked() ? op.getWeights().size() : 0;
  if (count != expected)
    return op.emitOpError() << "expected " << expected << " weights for the library beside "
                            << (expected ? "packed ones" : "weights that are not packed")
                            << ", got " << count << "; sf-pack-weights makes them";
  RankedTensorType type = op.getWeightType().dropEncoding();
  for (Value weight : op.getLibraryWeights())
    if (weight.getType() != type)
      return op.emitOpError() << "expected the library's weights to be " << type << ", got "
                              << weight.getType();
  return success();
}

LogicalResult MatmulOp::verify() {
  if (failed(verifyOperands(*this)) || failed(verifyResultType(*this)) ||
      failed(verifyEpilogueOperands(*this)) || failed(verifyConfigs(*this)))
    return failure();
  return verifyLibrary(*this);
}

LogicalResult MatmulOp::verifyRegions() {
  if (!hasEpilogue())
    return success();
  Block &block = getEpilogue().front();
  size_t numWeights = getWeights().size();
  if (block.getNumArguments() != numWeights + getEpilogueOperands().size())
    return emitOpError() << "expected the epilogue to take " << numWeights << " accumulator(s) and "
                         << getEpilogueOperands().size() << " scalar(s), got "
                         << block.getNumArguments() << " arguments";
  for (auto [i, argument] : llvm::enumerate(block.getArguments())) {
    bool isAccumulator = i < numWeights;
    Type expected = isAccumulator
                        ? getAccumulatorType()
                        : getElementTypeOrSelf(getEpilogueOperands()[i - numWeights].getType());
    if (argument.getType() != expected)
      return emitOpError() << "expected argument " << i << " of the epilogue ("
                           << (isAccumulator ? "an accumulator" : "an element of its operand")
                           << ") to be " << expected << ", got " << argument.getType();
  }
  for (Operation &nested : block.without_terminator()) {
    if (!isScalarOperation(&nested))
      return nested.emitOpError("expected an operation on scalars that kernels can compute: ")
             << scalarOperationsHelp;
  }
  auto yield = dyn_cast<YieldOp>(block.getTerminator());
  if (!yield)
    return emitOpError("expected the epilogue to end with sf.yield");
  Type element = getResultType().getElementType();
  if (yield.getValue().getType() != element)
    return yield.emitOpError() << "expected the result's element type " << element << ", got "
                               << yield.getValue().getType();
  return success();
}

//===----------------------------------------------------------------------===//
// MatmulOp: canonicalization
//===----------------------------------------------------------------------===//

namespace {

/// An epilogue that only casts the accumulator as a matmul without one would: drop it. The
/// conversions of arith to i8 and to 8-bit floats do not saturate, so they stay.
struct DropIdentityEpilogue : OpRewritePattern<MatmulOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(MatmulOp op, PatternRewriter &rewriter) const override {
    if (!op.hasEpilogue() || op.getWeights().size() != 1)
      return rewriter.notifyMatchFailure(op, "no epilogue of a single product");
    Block &block = op.getEpilogue().front();
    Value yielded = cast<YieldOp>(block.getTerminator()).getValue();
    if (auto truncation = yielded.getDefiningOp<arith::TruncFOp>()) {
      auto rounding = truncation.getRoundingmode();
      bool isPlain = !rounding || *rounding == arith::RoundingMode::to_nearest_even;
      if (isPlain && (truncation.getType().isF16() || truncation.getType().isBF16()))
        yielded = truncation.getIn();
    }
    if (yielded != block.getArgument(0))
      return rewriter.notifyMatchFailure(op, "the epilogue computes something");
    auto replacement =
        MatmulOp::create(rewriter, op.getLoc(), op.getType(), op.getX(), op.getWeights(),
                         op.getLibraryWeights(), ValueRange(), op.getConfigsAttr());
    replacement->setDiscardableAttrs(op->getDiscardableAttrDictionary());
    rewriter.replaceOp(op, replacement);
    return success();
  }
};

/// Drops weights and epilogue operands that the epilogue ignores, and passes equal ones once.
struct SimplifyEpilogueOperands : OpRewritePattern<MatmulOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(MatmulOp op, PatternRewriter &rewriter) const override {
    if (!op.hasEpilogue())
      return rewriter.notifyMatchFailure(op, "no epilogue");
    Block &block = op.getEpilogue().front();
    size_t numWeights = op.getWeights().size();
    SmallVector<Value> inputs = llvm::to_vector(op.getWeights());
    llvm::append_range(inputs, op.getEpilogueOperands());

    // A weight and an epilogue operand may be the same value and still mean different things.
    DenseMap<std::pair<Value, unsigned>, BlockArgument> firstUse;
    SmallVector<std::pair<BlockArgument, BlockArgument>> merged;
    BitVector dead(inputs.size());
    for (auto [i, input] : llvm::enumerate(inputs)) {
      BlockArgument argument = block.getArgument(i);
      auto [it, isNew] = firstUse.try_emplace({input, unsigned(i < numWeights)}, argument);
      if (!isNew && !argument.use_empty())
        merged.push_back({argument, it->second});
      dead[i] = !isNew || argument.use_empty();
    }
    // An argument that looked unused lives on when a later duplicate is used.
    for (auto [from, to] : merged)
      dead.reset(to.getArgNumber());
    // One weight stays in any case: it says what is multiplied.
    if (dead.find_first_unset_in(0, numWeights) == -1)
      dead.reset(0);
    if (dead.none())
      return rewriter.notifyMatchFailure(op, "every operand is used");

    rewriter.modifyOpInPlace(op, [&] {
      for (auto [from, to] : merged)
        rewriter.replaceAllUsesWith(from, to);
      block.eraseArguments(dead);
      SmallVector<Value> weights, libraryWeights, operands;
      for (auto [i, input] : llvm::enumerate(inputs))
        if (!dead[i])
          (i < numWeights ? weights : operands).push_back(input);
      for (auto [i, weight] : llvm::enumerate(op.getLibraryWeights()))
        if (!dead[i])
          libraryWeights.push_back(weight);
      op.getWeightsMutable().assign(weights);
      op.getLibraryWeightsMutable().assign(libraryWeights);
      op.getEpilogueOperandsMutable().assign(operands);
    });
    return success();
  }
};

} // namespace

void MatmulOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<DropIdentityEpilogue, SimplifyEpilogueOperands>(context);
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

/// Shape and element type of a weight do not change with its storage.
static LogicalResult verifySameShapeAndElement(Operation *op, Value input, Value result) {
  auto inputType = cast<RankedTensorType>(input.getType());
  auto resultType = cast<RankedTensorType>(result.getType());
  if (inputType.getShape() == resultType.getShape() &&
      inputType.getElementType() == resultType.getElementType())
    return success();
  return op->emitOpError() << "expected operand and result to have one shape and element type, got "
                           << inputType << " and " << resultType;
}

static LogicalResult verifyCanonical(Operation *op, StringRef what, Value value) {
  WeightAttr encoding = getWeightEncoding(value.getType());
  if (encoding && encoding.isCanonical())
    return success();
  return op->emitOpError() << "expected " << what << " with the encoding #sf.weight<sp24>, got "
                           << value.getType();
}

LogicalResult CompressOp::verify() {
  auto inputType = cast<RankedTensorType>(getInput().getType());
  if (failed(verifyNoEncoding(*this, "a dense operand", inputType)) ||
      failed(verifyCanonical(*this, "a result", getResult())))
    return failure();
  return verifySameShapeAndElement(*this, getInput(), getResult());
}

OpFoldResult CompressOp::fold(FoldAdaptor) {
  // What was 2:4 has nothing to lose, in either mode.
  if (auto decompress = getInput().getDefiningOp<DecompressOp>())
    return decompress.getInput();
  return {};
}

LogicalResult DecompressOp::verify() {
  auto resultType = cast<RankedTensorType>(getResult().getType());
  if (failed(verifyCanonical(*this, "an operand", getInput())) ||
      failed(verifyNoEncoding(*this, "a dense result", resultType)))
    return failure();
  return verifySameShapeAndElement(*this, getInput(), getResult());
}

OpFoldResult DecompressOp::fold(FoldAdaptor) {
  auto compress = getInput().getDefiningOp<CompressOp>();
  if (compress && compress.getMode() == CompressMode::Verify)
    return compress.getInput();
  return {};
}

LogicalResult PackOp::verify() {
  auto inputType = cast<RankedTensorType>(getInput().getType());
  WeightAttr input = getWeightEncoding(inputType),
             result = getWeightEncoding(getResult().getType());
  if (inputType.getEncoding() && (!input || input.isPacked()))
    return emitOpError()
           << "expected a dense operand, or one with the encoding #sf.weight<sp24>, got "
           << inputType;
  Sparsity sparsity = input ? Sparsity::Sp24 : Sparsity::Dense;
  if (!result || !result.isPacked() || result.getSparsity() != sparsity)
    return emitOpError() << "expected a result with the encoding #sf.weight<"
                         << stringifySparsity(sparsity)
                         << ", pack = mma> or with pack = wgmma, got " << getResult().getType();
  return verifySameShapeAndElement(*this, getInput(), getResult());
}

//===----------------------------------------------------------------------===//
// Quantization
//===----------------------------------------------------------------------===//

/// Nothing when the shape fits no granularity.
static std::optional<ScaleGranularity> classifyScale(RankedTensorType data,
                                                     RankedTensorType scale) {
  ArrayRef<int64_t> shape = scale.getShape();
  int64_t m = data.getDimSize(0), k = data.getDimSize(1);
  if (shape.empty())
    return ScaleGranularity::Tensor;
  if (shape.size() == 1)
    return shape[0] == k ? std::optional(ScaleGranularity::Feature) : std::nullopt;
  if (shape[0] != m || ShapedType::isDynamic(shape[1]) || shape[1] < 1)
    return std::nullopt;
  if (shape[1] == 1)
    return ScaleGranularity::Token;
  return k % shape[1] == 0 ? std::optional(ScaleGranularity::Group) : std::nullopt;
}

static LogicalResult verifyScaled(Operation *op, RankedTensorType input, RankedTensorType result) {
  if (input.isDynamicDim(1))
    return op->emitOpError() << "expected a static K, got " << input
                             << "; only the number of tokens may be dynamic";
  if (input.getShape() != result.getShape() || input.getEncoding() != result.getEncoding())
    return op->emitOpError()
           << "expected operand and result to have one shape and one encoding, got " << input
           << " and " << result;
  return success();
}

static LogicalResult verifyGivenScale(Operation *op, RankedTensorType data,
                                      RankedTensorType scale) {
  if (failed(verifyNoEncoding(op, "scales", scale)))
    return failure();
  if (classifyScale(data, scale))
    return success();
  int64_t m = data.getDimSize(0), k = data.getDimSize(1);
  return op->emitOpError() << "expected scales of the shape [] (per tensor), [" << k
                           << "] (per feature), [" << formatDim(m) << ",1] (per token) or ["
                           << formatDim(m) << "," << k << "/G] (per group of G), got " << scale;
}

static int64_t groupSize(Value data, Value scale) {
  return cast<RankedTensorType>(data.getType()).getDimSize(1) /
         cast<RankedTensorType>(scale.getType()).getDimSize(1);
}

LogicalResult QuantizeOp::verify() {
  auto inputType = cast<RankedTensorType>(getInput().getType());
  auto resultType = cast<RankedTensorType>(getResult().getType());
  if (failed(verifyNoEncoding(*this, "x", inputType)) ||
      failed(verifyScaled(*this, inputType, resultType)))
    return failure();
  if (!getScale() == !getResultScale())
    return emitOpError() << "expected the scales to be either an operand (static) or a result "
                            "(dynamic), got "
                         << (getScale() ? "both" : "neither");
  bool isGroup = getAxis() == QuantizeAxis::Group;
  if (getScale()) {
    if (isGroup || getGroup())
      return emitOpError("expected no axis and no group beside given scales, whose shape says what "
                         "each covers");
    return verifyGivenScale(*this, inputType, cast<RankedTensorType>(getScale().getType()));
  }

  int64_t k = inputType.getDimSize(1);
  if (isGroup != getGroup().has_value())
    return emitOpError() << "expected `group` exactly when axis is \"group\", got axis \""
                         << stringifyQuantizeAxis(getAxis()) << "\" "
                         << (isGroup ? "without" : "with") << " a group";
  if (isGroup && (*getGroup() < 1 || k % *getGroup() != 0))
    return emitOpError() << "expected a group that divides K = " << k << ", got " << *getGroup();
  int64_t scalesPerToken = isGroup ? k / *getGroup() : 1;
  SmallVector<int64_t> expected{inputType.getDimSize(0), scalesPerToken};
  auto scaleType = cast<RankedTensorType>(getResultScale().getType());
  if (scaleType.getShape() != ArrayRef(expected) || scaleType.getEncoding())
    return emitOpError() << "expected scales of type "
                         << RankedTensorType::get(expected, scaleType.getElementType()) << ", got "
                         << scaleType;
  return success();
}

ScaleGranularity QuantizeOp::getGranularity() {
  return *classifyScale(cast<RankedTensorType>(getInput().getType()),
                        cast<RankedTensorType>(getScales().getType()));
}

int64_t QuantizeOp::getGroupSize() { return groupSize(getInput(), getScales()); }

LogicalResult QuantizeOp::reifyResultShapes(OpBuilder &builder,
                                            ReifiedRankedShapedTypeDims &shapes) {
  OpFoldResult tokens = tensor::getMixedSize(builder, getLoc(), getInput(), 0);
  for (Value result : getResults()) {
    auto type = cast<RankedTensorType>(result.getType());
    shapes.push_back({tokens, builder.getIndexAttr(type.getDimSize(1))});
  }
  return success();
}

namespace {

/// quantize(dequantize(q, s), s) is q: the rounding of q * s is far below half a step, and within
/// the range that scales have the product neither overflows nor becomes subnormal in f32 and bf16.
/// In f16 it can.
struct QuantizeOfDequantize : OpRewritePattern<QuantizeOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(QuantizeOp op, PatternRewriter &rewriter) const override {
    auto dequantize = op.getInput().getDefiningOp<DequantizeOp>();
    if (!dequantize || op.getScale() != dequantize.getScale())
      return rewriter.notifyMatchFailure(op, "not a dequantization by the same scales");
    if (dequantize.getInput().getType() != op.getResult().getType() ||
        getElementTypeOrSelf(dequantize.getType()).isF16())
      return rewriter.notifyMatchFailure(op, "not exact for these types");
    rewriter.replaceOp(op, dequantize.getInput());
    return success();
  }
};

} // namespace

void QuantizeOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<QuantizeOfDequantize>(context);
}

LogicalResult DequantizeOp::verify() {
  auto inputType = cast<RankedTensorType>(getInput().getType());
  auto resultType = cast<RankedTensorType>(getResult().getType());
  if (inputType.getEncoding()) {
    WeightAttr encoding = getWeightEncoding(inputType);
    if (!encoding || !encoding.isCanonical())
      return emitOpError()
             << "expected an operand without an encoding or with #sf.weight<sp24>, got "
             << inputType;
  }
  if (failed(verifyScaled(*this, inputType, resultType)))
    return failure();
  return verifyGivenScale(*this, inputType, cast<RankedTensorType>(getScale().getType()));
}

ScaleGranularity DequantizeOp::getGranularity() {
  return *classifyScale(cast<RankedTensorType>(getInput().getType()),
                        cast<RankedTensorType>(getScale().getType()));
}

int64_t DequantizeOp::getGroupSize() { return groupSize(getInput(), getScale()); }

LogicalResult DequantizeOp::reifyResultShapes(OpBuilder &builder,
                                              ReifiedRankedShapedTypeDims &shapes) {
  auto type = cast<RankedTensorType>(getType());
  shapes.push_back({tensor::getMixedSize(builder, getLoc(), getInput(), 0),
                    builder.getIndexAttr(type.getDimSize(1))});
  return success();
}

#define GET_OP_CLASSES
#include "sparseflow/Dialect/SF/IR/SFOps.cpp.inc"
