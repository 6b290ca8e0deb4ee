//===- TensorSpecs.cpp - Values as the manifest's tensors -----------------===//

#include "TensorSpecs.h"

#include "sparseflow/Dialect/SF/IR/SFConstants.h"
#include "sparseflow/Runtime/ElementType.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/Alignment.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::target;
namespace rt = sparseflow::runtime;

bool sparseflow::target::hasDynamicRows(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && type.getRank() > 0 && type.isDynamicDim(0);
}

//===----------------------------------------------------------------------===//
// Symbols
//===----------------------------------------------------------------------===//

RowSymbols::RowSymbols(func::FuncOp function, const FunctionSteps &steps) : steps(&steps) {
  auto key = [&](Value value) { return steps.resolve(value).getAsOpaquePointer(); };
  for (const StepSite &step : steps.list)
    for (const VariantSite &variant : step.variants)
      for (const LaunchSite &launch : variant.launches) {
        Value first = step.rows && hasDynamicRows(step.rows) ? step.rows : Value();
        for (Value value : llvm::concat<Value>(SmallVector<Value>(launch.op->getOperands()),
                                               SmallVector<Value>(launch.op->getResults()))) {
          if (!hasDynamicRows(value))
            continue;
          if (!first)
            first = value;
          sameRows.unionSets(key(first), key(value));
        }
      }
  auto name = [&](Value value) {
    if (!hasDynamicRows(value))
      return;
    sameRows.insert(key(value));
    std::string &symbol = symbols[sameRows.getLeaderValue(key(value))];
    if (!symbol.empty())
      return;
    symbol = names.empty() ? "M" : "M" + std::to_string(names.size());
    names.push_back(symbol);
  };
  for (Value argument : function.getArguments())
    name(argument);
  for (const StepSite &step : steps.list)
    for (const VariantSite &variant : step.variants)
      for (const LaunchSite &launch : variant.launches)
        for (Value value : launch.op->getResults())
          name(value);
}

std::string RowSymbols::of(Value value) const {
  if (!hasDynamicRows(value))
    return "";
  return symbols.lookup(sameRows.getLeaderValue(steps->resolve(value).getAsOpaquePointer()));
}

//===----------------------------------------------------------------------===//
// Shapes
//===----------------------------------------------------------------------===//

static std::optional<rt::DType> getRuntimeDType(Type type) {
  std::optional<DType> dtype = sf::getDType(type);
  return dtype ? std::optional(rt::fromElementType(*dtype)) : std::nullopt;
}

static FailureOr<std::vector<rt::Dimension>> shapeOf(const RowSymbols &symbols, Value value) {
  constexpr int64_t maxElements = int64_t(1) << 40; // whose bytes no product overflows
  int64_t elements = 1;
  auto type = cast<RankedTensorType>(value.getType());
  std::vector<rt::Dimension> shape;
  for (auto [i, size] : llvm::enumerate(type.getShape())) {
    if (ShapedType::isStatic(size) &&
        (llvm::MulOverflow(elements, size, elements) || elements > maxElements))
      return emitError(value.getLoc()) << "expected at most 2^40 elements, got " << type;
    if (ShapedType::isStatic(size))
      shape.push_back(size);
    else if (i == 0)
      shape.push_back(symbols.of(value));
    else
      return emitError(value.getLoc())
             << "expected only the leading dimension to be dynamic, got " << type;
  }
  return shape;
}

FailureOr<rt::TensorSpec> sparseflow::target::specOf(const RowSymbols &symbols, Value value,
                                                     StringRef name) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  std::optional<rt::DType> dtype = type ? getRuntimeDType(type.getElementType()) : std::nullopt;
  if (!dtype)
    return emitError(value.getLoc())
           << "expected a ranked tensor of f16, bf16, f32, i8, f8E4M3FN, f8E5M2 or i32, got "
           << value.getType();
  rt::TensorSpec spec;
  spec.name = name.str();
  spec.dtype = *dtype;
  // Encoded weights are passed as their bytes.
  if (type.getEncoding()) {
    std::optional<size_t> bytes = sf::getStorageBytes(type);
    if (!bytes)
      return emitError(value.getLoc()) << "expected a weight of static shape, got " << type;
    spec.dtype = rt::DType::U8;
    spec.shape = {rt::Dimension(static_cast<int64_t>(*bytes))};
    spec.align = {16, 1};
    return spec;
  }
  FailureOr<std::vector<rt::Dimension>> shape = shapeOf(symbols, value);
  if (failed(shape))
    return failure();
  spec.shape = std::move(*shape);
  // Kernels read rows in the widest pieces, up to 16 bytes, that divide them: a row stride has to
  // keep each row on such a boundary.
  constexpr int64_t widestAccess = 16;
  int64_t elementBytes = rt::byteSize(*dtype), rowBytes = elementBytes;
  if (type.getRank() > 0 && !type.isDynamicDim(type.getRank() - 1))
    rowBytes *= type.getShape().back();
  spec.align.pointer =
      std::max(elementBytes, static_cast<int64_t>(llvm::MinAlign(rowBytes, widestAccess)));
  spec.align.stride = spec.align.pointer / elementBytes;
  return spec;
}
