//===- HostCode.h - LLVM IR, compiled into this process ---------*- C++ -*-===//
//
// A thin layer over LLJIT. Generated code finds nothing but the symbols listed in HostCode.cpp and
// those that the caller gives: neither a library that happens to be loaded nor a name in the IR can
// redirect a call.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_REFERENCE_HOSTCODE_H
#define SPARSEFLOW_LIB_REFERENCE_HOSTCODE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <memory>
#include <utility>

namespace llvm {
class LLVMContext;
class Module;
namespace orc {
class LLJIT;
} // namespace orc
} // namespace llvm

namespace sparseflow {

class HostCode {
public:
  using Symbol = std::pair<llvm::StringRef, void *>;

  static llvm::Expected<std::unique_ptr<HostCode>>
  compile(std::unique_ptr<llvm::Module> module, std::unique_ptr<llvm::LLVMContext> context,
          llvm::ArrayRef<Symbol> symbols);
  ~HostCode();

  llvm::Expected<void *> lookup(llvm::StringRef name) const;

private:
  explicit HostCode(std::unique_ptr<llvm::orc::LLJIT> jit);
  std::unique_ptr<llvm::orc::LLJIT> jit;
};

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_REFERENCE_HOSTCODE_H
