// Checking what a call was given against the function's plan. What passes is in the call's state.
#include "FunctionPlan.h"
#include "sparseflow/Runtime/Error.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

using namespace llvm;
using namespace sparseflow::runtime;

/// Kernels count rows in 32 bits, whole tiles beyond the last row included.
static constexpr int64_t maxSymbolValue = int64_t(1) << 30;

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
  if (std::optional<std::string> reason = device.whyUnusable(tensor.data, tensor.gpu))
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
