//===- Retarget.cpp - GPU LLVM IR to host LLVM IR -------------------------===//
//
// What becomes of a GPU function:
//   - it takes the running thread as a first parameter, and special registers are loads from it;
//   - other NVVM intrinsics are calls of the emulator, with operands as bits in registers (a pure
//     operation) or in a buffer on the stack (one that waits, or has several results);
//   - accesses to shared, global and generic memory are preceded by a check;
//   - shared variables are offsets into the block's shared memory, and a pointer to shared memory
//     that becomes an integer is one, as on the GPU;
//   - edges that close a loop count down, so that a thread that waits by polling lets others run.
// The calls are convergent: the host's optimizer may not make a collective depend on another
// condition than the source did. They are numbered here, before it runs, so that copies of an
// instruction that it makes (by unrolling) still count as one instruction.
//
//===----------------------------------------------------------------------===//

#include "Retarget.h"

#include "Operations.h"
#include "Wgmma.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Analysis/CFG.h"
#include "llvm/Analysis/ValueTracking.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/InlineAsm.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/MDBuilder.h"
#include "llvm/IR/Module.h"
#include "llvm/IR/ReplaceConstant.h"
#include "llvm/Support/Alignment.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/Utils/BasicBlockUtils.h"

#include <cstddef>

using namespace llvm;
using namespace sparseflow::emulator;

static_assert(offsetof(Thread, registers) == 0,
              "generated code reads the registers from the thread");

static constexpr unsigned sharedSpace = 3, globalSpace = 1, constantSpace = 4;

template <typename... Args> static Error unsupported(const char *format, Args &&...args) {
  return createStringError(inconvertibleErrorCode(),
                           ("emulator: " + formatv(format, std::forward<Args>(args)...)).str());
}

namespace {

class Retargeter {
public:
  explicit Retargeter(llvm::Module &module)
      : module(module), context(module.getContext()), layout(module.getDataLayout()) {}

  Expected<RetargetedModule> run();

private:
  Error checkFunctions();
  void addThreadParameter();
  Error placeSharedVariables();
  void collectVariables();
  Error rewrite(Function &function);
  Error rewriteCall(CallInst &call);
  Error rewriteNvvm(CallInst &call, StringRef name);
  bool rewriteSpecialRegister(CallInst &call, StringRef name);
  void callPure(CallInst &call, const PureOp &op);
  Error callThreadOp(CallInst &call, const ThreadOp &op);
  Error callCollective(CallInst &call, const CollectiveOp &op);
  Error rewriteAssembly(CallInst &call, const InlineAsm &assembly);
  Error checkAccumulators(Function &function);
  Error callWgmma(CallInst &call, const WgmmaAssembly &assembly);
  Error readAccumulators(CallInst &call, const InlineAsm &assembly);
  Value *getWriteFences(CallInst &wgmma, const WgmmaAssembly &assembly);
  void rewriteAddress(CastInst &cast);
  void checkAccess(Instruction &before, Value *pointer, Value *size, Align align, uint32_t flags);
  void checkAccess(Instruction &before, Value *pointer, Type *type, Align align, uint32_t flags);
  void countLoops(Function &function);
  void addKernelEntry(Function &kernel);

  Value *getThread(Function &function) { return function.getArg(0); }
  Value *loadRegister(IRBuilder<> &builder, Function &function, size_t offset, Type *type);
  /// A buffer in the frame that all operations of a function share.
  AllocaInst *getBuffer(Function &function, unsigned which, unsigned bytes);
  void replaceResults(CallInst &call, ArrayRef<Value *> parts);
  void storeWord(IRBuilder<> &builder, Value *value, Value *buffer, unsigned index);
  Value *toBits(IRBuilder<> &builder, Value *value);
  Value *fromBits(IRBuilder<> &builder, Value *bits, Type *type);
  FunctionCallee getCallee(StringRef symbol, FunctionType *type, void *address, bool pure = false);

  llvm::Module &module;
  LLVMContext &context;
  const DataLayout &layout;
  RetargetedModule result;
  DenseMap<Function *, std::array<AllocaInst *, 2>> buffers;
  std::vector<Function *> functions;
  /// The results of each wgmma that was rewritten, by the first of them.
  DenseMap<Value *, SmallVector<Value *>> wgmmaTags;
  uint32_t nextSite = 1;
};

} // namespace

//===----------------------------------------------------------------------===//
// Functions and their signatures
//===----------------------------------------------------------------------===//

/// Intrinsics of LLVM itself are the host code generator's business.
static bool isHostIntrinsic(const Function &function) {
  return function.isIntrinsic() && !function.getName().starts_with("llvm.nvvm.") &&
         !Intrinsic::isTargetIntrinsic(function.getIntrinsicID());
}

Error Retargeter::checkFunctions() {
  for (Function &function : module) {
    if (!function.isDeclaration() || function.use_empty())
      continue;
    StringRef name = function.getName();
    if (!function.isIntrinsic() && !name.starts_with("llvm.nvvm."))
      return unsupported(
          "unknown external function '{0}'; expected a kernel to call only functions of its own "
          "module and NVVM intrinsics",
          name);
    if (!name.starts_with("llvm.nvvm.") && !isHostIntrinsic(function))
      return unsupported("unsupported intrinsic '{0}'", name);
  }
  return Error::success();
}

static bool isKernel(const Function &function) {
  return function.getCallingConv() == CallingConv::PTX_Kernel ||
         function.hasFnAttribute("nvvm.kernel");
}

/// The numbers of an attribute such as "nvvm.reqntid"="256,1,1"; empty if it is not there.
static std::vector<uint32_t> getExtents(const Function &function, StringRef attribute) {
  std::vector<uint32_t> extents;
  StringRef rest = function.getFnAttribute(attribute).getValueAsString();
  while (!rest.empty()) {
    auto [head, tail] = rest.split(',');
    uint32_t extent = 0;
    if (head.trim().getAsInteger(10, extent))
      break;
    extents.push_back(extent);
    rest = tail;
  }
  return extents;
}

/// Gives every defined function a first parameter, the thread, and the host's calling convention.
void Retargeter::addThreadParameter() {
  std::vector<Function *> old;
  for (Function &function : module)
    if (!function.isDeclaration())
      old.push_back(&function);
  Type *pointer = PointerType::getUnqual(context);
  DenseMap<Function *, Function *> renamed;
  for (Function *function : old) {
    SmallVector<Type *> types = {pointer};
    append_range(types, function->getFunctionType()->params());
    auto *type = FunctionType::get(function->getReturnType(), types, false);
    Function *clone = Function::Create(type, GlobalValue::InternalLinkage, "", module);
    clone->takeName(function);
    clone->splice(clone->begin(), function);
    clone->addFnAttr(Attribute::NoUnwind);
    if (function->isConvergent())
      clone->setConvergent();
    clone->getArg(0)->setName("thread");
    clone->addParamAttr(0, Attribute::NonNull);
    clone->addDereferenceableParamAttr(0, sizeof(ThreadRegisters));
    // What the kernel promises of its pointers is for the emulator to check, not for the host's
    // optimizer to exploit; only what changes the way a value is passed stays.
    for (auto [index, argument] : enumerate(function->args())) {
      Argument *newArgument = clone->getArg(index + 1);
      argument.replaceAllUsesWith(newArgument);
      newArgument->takeName(&argument);
      if (Type *byVal = function->getParamByValType(index))
        clone->addParamAttr(index + 1, Attribute::getWithByValType(context, byVal));
    }
    renamed[function] = clone;
    functions.push_back(clone);
    if (isKernel(*function)) {
      RetargetedKernel &kernel = result.kernels.emplace_back();
      kernel.name = clone->getName().str();
      kernel.paramCount = function->arg_size();
      kernel.requiredBlock = getExtents(*function, "nvvm.reqntid");
      std::vector<uint32_t> cluster = getExtents(*function, "nvvm.cluster_dim");
      cluster.resize(3, 1);
      kernel.cluster = {cluster[0], cluster[1], cluster[2]};
    }
  }
  for (Function *function : old) {
    for (User *user : make_early_inc_range(function->users())) {
      auto *call = dyn_cast<CallInst>(user);
      if (!call || call->getCalledOperand() != function)
        continue;
      SmallVector<Value *> arguments = {call->getFunction()->getArg(0)};
      append_range(arguments, call->args());
      CallInst *replacement =
          CallInst::Create(renamed[function], arguments, "", call->getIterator());
      replacement->takeName(call);
      call->replaceAllUsesWith(replacement);
      call->eraseFromParent();
    }
    // A function whose address is taken stays behind as a declaration and is reported by
    // checkFunctions.
    if (function->use_empty())
      function->eraseFromParent();
  }
}

//===----------------------------------------------------------------------===//
// Variables
//===----------------------------------------------------------------------===//

/// Static variables come first, then dynamic shared memory, which every zero-sized external array
/// names.
Error Retargeter::placeSharedVariables() {
  SmallVector<GlobalVariable *> variables, dynamicVariables;
  for (GlobalVariable &variable : module.globals())
    if (variable.getAddressSpace() == sharedSpace)
      (layout.getTypeAllocSize(variable.getValueType()) ? variables : dynamicVariables)
          .push_back(&variable);
  append_range(variables, dynamicVariables);
  uint64_t offset = 0, dynamicOffset = 0;
  SmallVector<uint64_t> offsets;
  for (GlobalVariable *variable : variables) {
    Align align = variable->getAlign().value_or(layout.getABITypeAlign(variable->getValueType()));
    if (uint64_t size = layout.getTypeAllocSize(variable->getValueType())) {
      offset = alignTo(offset, align);
      offsets.push_back(offset);
      offset += size;
      dynamicOffset = offset;
    } else {
      dynamicOffset = std::max(dynamicOffset, alignTo(offset, align));
      offsets.push_back(~uint64_t(0));
    }
  }
  for (uint64_t &each : offsets)
    if (each == ~uint64_t(0))
      each = dynamicOffset;
  if (dynamicOffset > 256 * 1024)
    return unsupported("{0} bytes of static shared memory; expected no more than 262144",
                       dynamicOffset);
  result.staticSharedBytes = static_cast<uint32_t>(dynamicOffset);

  SmallVector<Constant *> constants(variables.begin(), variables.end());
  convertUsersOfConstantsToInstructions(constants);
  for (auto [variable, each] : zip(variables, offsets)) {
    DenseMap<Function *, Value *> addresses;
    for (Use &use : make_early_inc_range(variable->uses())) {
      auto *user = dyn_cast<Instruction>(use.getUser());
      if (!user)
        return unsupported("the address of shared variable '{0}' in a constant",
                           variable->getName());
      Function *function = user->getFunction();
      Value *&address = addresses[function];
      if (!address) {
        IRBuilder<> builder(&*function->getEntryBlock().getFirstInsertionPt());
        address = builder.CreatePtrAdd(loadRegister(builder, *function,
                                                    offsetof(Thread, registers.sharedBase),
                                                    variable->getType()),
                                       builder.getInt64(each), variable->getName());
      }
      use.set(address);
    }
    variable->eraseFromParent();
  }
  return Error::success();
}

void Retargeter::collectVariables() {
  for (GlobalVariable &variable : module.globals()) {
    if (variable.getName().starts_with("llvm.") || variable.isDeclaration())
      continue;
    variable.setLinkage(GlobalValue::ExternalLinkage);
    if (!variable.hasName())
      variable.setName("variable");
    result.variables.push_back(
        {variable.getName().str(), layout.getTypeAllocSize(variable.getValueType()),
         !variable.isConstant() && variable.getAddressSpace() != constantSpace});
  }
}

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

Value *Retargeter::fromBits(IRBuilder<> &builder, Value *bits, Type *type) {
  if (type->isPointerTy())
    return builder.CreateIntToPtr(bits, type);
  Type *integer = type->isIntegerTy() ? type : builder.getIntNTy(type->getPrimitiveSizeInBits());
  Value *narrow = builder.CreateTrunc(bits, integer);
  return type->isIntegerTy() ? narrow : builder.CreateBitCast(narrow, type);
}

static unsigned getBitWidth(Type *type) {
  return type->isPointerTy() ? 64 : type->getPrimitiveSizeInBits().getFixedValue();
}

/// The registers that a result consists of: the fields of a struct, or the value itself.
static SmallVector<Type *> getResultTypes(Type *type) {
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

bool Retargeter::rewriteSpecialRegister(CallInst &call, StringRef name) {
  IRBuilder<> builder(&call);
  Function &function = *call.getFunction();
  Type *i32 = builder.getInt32Ty();
  auto load = [&](size_t offset) { return loadRegister(builder, function, offset, i32); };
  auto loadVector = [&](size_t offset, char axis) -> Value * {
    if (axis < 'x' || axis > 'z')
      return nullptr;
    return load(offset + (axis - 'x') * sizeof(uint32_t));
  };
  Value *value = nullptr;
  if (name == "laneid")
    value = load(offsetof(Thread, registers.laneId));
  else if (name == "warpid")
    value = load(offsetof(Thread, registers.warpId));
  else if (name == "nwarpid")
    value = load(offsetof(Thread, registers.warpCount));
  else if (name == "warpsize")
    value = builder.getInt32(warpSize);
  else if (name == "total_smem_size" || name == "aggr_smem_size")
    value = load(offsetof(Thread, registers.sharedBytes));
  else if (name == "dynamic_smem_size")
    value = load(offsetof(Thread, registers.dynamicSharedBytes));
  else if (name == "clock" || name == "globaltimer.lo" || name == "smid")
    value = builder.getInt32(0);
  else if (name == "clock64" || name == "globaltimer" || name == "gridid")
    value = ConstantInt::get(call.getType(), 0);
  // One multiprocessor.
  else if (name == "nsmid")
    value = builder.getInt32(1);
  else if (name.starts_with("tid."))
    value = loadVector(offsetof(Thread, registers.tid), name.back());
  else if (name.starts_with("ntid."))
    value = loadVector(offsetof(Thread, registers.ntid), name.back());
  else if (name.starts_with("ctaid."))
    value = loadVector(offsetof(Thread, registers.ctaid), name.back());
  else if (name.starts_with("nctaid."))
    value = loadVector(offsetof(Thread, registers.nctaid), name.back());
  else if (name.starts_with("clusterid."))
    value = loadVector(offsetof(Thread, registers.clusterid), name.back());
  else if (name.starts_with("nclusterid."))
    value = loadVector(offsetof(Thread, registers.nclusterid), name.back());
  else if (name.starts_with("cluster.ctaid."))
    value = loadVector(offsetof(Thread, registers.clusterCtaid), name.back());
  else if (name.starts_with("cluster.nctaid."))
    value = loadVector(offsetof(Thread, registers.clusterNctaid), name.back());
  else if (name == "cluster.ctarank")
    value = load(offsetof(Thread, registers.clusterCtarank));
  else if (name == "cluster.nctarank")
    value = load(offsetof(Thread, registers.clusterNctarank));
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
    builder.CreateStore(value, builder.CreateConstInBoundsGEP1_32(i32, operands, index));
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
  for (auto [index, type] : enumerate(types)) {
    Value *bits = builder.CreateLoad(i32, builder.CreateConstInBoundsGEP1_32(i32, results, index));
    parts.push_back(fromBits(builder, bits, type));
  }
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

//===----------------------------------------------------------------------===//
// Inline assembly
//===----------------------------------------------------------------------===//

Error Retargeter::rewriteAssembly(CallInst &call, const InlineAsm &assembly) {
  StringRef text = assembly.getAsmString();
  if (isWgmma(text)) {
    Expected<WgmmaAssembly> parsed = parseWgmma(text);
    if (!parsed)
      return unsupported("inline assembly '{0}' in function '{1}': {2}", text,
                         call.getFunction()->getName(), toString(parsed.takeError()));
    return callWgmma(call, *parsed);
  }
  if (text.trim().empty())
    return readAccumulators(call, assembly);
  StringRef name = lookupInlineAsm(text);
  if (name.empty())
    return unsupported(
        "unsupported inline assembly '{0}' in function '{1}'; use the NVVM operation", text,
        call.getFunction()->getName());
  return rewriteNvvm(call, name);
}

static bool isEmptyAssembly(const CallInst &call) {
  const auto *assembly = dyn_cast<InlineAsm>(call.getCalledOperand());
  return assembly && StringRef(assembly->getAsmString()).trim().empty();
}

static bool isWgmma(const CallInst &call) {
  const auto *assembly = dyn_cast<InlineAsm>(call.getCalledOperand());
  return assembly && isWgmma(assembly->getAsmString());
}

/// The results of a wgmma are in flight: they may go to another wgmma or to an empty assembly,
/// through whatever only moves them. Checked before anything is rewritten.
Error Retargeter::checkAccumulators(Function &function) {
  SmallVector<Instruction *> worklist;
  SmallPtrSet<Instruction *, 16> seen;
  for (Instruction &instruction : instructions(function))
    if (auto *call = dyn_cast<CallInst>(&instruction); call && isWgmma(*call))
      worklist.push_back(call);
  while (!worklist.empty()) {
    for (User *user : worklist.pop_back_val()->users()) {
      auto *instruction = cast<Instruction>(user);
      if (isa<ExtractValueInst, InsertValueInst, PHINode, SelectInst, FreezeInst, BitCastInst>(
              instruction)) {
        if (seen.insert(instruction).second)
          worklist.push_back(instruction);
        continue;
      }
      auto *call = dyn_cast<CallInst>(instruction);
      if (call && (isEmptyAssembly(*call) || isWgmma(*call)))
        continue;
      std::string text;
      raw_string_ostream(text) << *instruction;
      return unsupported("accumulators of wgmma.mma_async in function '{0}' are used by '{1}'; "
                         "expected an empty inline assembly with tied operands between "
                         "wgmma.wait_group and the first use",
                         function.getName(), StringRef(text).trim());
    }
  }
  return Error::success();
}

/// Constraints of register operands, outputs first. Fails if there are others, or an output that no
/// input is tied to.
static Expected<InlineAsm::ConstraintInfoVector>
getTiedConstraints(const CallInst &call, const InlineAsm &assembly, unsigned untiedInputs) {
  InlineAsm::ConstraintInfoVector constraints;
  unsigned outputs = 0, tied = 0;
  for (InlineAsm::ConstraintInfo &constraint : assembly.ParseConstraints()) {
    if (constraint.Type == InlineAsm::isClobber)
      continue;
    outputs += constraint.Type == InlineAsm::isOutput;
    tied += constraint.Type == InlineAsm::isInput && constraint.hasMatchingInput() == false &&
            !constraint.Codes.empty() && isDigit(constraint.Codes[0][0]);
    constraints.push_back(constraint);
  }
  if (outputs != tied || constraints.size() != outputs + tied + untiedInputs)
    return unsupported("inline assembly '{0}' in function '{1}' with constraints '{2}'; expected "
                       "an input tied to each of its outputs, and {3} others",
                       assembly.getAsmString(), call.getFunction()->getName(),
                       assembly.getConstraintString(), untiedInputs);
  return std::move(constraints);
}

/// The arguments of `call` that are tied to its outputs, in the outputs' order.
static SmallVector<Value *> getTiedArguments(const CallInst &call,
                                             const InlineAsm::ConstraintInfoVector &constraints) {
  SmallVector<Value *> tied(getResultTypes(call.getType()).size());
  unsigned argument = 0, output = 0;
  for (const InlineAsm::ConstraintInfo &constraint : constraints) {
    if (constraint.Type == InlineAsm::isOutput)
      continue;
    if (!constraint.Codes[0].empty() && isDigit(constraint.Codes[0][0]) &&
        !StringRef(constraint.Codes[0]).getAsInteger(10, output) && output < tied.size())
      tied[output] = call.getArgOperand(argument);
    ++argument;
  }
  return tied;
}

void Retargeter::storeWord(IRBuilder<> &builder, Value *value, Value *buffer, unsigned index) {
  Type *i32 = builder.getInt32Ty();
  // Registers that nobody wrote hold something on the host too, perhaps an old tag.
  Value *bits = isa<UndefValue>(value) ? builder.getInt32(0)
                                       : builder.CreateZExt(toBits(builder, value), i32);
  builder.CreateStore(bits, builder.CreateConstInBoundsGEP1_32(i32, buffer, index));
}

/// The thread's count of wgmma.fence when the last register of A was written; what only moves a
/// register, or cannot be seen, is no write.
Value *Retargeter::getWriteFences(CallInst &wgmma, const WgmmaAssembly &assembly) {
  Function &function = *wgmma.getFunction();
  IRBuilder<> builder(&wgmma);
  unsigned outputs = getResultTypes(wgmma.getType()).size();
  Value *latest = builder.getInt32(~0u);
  bool isKnown = false;
  SmallPtrSet<Instruction *, 4> seen;
  for (unsigned number : assembly.a) {
    Value *value = wgmma.getArgOperand(number - outputs);
    while (true) {
      if (auto *extract = dyn_cast<ExtractValueInst>(value))
        value = extract->getAggregateOperand();
      else if (auto *cast = dyn_cast<BitCastInst>(value))
        value = cast->getOperand(0);
      else if (auto *element = dyn_cast<ExtractElementInst>(value))
        value = element->getVectorOperand();
      else
        break;
    }
    auto *writer = dyn_cast<Instruction>(value);
    if (!writer || isa<PHINode>(writer) || writer->isTerminator() || !seen.insert(writer).second)
      continue;
    IRBuilder<> after(writer->getNextNode());
    Value *address = after.CreateConstInBoundsGEP1_64(after.getInt8Ty(), getThread(function),
                                                      offsetof(Thread, registers.wgmmaFences));
    Value *fences = after.CreateLoad(after.getInt32Ty(), address, /*isVolatile=*/true);
    latest = isKnown ? builder.CreateBinaryIntrinsic(Intrinsic::umax, latest, fences) : fences;
    isKnown = true;
  }
  return latest;
}

Error Retargeter::callWgmma(CallInst &call, const WgmmaAssembly &assembly) {
  const WgmmaOp &op = *assembly.op;
  unsigned others =
      assembly.a.size() + 1 + assembly.metadata.has_value() + assembly.scale.has_value();
  auto constraints = getTiedConstraints(call, *cast<InlineAsm>(call.getCalledOperand()), others);
  if (!constraints)
    return constraints.takeError();
  SmallVector<Type *> types = getResultTypes(call.getType());
  SmallVector<Value *> tied = getTiedArguments(call, *constraints);

  auto fail = [&](const Twine &message) {
    return unsupported("inline assembly of {0} in function '{1}': {2}", op.name,
                       call.getFunction()->getName(), message.str());
  };
  // An input that is no accumulator.
  auto getInput = [&](unsigned number, unsigned bits) -> Value * {
    unsigned index = number - types.size();
    if (number < types.size() || index >= call.arg_size() ||
        getBitWidth(call.getArgOperand(index)->getType()) != bits)
      return nullptr;
    return call.getArgOperand(index);
  };
  if (types.size() != op.getRegisterCount())
    return fail("expected " + Twine(op.getRegisterCount()) + " results, got " +
                Twine(types.size()));
  IRBuilder<> builder(&call);
  Function &function = *call.getFunction();
  Type *i32 = builder.getInt32Ty(), *pointer = builder.getPtrTy();
  AllocaInst *operands = getBuffer(function, 0, 4 * op.getWordCount());
  SmallVector<Value *> accumulators;
  for (unsigned number : assembly.accumulators) {
    if (number >= types.size() || !tied[number] ||
        !(op.isInteger ? types[number]->isIntegerTy(32) : types[number]->isFloatTy()))
      return fail("expected $" + Twine(number) + " to be an output of " +
                  (op.isInteger ? "type i32" : "type f32") + " with an input tied to it");
    accumulators.push_back(tied[number]);
  }
  // The results of the wgmma just before stand for each other.
  auto tags = wgmmaTags.find(accumulators[0]);
  bool isChained = tags != wgmmaTags.end() && ArrayRef(tags->second) == ArrayRef(accumulators);
  for (auto [index, value] : enumerate(accumulators))
    if (index == 0 || !isChained)
      storeWord(builder, value, operands, index);
  auto storeInput = [&](unsigned number, unsigned bits, unsigned word) -> Error {
    Value *value = getInput(number, bits);
    if (!value)
      return fail("expected $" + Twine(number) + " to be an input of " + Twine(bits) + " bits");
    Value *integer = toBits(builder, value);
    if (bits != 64) {
      storeWord(builder, integer, operands, word);
      return Error::success();
    }
    storeWord(builder, builder.CreateTrunc(integer, i32), operands, word);
    storeWord(builder, builder.CreateTrunc(builder.CreateLShr(integer, 32), i32), operands,
              word + 1);
    return Error::success();
  };
  for (auto [index, number] : enumerate(assembly.a))
    if (Error error = storeInput(number, op.hasRegisterA ? 32 : 64, op.getRegisterCount() + index))
      return error;
  if (Error error = storeInput(assembly.b, 64, op.getBWord()))
    return error;
  Value *zero = builder.getInt32(0);
  storeWord(builder, zero, operands, op.getMetadataWord());
  if (assembly.metadata)
    if (Error error = storeInput(*assembly.metadata, 32, op.getMetadataWord()))
      return error;
  storeWord(builder, zero, operands, op.getScaleWord());
  if (assembly.scale)
    if (Error error = storeInput(*assembly.scale, 1, op.getScaleWord()))
      return error;
  storeWord(builder, op.hasRegisterA ? getWriteFences(call, assembly) : zero, operands,
            op.getWriteFencesWord());

  FunctionCallee callee = getCallee(
      "emulator.wgmma",
      FunctionType::get(i32, {pointer, pointer, i32, pointer, builder.getInt1Ty()}, false),
      reinterpret_cast<void *>(&entry::wgmma));
  Value *descriptor =
      builder.CreateIntToPtr(builder.getInt64(reinterpret_cast<uint64_t>(&op)), pointer);
  Value *tag =
      builder.CreateCall(callee, {getThread(function), descriptor, builder.getInt32(nextSite++),
                                  operands, builder.getInt1(isChained)});
  SmallVector<Value *> parts(types.size()), inOrder;
  for (auto [index, number] : enumerate(assembly.accumulators)) {
    parts[number] =
        fromBits(builder, builder.CreateAdd(tag, builder.getInt32(index)), types[number]);
    inOrder.push_back(parts[number]);
  }
  replaceResults(call, parts);
  wgmmaTags[inOrder[0]] = std::move(inOrder);
  return Error::success();
}

/// An empty assembly makes the compiler believe that its operands change there. After a wait it is
/// where accumulators get their values.
Error Retargeter::readAccumulators(CallInst &call, const InlineAsm &assembly) {
  auto constraints = getTiedConstraints(call, assembly, 0);
  if (!constraints)
    return constraints.takeError();
  SmallVector<Type *> types = getResultTypes(call.getType());
  if (types.empty()) {
    call.eraseFromParent();
    return Error::success();
  }
  SmallVector<Value *> tied = getTiedArguments(call, *constraints);
  IRBuilder<> builder(&call);
  Function &function = *call.getFunction();
  Type *i32 = builder.getInt32Ty(), *pointer = builder.getPtrTy();
  // Only 32-bit registers can be accumulators.
  SmallVector<unsigned> words;
  for (auto [index, type] : enumerate(types))
    if (getBitWidth(type) == 32)
      words.push_back(index);
  AllocaInst *operands = getBuffer(function, 0, 4 * words.size());
  AllocaInst *results = getBuffer(function, 1, 4 * words.size());
  for (auto [index, output] : enumerate(words))
    storeWord(builder, tied[output], operands, index);
  FunctionCallee callee =
      getCallee("emulator.accumulators",
                FunctionType::get(builder.getVoidTy(), {pointer, i32, pointer, pointer}, false),
                reinterpret_cast<void *>(&entry::readAccumulators));
  builder.CreateCall(callee,
                     {getThread(function), builder.getInt32(words.size()), operands, results});
  for (auto [index, output] : enumerate(words)) {
    Value *bits = builder.CreateLoad(i32, builder.CreateConstInBoundsGEP1_32(i32, results, index));
    tied[output] = fromBits(builder, bits, types[output]);
  }
  replaceResults(call, tied);
  return Error::success();
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

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

void Retargeter::checkAccess(Instruction &before, Value *pointer, Value *size, Align align,
                             uint32_t flags) {
  // A function's own stack is not the GPU's shared or global memory.
  if (isa<AllocaInst>(getUnderlyingObject(pointer)))
    return;
  IRBuilder<> builder(&before);
  Type *i64 = builder.getInt64Ty(), *i32 = builder.getInt32Ty();
  auto *type =
      FunctionType::get(builder.getVoidTy(), {builder.getPtrTy(), i64, i64, i32, i32}, false);
  FunctionCallee callee;
  switch (pointer->getType()->getPointerAddressSpace()) {
  case sharedSpace:
    callee =
        getCallee("emulator.access.shared", type, reinterpret_cast<void *>(&entry::accessShared));
    break;
  case globalSpace:
  case constantSpace:
    callee =
        getCallee("emulator.access.global", type, reinterpret_cast<void *>(&entry::accessGlobal));
    break;
  default:
    callee =
        getCallee("emulator.access.generic", type, reinterpret_cast<void *>(&entry::accessGeneric));
  }
  builder.CreateCall(callee,
                     {getThread(*before.getFunction()), builder.CreatePtrToInt(pointer, i64),
                      builder.CreateZExtOrTrunc(size, i64), builder.getInt32(align.value()),
                      builder.getInt32(flags)});
}

void Retargeter::checkAccess(Instruction &before, Value *pointer, Type *type, Align align,
                             uint32_t flags) {
  checkAccess(before, pointer,
              ConstantInt::get(Type::getInt64Ty(context), layout.getTypeStoreSize(type)), align,
              flags);
}

/// As an integer, a pointer to shared memory is its place in the block's window.
void Retargeter::rewriteAddress(CastInst &cast) {
  IRBuilder<> builder(&cast);
  Type *i64 = builder.getInt64Ty();
  Value *base =
      loadRegister(builder, *cast.getFunction(), offsetof(Thread, registers.sharedBase), i64);
  Value *value = nullptr;
  if (isa<PtrToIntInst>(cast))
    value = builder.CreateZExtOrTrunc(
        builder.CreateSub(builder.CreatePtrToInt(cast.getOperand(0), i64), base), cast.getType());
  else
    value = builder.CreateIntToPtr(
        builder.CreateAdd(base, builder.CreateZExtOrTrunc(cast.getOperand(0), i64)),
        cast.getType());
  cast.replaceAllUsesWith(value);
  cast.eraseFromParent();
}

//===----------------------------------------------------------------------===//
// Loops
//===----------------------------------------------------------------------===//

void Retargeter::countLoops(Function &function) {
  SmallVector<std::pair<const BasicBlock *, const BasicBlock *>> edges;
  FindFunctionBackedges(function, edges);
  SmallSetVector<BasicBlock *, 8> sources;
  for (auto [source, target] : edges)
    sources.insert(const_cast<BasicBlock *>(source));
  Type *i32 = Type::getInt32Ty(context);
  for (BasicBlock *source : sources) {
    IRBuilder<> builder(source->getTerminator());
    Value *address = builder.CreateConstInBoundsGEP1_64(builder.getInt8Ty(), getThread(function),
                                                        offsetof(Thread, registers.fuel));
    Value *left = builder.CreateSub(builder.CreateLoad(i32, address), builder.getInt32(1));
    builder.CreateStore(left, address);
    Instruction *spent = SplitBlockAndInsertIfThen(
        builder.CreateICmpEQ(left, builder.getInt32(0)), source->getTerminator(),
        /*Unreachable=*/false, MDBuilder(context).createBranchWeights(1, 4095));
    builder.SetInsertPoint(spent);
    FunctionCallee callee = getCallee(
        "emulator.turn", FunctionType::get(builder.getVoidTy(), {builder.getPtrTy()}, false),
        reinterpret_cast<void *>(&entry::spendTurn));
    // Letting others run is no collective: the optimizer may place it where it likes.
    cast<Function>(callee.getCallee())->removeFnAttr(Attribute::Convergent);
    builder.CreateCall(callee, {getThread(function)});
  }
}

//===----------------------------------------------------------------------===//
// The whole
//===----------------------------------------------------------------------===//

static bool ordersMemory(AtomicOrdering ordering) {
  return isAcquireOrStronger(ordering) || isReleaseOrStronger(ordering);
}

Error Retargeter::rewrite(Function &function) {
  if (Error error = checkAccumulators(function))
    return error;
  SmallVector<Instruction *> worklist;
  // Rewriting a call removes the extractions of its result.
  for (Instruction &instruction : instructions(function))
    if (!isa<ExtractValueInst>(instruction))
      worklist.push_back(&instruction);
  Type *voidType = Type::getVoidTy(context), *pointer = PointerType::getUnqual(context);
  auto fenceAt = [&](Instruction &instruction) {
    FunctionCallee callee =
        getCallee("emulator.fence", FunctionType::get(voidType, {pointer}, false),
                  reinterpret_cast<void *>(&entry::fence));
    IRBuilder<>(&instruction).CreateCall(callee, {getThread(function)});
  };
  for (Instruction *instruction : worklist) {
    if (auto *load = dyn_cast<LoadInst>(instruction)) {
      if (load->hasMetadata(LLVMContext::MD_invariant_load) &&
          load->getPointerOperand()->stripInBoundsOffsets() == getThread(function))
        continue;
      load->setMetadata(LLVMContext::MD_invariant_load, nullptr);
      bool concurrent = load->isVolatile() || load->isAtomic();
      checkAccess(*load, load->getPointerOperand(), load->getType(), load->getAlign(),
                  concurrent ? entry::isConcurrent : 0);
      if (ordersMemory(load->getOrdering()))
        fenceAt(*load->getNextNode());
    } else if (auto *store = dyn_cast<StoreInst>(instruction)) {
      bool concurrent = store->isVolatile() || store->isAtomic();
      if (ordersMemory(store->getOrdering()))
        fenceAt(*store);
      checkAccess(*store, store->getPointerOperand(), store->getValueOperand()->getType(),
                  store->getAlign(), entry::isWrite | (concurrent ? entry::isConcurrent : 0));
    } else if (auto *update = dyn_cast<AtomicRMWInst>(instruction)) {
      if (ordersMemory(update->getOrdering()))
        fenceAt(*update);
      checkAccess(*update, update->getPointerOperand(), update->getType(), update->getAlign(),
                  entry::isReadWrite | entry::isConcurrent);
    } else if (auto *exchange = dyn_cast<AtomicCmpXchgInst>(instruction)) {
      if (ordersMemory(exchange->getSuccessOrdering()))
        fenceAt(*exchange);
      checkAccess(*exchange, exchange->getPointerOperand(), exchange->getNewValOperand()->getType(),
                  exchange->getAlign(), entry::isReadWrite | entry::isConcurrent);
    } else if (isa<FenceInst>(instruction)) {
      fenceAt(*instruction);
    } else if (isa<PtrToIntInst, IntToPtrInst>(instruction)) {
      auto *cast = llvm::cast<CastInst>(instruction);
      Type *type = isa<PtrToIntInst>(cast) ? cast->getSrcTy() : cast->getDestTy();
      if (type->isPointerTy() && type->getPointerAddressSpace() == sharedSpace)
        rewriteAddress(*cast);
    } else if (auto *call = dyn_cast<CallInst>(instruction)) {
      if (Error error = rewriteCall(*call))
        return error;
    }
  }
  countLoops(function);
  return Error::success();
}

/// Loads the parameters as cuLaunchKernel passes them and calls the kernel.
void Retargeter::addKernelEntry(Function &kernel) {
  IRBuilder<> builder(context);
  Type *pointer = builder.getPtrTy();
  Function *entry =
      Function::Create(FunctionType::get(builder.getVoidTy(), {pointer, pointer}, false),
                       GlobalValue::ExternalLinkage, "emulator.entry." + kernel.getName(), module);
  entry->addFnAttr(Attribute::NoUnwind);
  builder.SetInsertPoint(BasicBlock::Create(context, "", entry));
  SmallVector<Value *> arguments = {entry->getArg(0)};
  for (unsigned index = 1; index != kernel.arg_size(); ++index) {
    Value *slot = builder.CreateLoad(
        pointer, builder.CreateConstInBoundsGEP1_32(pointer, entry->getArg(1), index - 1));
    Type *type = kernel.getArg(index)->getType();
    arguments.push_back(
        kernel.hasParamAttribute(index, Attribute::ByVal) ? slot : builder.CreateLoad(type, slot));
  }
  CallInst *call = builder.CreateCall(&kernel, arguments);
  for (unsigned index = 1; index != kernel.arg_size(); ++index)
    if (Type *byVal = kernel.getParamByValType(index))
      call->addParamAttr(index, Attribute::getWithByValType(context, byVal));
  builder.CreateRetVoid();
}

Expected<RetargetedModule> Retargeter::run() {
  addThreadParameter();
  if (Error error = checkFunctions())
    return std::move(error);
  if (Error error = placeSharedVariables())
    return std::move(error);
  collectVariables();
  for (Function *function : functions)
    if (Error error = rewrite(*function))
      return std::move(error);
  for (RetargetedKernel &kernel : result.kernels) {
    addKernelEntry(*module.getFunction(kernel.name));
    kernel.symbol = "emulator.entry." + kernel.name;
  }
  return std::move(result);
}

Expected<RetargetedModule> sparseflow::emulator::retarget(llvm::Module &module,
                                                          TargetMachine &machine) {
  module.setTargetTriple(machine.getTargetTriple());
  module.setDataLayout(machine.createDataLayout());
  return Retargeter(module).run();
}
