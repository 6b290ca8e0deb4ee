// The extension module `sparseflow._sparseflow`: the C ABI as Python objects, nothing of the
// compiler's C++.
//
// It includes only sparseflow-c/sparseflow.h and pybind11, so it builds where there is no LLVM.
// What needs no speed (graphs, reports, the sentence of an error) is Python, in the package beside
// it.
#include "Executable.h"
#include <atomic>
#include <chrono>
#include <future>
#include <optional>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <tuple>

namespace sparseflow::python {

namespace {

Program own(SfProgram *program) { return {std::shared_ptr<SfProgram>(program, sfProgramRelease)}; }

std::string takeString(char *text) {
  std::string copy = text ? text : "";
  sfFree(text);
  return copy;
}

/// Makes a call that ends soon after `cancelled` is not 0, on a thread of its own: this one looks
/// for signals meanwhile, so that Ctrl-C ends it.
template <typename Call> void checkInterruptibly(std::atomic<int32_t> &cancelled, Call call) {
  std::string message;
  std::future<SfStatus> running = std::async(std::launch::async, [&] {
    SfStatus status = call();
    if (status != SF_OK)
      message = sfLastError(); // of this thread
    return status;
  });
  std::optional<py::error_already_set> signal;
  auto isRunning = [&] {
    constexpr std::chrono::milliseconds pause(50);
    py::gil_scoped_release release;
    return running.wait_for(pause) != std::future_status::ready;
  };
  auto lookForSignals = [&] {
    if (!signal && PyErr_CheckSignals() != 0) {
      signal.emplace();
      cancelled = 1;
    }
  };
  while (isRunning())
    lookForSignals();
  // Ctrl-C in a terminal also ends the assemblers, which are what the call may have failed by.
  lookForSignals();
  if (signal)
    throw std::move(*signal);
  check(running.get(), message);
}

/// Compiler messages as (severity, text), gathered while the GIL is released.
using Diagnostics = std::vector<std::pair<int32_t, std::string>>;

/// `isFile`: source is a path. constants: (name, NumPy array) pairs. options: the C struct's text
/// fields by name.
std::pair<Program, Diagnostics>
compile(const std::string &text, bool isFile,
        const std::vector<std::pair<std::string, py::object>> &constants,
        const std::map<std::string, std::string> &options) {
  Diagnostics diagnostics;
  SfCompileOptions native;
  SF_INIT(native);
  auto field = [&](const char *name) -> const char * {
    auto found = options.find(name);
    return found == options.end() ? nullptr : found->second.c_str();
  };
  native.targets = field("targets");
  native.config = field("config");
  native.cache_dir = field("cache_dir");
  native.ptxas = field("ptxas");
  native.dump_intermediates = field("dump_intermediates");
  native.reproducer = field("reproducer");
  native.package_folders = field("package_folders");
  native.tuning = field("tuning");
  native.diagnostic_user = &diagnostics;
  native.diagnostic = [](void *user, int32_t severity, const char *message) {
    static_cast<Diagnostics *>(user)->emplace_back(severity, message);
  };

  std::vector<TensorView> views(constants.size());
  std::vector<SfConstant> blobs(constants.size());
  for (size_t i = 0; i < constants.size(); ++i) {
    views[i].borrow(constants[i].second, {"constant", &constants[i].first});
    SF_INIT(blobs[i]);
    blobs[i].name = constants[i].first.c_str();
    blobs[i].data = views[i].tensor.data;
    blobs[i].bytes = sfDTypeSize(views[i].tensor.dtype);
    for (int32_t d = 0; d < views[i].tensor.rank; ++d)
      blobs[i].bytes *= views[i].tensor.shape[d];
  }

  std::atomic<int32_t> cancelled{0};
  static_assert(sizeof(cancelled) == sizeof(int32_t), "the ABI wants a plain number");
  native.cancelled = reinterpret_cast<const int32_t *>(&cancelled);
  Program program; // owned before a late signal could lose it
  checkInterruptibly(cancelled, [&] {
    SfProgram *made = nullptr;
    SfStatus status =
        isFile ? sfCompileFile(text.c_str(), blobs.data(), blobs.size(), &native, &made)
               : sfCompile(text.data(), text.size(), blobs.data(), blobs.size(), &native, &made);
    if (status == SF_OK)
      program = own(made);
    return status;
  });
  return {std::move(program), std::move(diagnostics)};
}

Program openFile(const std::string &path, bool verify) {
  SfProgram *program = nullptr;
  checkReleased([&] { return sfProgramOpen(path.c_str(), verify ? SF_OPEN_VERIFY : 0, &program); });
  return own(program);
}

Program fromBytes(const py::bytes &data, bool verify) {
  char *bytes = nullptr;
  Py_ssize_t size = 0;
  PyBytes_AsStringAndSize(data.ptr(), &bytes, &size);
  SfProgram *program = nullptr;
  checkReleased([&] {
    return sfProgramFromMemory(bytes, size, SF_OPEN_COPY | (verify ? SF_OPEN_VERIFY : 0), &program);
  });
  return own(program);
}

/// The two arrays of a weight are NumPy's: Python converts before and after (weights.py).
void prune24(const py::array &dense, const py::array &pruned) {
  TensorView from, to;
  from.borrow(dense, "weight");
  to.borrow(pruned, "result");
  checkReleased([&] { return sfPrune24(&from.tensor, &to.tensor); });
}

void compress24(const py::array &dense, const py::array &values, const py::array &bitmask) {
  TensorView from, kept, mask;
  from.borrow(dense, "weight");
  kept.borrow(values, "values");
  mask.borrow(bitmask, "bitmask");
  checkReleased([&] { return sfCompress24(&from.tensor, &kept.tensor, &mask.tensor); });
}

void decompress24(const py::array &values, const py::array &bitmask, const py::array &dense) {
  TensorView kept, mask, to;
  kept.borrow(values, "values");
  mask.borrow(bitmask, "bitmask");
  to.borrow(dense, "result");
  checkReleased([&] { return sfDecompress24(&kept.tensor, &mask.tensor, &to.tensor); });
}

py::dict validate24(const py::array &dense) {
  TensorView from;
  from.borrow(dense, "weight");
  SfValidation found;
  SF_INIT(found);
  checkReleased([&] { return sfValidate24(&from.tensor, &found); });
  py::dict result;
  result["groups"] = found.groups;
  result["violations"] = found.violations;
  result["row"] = found.first_row;
  result["group"] = found.first_group;
  result["non_finite"] = found.non_finite;
  return result;
}

py::tuple packedSize(SfDType dtype, int64_t features, int64_t inner) {
  int64_t values = 0, words = 0;
  check(sfPackedSize(dtype, features, inner, &values, &words));
  return py::make_tuple(values, words);
}

void packWeight(const py::array &values, const py::array &bitmask, const py::array &packedValues,
                const py::array &packedMetadata, const std::string &order) {
  TensorView kept, mask, to, metadata;
  kept.borrow(values, "values");
  mask.borrow(bitmask, "bitmask");
  to.borrow(packedValues, "packed values");
  metadata.borrow(packedMetadata, "packed metadata");
  SfPackOptions options;
  SF_INIT(options);
  // What is neither is refused there.
  options.order = order == "mma" ? SF_PACK_MMA : order == "wgmma" ? SF_PACK_WGMMA : -1;
  check(sfPackWeightWith(&kept.tensor, &mask.tensor, &options, &to.tensor, &metadata.tensor));
}

/// target, dtype, weights, epilogue, features, inner, tokens.
using TuningKey =
    std::tuple<std::string, std::string, std::string, std::string, int64_t, int64_t, int64_t>;

SfTuningKey toNative(const TuningKey &key) {
  SfTuningKey native;
  SF_INIT(native);
  native.target = std::get<0>(key).c_str();
  native.dtype = std::get<1>(key).c_str();
  native.weights = std::get<2>(key).c_str();
  native.epilogue = std::get<3>(key).c_str();
  std::tie(std::ignore, std::ignore, std::ignore, std::ignore, native.features, native.inner,
           native.tokens) = key;
  return native;
}

/// An open tuning database.
class TuningDatabase {
public:
  /// `path` None: the user's default one.
  explicit TuningDatabase(const std::optional<std::string> &path) {
    SfTuning *opened = nullptr;
    char *text = nullptr;
    check(sfTuningOpen(path ? path->c_str() : nullptr, &opened, &text));
    handle.reset(opened);
    warnings = takeString(text);
  }
  void record(const TuningKey &key, const std::string &config, double microseconds) {
    SfTuningKey native = toNative(key);
    check(sfTuningRecord(handle.get(), &native, config.c_str(), microseconds));
  }
  std::optional<std::string> lookup(const TuningKey &key) {
    SfTuningKey native = toNative(key);
    char *json = nullptr;
    check(sfTuningLookup(handle.get(), &native, &json));
    return json ? std::optional(takeString(json)) : std::nullopt;
  }
  void exportTo(const std::string &path) { check(sfTuningExport(handle.get(), path.c_str())); }

  std::string warnings;

private:
  std::unique_ptr<SfTuning, void (*)(SfTuning *)> handle{nullptr, sfTuningClose};
};

void registerProgram(py::module_ &m) {
  py::class_<Program>(m, "Program")
      .def("save",
           [](const Program &self, const std::string &path) {
             checkReleased([&] { return sfProgramSave(self.handle.get(), path.c_str()); });
           })
      .def("to_bytes",
           [](const Program &self) {
             void *data = nullptr;
             size_t bytes = 0;
             checkReleased([&] { return sfProgramToMemory(self.handle.get(), &data, &bytes); });
             std::unique_ptr<void, void (*)(void *)> owned(data, sfFree);
             return py::bytes(static_cast<char *>(data), bytes);
           })
      .def("describe",
           [](const Program &self) {
             char *json = nullptr;
             check(sfProgramDescribe(self.handle.get(), &json));
             return takeString(json);
           })
      .def("source",
           [](const Program &self) {
             char *mlir = nullptr;
             check(sfProgramSource(self.handle.get(), &mlir));
             return takeString(mlir);
           })
      // A view as unsigned bytes and its shape: NumPy's own bf16 and float8 are put on in Python.
      .def("tensor", [](const py::object &self, const std::string &name) {
        SfTensor tensor;
        SF_INIT(tensor);
        check(sfProgramTensor(self.cast<Program &>().handle.get(), name.c_str(), &tensor));
        std::vector<int64_t> shape(tensor.shape, tensor.shape + tensor.rank);
        int64_t bytes = sfDTypeSize(tensor.dtype);
        for (int64_t extent : shape)
          bytes *= extent;
        py::array_t<uint8_t> view({bytes}, {1}, static_cast<uint8_t *>(tensor.data), self);
        view.attr("flags").attr("writeable") = false;
        return py::make_tuple(view, tensor.dtype, shape);
      });
}

void registerTuning(py::module_ &m) {
  m.def("tuning_buckets", [] {
    char *json = nullptr;
    check(sfTuningBuckets(&json));
    return takeString(json);
  });
  m.def("tuning_products", [](const Program &program, const std::string &target) {
    char *json = nullptr;
    check(sfTuningProducts(program.handle.get(), target.c_str(), &json));
    return takeString(json);
  });
  m.def("tuning_candidates", [](const TuningKey &key, size_t limit) {
    SfTuningKey native = toNative(key);
    char *json = nullptr;
    check(sfTuningCandidates(&native, limit, &json));
    return takeString(json);
  });
  py::class_<TuningDatabase>(m, "TuningDatabase")
      .def(py::init<std::optional<std::string>>())
      .def("record", &TuningDatabase::record)
      .def("lookup", &TuningDatabase::lookup)
      .def("export", &TuningDatabase::exportTo)
      .def_readonly("warnings", &TuningDatabase::warnings);
}

} // namespace

PYBIND11_MODULE(_sparseflow, m) {
  m.doc() = "SparseFlow's C ABI; use the package sparseflow instead.";
  if (sfAbiVersion() < SF_ABI_VERSION)
    throw py::import_error("expected a libsparseflow.so with ABI version " +
                           std::to_string(SF_ABI_VERSION) + " or later, got " +
                           std::to_string(sfAbiVersion()) +
                           "; rebuild the binding or install the library that it was built for");

  m.def("version", &sfVersion);
  m.def("dtype_name", &sfDTypeName);
  m.def("devices", [] {
    char *json = nullptr, *unavailable = nullptr;
    check(sfDevices(&json, &unavailable));
    py::object reason = py::none();
    if (unavailable)
      reason = py::str(takeString(unavailable));
    return py::make_tuple(takeString(json), reason);
  });

  m.def("targets", [] {
    char *json = nullptr;
    check(sfTargets(&json));
    return takeString(json);
  });

  registerProgram(m);
  m.def("compile", &compile);
  m.def("open_file", &openFile);
  m.def("from_bytes", &fromBytes);

  py::class_<CapturedCall>(m, "CapturedCall",
                           "A call with fixed tensors, captured as one CUDA graph.")
      .def("launch", &CapturedCall::launch, py::arg("stream") = py::none(),
           "Replays the call on `stream` (default: the current one of the outputs' framework); "
           "returns the outputs.")
      .def_property_readonly("outputs", &CapturedCall::result);
  py::class_<Executable>(m, "Executable")
      .def(py::init<Program, std::string, py::list>())
      .def("__call__", &Executable::call)
      .def("_call_on_rows", &Executable::callOnRows)
      .def("_capture", &Executable::capture)
      .def("_report", &Executable::report)
      .def("_reserve", &Executable::reserve)
      .def("_warm_up", &Executable::warmUp)
      .def_property_readonly("_device", &Executable::device)
      .def_property_readonly("_program", &Executable::program);
  registerDeviceBuffer(m);

  registerTuning(m);

  m.def("validate_24", &validate24);
  m.def("prune_24", &prune24);
  m.def("compress_24", &compress24);
  m.def("decompress_24", &decompress24);
  m.def("packed_size", &packedSize);
  m.def("pack_weight", &packWeight);
}

} // namespace sparseflow::python
