//===- WgmmaToNVVM.cpp - Products of warpgroups ---------------------------===//
//
// wgmma.mma_async and its sparse form have no LLVM intrinsic with these operands: they are inline
// assembly whose accumulators are tied, output i to input i. Every warpgroup multiplies 64 features
// by all tokens of the tile. PTX ISA, 9.7.15.5 and 9.7.15.6.
//
//===----------------------------------------------------------------------===//

#include "Lowering.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/Support/FormatVariadic.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

/// A statement of inline assembly with registers that it updates in place.
class InlineAssembly {
public:
  InlineAssembly(Emitter &e, ValueRange updated) : e(e), updated(updated) {}

  /// "{$0, $1, ...}": the registers that are updated.
  std::string listUpdated() const {
    std::string text = "{";
    for (size_t i = 0; i < updated.size(); ++i)
      text += (i ? ", $" : "$") + std::to_string(i);
    return text + "}";
  }
  /// Adds an operand that is read; gives the name by which the text refers to it.
  std::string read(Value operand) {
    operands.push_back(operand);
    return "$" + std::to_string(updated.size() + operands.size() - 1);
  }
  /// A descriptor by its name, registers as a list of theirs.
  std::string readAll(ValueRange operands) {
    if (operands.size() == 1)
      return read(operands.front());
    std::string text;
    for (Value operand : operands)
      text += (text.empty() ? "{" : ", ") + read(operand);
    return text + "}";
  }
  SmallVector<Value> emit(StringRef text) {
    std::string outputs, inputs, ties;
    for (auto [i, value] : llvm::enumerate(updated)) {
      outputs += std::string(i ? ",=" : "=") + constraint(value);
      ties += "," + std::to_string(i);
    }
    for (Value operand : operands)
      inputs += std::string(",") + constraint(operand);
    llvm::append_range(operands, updated);
    SmallVector<Type> types(updated.getTypes());
    auto result = LLVM::LLVMStructType::getLiteral(e.b.getContext(), types);
    Value values =
        LLVM::InlineAsmOp::create(e.b, e.loc, result, operands, text, outputs + inputs + ties,
                                  /*has_side_effects=*/true, /*is_align_stack=*/false,
                                  LLVM::TailCallKind::None, LLVM::AsmDialectAttr(), ArrayAttr())
            .getRes();
    SmallVector<Value> results;
    for (size_t i = 0; i < updated.size(); ++i)
      results.push_back(LLVM::ExtractValueOp::create(e.b, e.loc, values, i));
    return results;
  }

private:
  static char constraint(Value value) {
    return value.getType().isF32() ? 'f' : value.getType().isInteger(64) ? 'l' : 'r';
  }

  Emitter &e;
  ValueRange updated;
  SmallVector<Value> operands;
};

/// The descriptor of a tile that stays in its stage. Addresses and strides are counted in 16 bytes.
struct LowerDescriptor : OpConversionPattern<LoadOp> {
  LowerDescriptor(const TypeConverter &converter, MLIRContext *context)
      : OpConversionPattern(converter, context, /*benefit=*/2) {}

  LogicalResult matchAndRewrite(LoadOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    if (!op.getResult().getType().isInSharedMemory())
      return rewriter.notifyMatchFailure(op, "a tile in registers");
    llvm::Expected<DescriptorPlan> plan = planDescriptor(op);
    if (!plan)
      return op.emitOpError("cannot describe the tile: ") << llvm::toString(plan.takeError());
    Emitter e(rewriter, op.getLoc());
    Value first = e.add(adaptor.getSource()[0], e.i32(plan->start));
    if (plan->warpgroupStride)
      first = e.add(first, e.mul(e.warpgroupId(), e.i32(plan->warpgroupStride)));
    Value address =
        LLVM::PtrToIntOp::create(rewriter, e.loc, rewriter.getI32Type(), e.sharedPointer(first));
    // In a cluster the address says of which block, too; a descriptor has no place for that.
    constexpr int64_t addressMask = 0x3ffff;
    address = arith::AndIOp::create(rewriter, e.loc, address, e.i32(addressMask));
    Value inUnits = arith::ShRUIOp::create(rewriter, e.loc, address, e.i32(4));
    Value stride = arith::ShRUIOp::create(rewriter, e.loc, adaptor.getSource()[1], e.i32(4));
    inUnits = e.add(inUnits, e.mul(e.toI32(adaptor.getIndices()[0][0]), stride));
    Value wide = arith::ExtUIOp::create(rewriter, e.loc, rewriter.getI64Type(), inUnits);
    rewriter.replaceOpWithNewOp<arith::OrIOp>(op, wide, e.i64(static_cast<int64_t>(plan->fields)));
    return success();
  }
};

struct LowerWgmma : OpConversionPattern<MmaOp> {
  LowerWgmma(const TypeConverter &converter, MLIRContext *context)
      : OpConversionPattern(converter, context, /*benefit=*/2) {}

  LogicalResult matchAndRewrite(MmaOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    const Atom &atom = op.getAtom().getAtom();
    if (!atom.isWarpgroup())
      return rewriter.notifyMatchFailure(op, "a product of one warp");
    Emitter e(rewriter, op.getLoc());
    // The instruction counts, from the lowest bit, token, row half, block of 8 tokens; the tile row
    // half, token, block.
    auto swapLowBits = [](ValueRange registers) {
      SmallVector<Value> swapped(registers.size());
      for (auto [i, value] : llvm::enumerate(registers))
        swapped[(i & ~size_t(3)) | (i & 1) << 1 | (i >> 1 & 1)] = value;
      return swapped;
    };
    SmallVector<Value> accumulators = swapLowBits(adaptor.getAcc());
    int64_t tokens = op.getAcc().getType().getShape()[1];

    InlineAssembly assembly(e, accumulators);
    std::string text =
        llvm::formatv(atom.instruction.data(), tokens).str() + " " + assembly.listUpdated();
    text += ", " + assembly.readAll(adaptor.getA()) + ", " + assembly.read(adaptor.getB()[0]);
    if (atom.sparse) {
      // The register that holds this step, and which of its halves.
      int64_t step = op.getMetadataStart() / (atom.k / 4);
      text += ", " + assembly.read(adaptor.getMetadata()[step / atom.selectors()]) + ", " +
              std::to_string(step % atom.selectors());
    }
    text += ", 1"; // the accumulators are added to
    if (!atom.accumulatesIntegers())
      text += ", 1, 1"; // neither operand is negated
    if (atom.elementBytes() == 2)
      text += atom.loadsA() ? ", 0" : ", 0, 0"; // what is in shared memory is k-major
    rewriter.replaceOpWithMultiple(op, {swapLowBits(assembly.emit(text + ";"))});
    return success();
  }
};

struct LowerMmaFence : OpConversionPattern<MmaFenceOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(MmaFenceOp op, OpAdaptor,
                                ConversionPatternRewriter &rewriter) const override {
    rewriter.replaceOpWithNewOp<NVVM::WgmmaFenceAlignedOp>(op);
    return success();
  }
};

struct LowerMmaCommit : OpConversionPattern<MmaCommitOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(MmaCommitOp op, OpAdaptor,
                                ConversionPatternRewriter &rewriter) const override {
    rewriter.replaceOpWithNewOp<NVVM::WgmmaGroupSyncAlignedOp>(op);
    return success();
  }
};

struct LowerMmaWait : OpConversionPattern<MmaWaitOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(MmaWaitOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    Emitter e(rewriter, op.getLoc());
    NVVM::WgmmaWaitGroupSyncOp::create(rewriter, e.loc, op.getPending());
    // Nothing may use an accumulator before the wait, or give metadata's register to something
    // else: it looks as if both were read and written here.
    SmallVector<SmallVector<Value>> results;
    for (ValueRange registers : adaptor.getRegisters())
      results.push_back(InlineAssembly(e, registers).emit(""));
    rewriter.replaceOpWithMultiple(op, results);
    return success();
  }
};

} // namespace

void sparseflow::populateWgmmaPatterns(const TileTypeConverter &converter,
                                       RewritePatternSet &patterns) {
  patterns.add<LowerDescriptor, LowerWgmma, LowerMmaFence, LowerMmaCommit, LowerMmaWait>(
      converter, patterns.getContext());
}
