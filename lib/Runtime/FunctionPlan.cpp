// Building a function's plan from its manifest entry, checking calls against it, and launching.
#include "FunctionPlan.h"
#include "sparseflow/Runtime/Error.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"
#include <limits>

using namespace llvm;
using namespace sparseflow::runtime;

/// What a GPU's memory allocations guarantee; slots keep it.
static constexpr uint64_t slotAlignment = 256;
/// No device has more memory, and sums below it do not overflow.
static constexpr uint64_t maxWorkspaceBytes = uint64_t(1) << 47;
/// Kernels count rows in 32 bits, whole tiles beyond the last row included.
static constexpr int64_t maxSymbolValue = int64_t(1) << 30;
/// CUDA's limits on a grid.
static constexpr int64_t maxGrid[3] = {INT32_MAX, 65535, 65535};

std::string sparseflow::runtime::describeShape(ArrayRef<Dimension> shape) {
  return "[" +
         join(map_range(shape,
                        [](const Dimension &dim) {
                          return dim.isSymbol() ? dim.symbol : std::to_string(dim.size);
                        }),
              ",") +
         "]";
}

std::string sparseflow::runtime::describeShape(ArrayRef<int64_t> shape) {
  return "[" + join(map_range(shape, [](int64_t extent) { return std::to_string(extent); }), ",") +
         "]";
}

/// What the leading dimensions count.
static int64_t rowsOf(ArrayRef<DimPlan> shape, const int64_t *symbols) {
  int64_t rows = 1;
  for (const DimPlan &dim : shape.drop_back(shape.empty() ? 0 : 1))
    rows = SaturatingMultiply<uint64_t>(rows, dim.value(symbols));
  return rows;
}

//===-- Building -----------------------------------------------------------------------------===//

FunctionPlan::FunctionPlan(const Function &function, std::unique_ptr<LoadedFunction> loaded,
                           Device &device)
    : function(function), loaded(std::move(loaded)), device(device),
      program(this->loaded->program()) {}

int FunctionPlan::symbolIndex(StringRef name) const {
  return name.empty() ? -1 : int(find(function.symbols, name) - function.symbols.begin());
}

DimPlan FunctionPlan::plan(const Dimension &dim) const {
  return {symbolIndex(dim.symbol), dim.size};
}

Expected<std::unique_ptr<FunctionPlan>>
FunctionPlan::create(const Function &function, std::unique_ptr<LoadedFunction> loaded,
                     Device &device, const ProgramFile &file,
                     function_ref<Expected<void *>(StringRef)> constant) {
  std::unique_ptr<FunctionPlan> plan(new FunctionPlan(function, std::move(loaded), device));
  if (Error error = plan->build(file, constant))
    return std::move(error);
  return plan;
}

Error FunctionPlan::build(const ProgramFile &file,
                          function_ref<Expected<void *>(StringRef)> constant) {
  auto planTensors = [&](const std::vector<TensorSpec> &specs, SmallVectorImpl<TensorPlan> &plans) {
    for (const TensorSpec &spec : specs) {
      plans.push_back({&spec, {}});
      for (const Dimension &dim : spec.shape)
        plans.back().shape.push_back(plan(dim));
    }
  };
  planTensors(function.inputs, inputs);
  planTensors(function.outputs, outputs);
  if (!program)
    return Error::success();

  for (const Buffer &buffer : program->buffers) {
    BufferPlan result;
    result.kind = buffer.kind;
    switch (buffer.kind) {
    case Buffer::Kind::Input:
      result.index = buffer.index;
      result.dtype = function.inputs[buffer.index].dtype;
      break;
    case Buffer::Kind::Output:
      result.index = inputs.size() + buffer.index;
      result.dtype = function.outputs[buffer.index].dtype;
      break;
    case Buffer::Kind::Constant: {
      // The program may be one that the device made, of which the file has not been checked to hold
      // everything.
      result.stored = file.find(buffer.tensor);
      if (!result.stored)
        return makeError(Status::InvalidProgram,
                         formatv("'{0}' expected a tensor '{1}' in the file, got none",
                                 function.name, buffer.tensor));
      result.dtype = result.stored->dtype;
      for (int64_t extent : result.stored->shape)
        result.shape.push_back({-1, extent});
      if (!result.shape.empty())
        result.rowStride = result.shape.back();
      break;
    }
    case Buffer::Kind::Workspace:
      result.index = buffer.slot;
      result.dtype = buffer.dtype;
      for (const Dimension &dim : buffer.shape)
        result.shape.push_back(plan(dim));
      if (!buffer.shape.empty())
        result.rowStride = plan(buffer.shape.back());
      break;
    }
    buffers.push_back(std::move(result));
  }
  for (const Slot &slot : program->slots) {
    slots.emplace_back();
    for (const SlotSize &size : slot.sizes)
      slots.back().push_back({symbolIndex(size.symbol), size.bytesPer, size.bytes,
                              size.cap.value_or(std::numeric_limits<int64_t>::max())});
  }
  for (const Kernel &kernel : program->kernels) {
    kernelIndices[kernel.name] = grids.size();
    grids.emplace_back();
    for (auto [dim, result] : zip(kernel.grid, grids.back()))
      result = {symbolIndex(dim.symbol), dim.per, dim.mul,
                dim.max.value_or(std::numeric_limits<int64_t>::max())};
  }
  for (const Step &step : program->steps) {
    steps.push_back({symbolIndex(step.symbol), {}});
    for (const Variant &variant : step.variants) {
      VariantPlan variantPlan{variant.max.value_or(std::numeric_limits<int64_t>::max())};
      for (const Launch &launch : variant.launches) {
        Expected<LaunchPlan> launchPlan = planLaunch(launch, variantPlan.max, constant);
        if (launchPlan) {
          variantPlan.launches.push_back(std::move(*launchPlan));
          continue;
        }
        // A library that is missing leaves the step to the variants behind this one.
        std::string message;
        Status status = takeError(launchPlan.takeError(), message);
        if (!launch.matmul || status != Status::Unsupported)
          return makeError(status, "'" + function.name + "': " + step.label + ": " + message);
        variantPlan.whyUnavailable = std::move(message);
      }
      steps.back().variants.push_back(std::move(variantPlan));
    }
  }
  return Error::success();
}

/// `mostRows`: the largest symbol for which it is launched.
Expected<FunctionPlan::LaunchPlan> FunctionPlan::planLaunch(const Launch &launch, int64_t mostRows,
                                                            ConstantSource constant) {
  if (const std::optional<MatmulCall> &call = launch.matmul) {
    Expected<LaunchPlan> plan = planMatmul(*call);
    // Only now: a weight that no library will multiply needs no memory.
    for (int64_t buffer : {call->x, call->w, call->y})
      if (plan)
        if (Error error = touch(buffers[buffer], mostRows, constant))
          return std::move(error);
    return plan;
  }
  LaunchPlan plan;
  plan.kernel = kernelIndices.lookup(launch.kernel);
  for (const Argument &arg : launch.args) {
    ArgumentPlan result{arg.kind, 0, 0};
    switch (arg.kind) {
    case Argument::Kind::TensorMap: {
      Expected<int> map = planTensorMap(arg);
      if (!map)
        return map.takeError();
      result.index = *map;
      if (Error error = touch(buffers[arg.value], mostRows, constant))
        return std::move(error);
      break;
    }
    case Argument::Kind::Buffer:
      if (Error error = touch(buffers[arg.value], mostRows, constant))
        return std::move(error);
      [[fallthrough]];
    case Argument::Kind::Stride:
      result.index = arg.value;
      break;
    case Argument::Kind::Dim:
      result.index = symbolIndex(arg.symbol);
      break;
    case Argument::Kind::I32:
    case Argument::Kind::I64:
      result.value = arg.value;
      break;
    case Argument::Kind::F32:
      result.value = bit_cast<uint32_t>(float(arg.number));
      break;
    }
    plan.args.push_back(result);
  }
  return std::move(plan);
}

ArrayRef<DimPlan> FunctionPlan::shapeOf(const BufferPlan &buffer) const {
  switch (buffer.kind) {
  case Buffer::Kind::Input:
    return inputs[buffer.index].shape;
  case Buffer::Kind::Output:
    return outputs[buffer.index - inputs.size()].shape;
  case Buffer::Kind::Constant:
  case Buffer::Kind::Workspace:
    break;
  }
  return buffer.shape;
}

Error FunctionPlan::touch(BufferPlan &buffer, int64_t mostRows, ConstantSource constant) {
  buffer.mostRows = std::max(buffer.mostRows, mostRows);
  if (buffer.kind != Buffer::Kind::Constant || buffer.constant)
    return Error::success();
  Expected<void *> address = constant(buffer.stored->name);
  if (!address)
    return address.takeError();
  buffer.constant = *address;
  return Error::success();
}

Expected<FunctionPlan::LaunchPlan> FunctionPlan::planMatmul(const MatmulCall &call) {
  const BufferPlan &x = buffers[call.x], &w = buffers[call.w], &y = buffers[call.y];
  MatmulType type{x.dtype, y.dtype, call.compute, shapeOf(y).back().size, shapeOf(x).back().size};
  // The manifest's own check has not seen the weight.
  SmallVector<int64_t> expected = {type.features, type.inner};
  if (w.dtype != type.operand || ArrayRef(w.stored->shape) != ArrayRef(expected))
    return makeError(Status::InvalidProgram,
                     formatv("{0} expected {1} {2} for a product, got {3} {4}", describe(w),
                             stringify(type.operand), describeShape(expected), stringify(w.dtype),
                             describeShape(w.stored->shape)));
  Expected<std::unique_ptr<LibraryMatmul>> matmul = device.createMatmul(type);
  if (!matmul)
    return matmul.takeError();
  LaunchPlan plan;
  plan.matmul = std::move(*matmul);
  plan.x = call.x;
  plan.w = call.w;
  plan.y = call.y;
  libraryWorkspace = std::max<uint64_t>(libraryWorkspace, plan.matmul->workspaceBytes());
  return std::move(plan);
}

std::string FunctionPlan::describe(const BufferPlan &buffer) const {
  switch (buffer.kind) {
  case Buffer::Kind::Input:
    return "input '" + function.inputs[buffer.index].name + "'";
  case Buffer::Kind::Output:
    return "output '" + function.outputs[buffer.index - inputs.size()].name + "'";
  case Buffer::Kind::Constant:
    return "constant '" + buffer.stored->name + "'";
  case Buffer::Kind::Workspace:
    break;
  }
  return "the workspace's slot " + std::to_string(buffer.index);
}

/// The manifest's own check has seen all buffers but the constants, whose shapes are in the file.
Expected<int> FunctionPlan::planTensorMap(const Argument &arg) {
  const BufferPlan &buffer = buffers[arg.value];
  ArrayRef<DimPlan> shape = shapeOf(buffer);
  if (shape.empty() || shape.back().size < 1 || shape.back().size > maxTensorMapExtent)
    return makeError(Status::InvalidProgram,
                     formatv("{0} expected 1 to {1} columns for a tensor map, got {2}",
                             describe(buffer), maxTensorMapExtent,
                             shape.empty() ? 0 : shape.back().size));
  unsigned elementBytes = byteSize(buffer.dtype);
  if (std::optional<std::string> fault = arg.box.findFault(elementBytes))
    return makeError(Status::InvalidProgram,
                     "the tensor map of " + describe(buffer) + " " + *fault);
  auto map = std::make_unique<TensorMapPlan>();
  map->buffer = arg.value;
  map->dtype = buffer.dtype;
  map->matrix.columns = shape.back().size;
  map->matrix.elementBytes = elementBytes;
  map->matrix.boxRows = arg.box.boxRows;
  map->fits = arg.box.fits;
  map->matrix.boxColumns = arg.box.boxColumns;
  map->matrix.swizzleBytes = arg.box.swizzle;
  tensorMaps.push_back(std::move(map));
  return int(tensorMaps.size() - 1);
}

//===-- Checking a call ----------------------------------------------------------------------===//

static Error countError(StringRef function, StringRef kind, const std::vector<TensorSpec> &specs,
                        size_t got) {
  std::string names;
  for (const TensorSpec &spec : specs)
    names += (names.empty() ? "" : ", ") + spec.name;
  return makeError(Status::InvalidArgument,
                   formatv("'{0}' expected {1} {2}{3}{4}, got {5}", function, specs.size(), kind,
                           specs.size() == 1 ? "" : "s", names.empty() ? "" : " (" + names + ")",
                           got));
}

static Error tensorError(StringRef function, StringRef kind, const TensorSpec &spec,
                         const Twine &expected, const Twine &got) {
  return makeError(Status::InvalidArgument, kind + " '" + spec.name + "' of '" + function +
                                                "' expected " + expected + ", got " + got);
}

Error FunctionPlan::shapeError(const TensorPlan &plan, StringRef kind, const TensorRef &tensor,
                               const CallState *call) const {
  std::string expected = "shape " + describeShape(plan.spec->shape);
  if (call) {
    std::string known;
    for (const DimPlan &dim : plan.shape)
      if (dim.symbol >= 0 && call->symbols[dim.symbol] >= 0)
        known += formatv("{0}{1} = {2}", known.empty() ? "" : ", ", function.symbols[dim.symbol],
                         call->symbols[dim.symbol]);
    if (!known.empty())
      expected += " with " + known;
  }
  return tensorError(function.name, kind, *plan.spec, expected, describeShape(tensor.shape));
}

Error FunctionPlan::bindShapes(ArrayRef<TensorRef> given, CallState &call) const {
  if (LLVM_UNLIKELY(given.size() != inputs.size()))
    return countError(function.name, "input", function.inputs, given.size());
  std::fill_n(call.symbols, function.symbols.size(), -1);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const TensorPlan &plan = inputs[i];
    const TensorRef &tensor = given[i];
    if (LLVM_UNLIKELY(tensor.dtype != plan.spec->dtype))
      return tensorError(function.name, "input", *plan.spec, stringify(plan.spec->dtype),
                         stringify(tensor.dtype));
    if (LLVM_UNLIKELY(tensor.shape.size() != plan.shape.size()))
      return shapeError(plan, "input", tensor, nullptr);
    for (size_t d = 0; d < plan.shape.size(); ++d) {
      int64_t extent = tensor.shape[d];
      if (LLVM_UNLIKELY(extent < 0 || extent > maxSymbolValue))
        return tensorError(function.name, "input", *plan.spec,
                           "extents from 0 to " + Twine(maxSymbolValue),
                           describeShape(tensor.shape) + "; split the call");
      int symbol = plan.shape[d].symbol;
      if (symbol >= 0 && call.symbols[symbol] < 0)
        call.symbols[symbol] = extent;
      else if (LLVM_UNLIKELY(extent != plan.shape[d].value(call.symbols)))
        return shapeError(plan, "input", tensor, &call);
    }
  }
  return Error::success();
}

Error FunctionPlan::checkOutputShapes(ArrayRef<TensorRef> given, const CallState &call) const {
  if (LLVM_UNLIKELY(given.size() != outputs.size()))
    return countError(function.name, "output", function.outputs, given.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    const TensorPlan &plan = outputs[i];
    const TensorRef &tensor = given[i];
    if (LLVM_UNLIKELY(tensor.dtype != plan.spec->dtype))
      return tensorError(function.name, "output", *plan.spec, stringify(plan.spec->dtype),
                         stringify(tensor.dtype));
    if (LLVM_UNLIKELY(tensor.shape.size() != plan.shape.size()))
      return shapeError(plan, "output", tensor, &call);
    for (size_t d = 0; d < plan.shape.size(); ++d)
      if (LLVM_UNLIKELY(tensor.shape[d] != plan.shape[d].value(call.symbols)))
        return shapeError(plan, "output", tensor, &call);
  }
  return Error::success();
}

Error FunctionPlan::bindPointer(const TensorPlan &plan, StringRef kind, const TensorRef &tensor,
                                CallState::Bound &bound) const {
  const TensorSpec &spec = *plan.spec;
  size_t rank = tensor.shape.size();
  int64_t columns = rank ? tensor.shape.back() : 1;
  int64_t rows = 1;
  for (size_t d = 0; d + 1 < rank; ++d)
    rows *= tensor.shape[d];
  bound = {tensor.data, rows, columns};
  if (rows == 0 || columns == 0)
    return Error::success();

  if (!tensor.strides.empty()) {
    ArrayRef<int64_t> strides = tensor.strides;
    if (LLVM_UNLIKELY(columns > 1 && strides.back() != 1))
      return tensorError(function.name, kind, spec,
                         "contiguous rows (stride 1 in the last dimension)",
                         "strides " + describeShape(strides) + "; copy it to a contiguous tensor");
    // The leading dimensions must collapse to rows one stride apart.
    int64_t rowStride = columns;
    std::optional<int64_t> reach; // what the next dimension's stride has to be
    for (size_t d = rank >= 2 ? rank - 1 : 0; d-- > 0;) {
      if (tensor.shape[d] == 1)
        continue;
      if (!reach)
        rowStride = strides[d];
      else if (LLVM_UNLIKELY(strides[d] != *reach))
        return tensorError(function.name, kind, spec, "rows that are one stride apart",
                           "strides " + describeShape(strides) +
                               "; copy it to a contiguous tensor");
      reach = strides[d] * tensor.shape[d];
    }
    // Reading a row again is fine, writing over one is not.
    bool isOutput = kind == "output";
    if (LLVM_UNLIKELY(rows > 1 && (rowStride < 0 || (isOutput && rowStride < columns))))
      return tensorError(function.name, kind, spec,
                         "a row stride of at least " + Twine(isOutput ? columns : 0),
                         Twine(rowStride));
    bound.rowStride = rowStride;
  }
  if (LLVM_UNLIKELY(rows > 1 && bound.rowStride % spec.align.stride != 0))
    return tensorError(function.name, kind, spec,
                       "a row stride that is a multiple of " + Twine(spec.align.stride) +
                           " elements",
                       Twine(bound.rowStride) + "; pad the rows");
  if (LLVM_UNLIKELY(!tensor.data))
    return tensorError(function.name, kind, spec, "a pointer to data", "a null pointer");
  if (LLVM_UNLIKELY(reinterpret_cast<uintptr_t>(tensor.data) & (spec.align.pointer - 1)))
    return tensorError(function.name, kind, spec,
                       "data aligned to " + Twine(spec.align.pointer) + " bytes",
                       formatv("address {0}; copy it to an aligned tensor", tensor.data));
  if (std::optional<std::string> reason = device.whyUnusable(tensor.data))
    return tensorError(function.name, kind, spec, "data in the memory of " + device.name(),
                       *reason + "; copy it there first");
  return Error::success();
}

namespace {
/// The bytes of a tensor of rows.
struct Region {
  Region(const CallState::Bound &bound, const TensorRef &tensor)
      : begin(reinterpret_cast<uintptr_t>(bound.data)), rows(bound.rows),
        pitch(bound.rowStride * byteSize(tensor.dtype)),
        width((tensor.shape.empty() ? 1 : tensor.shape.back()) * byteSize(tensor.dtype)) {}
  uintptr_t end() const { return rows && width ? begin + (rows - 1) * pitch + width : begin; }

  uintptr_t begin;
  uint64_t rows, pitch, width;
};
} // namespace

/// Whether two tensors share a byte. Rows that lie between the other's rows do not.
static bool overlap(Region a, Region b) {
  if (LLVM_LIKELY(a.begin >= b.end() || b.begin >= a.end()))
    return false;
  if (b.begin < a.begin)
    std::swap(a, b);
  // A single row is as far from the next as the other's rows are.
  if (a.rows == 1)
    a.pitch = b.pitch;
  if (b.rows == 1)
    b.pitch = a.pitch;
  uint64_t column = a.pitch ? (b.begin - a.begin) % a.pitch : 0;
  return a.pitch != b.pitch || column < a.width || column + b.width > a.pitch;
}

Error FunctionPlan::checkApart(ArrayRef<TensorRef> givenInputs, ArrayRef<TensorRef> givenOutputs,
                               const CallState &call) const {
  for (size_t i = 0; i < outputs.size(); ++i) {
    Region written(call.tensors[inputs.size() + i], givenOutputs[i]);
    auto fail = [&](StringRef kind, const TensorPlan &other) {
      return tensorError(function.name, "output", *outputs[i].spec,
                         "memory apart from " + kind + " '" + other.spec->name + "'",
                         "memory that both use; give the output its own");
    };
    for (size_t j = 0; j < inputs.size(); ++j)
      if (LLVM_UNLIKELY(overlap(written, Region(call.tensors[j], givenInputs[j]))))
        return fail("input", inputs[j]);
    for (size_t j = 0; j < i; ++j)
      if (LLVM_UNLIKELY(overlap(written, Region(call.tensors[inputs.size() + j], givenOutputs[j]))))
        return fail("output", outputs[j]);
  }
  return Error::success();
}

Error FunctionPlan::bindPointers(ArrayRef<TensorRef> givenInputs, ArrayRef<TensorRef> givenOutputs,
                                 CallState &call) const {
  for (size_t i = 0; i < inputs.size(); ++i)
    if (Error error = bindPointer(inputs[i], "input", givenInputs[i], call.tensors[i]))
      return error;
  for (size_t i = 0; i < outputs.size(); ++i)
    if (Error error =
            bindPointer(outputs[i], "output", givenOutputs[i], call.tensors[inputs.size() + i]))
      return error;
  return checkApart(givenInputs, givenOutputs, call);
}

Error FunctionPlan::checkSymbols(ArrayRef<int64_t> symbols) const {
  if (symbols.size() != function.symbols.size())
    return makeError(Status::InvalidArgument,
                     formatv("'{0}' expected {1} symbol value{2} ({3}), got {4}", function.name,
                             function.symbols.size(), function.symbols.size() == 1 ? "" : "s",
                             join(function.symbols, ", "), symbols.size()));
  for (auto [name, value] : zip(function.symbols, symbols))
    if (value < 0 || value > maxSymbolValue)
      return makeError(Status::InvalidArgument,
                       formatv("'{0}' expected {1} from 0 to {2}, got {3}", function.name, name,
                               maxSymbolValue, value));
  return Error::success();
}

//===-- Running ------------------------------------------------------------------------------===//

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

Error FunctionPlan::launch(CallState &call, void *stream,
                           const std::vector<MemoryRange> *memory) const {
  struct alignas(tensorMapAlignment) TensorMapValue {
    char bytes[tensorMapBytes];
  };
  uint64_t values[maxKernelArguments];
  TensorMapValue maps[maxTensorMaps];
  // All of them, since an old driver cannot say how many a file's code really reads.
  void *params[maxKernelArguments];
  for (size_t i = 0; i < maxKernelArguments; ++i)
    params[i] = &values[i];
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
      TensorMapValue *map = maps;
      for (auto [i, arg] : enumerate(launch.args)) {
        params[i] = &values[i];
        switch (arg.kind) {
        case Argument::Kind::Buffer:
          values[i] = reinterpret_cast<uintptr_t>(locate(buffers[arg.index], call).data);
          break;
        case Argument::Kind::Stride:
          values[i] = locate(buffers[arg.index], call).rowStride;
          break;
        case Argument::Kind::Dim:
          values[i] = call.symbols[arg.index];
          break;
        case Argument::Kind::TensorMap:
          if (Error error = fillTensorMap(*tensorMaps[arg.index], call, map))
            return error;
          params[i] = map++;
          break;
        case Argument::Kind::I32:
        case Argument::Kind::I64:
        case Argument::Kind::F32:
          values[i] = arg.value;
          break;
        }
      }
      if (Error error = memory ? loaded->launchWithin(*memory, launch.kernel, grid, params, stream)
                               : loaded->launch(launch.kernel, grid, params, stream))
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

//===-- Reporting ----------------------------------------------------------------------------===//

/// In the form of a kernel, so that a reader of reports sees one kind of launch.
json::Value FunctionPlan::reportMatmul(const LaunchPlan &launch, const int64_t *symbols) const {
  int64_t rows = rowsOf(shapeOf(buffers[launch.x]), symbols);
  return json::Object{{"name", cublasLtName},
                      {"config", ""},
                      {"registers", 0},
                      {"spill_bytes", 0},
                      {"mma_sp", 0},
                      {"ptxas", ""},
                      {"binary", launch.matmul->describe(rows)},
                      {"grid", json::Array{0, 0, 0}},
                      {"block", json::Array{0, 0, 0}},
                      {"shared", 0}};
}

static json::Value reportTimes(const MeasuredTimes &times) {
  auto orNull = [](std::optional<double> time) {
    return time ? json::Value(*time) : json::Value(nullptr);
  };
  return json::Object{{"sparse", orNull(times.sparse)}, {"dense", orNull(times.dense)}};
}

/// Why a variant was chosen: what the compiler said, and which better ones cannot run here.
std::string FunctionPlan::describeChoice(const Step &step, const StepPlan &plan, size_t chosen,
                                         const int64_t *symbols) const {
  std::string reason = step.variants[chosen].reason;
  for (size_t i = 0; i < chosen; ++i)
    if (plan.symbol < 0 || symbols[plan.symbol] <= plan.variants[i].max)
      reason += formatv("{0}not '{1}': {2}", reason.empty() ? "" : "; ", step.variants[i].path,
                        plan.variants[i].whyUnavailable);
  return reason;
}

Expected<json::Value> FunctionPlan::report(const int64_t *symbols) const {
  json::Object result{{"function", function.name}};
  json::Object values;
  for (auto [i, name] : enumerate(function.symbols))
    values[name] = symbols[i];
  result["symbols"] = std::move(values);
  json::Array list;
  if (program) {
    result["target"] = program->target;
    for (auto [step, plan] : zip(program->steps, steps)) {
      size_t chosen = variantOf(plan, symbols);
      const Variant &variant = step.variants[chosen];
      json::Array kernels;
      for (const LaunchPlan &launch : plan.variants[chosen].launches) {
        if (launch.matmul) {
          kernels.push_back(reportMatmul(launch, symbols));
          continue;
        }
        const Kernel &kernel = program->kernels[launch.kernel];
        LoadedKernelInfo info = loaded->info(launch.kernel);
        std::array<uint32_t, 3> grid = {0, 0, 0};
        Expected<bool> any = gridOf(launch.kernel, symbols, grid);
        if (!any)
          return any.takeError();
        if (!*any)
          grid = {0, 0, 0};
        kernels.push_back(
            json::Object{{"name", kernel.name},
                         {"config", kernel.config},
                         {"registers", info.registers.value_or(kernel.registers)},
                         {"spill_bytes", kernel.spillBytes},
                         {"mma_sp", kernel.mmaSp},
                         {"ptxas", kernel.ptxas},
                         {"binary", info.binary},
                         {"grid", json::Array{grid[0], grid[1], grid[2]}},
                         {"block", json::Array{kernel.block[0], kernel.block[1], kernel.block[2]}},
                         {"shared", kernel.shared}});
      }
      list.push_back(
          json::Object{{"op", step.op},
                       {"label", step.label},
                       {"path", variant.path},
                       {"reason", describeChoice(step, plan, chosen, symbols)},
                       {"time_us", reportTimes(variant.times)},
                       {"variant", int64_t(chosen)},
                       {"max", variant.max ? json::Value(*variant.max) : json::Value(nullptr)},
                       {"kernels", std::move(kernels)}});
    }
  }
  result["steps"] = std::move(list);
  return json::Value(std::move(result));
}
