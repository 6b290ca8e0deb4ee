// 2:4 weights in host memory: shape checks around Support's Sparse24 and PackedLayout.
#include "Handles.h"
#include "sparseflow/Runtime/ElementType.h"
#include "sparseflow/Support/PackedLayout.h"
#include "sparseflow/Support/Sparse24.h"
#include "llvm/Support/FormatVariadic.h"

using namespace llvm;
using namespace sparseflow;
using namespace sparseflow::capi;

namespace {
/// A caller's contiguous tensor of a known role.
struct HostArray {
  std::string role;
  TensorRef ref;
  uint64_t bytes = 0;

  Error expectShape(ArrayRef<int64_t> shape) const;
  Error expectDType(runtime::DType dtype) const {
    if (ref.dtype == dtype)
      return Error::success();
    return makeError(Status::InvalidArgument, formatv("{0} expected {1}, got {2}", role,
                                                      stringify(dtype), stringify(ref.dtype)));
  }
  template <typename T = void> T *data() const { return static_cast<T *>(ref.data); }
};
} // namespace

static std::string describe(ArrayRef<int64_t> shape) {
  std::string text = "[";
  for (int64_t extent : shape)
    text += (text.size() > 1 ? "," : "") + std::to_string(extent);
  return text + "]";
}

Error HostArray::expectShape(ArrayRef<int64_t> shape) const {
  if (ref.shape == shape)
    return Error::success();
  return makeError(Status::InvalidArgument, formatv("{0} expected shape {1}, got {2}", role,
                                                    describe(shape), describe(ref.shape)));
}

static Expected<HostArray> readArray(const SfTensor *given, StringRef role) {
  if (Error error = expectNotNull(given, role))
    return std::move(error);
  HostArray array;
  array.role = role.str();
  if (Error error = readTensor(*given, array.ref))
    return runtime::addContext(role, std::move(error));
  std::optional<uint64_t> bytes = runtime::checkedByteSize(array.ref.dtype, array.ref.shape);
  if (!bytes)
    return makeError(
        Status::InvalidArgument,
        formatv("{0} expected extents of at least 0 whose product fits memory, got {1}", role,
                describe(array.ref.shape)));
  array.bytes = *bytes;
  if (array.bytes == 0)
    return array; // nothing to read, and extents beside 0 whose product may be anything
  int64_t stride = 1;
  for (size_t d = array.ref.strides.size(); d-- > 0;) {
    if (array.ref.shape[d] != 1 && array.ref.strides[d] != stride)
      return makeError(Status::InvalidArgument,
                       formatv("{0} expected a contiguous tensor, got strides {1}; copy it first",
                               role, describe(array.ref.strides)));
    stride *= array.ref.shape[d];
  }
  if (!array.ref.data)
    return makeError(Status::InvalidArgument,
                     formatv("{0} expected a pointer to {1} bytes, got NULL", role, *bytes));
  if (array.ref.gpu)
    return makeError(Status::InvalidArgument,
                     formatv("{0} expected host memory, got memory of cuda:{1}; copy it first",
                             role, *array.ref.gpu));
  return array;
}

namespace {
/// A weight [N,K] of an element type that the 2:4 forms exist for.
struct Weight {
  DType dtype = DType::f16;
  int64_t features = 0, inner = 0;
};
} // namespace

static Expected<DType> weightDType(runtime::DType dtype, StringRef role) {
  std::optional<DType> type = runtime::toElementType(dtype);
  if (type && *type != DType::i32 && *type != DType::u8)
    return *type;
  return makeError(
      Status::InvalidArgument,
      formatv("{0} expected f16, bf16, f32, i8, e4m3 or e5m2, got {1}", role, stringify(dtype)));
}

static Expected<Weight> readWeight(const HostArray &dense) {
  Expected<DType> dtype = weightDType(dense.ref.dtype, dense.role);
  if (!dtype)
    return dtype.takeError();
  if (dense.ref.shape.size() != 2)
    return makeError(Status::InvalidArgument,
                     formatv("{0} expected shape [N,K], got {1}; reshape it to two dimensions",
                             dense.role, describe(dense.ref.shape)));
  return Weight{*dtype, dense.ref.shape[0], dense.ref.shape[1]};
}

/// The weight that canonical values and their bitmask describe.
static Expected<Weight> readCanonical(const HostArray &values, const HostArray &bitmask) {
  Expected<Weight> weight = readWeight(values);
  if (!weight)
    return weight.takeError();
  weight->inner *= 2;
  if (weight->inner % 4 != 0)
    return makeError(Status::InvalidArgument,
                     formatv("values expected shape [N,K/2] with K a multiple of 4, got {0}",
                             describe(values.ref.shape)));
  if (Error error = bitmask.expectDType(runtime::DType::U8))
    return std::move(error);
  if (Error error = bitmask.expectShape({weight->features, (weight->inner + 7) / 8}))
    return std::move(error);
  return weight;
}

/// Reads the arrays by role and calls with them.
template <typename Body, typename... Arrays>
static SfStatus withArrays(Body body, const Arrays &...arrays) {
  return guarded(
      [&]() -> Error {
        SmallVector<HostArray, 4> list;
        Error error = Error::success();
        auto read = [&](const std::pair<const SfTensor *, StringRef> &given) {
          if (error)
            return;
          Expected<HostArray> array = readArray(given.first, given.second);
          if (array)
            list.push_back(std::move(*array));
          else
            error = array.takeError();
        };
        (read(arrays), ...);
        if (error)
          return error;
        return body(list);
      },
      Status::InvalidArgument);
}

using Given = std::pair<const SfTensor *, StringRef>;
using Arrays = SmallVectorImpl<HostArray>;

SfStatus sfValidate24(const SfTensor *dense, SfValidation *result) {
  return withArrays(
      [&](Arrays &arrays) -> Error {
        if (Error error = expectNotNull(result, "result"))
          return error;
        if (Expected<SfValidation> known = readStruct(result, "the result"); !known)
          return known.takeError();
        Expected<Weight> weight = readWeight(arrays[0]);
        if (!weight)
          return weight.takeError();
        Expected<Sparse24Report> report =
            inspect24(weight->dtype, weight->features, weight->inner, arrays[0].data());
        if (!report)
          return report.takeError();
        result->groups = weight->features * (weight->inner / 4);
        result->violations = report->offendingGroups;
        result->first_row = report->firstRow;
        result->first_group = report->firstGroup;
        result->non_finite = report->nonFinite;
        return Error::success();
      },
      Given(dense, "dense"));
}

SfStatus sfPrune24(const SfTensor *dense, const SfTensor *pruned) {
  return withArrays(
      [&](Arrays &arrays) -> Error {
        Expected<Weight> weight = readWeight(arrays[0]);
        if (!weight)
          return weight.takeError();
        if (Error error = arrays[1].expectDType(arrays[0].ref.dtype))
          return error;
        if (Error error = arrays[1].expectShape(arrays[0].ref.shape))
          return error;
        if (arrays[1].data() != arrays[0].data() && arrays[0].bytes > 0)
          std::memcpy(arrays[1].data(), arrays[0].data(), arrays[0].bytes);
        return prune24(weight->dtype, weight->features, weight->inner, arrays[1].data());
      },
      Given(dense, "dense"), Given(pruned, "pruned"));
}

/// K must be right before shapes that derive from it are compared.
static Error expectGroups(const Weight &weight) {
  if (weight.inner % 4 == 0)
    return Error::success();
  return makeError(Status::InvalidArgument,
                   formatv("dense expected K to be a multiple of 4, got {0}; pad K to {1}",
                           weight.inner, (weight.inner + 3) / 4 * 4));
}

SfStatus sfCompress24(const SfTensor *dense, const SfTensor *values, const SfTensor *bitmask) {
  return withArrays(
      [&](Arrays &arrays) -> Error {
        Expected<Weight> weight = readWeight(arrays[0]);
        if (!weight)
          return weight.takeError();
        if (Error error = expectGroups(*weight))
          return error;
        if (Error error = arrays[1].expectDType(arrays[0].ref.dtype))
          return error;
        if (Error error = arrays[1].expectShape({weight->features, weight->inner / 2}))
          return error;
        if (Error error = arrays[2].expectDType(runtime::DType::U8))
          return error;
        if (Error error = arrays[2].expectShape({weight->features, (weight->inner + 7) / 8}))
          return error;
        return compress24(weight->dtype, weight->features, weight->inner, arrays[0].data(),
                          CompressMode::Verify, arrays[1].data(), arrays[2].data<uint8_t>());
      },
      Given(dense, "dense"), Given(values, "values"), Given(bitmask, "bitmask"));
}

SfStatus sfDecompress24(const SfTensor *values, const SfTensor *bitmask, const SfTensor *dense) {
  return withArrays(
      [&](Arrays &arrays) -> Error {
        Expected<Weight> weight = readCanonical(arrays[0], arrays[1]);
        if (!weight)
          return weight.takeError();
        if (Error error = arrays[2].expectDType(arrays[0].ref.dtype))
          return error;
        if (Error error = arrays[2].expectShape({weight->features, weight->inner}))
          return error;
        return decompress24(weight->dtype, weight->features, weight->inner, arrays[0].data(),
                            arrays[1].data<uint8_t>(), arrays[2].data());
      },
      Given(values, "values"), Given(bitmask, "bitmask"), Given(dense, "dense"));
}

SfStatus sfPackedSize(SfDType number, int64_t features, int64_t inner, int64_t *values,
                      int64_t *metadata_words) {
  return guarded([&]() -> Error {
    if (Error error =
            expectNotNull(values && metadata_words ? values : nullptr, "values and metadata_words"))
      return error;
    std::optional<runtime::DType> given = runtime::dtypeFromNumber(number);
    if (!given)
      return makeError(Status::InvalidArgument,
                       formatv("expected a dtype (SF_F16, ...), got {0}", number));
    Expected<DType> dtype = weightDType(*given, "a packed weight");
    if (!dtype)
      return dtype.takeError();
    if (getByteWidth(*dtype) > 2)
      return makeError(Status::InvalidArgument,
                       "a packed weight expected f16, bf16, i8, e4m3 or e5m2, got f32");
    // Large enough for every weight, small enough that padding cannot overflow.
    constexpr int64_t limit = int64_t(1) << 30;
    if (features < 1 || inner < 4 || inner % 4 != 0 || features > limit || inner > limit)
      return makeError(Status::InvalidArgument,
                       formatv("a packed weight expected N of at least 1 and K a multiple of 4, "
                               "both at most {0}, got {1} and {2}",
                               limit, features, inner));
    *values = packedValuesBytes(features, inner, *dtype) / getByteWidth(*dtype);
    *metadata_words = packedMetadataBytes(features, inner, *dtype) / sizeof(uint32_t);
    return Error::success();
  });
}

static Expected<PackOrder> readPackOrder(const SfPackOptions *given) {
  Expected<SfPackOptions> options = readStruct(given, "the options");
  if (!options)
    return options.takeError();
  switch (options->order) {
  case SF_PACK_MMA:
    return PackOrder::Mma;
  case SF_PACK_WGMMA:
    return PackOrder::Wgmma;
  default:
    return makeError(Status::InvalidArgument,
                     formatv("the options expected order SF_PACK_MMA or SF_PACK_WGMMA, got {0}",
                             options->order));
  }
}

SfStatus sfPackWeight(const SfTensor *values, const SfTensor *bitmask,
                      const SfTensor *packed_values, const SfTensor *packed_metadata) {
  return sfPackWeightWith(values, bitmask, /*options=*/nullptr, packed_values, packed_metadata);
}

SfStatus sfPackWeightWith(const SfTensor *values, const SfTensor *bitmask,
                          const SfPackOptions *options, const SfTensor *packed_values,
                          const SfTensor *packed_metadata) {
  return withArrays(
      [&](Arrays &arrays) -> Error {
        Expected<PackOrder> order = readPackOrder(options);
        if (!order)
          return order.takeError();
        Expected<Weight> weight = readCanonical(arrays[0], arrays[1]);
        if (!weight)
          return weight.takeError();
        int64_t elements = 0, words = 0;
        if (sfPackedSize(SfDType(arrays[0].ref.dtype), weight->features, weight->inner, &elements,
                         &words) != SF_OK)
          return makeError(Status::InvalidArgument, sfLastError());
        if (Error error = arrays[2].expectDType(arrays[0].ref.dtype))
          return error;
        if (Error error = arrays[2].expectShape({elements}))
          return error;
        if (Error error = arrays[3].expectDType(runtime::DType::U32))
          return error;
        if (Error error = arrays[3].expectShape({words}))
          return error;
        return packWeight(*order, weight->dtype, weight->features, weight->inner, arrays[0].data(),
                          arrays[1].data<uint8_t>(), arrays[2].data(), arrays[3].data<uint32_t>());
      },
      Given(values, "values"), Given(bitmask, "bitmask"), Given(packed_values, "packed_values"),
      Given(packed_metadata, "packed_metadata"));
}
