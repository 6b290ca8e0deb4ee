// A program loaded on a device: checks a call against the manifest, resolves its symbols and replays its steps.
//
// All names are resolved and all constants copied when it is made, so that a run only fills in pointers, strides and
// symbol values and launches. Runs may come from several threads; those on different streams use different workspaces.
#ifndef SPARSEFLOW_RUNTIME_EXECUTABLE_H
#define SPARSEFLOW_RUNTIME_EXECUTABLE_H

#include "sparseflow/Runtime/Device.h"

namespace sparseflow::runtime {

struct RunOptions {
  void *stream = nullptr;
  /// The caller's workspace, 256-byte aligned; null: the executable's own.
  void *workspace = nullptr;
  size_t workspaceBytes = 0;
};

struct TensorShape {
  DType dtype = DType::F16;
  std::vector<int64_t> shape;
};

/// A run of one function with fixed tensors, recorded on the device. Keeps its workspace; the executable must outlive
/// it.
class GraphRun {
public:
  virtual ~GraphRun();
  virtual llvm::Error launch(void *stream) = 0;
};

class Executable {
public:
  static llvm::Expected<std::unique_ptr<Executable>> create(ProgramFile::Ptr file,
                                                            std::shared_ptr<Device> device);
  virtual ~Executable();

  virtual Device &device() const = 0;
  virtual const ProgramFile &file() const = 0;
  /// The function's number; an empty name means the only function.
  virtual llvm::Expected<size_t> find(llvm::StringRef name) const = 0;

  virtual llvm::Error run(size_t function, llvm::ArrayRef<TensorRef> inputs,
                          llvm::ArrayRef<TensorRef> outputs, const RunOptions &options) = 0;
  /// The same with tensors in host memory, whatever the device. Waits for the outputs.
  virtual llvm::Error runHost(size_t function, llvm::ArrayRef<TensorRef> inputs,
                              llvm::ArrayRef<TensorRef> outputs) = 0;
  /// Reads only the inputs' shapes and dtypes.
  virtual llvm::Expected<TensorShape> outputShape(size_t function,
                                                  llvm::ArrayRef<TensorRef> inputs,
                                                  size_t output) = 0;

  /// `symbols`: a value for each symbol of the function, in its order.
  virtual llvm::Expected<size_t> workspaceBytes(size_t function,
                                                llvm::ArrayRef<int64_t> symbols) = 0;
  virtual llvm::Error reserve(size_t function, llvm::ArrayRef<int64_t> symbols, void *stream) = 0;

  /// Which kernels run for these symbols (none given: those of the last run), and why.
  virtual llvm::Expected<llvm::json::Value>
  report(size_t function, std::optional<llvm::ArrayRef<int64_t>> symbols) = 0;

  virtual llvm::Expected<std::unique_ptr<GraphRun>> capture(size_t function,
                                                            llvm::ArrayRef<TensorRef> inputs,
                                                            llvm::ArrayRef<TensorRef> outputs) = 0;
};

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_EXECUTABLE_H
