// Arrays of any framework seen as SfTensor, and results made in the framework that the inputs came
// from.
//
// Three ways in, by speed: DLPack's C exchange API (PyTorch 2.10 and later: no Python call at all),
// NumPy's own struct (which also knows the bf16 and float8 of ml_dtypes), and a `__dlpack__`
// capsule (CuPy, JAX, older PyTorch).
#ifndef SPARSEFLOW_PYTHON_TENSORVIEW_H
#define SPARSEFLOW_PYTHON_TENSORVIEW_H

#include "DLPack.h"
#include "sparseflow-c/sparseflow.h"
#include <memory>
#include <pybind11/pybind11.h>
#include <string>
#include <vector>

namespace sparseflow::python {

namespace py = pybind11;

/// Raises the Python exception that belongs to a failed status, with the library's sentence.
void check(SfStatus status);
/// The same for a call on another thread, whose sentence `message` is.
void check(SfStatus status, const std::string &message);
/// Calls what may wait, or read a whole file, while other threads of Python go on.
template <typename Call> void checkReleased(Call call) {
  SfStatus status;
  {
    py::gil_scoped_release release;
    status = call();
  }
  check(status);
}
/// Raises sparseflow.InvalidArgumentError.
[[noreturn]] void raiseInvalidArgument(const std::string &message);

/// What an argument is called in messages, put together only when there is one: "input 'x'".
struct Label {
  Label(const char *kind, const std::string *name = nullptr) : kind(kind), name(name) {}
  std::string text() const { return name ? kind + (" '" + *name + "'") : kind; }

  const char *kind;
  const std::string *name;
};

/// Owns a loaded executable; shared with the memory that was allocated from it.
using ExecutableHandle = std::shared_ptr<SfExecutable>;

/// A borrowed tensor. Neither copied nor moved: the SfTensor points into it.
class TensorView {
public:
  enum class Source { NumPy, Exchange, Capsule };

  TensorView() = default;
  ~TensorView();
  TensorView(const TensorView &) = delete;
  TensorView &operator=(const TensorView &) = delete;

  void borrow(py::handle object, const Label &what);
  /// Borrows a tensor [..., width] as kernels read rows of tokens: contiguous, at an address that
  /// is a multiple of 16 bytes, and not empty. False for any other.
  bool borrowRows(py::handle object, int64_t width);
  /// Of a contiguous tensor [..., K]: [rows, K], the same memory. Returns the leading extents.
  std::vector<int64_t> foldRows();
  /// A new tensor of the kind of `like`, in the same memory. Its object is `take()`.
  void allocateLike(const TensorView &like, SfDType dtype, int32_t rank, const int64_t *shape,
                    const ExecutableHandle &executable);
  void allocateNumPy(SfDType dtype, int32_t rank, const int64_t *shape);
  /// Hands out the object of an allocated tensor; a framework's own object is made only now.
  py::object take();

  bool onGPU() const { return device.type == dlpack::cuda || device.type == dlpack::cudaManaged; }
  /// The stream that the tensor's framework works on, and whether the framework orders its later
  /// work after it.
  void *currentStream(bool *ordered) const;
  std::string describe() const;

  SfTensor tensor{};
  dlpack::Device device{dlpack::cpu, 0};
  Source source = Source::NumPy;
  bool readOnly = false;

private:
  void borrowNumPy(py::handle object, const Label &what);
  void borrowCapsule(py::handle object, const Label &what);
  void setFrom(const dlpack::Tensor &from, const Label &what);
  void finish(int32_t rank);

  py::object object;  // what the view was borrowed from, or the NumPy result
  py::object capsule; // keeps a capsule's tensor alive
  const dlpack::ExchangeAPI *exchange = nullptr;
  dlpack::VersionedTensor *allocated = nullptr;
  int64_t shape[SF_MAX_RANK];
  int64_t strides[SF_MAX_RANK];
};

/// The class through which CuPy, JAX and the like receive memory of ours.
void registerDeviceBuffer(py::module_ &m);

} // namespace sparseflow::python

#endif // SPARSEFLOW_PYTHON_TENSORVIEW_H
