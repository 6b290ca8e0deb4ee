//===- KernelToNVVM.cpp - The kernel and its place in the grid ------------===//

#include "Lowering.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

struct LowerKernel : OpConversionPattern<KernelOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(KernelOp op, OpAdaptor,
                                ConversionPatternRewriter &rewriter) const override {
    TypeConverter::SignatureConversion signature(op.getNumArguments());
    for (auto [i, type] : llvm::enumerate(op.getArgumentTypes())) {
      SmallVector<Type> types;
      if (failed(getTypeConverter()->convertType(type, types)))
        return rewriter.notifyMatchFailure(op, "argument type");
      signature.addInputs(i, types);
    }
    auto type = LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(getContext()),
                                            signature.getConvertedTypes());
    auto func = LLVM::LLVMFuncOp::create(rewriter, op.getLoc(), op.getSymName(), type);
    func->setAttr(gpu::GPUDialect::getKernelFuncAttrName(), rewriter.getUnitAttr());
    func->setAttr(NVVM::NVVMDialect::getKernelFuncAttrName(), rewriter.getUnitAttr());
    func->setAttr(NVVM::NVVMDialect::getReqntidAttrName(),
                  rewriter.getDenseI32ArrayAttr({static_cast<int32_t>(op.getThreads()), 1, 1}));
    // Without it ptxas may choose few registers and spill.
    func->setAttr(NVVM::NVVMDialect::getMinctasmAttrName(), rewriter.getI32IntegerAttr(1));
    passTensorMaps(op, func, rewriter);
    // What the manifest says about the kernel.
    if (Attribute config = op.getConfigAttr())
      func->setAttr("sf.config", config);
    if (std::optional<int64_t> cluster = op.getCluster())
      func->setAttr(NVVM::NVVMDialect::getClusterDimAttrName(),
                    rewriter.getDenseI32ArrayAttr({static_cast<int32_t>(*cluster), 1, 1}));
    if (op.walk([](GridWaitOp) { return WalkResult::interrupt(); }).wasInterrupted())
      func->setAttr("sf.dependent_launch", rewriter.getUnitAttr());
    if (op.getPersistent())
      func->setAttr("sf.persistent", rewriter.getUnitAttr());
    if (IntegerAttr bytes = op.getSharedBytesAttr())
      func->setAttr("sf.shared_bytes", bytes);
    rewriter.inlineRegionBefore(op.getBody(), func.getBody(), func.end());
    if (failed(rewriter.convertRegionTypes(&func.getBody(), *getTypeConverter(), &signature)))
      return failure();
    rewriter.eraseOp(op);
    return success();
  }

private:
  /// Tensor maps, the last parameters, travel by value, where the copy engine finds them. The
  /// manifest has to say what each describes: the argument, then the sizes of its box.
  static void passTensorMaps(KernelOp op, LLVM::LLVMFuncOp func,
                             ConversionPatternRewriter &rewriter) {
    constexpr int64_t mapBytes = 128, mapAlignment = 64;
    SmallVector<Attribute> described;
    auto maps = llvm::make_filter_range(op.getArgumentTypes(), llvm::IsaPred<TensorMapType>);
    unsigned parameter = func.getNumArguments() - llvm::range_size(maps);
    for (Type type : maps) {
      auto map = cast<TensorMapType>(type);
      auto bytes = LLVM::LLVMArrayType::get(rewriter.getI8Type(), mapBytes);
      func.setArgAttr(parameter, LLVM::LLVMDialect::getByValAttrName(), TypeAttr::get(bytes));
      func.setArgAttr(parameter, LLVM::LLVMDialect::getAlignAttrName(),
                      rewriter.getI64IntegerAttr(mapAlignment));
      func.setArgAttr(parameter++, NVVM::NVVMDialect::getGridConstantAttrName(),
                      rewriter.getUnitAttr());
      SmallVector<int64_t> fields = {map.getOf()};
      llvm::append_range(fields, map.getBox());
      described.push_back(rewriter.getDenseI64ArrayAttr(fields));
    }
    if (!described.empty())
      func->setAttr("sf.tensor_maps", rewriter.getArrayAttr(described));
  }
};

struct LowerReturn : OpConversionPattern<ReturnOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ReturnOp op, OpAdaptor,
                                ConversionPatternRewriter &rewriter) const override {
    // No block may leave while another one still writes to its shared memory.
    auto func = op->getParentOfType<LLVM::LLVMFuncOp>();
    if (func->hasAttr(NVVM::NVVMDialect::getClusterDimAttrName())) {
      Emitter e(rewriter, op.getLoc());
      emitClusterBarrier(e);
    }
    rewriter.replaceOpWithNewOp<LLVM::ReturnOp>(op, ValueRange());
    return success();
  }
};

/// x / y of numbers below 2^31 by y's reciprocal, which a loop over x computes once: a division is
/// a long chain of instructions, and nothing hides it at the beginning of a tile. The reciprocal,
/// in units of 2^-32, is too small by at most 1, so the product by less than 1 and the quotient by
/// at most 1.
Value divideByKnown(Emitter &e, Value x, Value y) {
  Value reciprocal = arith::DivUIOp::create(e.b, e.loc, e.i32(-1), y);
  Value quotient = arith::MulUIExtendedOp::create(e.b, e.loc, x, reciprocal).getHigh();
  Value rest = arith::SubIOp::create(e.b, e.loc, x, e.mul(quotient, y));
  Value tooSmall = arith::CmpIOp::create(e.b, e.loc, arith::CmpIPredicate::uge, rest, y);
  return e.add(quotient, arith::ExtUIOp::create(e.b, e.loc, quotient.getType(), tooSmall));
}

struct LowerTileId : OpConversionPattern<TileIdOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(TileIdOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    auto divide = [&](Value x, Value y) -> Value {
      return arith::DivUIOp::create(e.b, e.loc, x, y);
    };
    auto subtract = [&](Value x, Value y) -> Value {
      return arith::SubIOp::create(e.b, e.loc, x, y);
    };
    Value block = adaptor.getNumber()
                      ? e.toI32(adaptor.getNumber())
                      : NVVM::BlockIdXOp::create(rewriter, e.loc, rewriter.getI32Type());
    Value tileTokens = e.i32(op.getTileTokens());
    Value tokenTiles =
        divide(e.add(e.toI32(adaptor.getTokens()), e.i32(op.getTileTokens() - 1)), tileTokens);
    bool clusterSplits = op.getCluster() > 1 && op.getSplits() > 1;
    // Blocks side by side along features.
    int64_t cluster = clusterSplits ? 1 : op.getCluster(),
            numFeatureTiles = op.getFeatureTiles() / cluster,
            rasterTiles = std::max<int64_t>(op.getRaster() / cluster, 1);
    Value featureTiles = e.i32(numFeatureTiles);

    Value split = e.i32(0), rest = block;
    if (clusterSplits) {
      split = e.blockRank();
    } else if (op.getSplits() > 1) {
      Value tiles = e.mul(tokenTiles, featureTiles);
      split = divideByKnown(e, block, tiles);
      rest = subtract(block, e.mul(split, tiles));
    }
    Value feature, token;
    if (numFeatureTiles == 1) {
      feature = e.i32(0);
      token = rest;
    } else if (rasterTiles >= numFeatureTiles || rasterTiles == 1) {
      // One panel, or panels of one feature tile.
      bool featuresFirst = rasterTiles != 1;
      Value fast = featuresFirst ? featureTiles : tokenTiles;
      Value outer = featuresFirst ? divide(rest, fast) : divideByKnown(e, rest, fast);
      Value inner = subtract(rest, e.mul(outer, fast));
      feature = featuresFirst ? inner : outer;
      token = featuresFirst ? outer : inner;
    } else {
      Value raster = e.i32(rasterTiles);
      Value panelTiles = e.mul(raster, tokenTiles);
      Value panel = divideByKnown(e, rest, panelTiles);
      Value first = e.mul(panel, raster);
      Value within = subtract(rest, e.mul(panel, panelTiles));
      Value width = raster;
      token = divide(within, raster);
      // The last panel may be narrower: another constant.
      if (int64_t narrow = numFeatureTiles % rasterTiles) {
        Value isNarrow = e.lessThan(e.i32(numFeatureTiles - rasterTiles), first);
        width = e.select(isNarrow, e.i32(narrow), width);
        token = e.select(isNarrow, divide(within, e.i32(narrow)), token);
      }
      feature = e.add(first, subtract(within, e.mul(token, width)));
    }
    if (cluster > 1)
      feature = e.add(e.mul(feature, e.i32(cluster)), e.blockRank());
    SmallVector<Value> results;
    for (Value value : {feature, token, split})
      results.push_back(
          arith::IndexCastOp::create(rewriter, e.loc, rewriter.getIndexType(), value));
    rewriter.replaceOp(op, results);
    return success();
  }
};

struct LowerTileRange : OpConversionPattern<TileRangeOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(TileRangeOp op, OpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    Type i32 = rewriter.getI32Type();
    Value tokens = e.add(e.toI32(adaptor.getTokens()), e.i32(op.getTileTokens() - 1));
    Value tokenTiles = arith::DivUIOp::create(rewriter, e.loc, tokens, e.i32(op.getTileTokens()));
    int64_t cluster = op.getCluster();
    Value tiles = e.mul(tokenTiles, e.i32(op.getFeatureTiles() * op.getSplits() / cluster));
    auto inClusters = [&](Value blocks) -> Value {
      return cluster == 1
                 ? blocks
                 : arith::DivUIOp::create(rewriter, e.loc, blocks, e.i32(cluster)).getResult();
    };
    SmallVector<Value> results;
    for (Value value : {inClusters(NVVM::BlockIdXOp::create(rewriter, e.loc, i32)), tiles,
                        inClusters(NVVM::GridDimXOp::create(rewriter, e.loc, i32))})
      results.push_back(
          arith::IndexCastOp::create(rewriter, e.loc, rewriter.getIndexType(), value));
    rewriter.replaceOp(op, results);
    return success();
  }
};

struct LowerDim : OpConversionPattern<memref::DimOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(memref::DimOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    std::optional<int64_t> dim = op.getConstantIndex();
    auto type = dyn_cast<MemRefType>(op.getSource().getType());
    if (!dim || !type)
      return rewriter.notifyMatchFailure(op, "expected a constant dimension of a ranked memref");
    Emitter e(rewriter, op.getLoc());
    GlobalMemory memory(e, type, adaptor.getSource());
    rewriter.replaceOpWithNewOp<arith::IndexCastOp>(op, rewriter.getIndexType(),
                                                    memory.sizes[*dim]);
    return success();
  }
};

struct LowerIsContiguous : OpConversionPattern<IsContiguousOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(IsContiguousOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    GlobalMemory memory(e, cast<MemRefType>(op.getSource().getType()), adaptor.getSource());
    Value result = arith::ConstantOp::create(rewriter, e.loc, rewriter.getBoolAttr(true));
    Value expected = e.i64(1);
    for (size_t dim = memory.sizes.size(); dim-- > 0;) {
      Value equal = arith::CmpIOp::create(rewriter, e.loc, arith::CmpIPredicate::eq,
                                          memory.strides[dim], expected);
      result = arith::AndIOp::create(rewriter, e.loc, result, equal);
      expected = e.mul(expected, memory.sizes[dim]);
    }
    rewriter.replaceOp(op, result);
    return success();
  }
};

/// To the same memref with strides that its type tells.
struct LowerCast : OpConversionPattern<memref::CastOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(memref::CastOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    auto source = dyn_cast<MemRefType>(op.getSource().getType()),
         result = dyn_cast<MemRefType>(op.getType());
    if (!source || !result || source.getShape() != result.getShape() ||
        !llvm::all_of(result.getStridesAndOffset().first,
                      [](int64_t stride) { return !ShapedType::isDynamic(stride); }))
      return rewriter.notifyMatchFailure(op, "expected a cast that only makes strides static");
    ValueRange converted = adaptor.getSource();
    rewriter.replaceOpWithMultiple(op, {converted.take_front(1 + result.getNumDynamicDims())});
    return success();
  }
};

struct LowerView : OpConversionPattern<ViewOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(ViewOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    rewriter.replaceOp(op, e.offsetPointer(adaptor.getSource()[0], op.getByteOffset()));
    return success();
  }
};

template <typename Op, NVVM::GridDepActionKind kind>
struct LowerGridDependency : OpConversionPattern<Op> {
  using OpConversionPattern<Op>::OpConversionPattern;

  LogicalResult matchAndRewrite(Op op, typename Op::Adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    rewriter.replaceOpWithNewOp<NVVM::GriddepcontrolOp>(op, kind);
    return success();
  }
};

} // namespace

void sparseflow::populateKernelPatterns(const TileTypeConverter &converter,
                                        RewritePatternSet &patterns) {
  patterns.add<LowerKernel, LowerReturn, LowerTileId, LowerTileRange, LowerDim, LowerIsContiguous,
               LowerCast, LowerView, LowerGridDependency<GridWaitOp, NVVM::GridDepActionKind::wait>,
               LowerGridDependency<LaunchDependentsOp, NVVM::GridDepActionKind::launch_dependents>>(
      converter, patterns.getContext());
}
