// The callable that Python users hold: one program, loaded on each device that its inputs come
// from.
#ifndef SPARSEFLOW_PYTHON_EXECUTABLE_H
#define SPARSEFLOW_PYTHON_EXECUTABLE_H

#include "TensorView.h"
#include <map>
#include <mutex>
#include <vector>

namespace sparseflow::python {

/// A complete type around the C handle, which pybind11 can hold.
struct Program {
  std::shared_ptr<SfProgram> handle;
};

class Executable;

/// A call with fixed tensors, captured as a CUDA graph.
class CapturedCall {
public:
  CapturedCall(ExecutableHandle executable, SfGraph *graph, py::object tensors, py::object result,
               int32_t gpu)
      : executable(std::move(executable)), graph(graph, sfGraphDestroy),
        tensors(std::move(tensors)), outputs(std::move(result)), gpu(gpu) {}
  py::object launch(py::handle stream);

  py::object result() const { return outputs; }

private:
  ExecutableHandle executable; // outlives the graph: destroyed after it
  std::unique_ptr<SfGraph, void (*)(SfGraph *)> graph;
  py::object tensors; // what the graph's nodes point into
  py::object outputs;
  int32_t gpu;
};

/// What a call needs to know of a function, read once from the program's description.
struct Signature {
  std::string name;
  std::vector<std::string> inputs;
  size_t outputs;
  int64_t width; ///< K of a first input [..., K]; -1 where that is not fixed
  /// For each symbol, an input and the axis that has its value.
  std::vector<std::pair<size_t, size_t>> symbols;
};

class Executable {
public:
  Executable(Program program, std::string device, const py::list &functions);

  py::object call(const py::args &args, const py::kwargs &kwargs);
  /// A call of a function of token rows, with a first input [..., K] whose leading axes are taken
  /// as rows and which the results have too. None, and no call, where the first input is not as
  /// kernels read rows (see TensorView::borrowRows).
  py::object callOnRows(const py::args &args);
  std::unique_ptr<CapturedCall> capture(const py::args &args, const py::kwargs &kwargs);
  /// "cuda:0", "emulator", ...; loads the program there on first use.
  std::string device();
  std::string report(const std::string &function, const py::object &symbols);
  void reserve(const std::string &function, const std::vector<int64_t> &symbols, py::handle stream);
  void warmUp(const std::string &function, const std::vector<int64_t> &symbols);
  Program program() const { return source; }

private:
  struct Call;
  const Signature &signature(py::handle name) const;
  py::object run(Call &call, const py::args &args, const py::kwargs &kwargs);
  bool prepare(Call &call, const py::args &args, const py::kwargs &kwargs);
  bool takeArguments(Call &call, const py::args &args, const py::kwargs &kwargs);
  void chooseDevice(Call &call);
  void prepareOutputs(Call &call);
  void borrowWorkspace(Call &call, SfRunOptions &options);
  const ExecutableHandle &bound();
  const ExecutableHandle &onGPU(int32_t gpu);
  ExecutableHandle load(const std::string &name);

  Program source;
  std::string requested;
  std::vector<Signature> signatures;
  std::mutex loading;    // guards the two below while a load is under way
  ExecutableHandle home; // the device asked for
  std::map<int32_t, ExecutableHandle> gpus;
  ExecutableHandle last; // where the last call ran: what report() speaks of
};

/// The CUstream of None (`fallback`), an integer, or an object with `__cuda_stream__`,
/// `cuda_stream` or `ptr`.
void *streamOf(py::handle object, void *fallback);

} // namespace sparseflow::python

#endif // SPARSEFLOW_PYTHON_EXECUTABLE_H
