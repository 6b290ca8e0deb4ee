// Building a function's plan from its manifest entry.
#include "FunctionPlan.h"
#include "sparseflow/Runtime/Error.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include <limits>

using namespace llvm;
using namespace sparseflow::runtime;

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
                     Device &device, const ProgramFile &file, ConstantSource constant) {
  std::unique_ptr<FunctionPlan> plan(new FunctionPlan(function, std::move(loaded), device));
  if (Error error = plan->build(file, constant))
    return std::move(error);
  return plan;
}

Error FunctionPlan::build(const ProgramFile &file, ConstantSource constant) {
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
    Expected<BufferPlan> bufferPlan = planBuffer(buffer, file);
    if (!bufferPlan)
      return bufferPlan.takeError();
    buffers.push_back(std::move(*bufferPlan));
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
    Expected<StepPlan> stepPlan = planStep(step, constant);
    if (!stepPlan)
      return stepPlan.takeError();
    steps.push_back(std::move(*stepPlan));
  }
  return Error::success();
}

Expected<FunctionPlan::BufferPlan> FunctionPlan::planBuffer(const Buffer &buffer,
                                                            const ProgramFile &file) const {
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
                       formatv("'{0}' expected a tensor '{1}' in the file, got none", function.name,
                               buffer.tensor));
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
  return std::move(result);
}

Expected<FunctionPlan::StepPlan> FunctionPlan::planStep(const Step &step, ConstantSource constant) {
  StepPlan result{symbolIndex(step.symbol), {}};
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
    result.variants.push_back(std::move(variantPlan));
  }
  return std::move(result);
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
