//===- RetargetAssembly.cpp - What inline assembly becomes ----------------===//
//
// wgmma.mma_async, the empty assembly after its wait, and a few instructions that NVVM lacks.
// Kernels have hundreds of accumulators in each wgmma, so what is made of them is kept small: a
// wgmma returns one tag, from which those of all its results follow, and one that continues the
// last passes only that.
//
//===----------------------------------------------------------------------===//

#include "Retargeter.h"
#include "Wgmma.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallPtrSet.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/IntrinsicInst.h"

#include <cstddef>

using namespace llvm;
using namespace sparseflow::emulator;

//===----------------------------------------------------------------------===//
// Statements
//===----------------------------------------------------------------------===//

/// A statement whose outputs are updated registers: each has an input that is tied to it.
struct sparseflow::emulator::AssemblyCall {
  CallInst &call;
  const InlineAsm &assembly;
  SmallVector<Type *> types;
  /// The argument that is tied to each output.
  SmallVector<unsigned> tied;

  /// Fails unless there are `untied` further inputs.
  static Expected<AssemblyCall> get(CallInst &call, const InlineAsm &assembly, unsigned untied);
  Value *getTied(unsigned output) const { return call.getArgOperand(tied[output]); }
  /// The further input with a number of the text's; null if it is not of so many bits.
  Value *getInput(unsigned number, unsigned bits) const {
    unsigned index = number - types.size();
    if (number < types.size() || index >= call.arg_size() || is_contained(tied, index) ||
        getBitWidth(call.getArgOperand(index)->getType()) != bits)
      return nullptr;
    return call.getArgOperand(index);
  }
};

Expected<AssemblyCall> AssemblyCall::get(CallInst &call, const InlineAsm &assembly,
                                         unsigned untied) {
  AssemblyCall statement{call, assembly, getResultTypes(call.getType()), {}};
  constexpr unsigned none = ~0u;
  statement.tied.assign(statement.types.size(), none);
  unsigned argument = 0, others = 0;
  for (const InlineAsm::ConstraintInfo &constraint : assembly.ParseConstraints()) {
    if (constraint.Type != InlineAsm::isInput)
      continue;
    unsigned output = 0;
    if (!constraint.Codes.empty() && !StringRef(constraint.Codes[0]).getAsInteger(10, output) &&
        output < statement.tied.size())
      statement.tied[output] = argument;
    else
      ++others;
    ++argument;
  }
  if (others != untied || is_contained(statement.tied, none))
    return unsupported("inline assembly '{0}' in function '{1}' with constraints '{2}'; expected "
                       "an input tied to each of its outputs, and {3} others",
                       assembly.getAsmString(), call.getFunction()->getName(),
                       assembly.getConstraintString(), untied);
  return std::move(statement);
}

static const InlineAsm *getAssembly(const CallInst &call) {
  return dyn_cast<InlineAsm>(call.getCalledOperand());
}
static bool isEmpty(const InlineAsm &assembly) {
  return StringRef(assembly.getAsmString()).trim().empty();
}

Error Retargeter::rewriteAssembly(CallInst &call, const InlineAsm &assembly) {
  StringRef text = assembly.getAsmString(), function = call.getFunction()->getName();
  if (isWgmma(text)) {
    Expected<WgmmaAssembly> parsed = parseWgmma(text);
    if (!parsed)
      return unsupported("inline assembly '{0}' in function '{1}': {2}", text, function,
                         toString(parsed.takeError()));
    unsigned inputs =
        parsed->a.size() + 1 + parsed->metadata.has_value() + parsed->scale.has_value();
    Expected<AssemblyCall> statement = AssemblyCall::get(call, assembly, inputs);
    return statement ? callWgmma(*statement, *parsed) : statement.takeError();
  }
  if (isEmpty(assembly)) {
    Expected<AssemblyCall> statement = AssemblyCall::get(call, assembly, 0);
    if (!statement)
      return statement.takeError();
    readAccumulators(*statement);
    return Error::success();
  }
  StringRef name = lookupInlineAsm(text);
  if (name.empty())
    return unsupported(
        "unsupported inline assembly '{0}' in function '{1}'; use the NVVM operation", text,
        function);
  return rewriteNvvm(call, name);
}

//===----------------------------------------------------------------------===//
// Accumulators
//===----------------------------------------------------------------------===//

/// The results of a wgmma are in flight: they may go to another wgmma or to an empty assembly,
/// through whatever only moves them. Looks at a function before any of it is rewritten.
Error Retargeter::findAccumulators(Function &function) {
  SmallVector<Instruction *> worklist;
  SmallPtrSet<Instruction *, 16> seen;
  for (Instruction &instruction : instructions(function))
    if (auto *call = dyn_cast<CallInst>(&instruction))
      if (const InlineAsm *assembly = getAssembly(*call))
        if (isWgmma(assembly->getAsmString()))
          worklist.push_back(call);
  while (!worklist.empty()) {
    for (Use &use : worklist.pop_back_val()->uses()) {
      auto *user = cast<Instruction>(use.getUser());
      if (isa<ExtractValueInst, InsertValueInst, PHINode, SelectInst, FreezeInst, BitCastInst>(
              user)) {
        if (seen.insert(user).second)
          worklist.push_back(user);
        continue;
      }
      auto *call = dyn_cast<CallInst>(user);
      const InlineAsm *assembly = call ? getAssembly(*call) : nullptr;
      if (assembly && isEmpty(*assembly))
        accumulatorOperands[call].insert(use.getOperandNo());
      if (assembly && (isEmpty(*assembly) || isWgmma(assembly->getAsmString())))
        continue;
      std::string text;
      raw_string_ostream(text) << *user;
      return unsupported("accumulators of wgmma.mma_async in function '{0}' are used by '{1}'; "
                         "expected an empty inline assembly with tied operands between "
                         "wgmma.wait_group and the first use",
                         function.getName(), StringRef(text).trim());
    }
  }
  return Error::success();
}

/// An empty assembly makes the compiler believe that its operands change there. After a wait it is
/// where accumulators get their values.
void Retargeter::readAccumulators(AssemblyCall &statement) {
  CallInst &call = statement.call;
  IRBuilder<> builder(&call);
  Function &function = *call.getFunction();
  Type *i32 = builder.getInt32Ty(), *pointer = builder.getPtrTy();
  SmallVector<Value *> parts;
  SmallVector<unsigned> outputs;
  const SmallSet<unsigned, 8> &operandNumbers = accumulatorOperands[&call];
  for (auto [output, argument] : enumerate(statement.tied)) {
    parts.push_back(call.getArgOperand(argument));
    if (operandNumbers.contains(argument))
      outputs.push_back(output);
  }
  if (!outputs.empty()) {
    AllocaInst *operands = getBuffer(function, 0, 4 * outputs.size());
    AllocaInst *results = getBuffer(function, 1, 4 * outputs.size());
    for (auto [index, output] : enumerate(outputs))
      storeWord(builder, parts[output], operands, index);
    FunctionCallee callee =
        getCallee("emulator.accumulators",
                  FunctionType::get(builder.getVoidTy(), {pointer, i32, pointer, pointer}, false),
                  reinterpret_cast<void *>(&entry::readAccumulators));
    builder.CreateCall(callee,
                       {getThread(function), builder.getInt32(outputs.size()), operands, results});
    for (auto [index, output] : enumerate(outputs))
      parts[output] = fromBits(builder, loadWord(builder, results, index), statement.types[output]);
  }
  replaceResults(call, parts);
}

//===----------------------------------------------------------------------===//
// wgmma.mma_async
//===----------------------------------------------------------------------===//

/// The thread's count of wgmma.fence when the last register of A was written; what only moves a
/// register, or cannot be seen, is no write.
Value *Retargeter::getWriteFences(CallInst &wgmma, ArrayRef<Value *> registers) {
  Function &function = *wgmma.getFunction();
  IRBuilder<> builder(&wgmma);
  Value *latest = builder.getInt32(~0u);
  bool isKnown = false;
  SmallPtrSet<Instruction *, 4> seen;
  for (Value *value : registers) {
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

/// Stores all words of a thread's operands but the accumulators.
Error Retargeter::storeWgmmaInputs(AssemblyCall &statement, const WgmmaAssembly &assembly,
                                   AllocaInst *operands) {
  const WgmmaOp &op = *assembly.op;
  IRBuilder<> builder(&statement.call);
  Type *i32 = builder.getInt32Ty();
  SmallVector<Value *, 4> registersOfA;
  auto store = [&](unsigned number, unsigned bits, unsigned word) -> Error {
    Value *value = statement.getInput(number, bits);
    if (!value)
      return unsupported("inline assembly of {0} in function '{1}': expected ${2} to be an input "
                         "of {3} bits",
                         op.name, statement.call.getFunction()->getName(), number, bits);
    if (bits == 64) {
      Value *wide = toBits(builder, value);
      storeWord(builder, builder.CreateTrunc(wide, i32), operands, word);
      storeWord(builder, builder.CreateTrunc(builder.CreateLShr(wide, 32), i32), operands,
                word + 1);
      return Error::success();
    }
    storeWord(builder, value, operands, word);
    if (word < op.getBWord())
      registersOfA.push_back(value);
    return Error::success();
  };
  Value *zero = builder.getInt32(0);
  for (auto [index, number] : enumerate(assembly.a))
    if (Error error = store(number, op.hasRegisterA ? 32 : 64, op.getRegisterCount() + index))
      return error;
  if (Error error = store(assembly.b, 64, op.getBWord()))
    return error;
  storeWord(builder, zero, operands, op.getMetadataWord());
  if (assembly.metadata)
    if (Error error = store(*assembly.metadata, 32, op.getMetadataWord()))
      return error;
  storeWord(builder, zero, operands, op.getScaleWord());
  if (assembly.scale)
    if (Error error = store(*assembly.scale, 1, op.getScaleWord()))
      return error;
  storeWord(builder, op.hasRegisterA ? getWriteFences(statement.call, registersOfA) : zero,
            operands, op.getWriteFencesWord());
  return Error::success();
}

Error Retargeter::callWgmma(AssemblyCall &statement, const WgmmaAssembly &assembly) {
  const WgmmaOp &op = *assembly.op;
  CallInst &call = statement.call;
  Function &function = *call.getFunction();
  IRBuilder<> builder(&call);
  Type *i32 = builder.getInt32Ty(), *pointer = builder.getPtrTy();
  SmallVector<Value *> accumulators;
  for (unsigned number : assembly.accumulators) {
    bool isOutput = number < statement.types.size();
    Type *type = isOutput ? statement.types[number] : nullptr;
    if (!isOutput || !(op.isInteger ? type->isIntegerTy(32) : type->isFloatTy()))
      return unsupported("inline assembly of {0} in function '{1}': expected ${2} to be an output "
                         "of type {3}",
                         op.name, function.getName(), number, op.isInteger ? "i32" : "f32");
    accumulators.push_back(statement.getTied(number));
  }
  AllocaInst *operands = getBuffer(function, 0, 4 * op.getWordCount());
  if (Error error = storeWgmmaInputs(statement, assembly, operands))
    return error;
  auto tags = wgmmaTags.find(accumulators[0]);
  bool isChained = tags != wgmmaTags.end() && ArrayRef(tags->second) == ArrayRef(accumulators);
  for (auto [index, value] : enumerate(accumulators))
    if (index == 0 || !isChained)
      storeWord(builder, value, operands, index);

  FunctionCallee callee = getCallee(
      "emulator.wgmma",
      FunctionType::get(i32, {pointer, pointer, i32, pointer, builder.getInt1Ty()}, false),
      reinterpret_cast<void *>(&entry::wgmma));
  Value *descriptor =
      builder.CreateIntToPtr(builder.getInt64(reinterpret_cast<uint64_t>(&op)), pointer);
  Value *tag =
      builder.CreateCall(callee, {getThread(function), descriptor, builder.getInt32(nextSite++),
                                  operands, builder.getInt1(isChained)});
  SmallVector<Value *> results(statement.types.size()), inOrder;
  for (auto [index, number] : enumerate(assembly.accumulators)) {
    Value *bits = builder.CreateAdd(tag, builder.getInt32(index));
    results[number] = fromBits(builder, bits, statement.types[number]);
    inOrder.push_back(results[number]);
  }
  if (is_contained(results, nullptr))
    return unsupported("inline assembly of {0} in function '{1}': expected every output to be an "
                       "accumulator, and to be listed once",
                       op.name, function.getName());
  replaceResults(call, results);
  Value *first = inOrder[0];
  wgmmaTags[first] = std::move(inOrder);
  return Error::success();
}
