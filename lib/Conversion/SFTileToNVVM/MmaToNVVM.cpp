//===- MmaToNVVM.cpp - Tensor-core instructions ---------------------------===//
//
// A warp's product is one instruction for each m16 block and n8 block of its tile. Where an
// instruction's registers stand among the tile's follows from the order in which Atoms.cpp builds
// the layouts: operands count blocks above an instruction's own registers; the accumulator counts
// features (row half, blocks) below tokens.
//
//===----------------------------------------------------------------------===//

#include "Lowering.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

struct LowerMma : OpConversionPattern<MmaOp> {
  using OpConversionPattern::OpConversionPattern;

  LogicalResult matchAndRewrite(MmaOp op, OneToNOpAdaptor adaptor,
                                ConversionPatternRewriter &rewriter) const override {
    const Atom &atom = op.getAtom().getAtom();
    if (atom.isWarpgroup())
      return rewriter.notifyMatchFailure(op, "a product of a warpgroup");
    Emitter e(rewriter, op.getLoc());
    SmallVector<int64_t> warpTile = op.getAcc().getType().getLayout().getWarpTile();
    size_t blocksM = warpTile[0] / atom.m, blocksN = warpTile[1] / atom.n;
    ValueRange a = adaptor.getA(), b = adaptor.getB();
    if (a.size() < blocksM * atom.aRegisters() || b.size() < blocksN * atom.bRegisters() ||
        adaptor.getAcc().size() < 4 * blocksM * blocksN ||
        (atom.sparse && adaptor.getMetadata().size() < blocksM))
      return op.emitOpError("expected layouts with the registers of ")
             << blocksM << "x" << blocksN << " instructions, as sf-tile-assign-layouts gives them";
    SmallVector<Value> acc(adaptor.getAcc());

    Type word = rewriter.getI32Type();
    Type operand = atom.halfVectors ? Type(VectorType::get(2, rewriter.getF16Type())) : word;
    Type accElement = atom.accumulatesIntegers() ? word : Type(rewriter.getF32Type());
    auto resultType =
        LLVM::LLVMStructType::getLiteral(getContext(), SmallVector<Type>(4, accElement));
    auto toOperand = [&](Value reg) -> Value {
      return operand == word ? reg
                             : LLVM::BitcastOp::create(rewriter, e.loc, operand, reg).getResult();
    };
    SmallVector<Value> aOperands = llvm::map_to_vector(a, toOperand);
    SmallVector<Value> bOperands = llvm::map_to_vector(b, toOperand);
    unsigned aCount = atom.aRegisters(), bCount = atom.bRegisters();
    Value selector = e.i32(op.getMetadataStart() / (atom.k / 4));

    for (unsigned n = 0; n < blocksN; ++n)
      for (unsigned m = 0; m < blocksM; ++m) {
        // c0, c1: two tokens of row g; c2, c3: of row g + 8.
        unsigned perToken = 2 * blocksM;
        auto position = [&](unsigned i) { return (2 * n + (i & 1)) * perToken + 2 * m + (i >> 1); };
        SmallVector<Value> operands;
        llvm::append_range(operands, ArrayRef(aOperands).slice(m * aCount, aCount));
        llvm::append_range(operands, ArrayRef(bOperands).slice(n * bCount, bCount));
        for (unsigned i = 0; i < 4; ++i)
          operands.push_back(acc[position(i)]);
        if (atom.sparse) {
          operands.push_back(adaptor.getMetadata()[m]);
          operands.push_back(selector);
        }
        Value result = e.callIntrinsic(atom.instruction, resultType, operands);
        for (unsigned i = 0; i < 4; ++i)
          acc[position(i)] = LLVM::ExtractValueOp::create(rewriter, e.loc, result, i);
      }
    rewriter.replaceOpWithMultiple(op, {acc});
    return success();
  }
};

} // namespace

void sparseflow::populateMmaPatterns(const TileTypeConverter &converter,
                                     RewritePatternSet &patterns) {
  patterns.add<LowerMma>(converter, patterns.getContext());
}
