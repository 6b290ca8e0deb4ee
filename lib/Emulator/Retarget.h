//===- Retarget.h - GPU LLVM IR to host LLVM IR -----------------*- C++ -*-===//

#ifndef SPARSEFLOW_LIB_EMULATOR_RETARGET_H
#define SPARSEFLOW_LIB_EMULATOR_RETARGET_H

#include "sparseflow/Emulator/Emulator.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <optional>
#include <string>
#include <vector>

namespace llvm {
class Module;
class TargetMachine;
} // namespace llvm

namespace sparseflow::emulator {

struct RetargetedKernel {
  std::string name;
  /// The host function: void (Thread *, void *const *params).
  std::string symbol;
  unsigned paramCount = 0;
  /// From nvvm.reqntid; empty if the kernel leaves its block's size open.
  std::vector<uint32_t> requiredBlock;
  /// From nvvm.cluster_dim.
  Dim3 cluster;
  /// It has a griddepcontrol.wait, and so may begin while the kernel before it still runs.
  bool waitsForGrid = false;
};

struct RetargetedModule {
  std::vector<RetargetedKernel> kernels;
  uint32_t staticSharedBytes = 0;
  /// Addresses of the functions that the module calls, by symbol.
  llvm::StringMap<void *> callees;
  /// The module's own variables in global and constant memory.
  struct Variable {
    std::string symbol;
    uint64_t bytes = 0;
    bool writable = false;
  };
  std::vector<Variable> variables;
};

/// Rewrites `module` in place for `machine`. Fails with one sentence that names what the emulator
/// lacks.
llvm::Expected<RetargetedModule> retarget(llvm::Module &module, llvm::TargetMachine &machine);

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_RETARGET_H
