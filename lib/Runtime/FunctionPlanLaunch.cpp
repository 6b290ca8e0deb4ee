// Launching a function's steps for a call that passed its checks.
#include "FunctionPlan.h"
#include "sparseflow/Runtime/Error.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"

using namespace llvm;
using namespace sparseflow::runtime;

/// What a GPU's memory allocations guarantee; slots keep it.
static constexpr uint64_t slotAlignment = 256;
/// No device has more memory, and sums below it do not overflow.
static constexpr uint64_t maxWorkspaceBytes = uint64_t(1) << 47;
/// CUDA's limits on a grid.
static constexpr int64_t maxGrid[3] = {INT32_MAX, 65535, 65535};

Expected<size_t> FunctionPlan::planWorkspace(CallState &call) const {
  call.slotOffsets.clear();
  uint64_t total = 0;
  for (const auto &sizes : slots) {
    call.slotOffsets.push_back(total);
    uint64_t largest = 0;
    for (const SlotSizePlan &size : sizes) {
      uint64_t count = size.symbol < 0 ? 0 : std::min(call.symbols[size.symbol], size.cap);
      largest =
          std::max(largest, SaturatingMultiplyAdd<uint64_t>(size.bytesPer, count, size.bytes));
    }
    total = SaturatingAdd<uint64_t>(total, std::min(largest, 2 * maxWorkspaceBytes));
    total = alignTo(total, slotAlignment);
    if (LLVM_UNLIKELY(total > maxWorkspaceBytes))
      return makeError(Status::OutOfMemory,
                       formatv("'{0}' expected a workspace of at most {1} bytes, got more; use "
                               "fewer tokens",
                               function.name, maxWorkspaceBytes));
  }
  call.slotOffsets.push_back(total);
  // A file could claim a buffer larger than its slot.
  for (auto [i, buffer] : enumerate(buffers)) {
    if (buffer.kind != Buffer::Kind::Workspace)
      continue;
    uint64_t bytes = byteSize(buffer.dtype);
    for (const DimPlan &dim : buffer.shape)
      bytes = SaturatingMultiply<uint64_t>(
          bytes, dim.symbol < 0 ? dim.size : std::min(call.symbols[dim.symbol], buffer.mostRows));
    uint64_t room = call.slotOffsets[buffer.index + 1] - call.slotOffsets[buffer.index];
    if (LLVM_UNLIKELY(bytes > room))
      return makeError(Status::InvalidProgram,
                       formatv("'{0}' expected buffer {1} to fit its slot of {2} bytes, got {3}; "
                               "compile the program again",
                               function.name, i, room, bytes));
  }
  // Whichever variant the symbols choose, so that fewer tokens never need more.
  return total + libraryWorkspace;
}

size_t FunctionPlan::variantOf(const StepPlan &step, const int64_t *symbols) const {
  int64_t value = step.symbol < 0 ? 0 : symbols[step.symbol];
  size_t index = 0;
  while (value > step.variants[index].max || !step.variants[index].whyUnavailable.empty())
    ++index;
  return index;
}

Error FunctionPlan::warmUp(const int64_t *symbols) const {
  for (const StepPlan &step : steps)
    for (const LaunchPlan &launch : step.variants[variantOf(step, symbols)].launches) {
      int64_t rows = launch.matmul ? rowsOf(shapeOf(buffers[launch.x]), symbols) : 0;
      if (rows == 0)
        continue;
      if (Error error = launch.matmul->warmUp(rows, buffers[launch.w].constant))
        return addContext("'" + function.name + "'", std::move(error));
    }
  return Error::success();
}

Expected<bool> FunctionPlan::gridOf(size_t kernel, const int64_t *symbols,
                                    std::array<uint32_t, 3> &grid) const {
  for (size_t i = 0; i < 3; ++i) {
    const GridPlan &dim = grids[kernel][i];
    uint64_t count =
        dim.symbol < 0 ? 1 : divideCeil(uint64_t(symbols[dim.symbol]), uint64_t(dim.per));
    uint64_t extent = std::min<uint64_t>(SaturatingMultiply<uint64_t>(count, dim.mul), dim.max);
    if (LLVM_UNLIKELY(extent > uint64_t(maxGrid[i])))
      return makeError(Status::InvalidArgument,
                       formatv("kernel '{0}' of '{1}' expected a grid of at most {2} blocks, got "
                               "{3}; use fewer tokens",
                               program->kernels[kernel].name, function.name, maxGrid[i], extent));
    if (extent == 0)
      return false;
    grid[i] = extent;
  }
  return true;
}

std::vector<MemoryRange> FunctionPlan::memoryOf(const CallState &call,
                                                ArrayRef<TensorRef> givenInputs,
                                                ArrayRef<TensorRef> givenOutputs,
                                                size_t workspaceBytes) const {
  std::vector<MemoryRange> memory;
  auto add = [&](const TensorRef &tensor, const CallState::Bound &bound, bool writable,
                 const std::string &name) {
    int64_t width = tensor.shape.empty() ? 1 : tensor.shape.back(), rows = 1;
    for (size_t d = 0; d + 1 < tensor.shape.size(); ++d)
      rows *= tensor.shape[d];
    if (rows > 0 && width > 0)
      memory.push_back({bound.data,
                        uint64_t((rows - 1) * bound.rowStride + width) * byteSize(tensor.dtype),
                        writable, name});
  };
  for (auto [i, tensor] : enumerate(givenInputs))
    add(tensor, call.tensors[i], /*writable=*/false, function.inputs[i].name);
  for (auto [i, tensor] : enumerate(givenOutputs))
    add(tensor, call.tensors[inputs.size() + i], /*writable=*/true, function.outputs[i].name);
  for (const BufferPlan &buffer : buffers)
    if (buffer.constant && !buffer.stored->data.empty())
      memory.push_back({buffer.constant, buffer.stored->data.size(), /*writable=*/false,
                        buffer.stored->name, /*isConstant=*/true});
  if (workspaceBytes)
    memory.push_back({call.workspace, workspaceBytes, true, "workspace"});
  return memory;
}

/// Where a buffer lies in a call.
CallState::Bound FunctionPlan::locate(const BufferPlan &buffer, const CallState &call) const {
  if (buffer.kind == Buffer::Kind::Input || buffer.kind == Buffer::Kind::Output)
    return call.tensors[buffer.index];
  void *data = buffer.kind == Buffer::Kind::Constant
                   ? buffer.constant
                   : call.workspace + call.slotOffsets[buffer.index];
  return {data, rowsOf(buffer.shape, call.symbols), buffer.rowStride.value(call.symbols)};
}

Error FunctionPlan::fillTensorMap(const TensorMapPlan &plan, const CallState &call,
                                  void *out) const {
  const BufferPlan &buffer = buffers[plan.buffer];
  CallState::Bound bound = locate(buffer, call);
  HostTensorMap map = plan.matrix;
  map.base = bound.data;
  map.rows = bound.rows;
  if (plan.fits)
    map.boxRows = std::min<uint64_t>(map.boxRows, map.rows);
  // One row has no stride, but the hardware wants one that it could take.
  map.rowStrideBytes = bound.rows == 1 ? alignTo(map.columns * map.elementBytes, tensorMapUnit)
                                       : uint64_t(bound.rowStride) * map.elementBytes;
  auto base = reinterpret_cast<uintptr_t>(map.base);
  TensorMapCache::Key key{base, map.rows, map.rowStrideBytes};
  if (LLVM_LIKELY(plan.cache.find(key, out)))
    return Error::success();
  if (map.rows < 1 || map.rows > uint64_t(maxTensorMapExtent))
    return makeError(Status::InvalidArgument,
                     formatv("'{0}' expected {1} to have 1 to {2} rows, got {3}", function.name,
                             describe(buffer), maxTensorMapExtent, map.rows));
  if (base % tensorMapUnit != 0 || map.rowStrideBytes % tensorMapUnit != 0 ||
      map.rowStrideBytes > maxTensorMapStride)
    return makeError(Status::InvalidArgument,
                     formatv("'{0}' expected {1} at a multiple of {2} bytes with rows a multiple "
                             "of {2} bytes apart, got address {3} and {4} bytes; copy it to an "
                             "aligned tensor with padded rows",
                             function.name, describe(buffer), tensorMapUnit, map.base,
                             map.rowStrideBytes));
  if (Error error = device.encodeTensorMap(plan.dtype, map, out))
    return addContext("'" + function.name + "', " + describe(buffer), std::move(error));
  plan.cache.insert(key, out);
  return Error::success();
}

Error FunctionPlan::launchMatmul(const LaunchPlan &launch, const CallState &call,
                                 void *stream) const {
  CallState::Bound x = locate(buffers[launch.x], call), y = locate(buffers[launch.y], call);
  if (x.rows == 0)
    return Error::success();
  if (Error error = launch.matmul->launch(
          {x.rows, x.data, x.rowStride, buffers[launch.w].constant, y.data, y.rowStride},
          call.workspace + call.slotOffsets.back(), stream))
    return addContext("'" + function.name + "'", std::move(error));
  return Error::success();
}

/// What a launch points the driver to.
struct FunctionPlan::KernelArguments {
  struct alignas(tensorMapAlignment) TensorMapValue {
    char bytes[tensorMapBytes];
  };

  KernelArguments() {
    // All of them, since an old driver cannot say how many a file's code really reads.
    for (size_t i = 0; i < maxKernelArguments; ++i)
      params[i] = &values[i];
  }

  uint64_t values[maxKernelArguments];
  TensorMapValue maps[maxTensorMaps];
  void *params[maxKernelArguments];
};

Error FunctionPlan::fillArguments(const LaunchPlan &launch, const CallState &call,
                                  KernelArguments &out) const {
  KernelArguments::TensorMapValue *map = out.maps;
  for (auto [i, arg] : enumerate(launch.args)) {
    out.params[i] = &out.values[i];
    switch (arg.kind) {
    case Argument::Kind::Buffer:
      out.values[i] = reinterpret_cast<uintptr_t>(locate(buffers[arg.index], call).data);
      break;
    case Argument::Kind::Stride:
      out.values[i] = locate(buffers[arg.index], call).rowStride;
      break;
    case Argument::Kind::Dim:
      out.values[i] = call.symbols[arg.index];
      break;
    case Argument::Kind::TensorMap:
      if (Error error = fillTensorMap(*tensorMaps[arg.index], call, map))
        return error;
      out.params[i] = map++;
      break;
    case Argument::Kind::I32:
    case Argument::Kind::I64:
    case Argument::Kind::F32:
      out.values[i] = arg.value;
      break;
    }
  }
  return Error::success();
}

Error FunctionPlan::launch(CallState &call, void *stream,
                           const std::vector<MemoryRange> *memory) const {
  KernelArguments args;
  std::array<uint32_t, 3> grid;
  for (const StepPlan &step : steps) {
    for (const LaunchPlan &launch : step.variants[variantOf(step, call.symbols)].launches) {
      if (launch.matmul) {
        if (Error error = launchMatmul(launch, call, stream))
          return error;
        continue;
      }
      Expected<bool> any = gridOf(launch.kernel, call.symbols, grid);
      if (LLVM_UNLIKELY(!any))
        return any.takeError();
      if (!*any)
        continue;
      if (Error error = fillArguments(launch, call, args))
        return error;
      if (Error error =
              memory ? loaded->launchWithin(*memory, launch.kernel, grid, args.params, stream)
                     : loaded->launch(launch.kernel, grid, args.params, stream))
        return error;
    }
  }
  return Error::success();
}

void FunctionPlan::recordRun(const CallState &call) {
  for (size_t i = 0; i < function.symbols.size(); ++i)
    lastSymbols[i].store(call.symbols[i], std::memory_order_relaxed);
  hasRun.store(true, std::memory_order_release);
}

bool FunctionPlan::lastRun(int64_t *symbols) const {
  if (!hasRun.load(std::memory_order_acquire))
    return false;
  for (size_t i = 0; i < function.symbols.size(); ++i)
    symbols[i] = lastSymbols[i].load(std::memory_order_relaxed);
  return true;
}
