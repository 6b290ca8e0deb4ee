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

#include "Retargeter.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Analysis/CFG.h"
#include "llvm/Analysis/ValueTracking.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/IntrinsicsNVPTX.h"
#include "llvm/IR/MDBuilder.h"
#include "llvm/IR/ReplaceConstant.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/Utils/BasicBlockUtils.h"

#include <cstddef>

using namespace llvm;
using namespace sparseflow::emulator;

static_assert(offsetof(Thread, registers) == 0,
              "generated code reads the registers from the thread");

static constexpr unsigned sharedSpace = 3, globalSpace = 1, constantSpace = 4;

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

static bool waitsForGrid(const Function &kernel) {
  return any_of(instructions(kernel), [](const Instruction &instruction) {
    auto *call = dyn_cast<IntrinsicInst>(&instruction);
    return call && call->getIntrinsicID() == Intrinsic::nvvm_griddepcontrol_wait;
  });
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
      kernel.waitsForGrid = waitsForGrid(*clone);
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
  if (Error error = findAccumulators(function))
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
