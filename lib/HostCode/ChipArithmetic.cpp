//===- ChipArithmetic.cpp - What LLVM leaves open, as chips do it ---------===//

#include "sparseflow/HostCode/ChipArithmetic.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/Module.h"

using namespace llvm;

/// Whether the operand is known never to be one of those for which the result is open.
static bool isHarmless(const BinaryOperator &op) {
  auto *constant = dyn_cast<ConstantInt>(op.getOperand(1));
  if (!constant)
    return false;
  if (op.isShift())
    return constant->getValue().ult(op.getType()->getScalarSizeInBits());
  return !constant->isZero() && !constant->isMinusOne();
}

/// Divides by 1 instead of by 0, and the least number instead of by -1, which gives itself.
static void defineDivision(BinaryOperator &op) {
  IRBuilder<> builder(&op);
  Type *type = op.getType();
  Value *dividend = op.getOperand(0), *divisor = op.getOperand(1);
  Value *isOpen = builder.CreateIsNull(divisor);
  if (op.getOpcode() == Instruction::SDiv || op.getOpcode() == Instruction::SRem) {
    APInt least = APInt::getSignedMinValue(type->getScalarSizeInBits());
    Value *overflows =
        builder.CreateAnd(builder.CreateICmpEQ(dividend, ConstantInt::get(type, least)),
                          builder.CreateICmpEQ(divisor, Constant::getAllOnesValue(type)));
    isOpen = builder.CreateOr(isOpen, overflows);
  }
  op.setOperand(1, builder.CreateSelect(isOpen, ConstantInt::get(type, 1), divisor));
}

/// A chip stops counting at the width.
static void defineShift(BinaryOperator &op) {
  IRBuilder<> builder(&op);
  Type *type = op.getType();
  unsigned width = type->getScalarSizeInBits();
  Value *amount = op.getOperand(1);
  Value *isLarge = builder.CreateICmpUGE(amount, ConstantInt::get(type, width));
  if (op.getOpcode() == Instruction::AShr) {
    op.setOperand(1, builder.CreateSelect(isLarge, ConstantInt::get(type, width - 1), amount));
    return;
  }
  builder.SetInsertPoint(std::next(op.getIterator()));
  auto *result = builder.CreateSelect(isLarge, Constant::getNullValue(type), &op);
  op.replaceUsesWithIf(result, [&](Use &use) { return use.getUser() != result; });
}

/// cvt.rzi clamps to the range of its result, of 16, 32 or 64 bits; narrower ones are its low bits.
/// NaN gives 0, or where a side has 64 bits the highest bit alone.
static void defineConversion(CastInst &cast) {
  IRBuilder<> builder(&cast);
  Value *source = cast.getOperand(0);
  unsigned width = cast.getType()->getScalarSizeInBits();
  unsigned chipWidth = width <= 16 ? 16 : width <= 32 ? 32 : 64;
  Type *type = cast.getType()->getWithNewBitWidth(chipWidth);
  bool isSigned = isa<FPToSIInst>(cast);
  Value *result = builder.CreateIntrinsic(isSigned ? Intrinsic::fptosi_sat : Intrinsic::fptoui_sat,
                                          {type, source->getType()}, {source});
  if (chipWidth == 64 || source->getType()->getScalarType()->isDoubleTy())
    result = builder.CreateSelect(builder.CreateFCmpUNO(source, source),
                                  ConstantInt::get(type, APInt::getSignMask(chipWidth)), result);
  cast.replaceAllUsesWith(builder.CreateTrunc(result, cast.getType()));
  cast.eraseFromParent();
}

void sparseflow::useChipArithmetic(Module &module) {
  SmallVector<BinaryOperator *> operators;
  SmallVector<CastInst *> conversions;
  for (Function &function : module)
    for (Instruction &instruction : instructions(function)) {
      auto *op = dyn_cast<BinaryOperator>(&instruction);
      if (op && (op->isIntDivRem() || op->isShift()) && !isHarmless(*op))
        operators.push_back(op);
      else if (isa<FPToSIInst, FPToUIInst>(instruction))
        conversions.push_back(cast<CastInst>(&instruction));
    }
  for (BinaryOperator *op : operators)
    op->isShift() ? defineShift(*op) : defineDivision(*op);
  for (CastInst *conversion : conversions)
    defineConversion(*conversion);
}
