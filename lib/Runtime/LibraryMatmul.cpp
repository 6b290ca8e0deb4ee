// Which products libraries have, and the one that every device in host memory computes itself.
#include "sparseflow/Runtime/LibraryMatmul.h"
#include "sparseflow/Runtime/ElementType.h"
#include "sparseflow/Support/NumericTypes.h"
#include "llvm/ADT/Twine.h"
#include "llvm/Support/FormatVariadic.h"
#include <vector>

using namespace llvm;
using namespace sparseflow::runtime;

LibraryMatmul::~LibraryMatmul() = default;

/// Extents that 32-bit libraries count.
static constexpr int64_t maxExtent = INT32_MAX;

DType sparseflow::runtime::getSumType(DType operand) {
  return operand == DType::I8 ? DType::I32 : DType::F32;
}

std::optional<std::string> MatmulType::findFault() const {
  bool isInteger = operand == DType::I8;
  bool isFloat8 = operand == DType::E4M3;
  if (!isInteger && !isFloat8 && operand != DType::F16 && operand != DType::BF16)
    return ("expected operands of f16, bf16, i8 or e4m3, got " + stringify(operand)).str();
  DType sum = getSumType(operand);
  if (compute != sum)
    return ("expected sums in " + stringify(sum) + " of " + stringify(operand) + " operands, got " +
            stringify(compute))
        .str();
  bool fits = isInteger  ? result == DType::I32
              : isFloat8 ? result == DType::F16 || result == DType::BF16 || result == DType::F32
                         : result == operand || result == DType::F32;
  if (!fits)
    return ("expected a result of " +
            Twine(isInteger  ? "i32"
                  : isFloat8 ? "f16, bf16 or f32"
                             : "f32 or the operands' type") +
            ", got " + stringify(result))
        .str();
  if (features < 1 || features > maxExtent || inner < 1 || inner > maxExtent)
    return formatv("expected 1 to {0} features and inner elements, got {1} and {2}", maxExtent,
                   features, inner)
        .str();
  return std::nullopt;
}

std::string MatmulType::describe() const {
  return formatv("{0} [{1},{2}] -> {3}", stringify(operand), features, inner, stringify(result));
}

namespace {
class HostMatmul final : public LibraryMatmul {
public:
  explicit HostMatmul(const MatmulType &type)
      : operand(*toElementType(type.operand)), result(*toElementType(type.result)),
        features(type.features), inner(type.inner) {}

  Error launch(const Operands &operands, void *, void *) override {
    std::vector<float> x(inner), w(features * inner);
    convertToFloat(operand, operands.weight, w.data(), w.size());
    for (int64_t m = 0; m < operands.rows; ++m) {
      const char *row = static_cast<const char *>(operands.x) +
                        m * operands.xStride * int64_t(getByteWidth(operand));
      convertToFloat(operand, row, x.data(), x.size());
      for (int64_t n = 0; n < features; ++n) {
        double sum = 0;
        for (int64_t k = 0; k < inner; ++k)
          sum += double(x[k]) * double(w[n * inner + k]);
        store(operands.y, m * operands.yStride + n, sum);
      }
    }
    return Error::success();
  }

  std::string describe(int64_t) const override { return "a plain product on the host"; }

private:
  void store(void *y, int64_t index, double value) const {
    // Sums of integers are exact in double, but not in float.
    if (result == sparseflow::DType::i32)
      static_cast<int32_t *>(y)[index] = int32_t(int64_t(value));
    else
      storeFromFloat(result, y, index, float(value));
  }

  sparseflow::DType operand, result;
  int64_t features, inner;
};
} // namespace

std::unique_ptr<LibraryMatmul> sparseflow::runtime::createHostMatmul(const MatmulType &type) {
  return std::make_unique<HostMatmul>(type);
}
