//===- RetargetCalls.cpp - What calls of a GPU function become ------------===//
//
// An intrinsic is looked up in the emulator's tables by name, and becomes a load from the thread, a
// pure function, or a call with its operands in a buffer of the frame.
//
//===----------------------------------------------------------------------===//

#include "Retargeter.h"

#include "llvm/IR/IntrinsicInst.h"

#include <cstddef>

using namespace llvm;
using namespace sparseflow::emulator;

//===----------------------------------------------------------------------===//
// Values as bits
//===----------------------------------------------------------------------===//

Value *Retargeter::loadRegister(IRBuilder<> &builder, Function &function, size_t offset,
                                Type *type) {
  Value *address =
      builder.CreateConstInBoundsGEP1_64(builder.getInt8Ty(), getThread(function), offset);
  LoadInst *load = builder.CreateLoad(type, address);
  load->setMetadata(LLVMContext::MD_invariant_load, MDNode::get(context, {}));
  return load;
}

AllocaInst *Retargeter::getBuffer(Function &function, unsigned which, unsigned bytes) {
  AllocaInst *&buffer = buffers[&function][which];
  unsigned words = (bytes + 7) / 8;
  if (!buffer) {
    IRBuilder<> builder(&*function.getEntryBlock().getFirstInsertionPt());
    buffer = builder.CreateAlloca(builder.getInt64Ty(), builder.getInt32(words),
                                  which ? "results" : "operands");
  } else if (words > cast<ConstantInt>(buffer->getArraySize())->getZExtValue()) {
    buffer->setOperand(0, ConstantInt::get(Type::getInt32Ty(context), words));
  }
  return buffer;
}

/// The value as an integer of its own width.
Value *Retargeter::toBits(IRBuilder<> &builder, Value *value) {
  Type *type = value->getType();
  if (type->isPointerTy())
    return builder.CreatePtrToInt(value, builder.getInt64Ty());
  if (type->isIntegerTy())
    return value;
  return builder.CreateBitCast(value, builder.getIntNTy(type->getPrimitiveSizeInBits()));
}

void Retargeter::storeWord(IRBuilder<> &builder, Value *value, Value *buffer, unsigned index) {
  Type *i32 = builder.getInt32Ty();
  // Registers that nobody wrote hold something on the host too, perhaps an old tag.
  Value *bits = isa<UndefValue>(value) ? builder.getInt32(0)
                                       : builder.CreateZExt(toBits(builder, value), i32);
  builder.CreateStore(bits, builder.CreateConstInBoundsGEP1_32(i32, buffer, index));
}

Value *Retargeter::loadWord(IRBuilder<> &builder, Value *buffer, unsigned index) {
  Type *i32 = builder.getInt32Ty();
  return builder.CreateLoad(i32, builder.CreateConstInBoundsGEP1_32(i32, buffer, index));
}

Value *Retargeter::fromBits(IRBuilder<> &builder, Value *bits, Type *type) {
  if (type->isPointerTy())
    return builder.CreateIntToPtr(bits, type);
  Type *integer = type->isIntegerTy() ? type : builder.getIntNTy(type->getPrimitiveSizeInBits());
  Value *narrow = builder.CreateTrunc(bits, integer);
  return type->isIntegerTy() ? narrow : builder.CreateBitCast(narrow, type);
}

unsigned sparseflow::emulator::getBitWidth(Type *type) {
  return type->isPointerTy() ? 64 : type->getPrimitiveSizeInBits().getFixedValue();
}

SmallVector<Type *> sparseflow::emulator::getResultTypes(Type *type) {
  if (type->isVoidTy())
    return {};
  if (auto *structType = dyn_cast<StructType>(type))
    return SmallVector<Type *>(structType->elements());
  return {type};
}

/// Removes the call; `parts` are its result, or the fields of it. Chains that build structs of
/// hundreds of accumulators are slow to optimize, so uses of single fields go without.
void Retargeter::replaceResults(CallInst &call, ArrayRef<Value *> parts) {
  if (call.getType()->isStructTy()) {
    for (User *user : make_early_inc_range(call.users()))
      if (auto *extract = dyn_cast<ExtractValueInst>(user);
          extract && extract->getNumIndices() == 1) {
        extract->replaceAllUsesWith(parts[extract->getIndices()[0]]);
        extract->eraseFromParent();
      }
  }
  if (!call.use_empty()) {
    IRBuilder<> builder(&call);
    Value *value = parts[0];
    if (call.getType()->isStructTy()) {
      value = PoisonValue::get(call.getType());
      for (auto [index, part] : enumerate(parts))
        value = builder.CreateInsertValue(value, part, index);
    }
    call.replaceAllUsesWith(value);
  }
  call.eraseFromParent();
}

FunctionCallee Retargeter::getCallee(StringRef symbol, FunctionType *type, void *address,
                                     bool pure) {
  FunctionCallee callee = module.getOrInsertFunction(symbol, type);
  auto *function = cast<Function>(callee.getCallee());
  function->addFnAttr(Attribute::NoUnwind);
  if (pure) {
    function->setDoesNotAccessMemory();
    function->setWillReturn();
  } else {
    function->setConvergent();
    function->addFnAttr(Attribute::NoMerge);
  }
  result.callees[symbol] = address;
  return callee;
}

//===----------------------------------------------------------------------===//
// Intrinsics
//===----------------------------------------------------------------------===//

/// Special registers that are fields of the running thread; a vector has a field for each of x, y
/// and z.
static constexpr struct {
  StringLiteral name;
  size_t offset;
  bool isVector;
} threadFields[] = {
    {"laneid", offsetof(Thread, registers.laneId), false},
    {"warpid", offsetof(Thread, registers.warpId), false},
    {"nwarpid", offsetof(Thread, registers.warpCount), false},
    {"total_smem_size", offsetof(Thread, registers.sharedBytes), false},
    {"aggr_smem_size", offsetof(Thread, registers.sharedBytes), false},
    {"dynamic_smem_size", offsetof(Thread, registers.dynamicSharedBytes), false},
    {"cluster.ctarank", offsetof(Thread, registers.clusterCtarank), false},
    {"cluster.nctarank", offsetof(Thread, registers.clusterNctarank), false},
    {"tid", offsetof(Thread, registers.tid), true},
    {"ntid", offsetof(Thread, registers.ntid), true},
    {"ctaid", offsetof(Thread, registers.ctaid), true},
    {"nctaid", offsetof(Thread, registers.nctaid), true},
    {"clusterid", offsetof(Thread, registers.clusterid), true},
    {"nclusterid", offsetof(Thread, registers.nclusterid), true},
    {"cluster.ctaid", offsetof(Thread, registers.clusterCtaid), true},
    {"cluster.nctaid", offsetof(Thread, registers.clusterNctaid), true},
};

/// Where in a thread the special register is, if it is one of its fields.
static std::optional<size_t> findThreadField(StringRef name) {
  auto [vector, axis] = name.rsplit('.');
  for (const auto &field : threadFields) {
    if (!field.isVector && field.name == name)
      return field.offset;
    if (field.isVector && field.name == vector && axis.size() == 1 && axis[0] >= 'x' &&
        axis[0] <= 'z')
      return field.offset + (axis[0] - 'x') * sizeof(uint32_t);
  }
  return std::nullopt;
}

bool Retargeter::rewriteSpecialRegister(CallInst &call, StringRef name) {
  IRBuilder<> builder(&call);
  Function &function = *call.getFunction();
  auto load = [&](size_t offset) {
    return loadRegister(builder, function, offset, builder.getInt32Ty());
  };
  Value *value = nullptr;
  if (std::optional<size_t> offset = findThreadField(name))
    value = load(*offset);
  else if (name == "warpsize")
    value = builder.getInt32(warpSize);
  else if (name == "clock" || name == "globaltimer.lo" || name == "smid" || name == "clock64" ||
           name == "globaltimer" || name == "gridid")
    value = ConstantInt::get(call.getType(), 0);
  // One multiprocessor.
  else if (name == "nsmid")
    value = builder.getInt32(1);
  else if (name.consume_front("lanemask.")) {
    Value *bit = builder.CreateShl(builder.getInt32(1), load(offsetof(Thread, registers.laneId)));
    Value *below = builder.CreateSub(bit, builder.getInt32(1));
    value = name == "eq"   ? bit
            : name == "lt" ? below
            : name == "le" ? builder.CreateOr(below, bit)
            : name == "ge" ? builder.CreateNot(below)
            : name == "gt" ? builder.CreateNot(builder.CreateOr(below, bit))
                           : nullptr;
  }
  if (!value)
    return false;
  call.replaceAllUsesWith(value);
  call.eraseFromParent();
  return true;
}

void Retargeter::callPure(CallInst &call, const PureOp &op) {
  IRBuilder<> builder(&call);
  Type *i64 = builder.getInt64Ty();
  SmallVector<Value *> arguments(4, builder.getInt64(0));
  // Flags and cache hints beyond the fourth operand do not exist in this family.
  for (auto [index, argument] : enumerate(call.args()))
    arguments[index] = builder.CreateZExtOrTrunc(toBits(builder, argument), i64);
  FunctionCallee callee = getCallee(("emulator." + Twine(op.name)).str(),
                                    FunctionType::get(i64, {i64, i64, i64, i64}, false),
                                    reinterpret_cast<void *>(op.function), /*pure=*/true);
  Value *bits = builder.CreateCall(callee, arguments);
  call.replaceAllUsesWith(fromBits(builder, bits, call.getType()));
  call.eraseFromParent();
}

Error Retargeter::callThreadOp(CallInst &call, const ThreadOp &op) {
  IRBuilder<> builder(&call);
  Function &function = *call.getFunction();
  Type *i64 = builder.getInt64Ty(), *pointer = builder.getPtrTy();
  AllocaInst *operands = getBuffer(function, 0, 8 * call.arg_size());
  for (auto [index, argument] : enumerate(call.args()))
    builder.CreateStore(builder.CreateZExtOrTrunc(toBits(builder, argument), i64),
                        builder.CreateConstInBoundsGEP1_32(i64, operands, index));
  SmallVector<Type *> types = getResultTypes(call.getType());
  AllocaInst *results = getBuffer(function, 1, 8 * std::max<size_t>(types.size(), 1));
  FunctionCallee callee =
      getCallee(("emulator." + Twine(op.name)).str(),
                FunctionType::get(builder.getVoidTy(),
                                  {pointer, builder.getInt32Ty(), pointer, pointer}, false),
                reinterpret_cast<void *>(op.function));
  builder.CreateCall(callee,
                     {getThread(function), builder.getInt32(nextSite++), operands, results});
  SmallVector<Value *> parts;
  for (auto [index, type] : enumerate(types)) {
    Value *bits = builder.CreateLoad(i64, builder.CreateConstInBoundsGEP1_32(i64, results, index));
    parts.push_back(fromBits(builder, bits, type));
  }
  replaceResults(call, parts);
  return Error::success();
}

Error Retargeter::callCollective(CallInst &call, const CollectiveOp &op) {
  IRBuilder<> builder(&call);
  Function &function = *call.getFunction();
  Type *i32 = builder.getInt32Ty(), *pointer = builder.getPtrTy();

  // Each operand takes as many 32-bit registers as it needs.
  SmallVector<Value *> registers;
  for (Value *argument : call.args()) {
    Value *bits = toBits(builder, argument);
    unsigned width = bits->getType()->getIntegerBitWidth();
    if (width > 64)
      return unsupported("an operand of {0} bits of '{1}'", width, op.name);
    if (width <= 32) {
      registers.push_back(builder.CreateZExt(bits, i32));
    } else {
      registers.push_back(builder.CreateTrunc(bits, i32));
      registers.push_back(builder.CreateTrunc(builder.CreateLShr(bits, 32), i32));
    }
  }
  AllocaInst *operands = getBuffer(function, 0, 4 * registers.size());
  for (auto [index, value] : enumerate(registers))
    storeWord(builder, value, operands, index);
  SmallVector<Type *> types = getResultTypes(call.getType());
  for (Type *type : types)
    if (getBitWidth(type) > 32)
      return unsupported("a result of {0} bits of '{1}'", getBitWidth(type), op.name);
  AllocaInst *results = getBuffer(function, 1, 4 * std::max<size_t>(types.size(), 1));

  FunctionCallee callee = getCallee(
      "emulator.collective",
      FunctionType::get(builder.getVoidTy(), {pointer, pointer, i32, pointer, pointer}, false),
      reinterpret_cast<void *>(&entry::collective));
  Value *descriptor =
      builder.CreateIntToPtr(builder.getInt64(reinterpret_cast<uint64_t>(&op)), pointer);
  builder.CreateCall(
      callee, {getThread(function), descriptor, builder.getInt32(nextSite++), operands, results});
  SmallVector<Value *> parts;
  for (auto [index, type] : enumerate(types))
    parts.push_back(fromBits(builder, loadWord(builder, results, index), type));
  replaceResults(call, parts);
  return Error::success();
}

Error Retargeter::rewriteNvvm(CallInst &call, StringRef name) {
  StringRef registerName = name;
  if (registerName.consume_front("read.ptx.sreg.") && rewriteSpecialRegister(call, registerName))
    return Error::success();
  if (name == "is_explicit_cluster") {
    IRBuilder<> builder(&call);
    Value *blocks = loadRegister(builder, *call.getFunction(),
                                 offsetof(Thread, registers.clusterNctarank), builder.getInt32Ty());
    call.replaceAllUsesWith(builder.CreateICmpUGT(blocks, builder.getInt32(1)));
    call.eraseFromParent();
    return Error::success();
  }
  // An overloaded intrinsic's name ends in its types ("...p0", ".f32"); the tables may or may not
  // keep them.
  for (StringRef key = name; !key.empty(); key = key.rsplit('.').first) {
    if (const PureOp *op = lookupPureOp(key)) {
      callPure(call, *op);
      return Error::success();
    }
    if (const ThreadOp *op = lookupThreadOp(key))
      return callThreadOp(call, *op);
    if (const CollectiveOp *op = lookupCollectiveOp(key))
      return callCollective(call, *op);
    StringRef suffix = key.rsplit('.').second;
    if (suffix == key || suffix.empty() ||
        !(suffix[0] == 'p' || suffix[0] == 'f' || suffix[0] == 'i' || suffix[0] == 'v') ||
        suffix.size() < 2 || !isDigit(suffix[1]))
      break;
  }
  return unsupported("unsupported NVVM intrinsic 'llvm.nvvm.{0}' in function '{1}'", name,
                     call.getFunction()->getName());
}

Error Retargeter::rewriteCall(CallInst &call) {
  if (auto *assembly = dyn_cast<InlineAsm>(call.getCalledOperand()))
    return rewriteAssembly(call, *assembly);
  Function *callee = call.getCalledFunction();
  if (!callee)
    return unsupported("an indirect call in function '{0}'", call.getFunction()->getName());
  StringRef name = callee->getName();
  if (name.consume_front("llvm.nvvm."))
    return rewriteNvvm(call, name);
  Type *pointer = PointerType::getUnqual(context);
  if (callee->getIntrinsicID() == Intrinsic::trap ||
      callee->getIntrinsicID() == Intrinsic::debugtrap) {
    IRBuilder<> builder(&call);
    FunctionCallee trap =
        getCallee("emulator.trap", FunctionType::get(builder.getVoidTy(), {pointer}, false),
                  reinterpret_cast<void *>(&entry::trap));
    builder.CreateCall(trap, {getThread(*call.getFunction())});
    call.eraseFromParent();
    return Error::success();
  }
  if (auto *copy = dyn_cast<MemTransferInst>(&call))
    checkAccess(call, copy->getRawSource(), copy->getLength(), copy->getSourceAlign().valueOrOne(),
                0);
  if (auto *memory = dyn_cast<MemIntrinsic>(&call))
    checkAccess(call, memory->getRawDest(), memory->getLength(),
                memory->getDestAlign().valueOrOne(), entry::isWrite);
  return Error::success();
}
