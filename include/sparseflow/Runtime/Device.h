// Where kernels run, as the executor sees it: a place that loads a function's kernels, launches
// them and owns memory.
//
// The runtime knows GPUs (CudaDevice). The emulator and the reference need a compiler and live in
// other libraries; they implement this interface and register a factory, so that the runtime needs
// no MLIR and the executor has one code path for all of them.
#ifndef SPARSEFLOW_RUNTIME_DEVICE_H
#define SPARSEFLOW_RUNTIME_DEVICE_H

#include "sparseflow/Runtime/LibraryMatmul.h"
#include "sparseflow/Runtime/ProgramFile.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include <functional>

namespace sparseflow::runtime {

/// A tensor that a caller passes in or out. Empty strides mean contiguous; strides are in elements.
struct TensorRef {
  void *data = nullptr;
  DType dtype = DType::F16;
  llvm::ArrayRef<int64_t> shape;
  llvm::ArrayRef<int64_t> strides;
  /// Ordinal of the GPU that data is known to lie on; nothing: not known.
  std::optional<int> gpu = std::nullopt;
};

/// What is really loaded for a kernel; a JIT may have chosen other registers than the manifest
/// says.
struct LoadedKernelInfo {
  std::string binary; // "cubin sm_80", "ptx sm_80, compiled by the driver", "emulated"
  std::optional<int64_t> registers;
  std::optional<int64_t> localBytes;
};

/// Memory that the kernels of a call may touch.
struct MemoryRange {
  const void *base = nullptr;
  uint64_t bytes = 0;
  bool writable = false;
  std::string name;
  bool isConstant = false; ///< Of the program: no kernel ever writes it.
};

/// One function on one device. May be used from several threads at once.
class LoadedFunction {
public:
  virtual ~LoadedFunction();

  /// The program whose steps the executor replays with `launch`. Null: the device computes the
  /// function as a whole with `evaluate`, and no kernels are involved.
  virtual const Program *program() const = 0;

  /// Launches kernel number `kernel` of the program. `params[i]` points to the value of argument i
  /// (a 64-bit pointer, i64, i32, f32 or what encodeTensorMap made, as the manifest says). Every
  /// extent of the grid is at least 1. Must not allocate, synchronize or load anything where the
  /// device is asynchronous.
  virtual llvm::Error launch(size_t kernel, const std::array<uint32_t, 3> &grid,
                             void *const *params, void *stream);

  /// The same where kernels use host memory, with everything that the call lets them touch, so that
  /// a device that can check accesses does. By default it does not.
  virtual llvm::Error launchWithin(llvm::ArrayRef<MemoryRange> memory, size_t kernel,
                                   const std::array<uint32_t, 3> &grid, void *const *params,
                                   void *stream);

  /// The tensors have been checked against the manifest.
  virtual llvm::Error evaluate(llvm::ArrayRef<TensorRef> inputs, llvm::ArrayRef<TensorRef> outputs);

  /// For reports.
  virtual LoadedKernelInfo info(size_t kernel) const;
};

/// A recorded sequence of launches.
class RecordedGraph {
public:
  virtual ~RecordedGraph();
  /// Enqueues all of them.
  virtual llvm::Error launch(void *stream) = 0;
};

/// A place where functions run. May be used from several threads at once.
class Device {
public:
  virtual ~Device();

  /// "cuda:0", "emulator".
  virtual llvm::StringRef name() const = 0;
  /// For a person: "NVIDIA H100 80GB HBM3".
  virtual std::string description() const = 0;
  /// Whether kernels read and write ordinary host memory, and launches return when they are done.
  virtual bool usesHostMemory() const = 0;

  /// Chooses among the function's programs and loads the kernels. `function` belongs to `file`,
  /// which the result may keep alive.
  virtual llvm::Expected<std::unique_ptr<LoadedFunction>> load(const ProgramFile::Ptr &file,
                                                               const Function &function) = 0;

  /// Memory is 256-byte aligned at least. By default host memory, as for all devices that use it.
  virtual llvm::Expected<void *> allocate(size_t bytes);
  virtual llvm::Error deallocate(void *memory);
  /// These return when the copy is done, ordered after the stream's earlier work.
  virtual llvm::Error copyToDevice(void *target, const void *source, size_t bytes, void *stream);
  virtual llvm::Error copyToHost(void *target, const void *source, size_t bytes, void *stream);
  virtual llvm::Error synchronize(void *stream);
  /// Waits for all streams.
  virtual llvm::Error synchronizeAll();

  /// A product by a library. Unsupported: the library is missing or cannot, and the program goes
  /// another way. By default a plain product.
  virtual llvm::Expected<std::unique_ptr<LibraryMatmul>> createMatmul(const MatmulType &type);

  /// Writes what kernels take for a matrix: tensorMapBytes, aligned to tensorMapAlignment. By
  /// default the struct itself.
  virtual llvm::Error encodeTensorMap(DType dtype, const HostTensorMap &map, void *out) const;

  /// Whether kernels may read and write there: nothing, or why not ("host memory", ...). `gpu` is
  /// the ordinal of the GPU that it is known to lie on.
  virtual std::optional<std::string> whyUnusable(const void *pointer,
                                                 std::optional<int> gpu = std::nullopt) const;

  /// Makes the device current for this thread and hands back what `leave` restores.
  virtual llvm::Expected<void *> enter();
  virtual void leave(void *previous);

  /// Whether somebody records the stream's work into a graph.
  virtual bool isCapturing(void *stream);
  /// Records what `enqueue` launches on the stream it is given.
  virtual llvm::Expected<std::unique_ptr<RecordedGraph>>
  record(llvm::function_ref<llvm::Error(void *stream)> enqueue);
};

/// The device is current from `enter` to the end of the scope.
class DeviceScope {
public:
  explicit DeviceScope(Device &device) : device(device) {}
  DeviceScope(const DeviceScope &) = delete;
  DeviceScope &operator=(const DeviceScope &) = delete;
  ~DeviceScope() {
    if (entered)
      device.leave(previous);
  }
  llvm::Error enter() {
    llvm::Expected<void *> result = device.enter();
    if (!result)
      return result.takeError();
    previous = *result;
    entered = true;
    return llvm::Error::success();
  }

private:
  Device &device;
  void *previous = nullptr;
  bool entered = false;
};

using DeviceFactory = std::function<llvm::Expected<std::shared_ptr<Device>>()>;
/// Adds a device by name ("emulator"). Registering a name again replaces it.
void registerDevice(llvm::StringRef name, DeviceFactory factory);
/// The names given to registerDevice, in that order.
std::vector<std::string> registeredDevices();

/// Whether openDevice knows such a name; the device need not be there.
llvm::Error checkDeviceName(llvm::StringRef name);

/// "cuda", "cuda:1", or a registered name. Devices are shared: the same name gives the same object
/// while it lives.
llvm::Expected<std::shared_ptr<Device>> openDevice(llvm::StringRef name);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_DEVICE_H
