// Opening cuBLASLt, and products through it.
//
// cuBLASLt's matrices are column-major: row-major Y[M,N] is its [N,M], which is W (its [K,N],
// transposed) times X (its [K,M]). That is also the one form that its 8-bit kernels take.
//
// What a number of rows needs (layouts and an algorithm) is a plan, kept for later launches. The
// first launch of an unknown number asks the heuristic, which is work for the host alone, so that
// it may happen anywhere; trying what the heuristic proposes is left to warmUp.
#include "CublasLt.h"
#include "sparseflow/Runtime/Error.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/Path.h"
#include <cstdlib>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <tuple>

using namespace llvm;
using namespace sparseflow::runtime;

// Numbers of cublasLt.h, cublas_api.h and library_types.h.
static constexpr int computeF32 = 68;
static constexpr int computeI32 = 72;
static constexpr int typeF32 = 0;
static constexpr int typeI32 = 10;
static constexpr int operationTranspose = 1;
static constexpr int operationTransposeA = 3;
static constexpr int operationFastAccumulation = 25;
static constexpr int preferenceWorkspace = 1;
static constexpr int preferenceAlignmentA = 5; // then B, C and D
static constexpr int statusNotSupported = 15;
static constexpr unsigned streamNonBlocking = 1;

/// What NVIDIA recommends for Hopper; its fastest algorithms want it.
static constexpr size_t workspaceSize = size_t(32) << 20;
/// What the device's allocations are aligned to.
static constexpr uint32_t weightAlignment = 256;
/// No algorithm asks for more of the operands.
static constexpr uint32_t maxAlignment = 16;
static constexpr int candidateCount = 8;
/// Of each candidate; the fastest counts.
static constexpr int timedLaunches = 5;
/// Numbers of rows that are remembered. Beyond, all are forgotten and asked for again.
static constexpr size_t maxPlans = 1024;
/// Any number that is likely to be used, to see at load whether there is an algorithm at all.
static constexpr int64_t probeRows = 128;

//===-- The library --------------------------------------------------------------------------===//

std::string CublasLt::name() const {
  // 130100 is 13.1.0.
  return formatv("cuBLASLt {0}.{1}.{2}", version / 10000, version / 100 % 100, version % 100);
}

Error CublasLt::check(int status, const Twine &what) const {
  if (status == 0)
    return Error::success();
  return makeError(status == statusNotSupported ? Status::Unsupported : Status::DeviceError,
                   formatv("{0}: {1} failed: {2} ({3})", name(), what.str(),
                           statusText ? statusText(status) : "unknown error", status));
}

Expected<std::unique_ptr<CublasLt>> CublasLt::open(ArrayRef<std::string> candidates) {
  std::string tried;
  for (const std::string &candidate : candidates) {
    // Never closed: it keeps process-wide state.
    void *handle = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
      tried += (tried.empty() ? "" : "; ") + std::string(dlerror());
      continue;
    }
    auto library = std::make_unique<CublasLt>();
    const char *missing = nullptr;
#define SPARSEFLOW_CUBLASLT(function, parameters)                                                  \
  library->function = reinterpret_cast<int(*) parameters>(dlsym(handle, #function));               \
  if (!library->function && !missing)                                                              \
    missing = #function;
#include "CublasLtSymbols.def"
#undef SPARSEFLOW_CUBLASLT
    if (missing) {
      tried += (tried.empty() ? "" : "; ") + candidate + " has no " + missing;
      continue;
    }
    if (auto getVersion = reinterpret_cast<size_t (*)()>(dlsym(handle, "cublasLtGetVersion")))
      library->version = getVersion();
    library->statusText =
        reinterpret_cast<const char *(*)(int)>(dlsym(handle, "cublasLtGetStatusString"));
    return std::move(library);
  }
  return makeError(Status::Unsupported, "expected libcublasLt (pip install nvidia-cublas, or set "
                                        "SPARSEFLOW_LIBCUBLASLT), got: " +
                                            tried);
}

/// The file by name, which finds a copy that is loaded already, then where the toolkit and the
/// Python packages of NVIDIA put it: those lie in site-packages, beside this library's own package.
static std::vector<std::string> findCandidates(const CudaDriver &driver) {
  if (const char *named = std::getenv("SPARSEFLOW_LIBCUBLASLT"); named && *named)
    return {named};
  SmallString<256> here;
  Dl_info info;
  if (dladdr(reinterpret_cast<void *>(&findCandidates), &info) && info.dli_fname)
    here = info.dli_fname;
  std::vector<std::string> candidates;
  for (int major : {13, 12}) {
    // A library of a later major version than the driver's does not start.
    if (driver.version() / 1000 < major)
      continue;
    std::string file = "libcublasLt.so." + std::to_string(major);
    candidates.push_back(file);
    std::string package = major >= 13 ? "nvidia/cu" + std::to_string(major) : "nvidia/cublas";
    for (StringRef folder = sys::path::parent_path(here); !folder.empty();
         folder = sys::path::parent_path(folder))
      if (sys::path::filename(folder) == "site-packages" ||
          sys::path::filename(folder) == "dist-packages")
        candidates.push_back((folder + "/" + package + "/lib/" + file).str());
    candidates.push_back("/usr/local/cuda/lib64/" + file);
    candidates.push_back("/usr/local/cuda-" + std::to_string(major) + "/lib64/" + file);
  }
  return candidates;
}

Expected<CublasLt *> CublasLt::get(const CudaDriver &driver) {
  static std::mutex mutex;
  // Leaked on purpose, like the driver.
  static auto &opened = *new std::map<std::vector<std::string>, CublasLt *>;
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<std::string> candidates = findCandidates(driver);
  CublasLt *&known = opened[candidates];
  if (known)
    return known;
  Expected<std::unique_ptr<CublasLt>> library = open(candidates);
  if (!library)
    return library.takeError();
  return known = library->release();
}

//===-- Products -----------------------------------------------------------------------------===//

/// cudaDataType.
static int typeNumber(DType dtype) {
  switch (dtype) {
  case DType::F16:
    return 2;
  case DType::BF16:
    return 14;
  case DType::I8:
    return 3;
  case DType::E4M3:
    return 28;
  case DType::I32:
    return typeI32;
  default:
    return typeF32;
  }
}

namespace {
/// Owns a descriptor of the library.
template <typename Handle> class Owned {
public:
  Owned() = default;
  Owned(Owned &&other) : destroy(other.destroy), handle(std::exchange(other.handle, nullptr)) {}
  Owned &operator=(Owned &&other) {
    std::swap(destroy, other.destroy);
    std::swap(handle, other.handle);
    return *this;
  }
  ~Owned() {
    if (handle)
      destroy(handle);
  }
  int (*destroy)(Handle) = nullptr;
  Handle handle = nullptr;
};

class CublasLtMatmul final : public LibraryMatmul {
public:
  CublasLtMatmul(const CublasLt &library, CublasLtHandle handle, const CudaDriver &driver,
                 Device &device, const MatmulType &type)
      : library(library), handle(handle), driver(driver), device(device), type(type) {}

  Error initialize();
  size_t workspaceBytes() const override { return workspaceSize; }
  Error launch(const Operands &operands, void *workspace, void *stream) override;
  Error warmUp(int64_t rows, const void *weight) override;
  std::string describe(int64_t rows) const override;

private:
  /// What a plan depends on. The alignment, in bytes, is that of X and Y.
  struct Key {
    int64_t rows, xStride, yStride;
    uint32_t alignment;
    bool operator<(const Key &other) const {
      return std::tie(rows, xStride, yStride, alignment) <
             std::tie(other.rows, other.xStride, other.yStride, other.alignment);
    }
  };
  struct Plan {
    Owned<CublasLtLayout> x, y;
    CublasLtAlgorithm algorithm;
    int rank = 0; // among the heuristic's proposals
    bool timed = false;
  };
  using PlanPtr = std::shared_ptr<const Plan>;

  Key keyOf(const Operands &operands) const;
  /// Of operands in memory that the device has allocated.
  Key contiguousKey(int64_t rows) const {
    return keyOf({rows, nullptr, type.inner, nullptr, nullptr, type.features});
  }
  Expected<Owned<CublasLtLayout>> makeLayout(DType dtype, int64_t contiguous, int64_t other,
                                             int64_t stride) const;
  /// Layouts, and what the heuristic proposes for them, best first.
  Expected<Plan> propose(const Key &key, SmallVectorImpl<CublasLtHeuristic> &proposals) const;
  Expected<PlanPtr> planOf(const Key &key);
  void remember(const Key &key, PlanPtr plan);
  Error launchPlan(const Plan &plan, const Operands &operands, void *workspace,
                   CUstream stream) const;
  Expected<float> timePlan(const Plan &plan, const Operands &operands, void *workspace,
                           CUstream stream) const;
  Error chooseByTime(Plan &plan, ArrayRef<CublasLtHeuristic> proposals, int64_t rows,
                     const void *weight, void *scratch) const;

  const CublasLt &library;
  CublasLtHandle handle;
  const CudaDriver &driver;
  Device &device;
  const MatmulType type;
  Owned<CublasLtOperation> operation;
  Owned<CublasLtLayout> weightLayout;
  mutable std::mutex mutex;
  std::map<Key, PlanPtr> plans;
};
} // namespace

Expected<Owned<CublasLtLayout>> CublasLtMatmul::makeLayout(DType dtype, int64_t contiguous,
                                                           int64_t other, int64_t stride) const {
  Owned<CublasLtLayout> layout;
  layout.destroy = library.cublasLtMatrixLayoutDestroy;
  // With one row the stride means nothing, but has to cover it.
  if (Error error = library.check(
          library.cublasLtMatrixLayoutCreate(&layout.handle, typeNumber(dtype), contiguous, other,
                                             other == 1 ? std::max(stride, contiguous) : stride),
          "describing a matrix"))
    return std::move(error);
  return std::move(layout);
}

Error CublasLtMatmul::initialize() {
  bool isInteger = type.compute == DType::I32;
  operation.destroy = library.cublasLtMatmulDescDestroy;
  int status = library.cublasLtMatmulDescCreate(
      &operation.handle, isInteger ? computeI32 : computeF32, isInteger ? typeI32 : typeF32);
  int32_t transpose = operationTranspose;
  if (!status)
    status = library.cublasLtMatmulDescSetAttribute(operation.handle, operationTransposeA,
                                                    &transpose, sizeof(transpose));
  // The tensor cores' own accumulation, as in this project's kernels.
  int8_t fast = 1;
  if (!status && type.operand == DType::E4M3)
    status = library.cublasLtMatmulDescSetAttribute(operation.handle, operationFastAccumulation,
                                                    &fast, sizeof(fast));
  if (Error error = library.check(status, "describing a product"))
    return error;
  Expected<Owned<CublasLtLayout>> layout =
      makeLayout(type.operand, type.inner, type.features, type.inner);
  if (!layout)
    return layout.takeError();
  weightLayout = std::move(*layout);
  return planOf(contiguousKey(probeRows)).takeError();
}

Expected<CublasLtMatmul::Plan>
CublasLtMatmul::propose(const Key &key, SmallVectorImpl<CublasLtHeuristic> &proposals) const {
  Plan plan;
  Expected<Owned<CublasLtLayout>> x = makeLayout(type.operand, type.inner, key.rows, key.xStride);
  if (!x)
    return x.takeError();
  plan.x = std::move(*x);
  Expected<Owned<CublasLtLayout>> y = makeLayout(type.result, type.features, key.rows, key.yStride);
  if (!y)
    return y.takeError();
  plan.y = std::move(*y);

  Owned<CublasLtPreference> preference;
  preference.destroy = library.cublasLtMatmulPreferenceDestroy;
  uint64_t bytes = workspaceSize;
  int status = library.cublasLtMatmulPreferenceCreate(&preference.handle);
  if (!status)
    status = library.cublasLtMatmulPreferenceSetAttribute(preference.handle, preferenceWorkspace,
                                                          &bytes, sizeof(bytes));
  const uint32_t alignments[] = {weightAlignment, key.alignment, key.alignment, key.alignment};
  for (auto [i, alignment] : enumerate(alignments))
    if (!status)
      status = library.cublasLtMatmulPreferenceSetAttribute(
          preference.handle, preferenceAlignmentA + int(i), &alignment, sizeof(alignment));
  if (Error error = library.check(status, "setting preferences"))
    return std::move(error);

  int count = 0;
  proposals.resize(candidateCount);
  status = library.cublasLtMatmulAlgoGetHeuristic(
      handle, operation.handle, weightLayout.handle, plan.x.handle, plan.y.handle, plan.y.handle,
      preference.handle, candidateCount, proposals.data(), &count);
  if (status != statusNotSupported)
    if (Error error = library.check(status, "asking for an algorithm"))
      return std::move(error);
  proposals.truncate(status ? 0 : count);
  erase_if(proposals, [](const CublasLtHeuristic &proposal) {
    return proposal.status != 0 || proposal.workspaceBytes > workspaceSize;
  });
  if (proposals.empty())
    return makeError(Status::Unsupported,
                     formatv("{0} has no algorithm for {1} with {2} rows, {3} and {4} elements "
                             "apart, aligned to {5} bytes",
                             library.name(), type.describe(), key.rows, key.xStride, key.yStride,
                             key.alignment));
  plan.algorithm = proposals.front().algorithm;
  return std::move(plan);
}

Expected<CublasLtMatmul::PlanPtr> CublasLtMatmul::planOf(const Key &key) {
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (auto known = plans.find(key); known != plans.end())
      return known->second;
  }
  SmallVector<CublasLtHeuristic, 0> proposals;
  Expected<Plan> proposed = propose(key, proposals);
  if (!proposed)
    return proposed.takeError();
  auto plan = std::make_shared<Plan>(std::move(*proposed));
  remember(key, plan);
  return plan;
}

void CublasLtMatmul::remember(const Key &key, PlanPtr plan) {
  std::lock_guard<std::mutex> lock(mutex);
  if (plans.size() >= maxPlans)
    plans.clear();
  PlanPtr &known = plans[key];
  // Another thread may have come first, and what was timed is better than what was not.
  if (!known || plan->timed || !known->timed)
    known = std::move(plan);
}

CublasLtMatmul::Key CublasLtMatmul::keyOf(const Operands &operands) const {
  uint64_t bits = reinterpret_cast<uintptr_t>(operands.x) | reinterpret_cast<uintptr_t>(operands.y);
  // Of a single row only the address matters.
  if (operands.rows > 1)
    bits |= uint64_t(operands.xStride) * byteSize(type.operand) |
            uint64_t(operands.yStride) * byteSize(type.result);
  return {operands.rows, operands.xStride, operands.yStride,
          uint32_t(MinAlign(bits, maxAlignment))};
}

Error CublasLtMatmul::launchPlan(const Plan &plan, const Operands &operands, void *workspace,
                                 CUstream stream) const {
  const float oneF32 = 1, zeroF32 = 0;
  const int32_t oneI32 = 1, zeroI32 = 0;
  bool isInteger = type.compute == DType::I32;
  const void *one = isInteger ? static_cast<const void *>(&oneI32) : &oneF32;
  const void *zero = isInteger ? static_cast<const void *>(&zeroI32) : &zeroF32;
  int status =
      library.cublasLtMatmul(handle, operation.handle, one, operands.weight, weightLayout.handle,
                             operands.x, plan.x.handle, zero, operands.y, plan.y.handle, operands.y,
                             plan.y.handle, &plan.algorithm, workspace, workspaceSize, stream);
  if (LLVM_LIKELY(status == 0))
    return Error::success();
  return library.check(
      status, formatv("the product {0} with {1} rows", type.describe(), operands.rows).str());
}

Error CublasLtMatmul::launch(const Operands &operands, void *workspace, void *stream) {
  Expected<PlanPtr> plan = planOf(keyOf(operands));
  if (!plan)
    return plan.takeError();
  return launchPlan(**plan, operands, workspace, static_cast<CUstream>(stream));
}

//===-- Warming up ---------------------------------------------------------------------------===//

Expected<float> CublasLtMatmul::timePlan(const Plan &plan, const Operands &operands,
                                         void *workspace, CUstream stream) const {
  Owned<CUevent> begin, end;
  begin.destroy = end.destroy = driver.cuEventDestroy;
  for (Owned<CUevent> *event : {&begin, &end})
    if (CUresult result = driver.cuEventCreate(&event->handle, 0))
      return driver.error(result, "creating an event");
  float best = std::numeric_limits<float>::max();
  // The first launch loads the algorithm's code.
  for (int i = 0; i <= timedLaunches; ++i) {
    CUresult result = driver.cuEventRecord(begin.handle, stream);
    if (Error error = launchPlan(plan, operands, workspace, stream))
      return std::move(error);
    if (!result)
      result = driver.cuEventRecord(end.handle, stream);
    if (!result)
      result = driver.cuEventSynchronize(end.handle);
    float milliseconds = 0;
    if (!result)
      result = driver.cuEventElapsedTime(&milliseconds, begin.handle, end.handle);
    if (result)
      return driver.error(result, "timing " + library.name());
    if (i > 0)
      best = std::min(best, milliseconds);
  }
  return best;
}

/// `scratch` holds X, Y and the workspace.
Error CublasLtMatmul::chooseByTime(Plan &plan, ArrayRef<CublasLtHeuristic> proposals, int64_t rows,
                                   const void *weight, void *scratch) const {
  char *x = static_cast<char *>(scratch) + workspaceSize;
  char *y = x + alignTo(uint64_t(rows) * type.inner * byteSize(type.operand), weightAlignment);
  Operands operands{rows, x, type.inner, weight, y, type.features};
  CUstream stream = nullptr;
  if (CUresult result = driver.cuStreamCreate(&stream, streamNonBlocking))
    return driver.error(result, "creating a stream");
  float best = std::numeric_limits<float>::max();
  Error failure = Error::success();
  for (auto [rank, proposal] : enumerate(proposals)) {
    CublasLtAlgorithm chosen = std::exchange(plan.algorithm, proposal.algorithm);
    Expected<float> time = timePlan(plan, operands, scratch, stream);
    if (time && *time < best) {
      best = *time;
      plan.rank = int(rank);
      plan.timed = true;
      continue;
    }
    plan.algorithm = chosen;
    if (!time)
      failure = joinErrors(std::move(failure), time.takeError());
  }
  driver.cuStreamDestroy(stream);
  // Some proposal may be one that this chip or driver cannot run after all.
  if (plan.timed)
    consumeError(std::move(failure));
  return plan.timed ? Error::success() : std::move(failure);
}

Error CublasLtMatmul::warmUp(int64_t rows, const void *weight) {
  Key key = contiguousKey(rows);
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (auto known = plans.find(key); known != plans.end() && known->second->timed)
      return Error::success();
  }
  SmallVector<CublasLtHeuristic, 0> proposals;
  Expected<Plan> plan = propose(key, proposals);
  if (!plan)
    return plan.takeError();
  uint64_t bytes = SaturatingAdd<uint64_t>(
      workspaceSize + weightAlignment,
      SaturatingAdd(SaturatingMultiply<uint64_t>(rows, type.inner * byteSize(type.operand)),
                    SaturatingMultiply<uint64_t>(rows, type.features * byteSize(type.result))));
  Expected<void *> scratch = device.allocate(bytes);
  if (!scratch)
    return addContext("warming up " + library.name(), scratch.takeError());
  Error error = chooseByTime(*plan, proposals, rows, weight, *scratch);
  if (Error freed = device.deallocate(*scratch))
    error = joinErrors(std::move(error), std::move(freed));
  if (error)
    return error;
  remember(key, std::make_shared<Plan>(std::move(*plan)));
  return Error::success();
}

std::string CublasLtMatmul::describe(int64_t rows) const {
  std::lock_guard<std::mutex> lock(mutex);
  auto known = plans.find(contiguousKey(rows));
  if (known == plans.end())
    return library.name();
  return formatv("{0}, algorithm {1} of its heuristic{2}", library.name(), known->second->rank,
                 known->second->timed ? ", the fastest that was timed" : "");
}

Expected<std::unique_ptr<LibraryMatmul>>
sparseflow::runtime::createCublasLtMatmul(const CublasLt &library, CublasLtHandle handle,
                                          const CudaDriver &driver, Device &device,
                                          const MatmulType &type) {
  auto matmul = std::make_unique<CublasLtMatmul>(library, handle, driver, device, type);
  if (Error error = matmul->initialize())
    return std::move(error);
  return std::move(matmul);
}
