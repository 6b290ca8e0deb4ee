//===- Retargeter.h - One module on its way to the host ---------*- C++ -*-===//
//
// What the parts of the rewriting share: the module, buffers in frames, and values as bits.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_RETARGETER_H
#define SPARSEFLOW_LIB_EMULATOR_RETARGETER_H

#include "Operations.h"
#include "Retarget.h"

#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/SmallSet.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/InlineAsm.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/Alignment.h"
#include "llvm/Support/FormatVariadic.h"

#include <array>
#include <vector>

namespace sparseflow::emulator {

struct AssemblyCall;
struct WgmmaAssembly;

template <typename... Args> llvm::Error unsupported(const char *format, Args &&...args) {
  return llvm::createStringError(
      llvm::inconvertibleErrorCode(),
      ("emulator: " + llvm::formatv(format, std::forward<Args>(args)...)).str());
}

unsigned getBitWidth(llvm::Type *type);
/// The registers that a result consists of: the fields of a struct, or the value itself.
llvm::SmallVector<llvm::Type *> getResultTypes(llvm::Type *type);

class Retargeter {
public:
  explicit Retargeter(llvm::Module &module)
      : module(module), context(module.getContext()), layout(module.getDataLayout()) {}

  llvm::Expected<RetargetedModule> run();

private:
  // Retarget.cpp: functions, variables, memory, loops.
  llvm::Error checkFunctions();
  void addThreadParameter();
  llvm::Error placeSharedVariables();
  void collectVariables();
  llvm::Error rewrite(llvm::Function &function);
  void rewriteAddress(llvm::CastInst &cast);
  void checkAccess(llvm::Instruction &before, llvm::Value *pointer, llvm::Value *size,
                   llvm::Align align, uint32_t flags);
  void checkAccess(llvm::Instruction &before, llvm::Value *pointer, llvm::Type *type,
                   llvm::Align align, uint32_t flags);
  void countLoops(llvm::Function &function);
  void addKernelEntry(llvm::Function &kernel);

  // RetargetCalls.cpp: intrinsics.
  llvm::Error rewriteCall(llvm::CallInst &call);
  llvm::Error rewriteNvvm(llvm::CallInst &call, llvm::StringRef name);
  bool rewriteSpecialRegister(llvm::CallInst &call, llvm::StringRef name);
  void callPure(llvm::CallInst &call, const PureOp &op);
  llvm::Error callThreadOp(llvm::CallInst &call, const ThreadOp &op);
  llvm::Error callCollective(llvm::CallInst &call, const CollectiveOp &op);

  // RetargetAssembly.cpp: inline assembly, which is wgmma mostly.
  llvm::Error findAccumulators(llvm::Function &function);
  llvm::Error rewriteAssembly(llvm::CallInst &call, const llvm::InlineAsm &assembly);
  llvm::Error callWgmma(AssemblyCall &statement, const WgmmaAssembly &assembly);
  llvm::Error storeWgmmaInputs(AssemblyCall &statement, const WgmmaAssembly &assembly,
                               llvm::AllocaInst *operands);
  llvm::Value *getWriteFences(llvm::CallInst &wgmma, llvm::ArrayRef<llvm::Value *> registers);
  void readAccumulators(AssemblyCall &statement);

  llvm::Value *getThread(llvm::Function &function) { return function.getArg(0); }
  llvm::Value *loadRegister(llvm::IRBuilder<> &builder, llvm::Function &function, size_t offset,
                            llvm::Type *type);
  /// A buffer in the frame that all operations of a function share.
  llvm::AllocaInst *getBuffer(llvm::Function &function, unsigned which, unsigned bytes);
  void replaceResults(llvm::CallInst &call, llvm::ArrayRef<llvm::Value *> parts);
  void storeWord(llvm::IRBuilder<> &builder, llvm::Value *value, llvm::Value *buffer,
                 unsigned index);
  llvm::Value *loadWord(llvm::IRBuilder<> &builder, llvm::Value *buffer, unsigned index);
  llvm::Value *toBits(llvm::IRBuilder<> &builder, llvm::Value *value);
  llvm::Value *fromBits(llvm::IRBuilder<> &builder, llvm::Value *bits, llvm::Type *type);
  llvm::FunctionCallee getCallee(llvm::StringRef symbol, llvm::FunctionType *type, void *address,
                                 bool pure = false);

  llvm::Module &module;
  llvm::LLVMContext &context;
  const llvm::DataLayout &layout;
  RetargetedModule result;
  llvm::DenseMap<llvm::Function *, std::array<llvm::AllocaInst *, 2>> buffers;
  std::vector<llvm::Function *> functions;
  /// The operands of empty assemblies that may be accumulators in flight, by number.
  llvm::DenseMap<llvm::CallInst *, llvm::SmallSet<unsigned, 8>> accumulatorOperands;
  /// The results of each wgmma that was rewritten, by the first of them.
  llvm::DenseMap<llvm::Value *, llvm::SmallVector<llvm::Value *>> wgmmaTags;
  uint32_t nextSite = 1;
};

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_RETARGETER_H
