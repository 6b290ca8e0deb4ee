// The call path. A call on GPU tensors of a framework with DLPack's C exchange API stays in C++
// from the arguments to the launch: no Python code runs on it.
#include "Executable.h"
#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <pybind11/stl.h>

namespace sparseflow::python {

/// One call taken apart. The views stay where they are, since SfTensor points into them.
struct Executable::Call {
  const Signature *function = nullptr;
  std::vector<TensorView> inputs, outputs;
  std::vector<SfTensor> inputTensors, outputTensors;
  TensorView workspace;
  ExecutableHandle executable;
  py::object out; // the caller's own outputs, or null
  py::object stream;
  bool gpu = false;    // tensors are in GPU memory
  int32_t ordinal = 0; // of that GPU
  bool ordered = true; // the framework's later work waits for the stream
  void *cudaStream = nullptr;
  bool foldsRows = false;                      // of the first input [..., K]
  std::optional<std::vector<int64_t>> leading; // what was folded, which results have again

  py::object result();
};

static std::string join(const std::vector<std::string> &names) {
  std::string text;
  for (const std::string &name : names)
    text += (text.empty() ? "" : ", ") + name;
  return text;
}

void *streamOf(py::handle object, void *fallback) {
  if (!object || object.is_none())
    return fallback;
  if (PyLong_Check(object.ptr()))
    return reinterpret_cast<void *>(object.cast<uintptr_t>());
  if (py::hasattr(object, "__cuda_stream__")) // cuda.core and PyTorch: (protocol version, handle)
    return reinterpret_cast<void *>(
        object.attr("__cuda_stream__")().cast<py::tuple>()[1].cast<uintptr_t>());
  for (const char *name : {"cuda_stream", "ptr"})
    if (py::hasattr(object, name))
      return reinterpret_cast<void *>(object.attr(name).cast<uintptr_t>());
  raiseInvalidArgument(
      "expected stream to be an integer or an object with __cuda_stream__, cuda_stream or "
      "ptr, got " +
      std::string(Py_TYPE(object.ptr())->tp_name));
}

Executable::Executable(Program program, std::string device, const py::list &functions)
    : source(std::move(program)), requested(std::move(device)) {
  for (py::handle entry : functions) {
    auto fields = entry.cast<py::tuple>();
    signatures.push_back({fields[0].cast<std::string>(),
                          {},
                          fields[2].cast<size_t>(),
                          fields[3].cast<int64_t>(),
                          fields[4].cast<std::vector<std::pair<size_t, size_t>>>()});
    for (py::handle name : fields[1].cast<py::list>())
      signatures.back().inputs.push_back(name.cast<std::string>());
  }
}

const Signature &Executable::signature(py::handle name) const {
  bool isGiven = name && !name.is_none();
  if (!isGiven && signatures.size() == 1)
    return signatures.front();
  bool isText = isGiven && py::isinstance<py::str>(name);
  auto wanted = isText ? name.cast<std::string_view>() : std::string_view();
  for (const Signature &entry : signatures)
    if (isText && entry.name == wanted)
      return entry;
  std::vector<std::string> names;
  for (const Signature &entry : signatures)
    names.push_back(entry.name);
  if (!isGiven)
    raiseInvalidArgument("expected function= to name one of " + join(names) +
                         ", got no name; the program holds more than one function");
  raiseInvalidArgument("expected function to be one of " + join(names) + ", got " +
                       (isText ? std::string(wanted) : py::repr(name).cast<std::string>()));
}

ExecutableHandle Executable::load(const std::string &name) {
  SfExecutable *made = nullptr;
  checkReleased([&] { return sfExecutableCreate(source.handle.get(), name.c_str(), &made); });
  // The executable reads the program's tensors and code, so the program lives as long.
  return ExecutableHandle(
      made, [program = source.handle](SfExecutable *last) { sfExecutableDestroy(last); });
}

const ExecutableHandle &Executable::bound() {
  if (!home) {
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> lock(loading);
    py::gil_scoped_acquire acquire;
    if (!home) {
      ExecutableHandle made = load(requested);
      std::string name = sfExecutableDevice(made.get());
      if (name.rfind("cuda:", 0) == 0)
        gpus.emplace(std::stoi(name.substr(5)), made);
      home = std::move(made);
    }
  }
  return home;
}

const ExecutableHandle &Executable::onGPU(int32_t gpu) {
  auto found = gpus.find(gpu);
  if (found != gpus.end())
    return found->second;
  std::string name = "cuda:" + std::to_string(gpu);
  if (requested != "auto" && requested != "cuda" && requested != name)
    raiseInvalidArgument("expected tensors for the device " + requested + ", got tensors on " +
                         name + "; move them, or load the program with device=\"" + name + "\"");
  py::gil_scoped_release release;
  std::lock_guard<std::mutex> lock(loading);
  py::gil_scoped_acquire acquire;
  if (gpus.find(gpu) == gpus.end())
    gpus.emplace(gpu, load(name));
  return gpus.at(gpu);
}

std::string Executable::device() { return sfExecutableDevice(bound().get()); }

/// The inputs in the function's order, and the options among the keywords. False for a call on rows
/// whose first input has none.
bool Executable::takeArguments(Call &call, const py::args &args, const py::kwargs &kwargs) {
  py::object function;
  size_t named = 0;
  for (auto entry : kwargs) {
    auto key = entry.first.cast<std::string>();
    auto value = py::reinterpret_borrow<py::object>(entry.second);
    if (key == "out")
      call.out = value.is_none() ? py::object() : value;
    else if (key == "stream")
      call.stream = value;
    else if (key == "function")
      function = value;
    else
      ++named;
  }
  call.function = &signature(function);
  const std::vector<std::string> &names = call.function->inputs;
  if (args.size() + named != names.size())
    raiseInvalidArgument("'" + call.function->name + "' expected " + std::to_string(names.size()) +
                         " inputs (" + join(names) + "), got " +
                         std::to_string(args.size() + named));
  call.inputs = std::vector<TensorView>(names.size());
  call.inputTensors.reserve(names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    py::object value;
    if (i < args.size()) {
      value = args[i];
    } else if (kwargs.contains(names[i].c_str())) {
      value = kwargs[names[i].c_str()];
    } else {
      raiseInvalidArgument("'" + call.function->name + "' expected an input '" + names[i] +
                           "', got none; its inputs are " + join(names));
    }
    TensorView &view = call.inputs[i];
    Label label("input", &names[i]);
    if (i == 0 && call.foldsRows) {
      if (!view.borrowRows(value, call.function->width))
        return false;
      if (view.tensor.rank != 2)
        call.leading = view.foldRows();
    } else {
      view.borrow(value, label);
    }
    call.inputTensors.push_back(view.tensor);
  }
  return true;
}

/// The executable on the device that the inputs choose, and the stream there.
void Executable::chooseDevice(Call &call) {
  const std::vector<std::string> &names = call.function->inputs;
  // NumPy arrays are copied to wherever the program runs; tensors of a framework run where they
  // are.
  bool framework = false;
  for (const TensorView &view : call.inputs)
    framework |= view.source != TensorView::Source::NumPy;
  for (const TensorView &view : call.inputs)
    if (view.onGPU()) {
      call.gpu = true;
      call.ordinal = view.device.id;
      break;
    }
  if (call.gpu) {
    for (size_t i = 0; i < call.inputs.size(); ++i)
      if (!call.inputs[i].onGPU() || call.inputs[i].device.id != call.ordinal)
        raiseInvalidArgument(
            "input '" + names[i] + "': expected a tensor on cuda:" + std::to_string(call.ordinal) +
            " like the others, got one in " + call.inputs[i].describe() + "; move it there");
    call.executable = onGPU(call.ordinal);
  } else {
    call.executable = bound();
    if (framework && sfExecutableNeedsDeviceMemory(call.executable.get()))
      raiseInvalidArgument(
          "input '" + names[0] + "': expected a tensor on " +
          sfExecutableDevice(call.executable.get()) +
          ", got one in host memory; move it there, pass a NumPy array to have it copied, or "
          "load the program with device=\"emulator\"");
  }
  if (call.gpu) {
    void *current = nullptr;
    if (!call.stream || call.stream.is_none())
      current = call.inputs.front().currentStream(&call.ordered);
    call.cudaStream = streamOf(call.stream, current);
  }
}

/// The caller's outputs, or new ones of the inputs' framework.
void Executable::prepareOutputs(Call &call) {
  size_t count = call.function->outputs;
  if (call.out) {
    py::tuple given = py::isinstance<py::tuple>(call.out) || py::isinstance<py::list>(call.out)
                          ? py::tuple(call.out)
                          : py::make_tuple(call.out);
    if (given.size() != count)
      raiseInvalidArgument("out: expected " + std::to_string(count) + " tensors, got " +
                           std::to_string(given.size()));
    call.outputs = std::vector<TensorView>(count);
    for (size_t i = 0; i < count; ++i) {
      TensorView &view = call.outputs[i];
      view.borrow(given[i], "out");
      if (view.readOnly)
        raiseInvalidArgument("out: expected a writable tensor, got a read-only one");
      if (view.onGPU() != call.gpu || (call.gpu && view.device.id != call.ordinal))
        raiseInvalidArgument(
            "out: expected a tensor where the inputs are, in " +
            (call.gpu ? "cuda:" + std::to_string(call.ordinal) : std::string("host memory")) +
            ", got one in " + view.describe());
    }
  } else {
    call.outputs = std::vector<TensorView>(count);
    for (size_t i = 0; i < count; ++i) {
      SfDType dtype;
      int32_t rank;
      int64_t shape[SF_MAX_RANK];
      check(sfOutputShape(call.executable.get(), call.function->name.c_str(),
                          call.inputTensors.data(), call.inputTensors.size(), i, &dtype, &rank,
                          shape));
      if (call.leading) {
        int64_t features = shape[rank - 1];
        rank = std::copy(call.leading->begin(), call.leading->end(), shape) - shape;
        shape[rank++] = features;
      }
      TensorView &view = call.outputs[i];
      if (call.inputs.empty())
        view.allocateNumPy(dtype, rank, shape);
      else
        view.allocateLike(call.inputs.front(), dtype, rank, shape, call.executable);
      if (call.leading)
        view.foldRows();
    }
  }
  for (const TensorView &view : call.outputs)
    call.outputTensors.push_back(view.tensor);
}

/// Everything up to the launch; false where there is none to come.
bool Executable::prepare(Call &call, const py::args &args, const py::kwargs &kwargs) {
  if (!takeArguments(call, args, kwargs))
    return false;
  chooseDevice(call);
  prepareOutputs(call);
  return true;
}

py::object Executable::Call::result() {
  if (out)
    return out;
  if (outputs.size() == 1)
    return outputs.front().take();
  py::tuple all(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i)
    all[i] = outputs[i].take();
  return std::move(all);
}

/// The workspace of a call on a framework's own stream comes from the framework's allocator, which
/// shares it with everything else that runs there and which knows about graphs being captured.
void Executable::borrowWorkspace(Call &call, SfRunOptions &options) {
  const Signature &function = *call.function;
  if (call.inputs.empty() || call.inputs.front().source != TensorView::Source::Exchange ||
      (call.stream && !call.stream.is_none()))
    return;
  std::vector<int64_t> symbols(function.symbols.size());
  for (size_t i = 0; i < function.symbols.size(); ++i) {
    auto [input, axis] = function.symbols[i];
    if (static_cast<int32_t>(axis) >= call.inputTensors[input].rank)
      return; // sfRun says what is wrong
    symbols[i] = call.inputTensors[input].shape[axis];
  }
  size_t bytes = 0;
  if (sfWorkspaceSize(call.executable.get(), function.name.c_str(), symbols.data(), symbols.size(),
                      &bytes) != SF_OK ||
      !bytes)
    return;
  auto extent = static_cast<int64_t>(bytes);
  call.workspace.allocateLike(call.inputs.front(), SF_U8, 1, &extent, call.executable);
  options.workspace = call.workspace.tensor.data;
  options.workspace_bytes = bytes;
}

py::object Executable::call(const py::args &args, const py::kwargs &kwargs) {
  Call call;
  return run(call, args, kwargs);
}

py::object Executable::callOnRows(const py::args &args) {
  Call call;
  call.foldsRows = true;
  return run(call, args, py::kwargs());
}

py::object Executable::run(Call &call, const py::args &args, const py::kwargs &kwargs) {
  if (!prepare(call, args, kwargs))
    return py::none();
  const char *name = call.function->name.c_str();
  if (call.gpu) {
    SfRunOptions options;
    SF_INIT(options);
    options.stream = call.cudaStream;
    borrowWorkspace(call, options);
    check(sfRun(call.executable.get(), name, call.inputTensors.data(), call.inputTensors.size(),
                call.outputTensors.data(), call.outputTensors.size(), &options));
    if (!call.ordered)
      checkReleased([&] { return sfSynchronize(call.executable.get(), call.cudaStream); });
  } else {
    checkReleased([&] {
      return sfRunHost(call.executable.get(), name, call.inputTensors.data(),
                       call.inputTensors.size(), call.outputTensors.data(),
                       call.outputTensors.size());
    });
  }
  last = call.executable;
  return call.result();
}

std::unique_ptr<CapturedCall> Executable::capture(const py::args &args, const py::kwargs &kwargs) {
  Call call;
  prepare(call, args, kwargs);
  if (!call.gpu)
    raiseInvalidArgument(
        "expected GPU tensors to capture a CUDA graph with, got tensors in host memory");
  SfGraph *graph = nullptr;
  checkReleased([&] {
    return sfGraphCapture(call.executable.get(), call.function->name.c_str(),
                          call.inputTensors.data(), call.inputTensors.size(),
                          call.outputTensors.data(), call.outputTensors.size(), &graph);
  });
  auto tensors = py::make_tuple(args, kwargs);
  return std::make_unique<CapturedCall>(call.executable, graph, std::move(tensors), call.result(),
                                        call.ordinal);
}

py::object CapturedCall::launch(py::handle stream) {
  void *current = nullptr;
  if (!stream || stream.is_none())
    current = streamOf(
        py::module_::import("sparseflow.interop").attr("default_stream")(outputs, gpu), nullptr);
  check(sfGraphLaunch(graph.get(), streamOf(stream, current)));
  return outputs;
}

std::string Executable::report(const std::string &function, const py::object &symbols) {
  const ExecutableHandle &subject = last ? last : bound();
  char *json = nullptr;
  if (symbols.is_none()) {
    check(sfReport(subject.get(), function.c_str(), nullptr, 0, &json));
  } else {
    auto values = symbols.cast<std::vector<int64_t>>();
    check(sfReport(subject.get(), function.c_str(), values.data(), values.size(), &json));
  }
  std::string text = json;
  sfFree(json);
  return text;
}

void Executable::reserve(const std::string &function, const std::vector<int64_t> &symbols,
                         py::handle stream) {
  check(sfReserve(bound().get(), function.c_str(), symbols.data(), symbols.size(),
                  streamOf(stream, nullptr)));
}

void Executable::warmUp(const std::string &function, const std::vector<int64_t> &symbols) {
  const ExecutableHandle &subject = bound();
  SfStatus status;
  {
    py::gil_scoped_release release;
    status = sfWarmUp(subject.get(), function.c_str(), symbols.data(), symbols.size());
  }
  check(status);
}

} // namespace sparseflow::python
