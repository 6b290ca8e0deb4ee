// One function ready to be called: the manifest's names turned into numbers (FunctionPlan.cpp), the
// checks of a call (FunctionPlanChecks.cpp), its launches (FunctionPlanLaunch.cpp), and what it
// would launch (FunctionPlanReport.cpp).
//
// Private to the executor. A call's state lives on the caller's stack in fixed arrays, because a
// launch may not allocate.
#ifndef SPARSEFLOW_LIB_RUNTIME_FUNCTIONPLAN_H
#define SPARSEFLOW_LIB_RUNTIME_FUNCTIONPLAN_H

#include "TensorMapCache.h"
#include "sparseflow/Runtime/Device.h"
#include "sparseflow/Runtime/Executable.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/MathExtras.h"
#include <atomic>
#include <limits>

namespace sparseflow::runtime {

/// What a call has resolved so far.
struct CallState {
  struct Bound {
    void *data;
    int64_t rows;
    int64_t rowStride;
  };
  int64_t symbols[maxSymbols];
  Bound tensors[2 * maxTensors];               // inputs, then outputs
  llvm::SmallVector<uint64_t, 32> slotOffsets; // and where the library's workspace begins
  char *workspace = nullptr;
};

/// An extent, or the number of the symbol that gives it.
struct DimPlan {
  int symbol = -1;
  int64_t size = 1;
  int64_t value(const int64_t *symbols) const { return symbol < 0 ? size : symbols[symbol]; }
};

/// What the leading dimensions count.
inline int64_t rowsOf(llvm::ArrayRef<DimPlan> shape, const int64_t *symbols) {
  int64_t rows = 1;
  for (const DimPlan &dim : shape.drop_back(shape.empty() ? 0 : 1))
    rows = llvm::SaturatingMultiply<uint64_t>(rows, dim.value(symbols));
  return rows;
}

/// How a call's tensor fits its spec.
struct TensorPlan {
  const TensorSpec *spec;
  llvm::SmallVector<DimPlan, 2> shape;
};

class FunctionPlan {
public:
  /// Gives the address on the device of a tensor of the file, which must outlive the plan.
  using ConstantSource = llvm::function_ref<llvm::Expected<void *>(llvm::StringRef)>;

  static llvm::Expected<std::unique_ptr<FunctionPlan>>
  create(const Function &function, std::unique_ptr<LoadedFunction> loaded, Device &device,
         const ProgramFile &file, ConstantSource constant);

  const Function &getFunction() const { return function; }
  LoadedFunction &getLoaded() const { return *loaded; }
  llvm::ArrayRef<TensorPlan> getInputs() const { return inputs; }
  llvm::ArrayRef<TensorPlan> getOutputs() const { return outputs; }

  /// Checks counts, dtypes and shapes; fills in the symbols.
  llvm::Error bindShapes(llvm::ArrayRef<TensorRef> given, CallState &call) const;
  llvm::Error checkOutputShapes(llvm::ArrayRef<TensorRef> given, const CallState &call) const;
  /// Checks strides and pointers of bound tensors; fills in what kernels take.
  llvm::Error bindPointers(llvm::ArrayRef<TensorRef> inputs, llvm::ArrayRef<TensorRef> outputs,
                           CallState &call) const;
  llvm::Error checkSymbols(llvm::ArrayRef<int64_t> symbols) const;

  /// Fills in the slots' offsets and gives the sum of their sizes.
  llvm::Expected<size_t> planWorkspace(CallState &call) const;
  /// What the call's kernels may touch: its tensors, the constants and the workspace.
  std::vector<MemoryRange> memoryOf(const CallState &call, llvm::ArrayRef<TensorRef> inputs,
                                    llvm::ArrayRef<TensorRef> outputs, size_t workspaceBytes) const;
  /// Prepares libraries for what a call with these symbols asks of them.
  llvm::Error warmUp(const int64_t *symbols) const;
  /// `memory`: for devices that check accesses; null for others.
  llvm::Error launch(CallState &call, void *stream, const std::vector<MemoryRange> *memory) const;

  llvm::Expected<llvm::json::Value> report(const int64_t *symbols) const;

  void recordRun(const CallState &call);
  /// False if there was none.
  bool lastRun(int64_t *symbols) const;

private:
  struct BufferPlan {
    Buffer::Kind kind;
    size_t index = 0;                     // into CallState::tensors, or the slot
    void *constant = nullptr;             // Constant: null until a launch takes it
    const StoredTensor *stored = nullptr; // Constant
    DimPlan rowStride;                    // Constant, Workspace
    llvm::SmallVector<DimPlan, 2> shape;  // Constant, Workspace
    /// Workspace: the largest symbol for which a variant takes it; its slot holds no more.
    int64_t mostRows = 0;
    DType dtype = DType::U8;
  };
  struct ArgumentPlan {
    Argument::Kind kind;
    int index = 0;      // buffer, symbol or tensor map
    uint64_t value = 0; // the constant's bits
  };
  struct LaunchPlan {
    size_t kernel = 0;
    llvm::SmallVector<ArgumentPlan, 12> args;
    /// Instead of a kernel, with the buffers that it takes.
    std::unique_ptr<LibraryMatmul> matmul = {};
    size_t x = 0, w = 0, y = 0;
  };
  struct VariantPlan {
    int64_t max;
    std::string whyUnavailable = {}; // empty: it is available
    std::vector<LaunchPlan> launches = {};
  };
  struct StepPlan {
    int symbol = -1;
    std::vector<VariantPlan> variants;
  };
  struct GridPlan {
    int symbol = -1;
    int64_t per = 1, mul = 1;
    int64_t max = std::numeric_limits<int64_t>::max();
  };
  struct TensorMapPlan {
    size_t buffer;
    DType dtype;
    HostTensorMap matrix; // without base, rows and stride, which a call gives
    bool fits = false;    // the box has no more rows than the matrix
    mutable TensorMapCache cache;
  };
  struct SlotSizePlan {
    int symbol = -1;
    int64_t bytesPer, bytes, cap;
  };

  struct KernelArguments;

  FunctionPlan(const Function &function, std::unique_ptr<LoadedFunction> loaded, Device &device);
  llvm::Error build(const ProgramFile &file, ConstantSource constant);
  int symbolIndex(llvm::StringRef name) const;
  DimPlan plan(const Dimension &dim) const;
  llvm::Expected<BufferPlan> planBuffer(const Buffer &buffer, const ProgramFile &file) const;
  llvm::Expected<StepPlan> planStep(const Step &step, ConstantSource constant);
  llvm::Expected<LaunchPlan> planLaunch(const Launch &launch, int64_t mostRows,
                                        ConstantSource constant);
  llvm::Expected<LaunchPlan> planMatmul(const MatmulCall &call);
  /// A launch for symbols up to `mostRows` takes the buffer.
  llvm::Error touch(BufferPlan &buffer, int64_t mostRows, ConstantSource constant);
  llvm::Expected<int> planTensorMap(const Argument &arg);
  size_t variantOf(const StepPlan &step, const int64_t *symbols) const;
  /// False: the grid is empty and there is nothing to launch.
  llvm::Expected<bool> gridOf(size_t kernel, const int64_t *symbols,
                              std::array<uint32_t, 3> &grid) const;
  llvm::Error bindPointer(const TensorPlan &plan, llvm::StringRef kind, const TensorRef &tensor,
                          CallState::Bound &bound) const;
  /// What a kernel writes, no other block of it may read or write.
  llvm::Error checkApart(llvm::ArrayRef<TensorRef> inputs, llvm::ArrayRef<TensorRef> outputs,
                         const CallState &call) const;
  CallState::Bound locate(const BufferPlan &buffer, const CallState &call) const;
  llvm::ArrayRef<DimPlan> shapeOf(const BufferPlan &buffer) const;
  llvm::Error fillTensorMap(const TensorMapPlan &plan, const CallState &call, void *out) const;
  llvm::Error fillArguments(const LaunchPlan &launch, const CallState &call,
                            KernelArguments &out) const;
  llvm::Error launchMatmul(const LaunchPlan &launch, const CallState &call, void *stream) const;
  std::string describeChoice(const Step &step, const StepPlan &plan, size_t chosen,
                             const int64_t *symbols) const;
  llvm::Expected<llvm::json::Value> reportKernel(const LaunchPlan &launch,
                                                 const int64_t *symbols) const;
  llvm::json::Value reportMatmul(const LaunchPlan &launch, const int64_t *symbols) const;
  /// "input 'x'", "the workspace's slot 0".
  std::string describe(const BufferPlan &buffer) const;
  llvm::Error shapeError(const TensorPlan &plan, llvm::StringRef kind, const TensorRef &tensor,
                         const CallState *call) const;

  const Function &function;
  std::unique_ptr<LoadedFunction> loaded;
  Device &device;
  const Program *program;
  llvm::SmallVector<TensorPlan, 4> inputs, outputs;
  std::vector<BufferPlan> buffers;
  std::vector<llvm::SmallVector<SlotSizePlan, 1>> slots;
  std::vector<StepPlan> steps;
  std::vector<std::unique_ptr<TensorMapPlan>> tensorMaps;
  llvm::StringMap<size_t> kernelIndices;
  uint64_t libraryWorkspace = 0;              // behind the slots
  std::vector<std::array<GridPlan, 3>> grids; // of each kernel
  std::atomic<bool> hasRun{false};
  std::array<std::atomic<int64_t>, maxSymbols> lastSymbols{};
};

/// "[M,4096]"; "[5,4096]".
std::string describeShape(llvm::ArrayRef<Dimension> shape);
std::string describeShape(llvm::ArrayRef<int64_t> shape);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_LIB_RUNTIME_FUNCTIONPLAN_H
