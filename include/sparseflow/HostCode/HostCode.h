//===- HostCode.h - LLVM IR, compiled into this process ---------*- C++ -*-===//
//
// What the emulator and the reference run on: a thin layer over LLJIT. Generated code finds nothing
// but the mathematics listed in HostCode.cpp and the symbols that its owner defines: neither a
// library that happens to be loaded nor a name in the IR can redirect a call. It is compiled for a
// fixed level of the architecture, so that results do not depend on which extensions a host has.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_HOSTCODE_HOSTCODE_H
#define SPARSEFLOW_HOSTCODE_HOSTCODE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <memory>
#include <utility>

namespace llvm {
class Module;
class TargetMachine;
namespace orc {
class LLJIT;
class ThreadSafeModule;
} // namespace orc
} // namespace llvm

namespace sparseflow {

/// LLVM IR compiled for this machine. Errors are sentences of LLVM.
class HostCode {
public:
  /// A name and its address.
  using Symbol = std::pair<llvm::StringRef, void *>;

  static llvm::Expected<std::unique_ptr<HostCode>> create();
  ~HostCode();

  /// What modules are compiled for; they want its data layout and its triple.
  llvm::TargetMachine &getMachine() const { return *machine; }

  /// Makes symbols known to the modules that are added from now on.
  llvm::Error define(llvm::ArrayRef<Symbol> symbols);
  /// The passes of O2.
  void optimize(llvm::Module &module) const;
  /// Takes a module, which is compiled when one of its symbols is looked up.
  llvm::Error add(llvm::orc::ThreadSafeModule module);
  /// The address of a symbol; compiles its module, and names the symbol if there is none.
  llvm::Expected<void *> lookup(llvm::StringRef name) const;

private:
  HostCode();
  std::unique_ptr<llvm::TargetMachine> machine;
  std::unique_ptr<llvm::orc::LLJIT> jit;
};

} // namespace sparseflow

#endif // SPARSEFLOW_HOSTCODE_HOSTCODE_H
