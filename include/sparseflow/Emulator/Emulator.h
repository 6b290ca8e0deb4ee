//===- Emulator.h - GPU kernels on the host ---------------------*- C++ -*-===//
//
// Runs a gpu.module (LLVM and NVVM dialects) on the CPU, and objects where a GPU would silently go
// wrong. The module's LLVM IR is retargeted to the host: every NVVM operation becomes a call into
// the emulator, every access to memory is checked, the threads of a block are fibers that meet at
// warp collectives and barriers. An asynchronous copy lands only when somebody waits for it, and
// wgmma multiplies only at its wait, so a missing wait cannot pass.
//
//   auto module = emulator::Module::create(gpuModule);
//   int64_t count = 100;
//   void *params[] = {&pointer, &count};
//   llvm::Error error = (*module)->launch("kernel", {4}, {128}, /*dynamicSharedBytes=*/4096,
//   params);
//
// The result is deterministic: the order of threads is fixed, and so is the order of every sum.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_EMULATOR_EMULATOR_H
#define SPARSEFLOW_EMULATOR_EMULATOR_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace mlir::gpu {
class GPUModuleOp;
} // namespace mlir::gpu

namespace sparseflow::emulator {

/// Extents of a grid or of a block.
struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t(x) * y * z; }
};

/// What a kernel did wrong, and which thread did it.
struct Report {
  enum class Kind {
    SharedOutOfBounds,
    GlobalOutOfBounds,
    Misaligned,
    UninitializedShared,
    /// Shared memory that an asynchronous copy still owns was read or written.
    UnwaitedAsyncCopy,
    /// A wgmma or a bulk store still reads shared memory that was written.
    AsyncOperandOverwritten,
    /// Accumulators of a wgmma that no wait has covered were read.
    AccumulatorInFlight,
    /// The order between registers and wgmma, or between a thread's stores and the copy engine or
    /// wgmma, was left to luck: wgmma.fence, fence.proxy.async or fence.mbarrier_init is missing.
    MissingFence,
    /// Two threads touched the same shared memory, one of them wrote, and no barrier stood between.
    SharedRace,
    /// Global memory was touched ahead of griddepcontrol.wait, while the kernel before may still
    /// run.
    UnwaitedGrid,
    /// Threads that have to meet at one instruction wait at different ones, or have exited.
    DivergentBarrier,
    /// An mbarrier that is not there, or more arrivals than its phase takes.
    MbarrierMisuse,
    /// Nothing can change any more, yet threads wait.
    Deadlock,
    /// An operand that the hardware leaves undefined: metadata, selector, barrier number.
    IllegalOperand,
    Trap,
  };
  Kind kind = Kind::Trap;
  std::string message;
  std::string kernel;
  Dim3 block;
  uint32_t thread = 0;

  std::string str() const;
};

/// The name of a kind of report, in dash-case.
llvm::StringRef stringifyKind(Report::Kind kind);

/// A failed launch. Errors of set-up (an unknown kernel, an unsupported operation) are plain
/// StringErrors.
class ReportError : public llvm::ErrorInfo<ReportError> {
public:
  static char ID;
  explicit ReportError(Report report) : report(std::move(report)) {}

  const Report &getReport() const { return report; }
  void log(llvm::raw_ostream &os) const override { os << report.str(); }
  std::error_code convertToErrorCode() const override { return llvm::inconvertibleErrorCode(); }

private:
  Report report;
};

/// A stretch of memory that a kernel may touch.
struct GlobalRange {
  const void *base = nullptr;
  uint64_t bytes = 0;
  std::string name;
  bool writable = true;
  /// No kernel ever writes it, so it may be read ahead of griddepcontrol.wait.
  bool isConstant = false;
};

/// What is checked in a launch, and when it is given up.
struct LaunchOptions {
  /// Bounds of global memory; empty means unchecked.
  std::vector<GlobalRange> ranges;
  /// Host threads that run blocks; 0 means one for each core.
  unsigned workers = 0;
  bool detectRaces = true;
  /// A block whose threads together take this many turns round a loop, with no store, no barrier
  /// and no collective among them, is declared dead. The default is about a second.
  uint64_t idleLoopLimit = uint64_t(1) << 28;
  /// Seconds that one block may take before it is declared dead.
  double blockSeconds = 600;
};

/// A gpu.module for the host. A kernel is compiled at its first launch. Launches may come from
/// several threads at once.
class Module {
public:
  /// Fails with one sentence if the module holds an operation that the emulator does not know.
  /// `gpuModule` is not changed, but translations are registered with its context: nothing else may
  /// work on that context meanwhile. The compiled module is independent of it.
  static llvm::Expected<std::unique_ptr<Module>> create(mlir::gpu::GPUModuleOp gpuModule);
  ~Module();

  std::vector<std::string> getKernelNames() const;

  /// Parameters are as in cuLaunchKernel: pointers to the values. Returns when all blocks have run.
  /// Several reports are reduced to the one of the first block, so that the answer does not depend
  /// on the number of workers.
  llvm::Error launch(llvm::StringRef kernel, Dim3 grid, Dim3 block, uint32_t dynamicSharedBytes,
                     llvm::ArrayRef<void *> params, const LaunchOptions &options = {}) const;

private:
  Module();
  struct Impl;
  std::unique_ptr<Impl> impl;
};

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_EMULATOR_EMULATOR_H
