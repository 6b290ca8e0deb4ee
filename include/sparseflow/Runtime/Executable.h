// A program loaded on a device: checks a call against the manifest, resolves its symbols and
// replays its steps.
//
// All names are resolved and all constants copied when it is made, so that a run only fills in
// pointers, strides and symbol values and launches. Runs may come from several threads; those on
// different streams use different workspaces.
//
// A stream is known by its handle, so wait for one before you destroy it. The executable keeps
// workspaces for 64 streams; a run on one more waits for the device once, and those that no run
// holds then serve whatever streams come next. What a caller's graph has captured is never reused.
#ifndef SPARSEFLOW_RUNTIME_EXECUTABLE_H
#define SPARSEFLOW_RUNTIME_EXECUTABLE_H

#include "sparseflow/Runtime/Device.h"
#include "llvm/ADT/StringMap.h"
#include <atomic>
#include <mutex>

namespace sparseflow::runtime {

class FunctionPlan;
struct CallState;

/// Where a run is enqueued and what memory it takes.
struct RunOptions {
  void *stream = nullptr;
  /// The caller's workspace, 256-byte aligned; null: the executable's own.
  void *workspace = nullptr;
  size_t workspaceBytes = 0;
};

/// What a tensor has to be like.
struct TensorShape {
  DType dtype = DType::F16;
  std::vector<int64_t> shape;
};

/// A run of one function with fixed tensors, recorded on the device together with a workspace of
/// its own. The executable, whose kernels and constants it uses, must outlive it.
class GraphRun {
public:
  ~GraphRun();
  llvm::Error launch(void *stream) { return graph->launch(stream); }

private:
  friend class Executable;
  GraphRun(std::shared_ptr<Device> device) : device(std::move(device)) {}

  std::shared_ptr<Device> device;
  void *workspace = nullptr;
  std::unique_ptr<RecordedGraph> graph;
};

/// All functions of a program on one device.
class Executable {
public:
  /// Loads every function: kernels are chosen and loaded, constants copied. What the device lacks
  /// is said here and not by a run.
  static llvm::Expected<std::unique_ptr<Executable>> create(ProgramFile::Ptr file,
                                                            std::shared_ptr<Device> device);
  ~Executable();

  Device &device() const { return *target; }
  const ProgramFile &file() const { return *source; }
  /// The function's number; an empty name means the only function.
  llvm::Expected<size_t> find(llvm::StringRef name) const;

  /// Checks the tensors, which are the device's, and enqueues the launches; on a GPU it returns
  /// before they are done. Nothing was launched where the check fails (InvalidArgument).
  llvm::Error run(size_t function, llvm::ArrayRef<TensorRef> inputs,
                  llvm::ArrayRef<TensorRef> outputs, const RunOptions &options);
  /// The same with tensors in host memory, whatever the device. Waits for the outputs.
  llvm::Error runHost(size_t function, llvm::ArrayRef<TensorRef> inputs,
                      llvm::ArrayRef<TensorRef> outputs);
  /// Reads only the inputs' shapes and dtypes.
  llvm::Expected<TensorShape> outputShape(size_t function, llvm::ArrayRef<TensorRef> inputs,
                                          size_t output) const;

  /// Bytes that a run with these symbols needs, 256-byte aligned. `symbols`: a value for each
  /// symbol of the function, in its order.
  llvm::Expected<size_t> workspaceBytes(size_t function, llvm::ArrayRef<int64_t> symbols) const;
  /// Makes the stream's own workspace large enough, so that no run with at most these symbols
  /// allocates.
  llvm::Error reserve(size_t function, llvm::ArrayRef<int64_t> symbols, void *stream);

  /// Lets libraries find their fastest algorithms for these symbols, which a run does not: it takes
  /// what they propose. Allocates, launches and waits. Functions without library calls do nothing.
  llvm::Error warmUp(size_t function, llvm::ArrayRef<int64_t> symbols);

  /// Which kernels run for these symbols (none given: those of the last run), and why.
  llvm::Expected<llvm::json::Value> report(size_t function,
                                           std::optional<llvm::ArrayRef<int64_t>> symbols) const;

  /// Warms up first, since a graph is run often.
  llvm::Expected<std::unique_ptr<GraphRun>>
  capture(size_t function, llvm::ArrayRef<TensorRef> inputs, llvm::ArrayRef<TensorRef> outputs);

private:
  /// The executable's own workspace of one stream. Locked while a run enqueues, since two runs
  /// whose launches interleave on one stream would overwrite each other's intermediates.
  struct Workspace {
    void *stream = nullptr;
    size_t thread = 0;
    bool bound = false;          // to that stream; else it serves the next new one
    std::atomic<size_t> uses{0}; // raised under workspacesMutex
    std::mutex mutex;
    void *memory = nullptr;
    size_t bytes = 0;
    bool captured = false; // a graph of the caller may use it: never freed before the executable
    std::vector<void *> retired;
  };

  Executable(ProgramFile::Ptr file, std::shared_ptr<Device> device);
  llvm::Error load();
  llvm::Expected<void *> uploadConstant(llvm::StringRef name);
  class WorkspaceUse;
  Workspace &takeWorkspace(void *stream);
  void unbindIdle(void *stream);
  llvm::Error grow(Workspace &workspace, size_t bytes, void *stream);
  llvm::Error replay(FunctionPlan &plan, CallState &call, llvm::ArrayRef<TensorRef> inputs,
                     llvm::ArrayRef<TensorRef> outputs, const RunOptions &options);

  ProgramFile::Ptr source;
  std::shared_ptr<Device> target;
  std::vector<std::unique_ptr<FunctionPlan>> plans;
  llvm::StringMap<size_t> functions; // by name
  llvm::StringMap<void *> constants;
  std::mutex workspacesMutex;
  std::vector<std::unique_ptr<Workspace>> workspaces;
};

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_EXECUTABLE_H
