// Loading, workspaces and the ways to run.
#include "sparseflow/Runtime/Executable.h"
#include "FunctionPlan.h"
#include "sparseflow/Runtime/Error.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"
#include <cstring>
#include <thread>

using namespace llvm;
using namespace sparseflow::runtime;

/// CU_STREAM_PER_THREAD: one handle, but a stream for each thread.
static void *const perThreadStream = reinterpret_cast<void *>(2);
static constexpr uintptr_t workspaceAlignment = 256;
static constexpr size_t maxWorkspaces = 64;

GraphRun::~GraphRun() {
  graph.reset();
  consumeError(device->deallocate(workspace));
}

//===-- Loading ------------------------------------------------------------------------------===//

Executable::Executable(ProgramFile::Ptr file, std::shared_ptr<Device> device)
    : source(std::move(file)), target(std::move(device)) {}

Executable::~Executable() {
  plans.clear();
  for (auto &entry : constants)
    consumeError(target->deallocate(entry.second));
  for (std::unique_ptr<Workspace> &workspace : workspaces) {
    consumeError(target->deallocate(workspace->memory));
    for (void *memory : workspace->retired)
      consumeError(target->deallocate(memory));
  }
}

Expected<std::unique_ptr<Executable>> Executable::create(ProgramFile::Ptr file,
                                                         std::shared_ptr<Device> device) {
  std::unique_ptr<Executable> executable(new Executable(std::move(file), std::move(device)));
  if (Error error = executable->load())
    return std::move(error);
  return executable;
}

Error Executable::load() {
  for (const Function &function : source->manifest().functions) {
    Expected<std::unique_ptr<LoadedFunction>> loaded = target->load(source, function);
    if (!loaded)
      return loaded.takeError();
    Expected<std::unique_ptr<FunctionPlan>> plan =
        FunctionPlan::create(function, std::move(*loaded), *target, *source,
                             [&](StringRef name) { return uploadConstant(name); });
    if (!plan)
      return plan.takeError();
    functions[function.name] = plans.size();
    plans.push_back(std::move(*plan));
  }
  return Error::success();
}

Expected<void *> Executable::uploadConstant(StringRef name) {
  auto [entry, isNew] = constants.try_emplace(name, nullptr);
  if (!isNew)
    return entry->second;
  ArrayRef<uint8_t> bytes = source->find(name)->data;
  Expected<void *> memory = target->allocate(bytes.size());
  if (!memory)
    return addContext("constant '" + name + "'", memory.takeError());
  entry->second = *memory;
  if (Error error = target->copyToDevice(*memory, bytes.data(), bytes.size(), nullptr))
    return addContext("constant '" + name + "'", std::move(error));
  return *memory;
}

Expected<size_t> Executable::find(StringRef name) const {
  if (name.empty() && plans.size() == 1)
    return 0;
  if (auto found = functions.find(name); LLVM_LIKELY(found != functions.end()))
    return found->second;
  std::vector<std::string> known;
  for (const std::unique_ptr<FunctionPlan> &plan : plans)
    known.push_back("'" + plan->getFunction().name + "'");
  return makeError(Status::NotFound, "expected a function (" + join(known, ", ") + "), got " +
                                         (name.empty() ? Twine("no name") : "'" + name + "'"));
}

//===-- Workspaces ---------------------------------------------------------------------------===//

/// Holds a stream's workspace, locked.
class Executable::WorkspaceUse {
public:
  WorkspaceUse(Executable &executable, void *stream)
      : workspace(executable.takeWorkspace(stream)), lock(workspace.mutex) {}
  WorkspaceUse(const WorkspaceUse &) = delete;
  ~WorkspaceUse() {
    lock.unlock();
    --workspace.uses;
  }

  Workspace &workspace;

private:
  std::unique_lock<std::mutex> lock;
};

Executable::Workspace &Executable::takeWorkspace(void *stream) {
  size_t thread =
      stream == perThreadStream ? std::hash<std::thread::id>()(std::this_thread::get_id()) : 0;
  std::lock_guard<std::mutex> lock(workspacesMutex);
  auto find = [&]() -> Workspace * {
    Workspace *unbound = nullptr;
    for (std::unique_ptr<Workspace> &workspace : workspaces) {
      if (!workspace->bound)
        unbound = workspace.get();
      else if (workspace->stream == stream && workspace->thread == thread)
        return workspace.get();
    }
    return unbound;
  };
  Workspace *workspace = find();
  if (!workspace && workspaces.size() >= maxWorkspaces) {
    unbindIdle(stream);
    workspace = find();
  }
  if (!workspace)
    workspace = workspaces.emplace_back(std::make_unique<Workspace>()).get();
  workspace->stream = stream;
  workspace->thread = thread;
  workspace->bound = true;
  ++workspace->uses;
  return *workspace;
}

/// With workspacesMutex, so that nobody takes one meanwhile. Where the device cannot be waited for
/// nothing is unbound.
void Executable::unbindIdle(void *stream) {
  SmallVector<Workspace *> idle;
  for (std::unique_ptr<Workspace> &workspace : workspaces)
    if (workspace->uses == 0 && !workspace->captured)
      idle.push_back(workspace.get());
  if (idle.empty() || target->isCapturing(stream))
    return;
  if (Error error = target->synchronizeAll()) {
    consumeError(std::move(error));
    return;
  }
  for (Workspace *workspace : idle)
    workspace->bound = false;
}

/// With the workspace locked.
Error Executable::grow(Workspace &workspace, size_t bytes, void *stream) {
  if (bytes <= workspace.bytes)
    return Error::success();
  if (target->isCapturing(stream))
    return makeError(Status::InvalidArgument,
                     formatv("expected a workspace of {0} bytes, got {1} while the stream is being "
                             "captured; reserve it (sfReserve) before the capture",
                             bytes, workspace.bytes));
  // Tokens that grow step by step should not cost an allocation each time.
  size_t generous = std::max(bytes, workspace.bytes + workspace.bytes / 2);
  Expected<void *> memory = target->allocate(generous);
  if (!memory && generous > bytes) {
    consumeError(memory.takeError());
    generous = bytes;
    memory = target->allocate(generous);
  }
  if (!memory)
    return addContext("the workspace", memory.takeError());
  void *old = std::exchange(workspace.memory, *memory);
  workspace.bytes = generous;
  if (!old)
    return Error::success();
  if (workspace.captured) {
    workspace.retired.push_back(old);
    return Error::success();
  }
  if (Error error = target->synchronize(stream)) {
    // Somebody may still use it; it goes with the executable.
    workspace.retired.push_back(old);
    return error;
  }
  return target->deallocate(old);
}

Expected<size_t> Executable::workspaceBytes(size_t function, ArrayRef<int64_t> symbols) const {
  const FunctionPlan &plan = *plans[function];
  if (Error error = plan.checkSymbols(symbols))
    return std::move(error);
  CallState call;
  std::copy(symbols.begin(), symbols.end(), call.symbols);
  return plan.planWorkspace(call);
}

Error Executable::reserve(size_t function, ArrayRef<int64_t> symbols, void *stream) {
  Expected<size_t> bytes = workspaceBytes(function, symbols);
  if (!bytes)
    return bytes.takeError();
  if (*bytes == 0)
    return Error::success();
  WorkspaceUse use(*this, stream);
  return grow(use.workspace, *bytes, stream);
}

Error Executable::warmUp(size_t function, ArrayRef<int64_t> symbols) {
  const FunctionPlan &plan = *plans[function];
  if (Error error = plan.checkSymbols(symbols))
    return error;
  DeviceScope scope(*target);
  if (Error error = scope.enter())
    return error;
  return plan.warmUp(symbols.data());
}

//===-- Running ------------------------------------------------------------------------------===//

/// The call's pointers are bound; finds its workspace and launches.
Error Executable::replay(FunctionPlan &plan, CallState &call, ArrayRef<TensorRef> inputs,
                         ArrayRef<TensorRef> outputs, const RunOptions &options) {
  Expected<size_t> needed = plan.planWorkspace(call);
  if (!needed)
    return needed.takeError();
  auto launch = [&]() -> Error {
    if (LLVM_LIKELY(!target->usesHostMemory()))
      return plan.launch(call, options.stream, nullptr);
    std::vector<MemoryRange> memory = plan.memoryOf(call, inputs, outputs, *needed);
    return plan.launch(call, options.stream, &memory);
  };
  if (*needed == 0)
    return launch();

  if (options.workspace) {
    if (options.workspaceBytes < *needed ||
        reinterpret_cast<uintptr_t>(options.workspace) % workspaceAlignment != 0)
      return makeError(Status::InvalidArgument,
                       formatv("'{0}' expected a workspace of {1} bytes aligned to {2}, got {3} "
                               "bytes at {4}",
                               plan.getFunction().name, *needed, workspaceAlignment,
                               options.workspaceBytes, options.workspace));
    if (std::optional<std::string> reason = target->whyUnusable(options.workspace))
      return makeError(Status::InvalidArgument,
                       formatv("'{0}' expected a workspace in the memory of {1}, got {2}",
                               plan.getFunction().name, target->name(), *reason));
    call.workspace = static_cast<char *>(options.workspace);
    return launch();
  }

  WorkspaceUse use(*this, options.stream);
  Workspace &workspace = use.workspace;
  if (LLVM_UNLIKELY(*needed > workspace.bytes))
    if (Error error = grow(workspace, *needed, options.stream))
      return error;
  if (!workspace.captured)
    workspace.captured = target->isCapturing(options.stream);
  call.workspace = static_cast<char *>(workspace.memory);
  return launch();
}

Error Executable::run(size_t function, ArrayRef<TensorRef> inputs, ArrayRef<TensorRef> outputs,
                      const RunOptions &options) {
  FunctionPlan &plan = *plans[function];
  CallState call;
  if (Error error = plan.bindShapes(inputs, call))
    return error;
  if (Error error = plan.checkOutputShapes(outputs, call))
    return error;
  DeviceScope scope(*target);
  if (Error error = scope.enter())
    return error;
  if (Error error = plan.bindPointers(inputs, outputs, call))
    return error;
  Error error = plan.getLoaded().program() ? replay(plan, call, inputs, outputs, options)
                                           : plan.getLoaded().evaluate(inputs, outputs);
  if (!error)
    plan.recordRun(call);
  return error;
}

Expected<TensorShape> Executable::outputShape(size_t function, ArrayRef<TensorRef> inputs,
                                              size_t output) const {
  const FunctionPlan &plan = *plans[function];
  CallState call;
  if (Error error = plan.bindShapes(inputs, call))
    return std::move(error);
  if (output >= plan.getOutputs().size())
    return makeError(Status::InvalidArgument,
                     formatv("'{0}' expected an output number below {1}, got {2}",
                             plan.getFunction().name, plan.getOutputs().size(), output));
  const TensorPlan &tensor = plan.getOutputs()[output];
  TensorShape result;
  result.dtype = tensor.spec->dtype;
  for (const DimPlan &dim : tensor.shape)
    result.shape.push_back(dim.value(call.symbols));
  return result;
}

Expected<std::unique_ptr<GraphRun>> Executable::capture(size_t function, ArrayRef<TensorRef> inputs,
                                                        ArrayRef<TensorRef> outputs) {
  FunctionPlan &plan = *plans[function];
  CallState call;
  if (Error error = plan.bindShapes(inputs, call))
    return std::move(error);
  Expected<size_t> bytes = plan.planWorkspace(call);
  if (!bytes)
    return bytes.takeError();
  if (Error error = warmUp(function, ArrayRef(call.symbols, plan.getFunction().symbols.size())))
    return std::move(error);
  std::unique_ptr<GraphRun> result(new GraphRun(target));
  RunOptions options;
  if (*bytes) {
    Expected<void *> memory = target->allocate(*bytes);
    if (!memory)
      return addContext("the graph's workspace", memory.takeError());
    result->workspace = options.workspace = *memory;
    options.workspaceBytes = *bytes;
  }
  Expected<std::unique_ptr<RecordedGraph>> graph = target->record([&](void *stream) {
    options.stream = stream;
    return run(function, inputs, outputs, options);
  });
  if (!graph)
    return graph.takeError();
  result->graph = std::move(*graph);
  return std::move(result);
}

Expected<json::Value> Executable::report(size_t function,
                                         std::optional<ArrayRef<int64_t>> symbols) const {
  const FunctionPlan &plan = *plans[function];
  int64_t values[maxSymbols];
  if (symbols) {
    if (Error error = plan.checkSymbols(*symbols))
      return std::move(error);
    std::copy(symbols->begin(), symbols->end(), values);
  } else if (!plan.getFunction().symbols.empty() && !plan.lastRun(values)) {
    return makeError(
        Status::InvalidArgument,
        formatv("'{0}' expected to have run, or values for its symbols ({1}), got neither; call it "
                "first, or pass how many tokens to report on",
                plan.getFunction().name, join(plan.getFunction().symbols, ", ")));
  }
  Expected<json::Value> result = plan.report(values);
  if (result)
    (*result->getAsObject())["device"] = target->name();
  return result;
}

//===-- Host tensors -------------------------------------------------------------------------===//

namespace {
/// A host tensor's copy on the device, with the row stride and alignment that its kernels want.
class StagedTensor {
public:
  StagedTensor(Device &device, const TensorSpec &spec, const TensorRef &host)
      : device(device), spec(spec), host(host), elementBytes(byteSize(host.dtype)),
        columns(host.shape.empty() ? 1 : host.shape.back()) {
    for (size_t d = 0; d + 1 < host.shape.size(); ++d)
      rows *= host.shape[d];
    stride = rows > 1 ? alignTo(uint64_t(columns), uint64_t(spec.align.stride)) : columns;
    ref = host;
  }
  StagedTensor(const StagedTensor &) = delete;
  ~StagedTensor() { consumeError(device.deallocate(memory)); }

  /// Ready to be passed; copies the data if it is an input.
  Error prepare(bool isInput) {
    if (rows == 0 || columns == 0)
      return Error::success();
    if (!isInput && hostOverlapsItself())
      return makeError(Status::InvalidArgument,
                       formatv("output '{0}' expected memory of its own for each element, got "
                               "shape {1} with strides {2}; write to a contiguous tensor",
                               spec.name, describeShape(host.shape), describeShape(host.strides)));
    if (usableAsIs())
      return Error::success();
    Expected<void *> allocated = device.allocate(bytes());
    if (!allocated)
      return addContext("staging '" + spec.name + "'", allocated.takeError());
    memory = ref.data = *allocated;
    int64_t reach = stride;
    strides.assign(host.shape.size(), 1);
    for (size_t d = host.shape.size() >= 2 ? host.shape.size() - 1 : 0; d-- > 0;) {
      strides[d] = reach;
      reach *= host.shape[d];
    }
    ref.strides = strides;
    if (!isInput)
      return Error::success();
    if (isDense())
      return device.copyToDevice(memory, host.data, bytes(), nullptr);
    std::vector<char> packed(bytes());
    forEachRow([&](char *row, uint64_t at) {
      copyRow(packed.data() + at, elementBytes, row, lastStride() * elementBytes);
    });
    return device.copyToDevice(memory, packed.data(), bytes(), nullptr);
  }

  /// After the run: the device's copy back to the host.
  Error fetch() {
    if (!memory)
      return Error::success();
    if (isDense())
      return device.copyToHost(host.data, memory, bytes(), nullptr);
    std::vector<char> packed(bytes());
    if (Error error = device.copyToHost(packed.data(), memory, bytes(), nullptr))
      return error;
    forEachRow([&](char *row, uint64_t at) {
      copyRow(row, lastStride() * elementBytes, packed.data() + at, elementBytes);
    });
    return Error::success();
  }

  TensorRef ref;

private:
  uint64_t bytes() const { return uint64_t(rows) * stride * elementBytes; }
  int64_t hostStride(size_t d) const {
    if (!host.strides.empty())
      return host.strides[d];
    int64_t product = 1;
    for (size_t inner = d + 1; inner < host.shape.size(); ++inner)
      product *= host.shape[inner];
    return product;
  }
  int64_t lastStride() const { return host.shape.empty() ? 1 : hostStride(host.shape.size() - 1); }
  bool hostIsContiguous() const {
    int64_t product = 1;
    for (size_t d = host.shape.size(); d-- > 0;) {
      if (host.shape[d] != 1 && hostStride(d) != product)
        return false;
      product *= host.shape[d];
    }
    return true;
  }
  /// Whether two elements may share memory: whether some dimension's step lies within the reach of
  /// those with smaller steps.
  bool hostOverlapsItself() const {
    SmallVector<std::pair<int64_t, int64_t>, maxRank> steps; // and extents
    for (size_t d = 0; d < host.shape.size(); ++d)
      if (host.shape[d] > 1)
        steps.emplace_back(std::abs(hostStride(d)), host.shape[d]);
    sort(steps);
    int64_t reach = 0;
    for (auto [step, extent] : steps) {
      if (step <= reach)
        return true;
      reach += step * (extent - 1);
    }
    return false;
  }
  bool isDense() const { return stride == columns && hostIsContiguous(); }
  bool usableAsIs() const {
    bool aligned = (reinterpret_cast<uintptr_t>(host.data) & (spec.align.pointer - 1)) == 0;
    return device.usesHostMemory() && aligned && isDense();
  }
  void copyRow(char *target, int64_t targetStep, const char *from, int64_t fromStep) const {
    if (targetStep == elementBytes && fromStep == elementBytes) {
      std::memcpy(target, from, columns * elementBytes);
      return;
    }
    for (int64_t i = 0; i < columns; ++i)
      std::memcpy(target + i * targetStep, from + i * fromStep, elementBytes);
  }
  /// Calls with each row's address on the host and its byte offset on the device.
  void forEachRow(function_ref<void(char *, uint64_t)> visit) const {
    for (int64_t row = 0; row < rows; ++row) {
      int64_t rest = row, offset = 0;
      for (size_t d = host.shape.empty() ? 0 : host.shape.size() - 1; d-- > 0;) {
        offset += rest % host.shape[d] * hostStride(d);
        rest /= host.shape[d];
      }
      visit(static_cast<char *>(host.data) + offset * elementBytes,
            uint64_t(row) * stride * elementBytes);
    }
  }

  Device &device;
  const TensorSpec &spec;
  const TensorRef host;
  int64_t elementBytes, columns, rows = 1, stride = 1;
  SmallVector<int64_t, maxRank> strides;
  void *memory = nullptr;
};
} // namespace

Error Executable::runHost(size_t function, ArrayRef<TensorRef> inputs,
                          ArrayRef<TensorRef> outputs) {
  FunctionPlan &plan = *plans[function];
  CallState call;
  if (Error error = plan.bindShapes(inputs, call))
    return error;
  if (Error error = plan.checkOutputShapes(outputs, call))
    return error;
  std::vector<std::unique_ptr<StagedTensor>> staged;
  SmallVector<TensorRef> refs;
  auto stage = [&](ArrayRef<TensorRef> tensors, ArrayRef<TensorPlan> specs, bool isInput) -> Error {
    for (auto [tensor, spec] : zip(tensors, specs)) {
      if (!tensor.data && checkedByteSize(tensor.dtype, tensor.shape).value_or(1) != 0)
        return makeError(Status::InvalidArgument,
                         formatv("'{0}' of '{1}' expected a pointer to data, got a null pointer",
                                 spec.spec->name, plan.getFunction().name));
      staged.push_back(std::make_unique<StagedTensor>(*target, *spec.spec, tensor));
      if (Error error = staged.back()->prepare(isInput))
        return error;
      refs.push_back(staged.back()->ref);
    }
    return Error::success();
  };
  if (Error error = stage(inputs, plan.getInputs(), /*isInput=*/true))
    return error;
  if (Error error = stage(outputs, plan.getOutputs(), /*isInput=*/false))
    return error;
  ArrayRef<TensorRef> all = refs;
  if (Error error = run(function, all.take_front(inputs.size()), all.drop_front(inputs.size()), {}))
    return error;
  for (std::unique_ptr<StagedTensor> &tensor : MutableArrayRef(staged).drop_front(inputs.size()))
    if (Error error = tensor->fetch())
      return error;
  return target->synchronize(nullptr);
}
