// Borrowing and making tensors; see TensorView.h. Everything that is slow and framework-specific is
// in interop.py.
#include "TensorView.h"
#include <cstring>
#include <pybind11/numpy.h>
#include <unordered_map>
#include <utility>

namespace sparseflow::python {

namespace {

constexpr uintptr_t rowAlignment = 16; // bytes, of what kernels read with one instruction

py::module_ module(const char *name) { return py::module_::import(name); }

[[noreturn]] void throwPython(const py::object &exception) {
  PyErr_SetObject(reinterpret_cast<PyObject *>(Py_TYPE(exception.ptr())), exception.ptr());
  throw py::error_already_set();
}

/// The exchange API of a tensor type, or null; looked up once a type. Types live as long as their
/// framework's module, and a reference keeps an address from being used again.
const dlpack::ExchangeAPI *exchangeOf(PyTypeObject *type) {
  static auto *known = new std::unordered_map<PyTypeObject *, const dlpack::ExchangeAPI *>();
  auto found = known->find(type);
  if (found != known->end())
    return found->second;
  const dlpack::ExchangeAPI *api = nullptr;
  if (auto capsule = py::reinterpret_steal<py::object>(PyObject_GetAttrString(
          reinterpret_cast<PyObject *>(type), "__dlpack_c_exchange_api__"))) {
    api = static_cast<const dlpack::ExchangeAPI *>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    while (api && api->version.major > 1)
      api = api->previous;
  }
  PyErr_Clear();
  Py_INCREF(type);
  known->emplace(type, api);
  return api;
}

/// 0 when the library has no such type.
SfDType fromDLPack(dlpack::DataType type) {
  if (type.lanes != 1)
    return 0;
  switch (type.code) {
  case dlpack::floating:
    return type.bits == 16 ? SF_F16 : type.bits == 32 ? SF_F32 : type.bits == 64 ? SF_F64 : 0;
  case dlpack::bfloat:
    return type.bits == 16 ? SF_BF16 : 0;
  case dlpack::float8E4M3FN:
    return SF_E4M3;
  case dlpack::float8E5M2:
    return SF_E5M2;
  case dlpack::boolean:
    return type.bits == 8 ? SF_BOOL : 0;
  case dlpack::signedInt:
    return type.bits == 8    ? SF_I8
           : type.bits == 16 ? SF_I16
           : type.bits == 32 ? SF_I32
           : type.bits == 64 ? SF_I64
                             : 0;
  case dlpack::unsignedInt:
    return type.bits == 8    ? SF_U8
           : type.bits == 16 ? SF_U16
           : type.bits == 32 ? SF_U32
           : type.bits == 64 ? SF_U64
                             : 0;
  }
  return 0;
}

dlpack::DataType toDLPack(SfDType dtype) {
  uint8_t bits = 8 * sfDTypeSize(dtype);
  switch (dtype) {
  case SF_BF16:
    return {dlpack::bfloat, bits, 1};
  case SF_E4M3:
    return {dlpack::float8E4M3FN, bits, 1};
  case SF_E5M2:
    return {dlpack::float8E5M2, bits, 1};
  case SF_F16:
  case SF_F32:
  case SF_F64:
    return {dlpack::floating, bits, 1};
  case SF_BOOL:
    return {dlpack::boolean, bits, 1};
  case SF_U8:
  case SF_U16:
  case SF_U32:
  case SF_U64:
    return {dlpack::unsignedInt, bits, 1};
  default:
    return {dlpack::signedInt, bits, 1};
  }
}

/// NumPy's type numbers; those of ml_dtypes are handed out at run time and known by name.
SfDType fromNumPy(const py::dtype &type) {
  static auto *known = new std::unordered_map<int, SfDType>();
  auto found = known->find(type.num());
  if (found != known->end())
    return found->second;
  auto name = py::str(type.attr("name")).cast<std::string>();
  static const std::unordered_map<std::string, SfDType> names = {
      {"float16", SF_F16},        {"bfloat16", SF_BF16},    {"float32", SF_F32}, {"int8", SF_I8},
      {"float8_e4m3fn", SF_E4M3}, {"float8_e5m2", SF_E5M2}, {"int32", SF_I32},   {"uint8", SF_U8},
      {"uint32", SF_U32},         {"int16", SF_I16},        {"uint16", SF_U16},  {"int64", SF_I64},
      {"uint64", SF_U64},         {"float64", SF_F64},      {"bool", SF_BOOL}};
  auto named = names.find(name);
  SfDType dtype = named == names.end() ? 0 : named->second;
  known->emplace(type.num(), dtype);
  return dtype;
}

/// Memory of an executable's device, handed to a framework through `__dlpack__`.
struct OwnedTensor {
  dlpack::ManagedTensor managed{};
  int64_t shape[SF_MAX_RANK];
  ExecutableHandle executable;

  ~OwnedTensor() {
    if (managed.tensor.data) // null when the allocation failed
      sfDeallocate(executable.get(), managed.tensor.data);
  }
};

/// The object whose `__dlpack__` gives that memory away.
struct DeviceBuffer {
  std::unique_ptr<OwnedTensor> owned;
  dlpack::Device device;

  py::capsule dlpack() {
    if (!owned)
      raiseInvalidArgument("expected a buffer that was not handed out yet, got one that was");
    auto *managed = &owned.release()->managed;
    return py::capsule(managed, "dltensor", [](PyObject *capsule) {
      if (!PyCapsule_IsValid(capsule, "dltensor"))
        return; // consumed
      auto *unused =
          static_cast<dlpack::ManagedTensor *>(PyCapsule_GetPointer(capsule, "dltensor"));
      unused->deleter(unused);
    });
  }
};

} // namespace

void registerDeviceBuffer(py::module_ &m) {
  py::class_<DeviceBuffer>(m, "DeviceBuffer")
      .def("__dlpack__", [](DeviceBuffer &self, const py::kwargs &) { return self.dlpack(); })
      .def("__dlpack_device__",
           [](DeviceBuffer &self) { return py::make_tuple(self.device.type, self.device.id); });
}

void check(SfStatus status) {
  if (status != SF_OK)
    check(status, sfLastError());
}

void check(SfStatus status, const std::string &message) {
  if (status != SF_OK)
    throwPython(module("sparseflow.errors").attr("error_of")(status, message));
}

void raiseInvalidArgument(const std::string &message) {
  throwPython(module("sparseflow.errors").attr("InvalidArgumentError")(message));
}

/// The NumPy dtype object of a dtype (one of ml_dtypes for bf16 and float8).
static py::object numpyDType(SfDType dtype) {
  static auto *known = new std::unordered_map<SfDType, py::object>();
  auto found = known->find(dtype);
  if (found == known->end())
    found = known->emplace(dtype, module("sparseflow.dtypes").attr("numpy_dtype")(dtype)).first;
  return found->second;
}

TensorView::~TensorView() {
  if (allocated && allocated->deleter)
    allocated->deleter(allocated);
}

/// Points the SfTensor at this view's arrays. The stride of an extent below two means nothing: what
/// frameworks put there is replaced by the contiguous one, so that it fails no check.
void TensorView::finish(int32_t rank) {
  tensor.struct_size = sizeof(tensor);
  tensor.rank = rank;
  tensor.shape = shape;
  tensor.strides = strides;
  int64_t contiguous = 1;
  for (int32_t i = rank; i-- > 0;) {
    if (shape[i] < 2)
      strides[i] = contiguous;
    contiguous *= shape[i] > 0 ? shape[i] : 1;
  }
}

void TensorView::setFrom(const dlpack::Tensor &from, const Label &what) {
  if (from.ndim > SF_MAX_RANK)
    raiseInvalidArgument(what.text() + ": expected a rank of at most " +
                         std::to_string(SF_MAX_RANK) + ", got " + std::to_string(from.ndim));
  tensor.dtype = fromDLPack(from.dtype);
  if (!tensor.dtype)
    raiseInvalidArgument(what.text() +
                         ": expected an element type that SparseFlow knows (f16, bf16, f32, i8, "
                         "e4m3, e5m2), got DLPack type code " +
                         std::to_string(from.dtype.code) + " with " +
                         std::to_string(from.dtype.bits) + " bits");
  tensor.data = static_cast<char *>(from.data) + from.byteOffset;
  device = from.device;
  // Managed memory may be used from any GPU, which the driver knows best.
  tensor.gpu = device.type == dlpack::cuda ? device.id + 1 : 0;
  int64_t contiguous = 1;
  for (int32_t i = from.ndim; i-- > 0;) {
    shape[i] = from.shape[i];
    strides[i] = from.strides ? from.strides[i] : contiguous;
    contiguous *= shape[i];
  }
  finish(from.ndim);
}

void TensorView::borrowNumPy(py::handle array, const Label &what) {
  auto view = py::reinterpret_borrow<py::array>(array);
  source = Source::NumPy;
  readOnly = !view.writeable();
  py::dtype type = view.dtype();
  tensor.dtype = fromNumPy(type);
  if (!tensor.dtype || type.byteorder() == '>')
    raiseInvalidArgument(
        what.text() +
        ": expected an element type that SparseFlow knows (f16, bf16, f32, i8, e4m3, "
        "e5m2) in native byte order, got " +
        py::str(type).cast<std::string>());
  if (view.ndim() > SF_MAX_RANK)
    raiseInvalidArgument(what.text() + ": expected a rank of at most " +
                         std::to_string(SF_MAX_RANK) + ", got " + std::to_string(view.ndim()));
  tensor.data = const_cast<void *>(view.data());
  int64_t width = view.itemsize();
  for (int32_t i = 0; i < view.ndim(); ++i) {
    shape[i] = view.shape(i);
    if (view.strides(i) % width)
      raiseInvalidArgument(what.text() + ": expected strides of whole elements, got " +
                           std::to_string(view.strides(i)) +
                           " bytes; make it contiguous with "
                           "numpy.ascontiguousarray");
    strides[i] = view.strides(i) / width;
  }
  finish(view.ndim());
}

void TensorView::borrowCapsule(py::handle from, const Label &what) {
  source = Source::Capsule;
  capsule = module("sparseflow.interop").attr("export")(from);
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    auto *managed = static_cast<dlpack::VersionedTensor *>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    readOnly = managed->flags & dlpack::flagReadOnly;
    setFrom(managed->tensor, what);
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    setFrom(static_cast<dlpack::ManagedTensor *>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))
                ->tensor,
            what);
  } else {
    raiseInvalidArgument(what.text() +
                         ": expected __dlpack__ to return a DLPack capsule, got something else");
  }
}

void TensorView::borrow(py::handle from, const Label &what) {
  object = py::reinterpret_borrow<py::object>(from);
  exchange = exchangeOf(Py_TYPE(from.ptr()));
  if (exchange) {
    source = Source::Exchange;
    dlpack::Tensor view;
    if (exchange->viewFromObject(from.ptr(), &view)) {
      py::error_already_set error; // of a kind that has no memory, such as a meta tensor
      if (!error.matches(PyExc_Exception))
        throw error; // Ctrl-C
      std::string reason = py::str(error.value());
      raiseInvalidArgument(what.text() + ": expected a tensor in a CPU's or GPU's memory, got a " +
                           Py_TYPE(from.ptr())->tp_name +
                           " that is not: " + reason.substr(0, reason.find('\n')));
    }
    setFrom(view, what);
  } else if (py::isinstance<py::array>(from)) {
    borrowNumPy(from, what);
  } else if (py::hasattr(from, "__dlpack__")) {
    borrowCapsule(from, what);
  } else {
    raiseInvalidArgument(what.text() +
                         ": expected a NumPy array or anything with __dlpack__, got " +
                         std::string(Py_TYPE(from.ptr())->tp_name));
  }
}

bool TensorView::borrowRows(py::handle from, int64_t width) {
  try {
    borrow(from, "rows");
  } catch (py::error_already_set &error) { // of a kind that has no memory, such as a meta tensor
    if (!error.matches(PyExc_Exception))
      throw; // Ctrl-C
    return false;
  }
  if (tensor.rank < 1 || shape[tensor.rank - 1] != width ||
      reinterpret_cast<uintptr_t>(tensor.data) % rowAlignment)
    return false;
  int64_t elements = 1;
  for (int32_t i = tensor.rank; i-- > 0; elements *= shape[i])
    if (strides[i] != elements)
      return false;
  return elements > 0;
}

std::vector<int64_t> TensorView::foldRows() {
  int32_t rank = tensor.rank;
  std::vector<int64_t> leading(shape, shape + rank - 1);
  int64_t rows = 1, inner = shape[rank - 1];
  for (int64_t extent : leading)
    rows *= extent;
  shape[0] = rows;
  shape[1] = inner;
  strides[0] = inner;
  strides[1] = 1;
  finish(2);
  return leading;
}

void TensorView::allocateNumPy(SfDType dtype, int32_t rank, const int64_t *extents) {
  py::tuple size(rank);
  for (int32_t i = 0; i < rank; ++i)
    size[i] = extents[i];
  static auto *empty = new py::object(module("numpy").attr("empty"));
  object = (*empty)(size, numpyDType(dtype));
  borrowNumPy(object, "result");
}

void TensorView::allocateLike(const TensorView &like, SfDType dtype, int32_t rank,
                              const int64_t *extents, const ExecutableHandle &executable) {
  if (like.source == Source::NumPy || (like.source == Source::Capsule && !like.onGPU())) {
    allocateNumPy(dtype, rank, extents);
    source = like.source;
    if (source == Source::Capsule)
      capsule = like.object;
    return;
  }
  std::memcpy(shape, extents, rank * sizeof(*extents));
  if (like.source == Source::Exchange) {
    dlpack::Tensor prototype{nullptr, like.device, rank, toDLPack(dtype), shape, nullptr, 0};
    std::string error;
    if (like.exchange->allocate(&prototype, &allocated, &error,
                                [](void *context, const char *kind, const char *message) {
                                  *static_cast<std::string *>(context) =
                                      std::string(kind) + ": " + message;
                                }))
      throwPython(
          module("sparseflow.errors")
              .attr("OutOfMemoryError")("the framework could not allocate the result: " + error));
    exchange = like.exchange;
    source = Source::Exchange;
    setFrom(allocated->tensor, "result");
    return;
  }
  auto owned = std::make_unique<OwnedTensor>();
  std::memcpy(owned->shape, extents, rank * sizeof(*extents));
  size_t bytes = sfDTypeSize(dtype);
  for (int32_t i = 0; i < rank; ++i)
    bytes *= extents[i];
  owned->executable = executable;
  owned->managed = {
      {nullptr, like.device, rank, toDLPack(dtype), owned->shape, nullptr, 0},
      owned.get(),
      [](dlpack::ManagedTensor *self) { delete static_cast<OwnedTensor *>(self->context); }};
  check(sfAllocate(executable.get(), bytes ? bytes : 1, &owned->managed.tensor.data));
  setFrom(owned->managed.tensor, "result");
  source = Source::Capsule;
  capsule = like.object;
  auto buffer = std::make_unique<DeviceBuffer>(DeviceBuffer{std::move(owned), like.device});
  object = py::cast(std::move(buffer));
}

py::object TensorView::take() {
  if (source == Source::NumPy)
    return object;
  if (source == Source::Capsule)
    return module("sparseflow.interop").attr("adopt")(object, capsule);
  void *made = nullptr;
  if (exchange->managedToObject(std::exchange(allocated, nullptr), &made))
    throw py::error_already_set();
  return py::reinterpret_steal<py::object>(static_cast<PyObject *>(made));
}

void *TensorView::currentStream(bool *ordered) const {
  *ordered = true;
  if (source == Source::Exchange) {
    void *stream = nullptr;
    if (exchange->currentStream(device.type, device.id, &stream))
      throw py::error_already_set();
    return stream;
  }
  auto answer =
      module("sparseflow.interop").attr("current_stream")(object, device.id).cast<py::tuple>();
  *ordered = answer[1].cast<bool>();
  return reinterpret_cast<void *>(answer[0].cast<uintptr_t>());
}

std::string TensorView::describe() const {
  if (onGPU())
    return "cuda:" + std::to_string(device.id);
  return "host memory";
}

} // namespace sparseflow::python
