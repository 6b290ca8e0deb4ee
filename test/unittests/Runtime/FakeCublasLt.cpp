// A stand-in for cuBLASLt in the library of the fake driver, whose memory is the host's: products
// of f16 are really computed, and three algorithms differ in the time that they claim.
#include "FakeCuda.h"
#include "sparseflow/Runtime/CudaTypes.h"
#include "sparseflow/Support/NumericTypes.h"
#include <cstring>

using namespace sparseflow;
using namespace sparseflow::runtime;

#define EXPORT extern "C" __attribute__((visibility("default")))

extern "C" FakeCuda *fakeCuda();

static constexpr int f16 = 2;
static constexpr int notSupported = 15;

/// What stands behind the handles.
struct sparseflow::runtime::CublasLtOperationObject {
  bool transposed = false;
};
struct sparseflow::runtime::CublasLtLayoutObject {
  int type;
  uint64_t rows, columns;
  int64_t stride;
};
struct sparseflow::runtime::CublasLtPreferenceObject {};

static int fail(const char *function) {
  FakeCuda &state = *fakeCuda();
  return state.failFunction && std::strcmp(state.failFunction, function) == 0 ? state.failResult
                                                                              : 0;
}

EXPORT size_t cublasLtGetVersion() { return 130002; }
EXPORT const char *cublasLtGetStatusString(int) { return "fake status"; }
EXPORT int cublasLtCreate(CublasLtHandle *handle) {
  *handle = reinterpret_cast<CublasLtHandle>(fakeCuda());
  int result = fail("cublasLtCreate");
  fakeCuda()->libraries += result == 0;
  return result;
}
EXPORT int cublasLtDestroy(CublasLtHandle) {
  --fakeCuda()->libraries;
  return 0;
}
EXPORT int cublasLtMatmulDescCreate(CublasLtOperation *operation, int compute, int scale) {
  *operation = new CublasLtOperationObject;
  return (compute == 68 && scale == 0) || (compute == 72 && scale == 10) ? 0 : 7;
}
EXPORT int cublasLtMatmulDescDestroy(CublasLtOperation operation) {
  delete operation;
  return 0;
}
EXPORT int cublasLtMatmulDescSetAttribute(CublasLtOperation operation, int attribute,
                                          const void *value, size_t bytes) {
  if (attribute == 3 && bytes == 4)
    operation->transposed = *static_cast<const int32_t *>(value) == 1;
  return 0;
}
EXPORT int cublasLtMatrixLayoutCreate(CublasLtLayout *layout, int type, uint64_t rows,
                                      uint64_t columns, int64_t stride) {
  *layout = new CublasLtLayoutObject{type, rows, columns, stride};
  return stride < int64_t(rows) ? 7 : fail("cublasLtMatrixLayoutCreate");
}
EXPORT int cublasLtMatrixLayoutDestroy(CublasLtLayout layout) {
  delete layout;
  return 0;
}
EXPORT int cublasLtMatmulPreferenceCreate(CublasLtPreference *preference) {
  *preference = new CublasLtPreferenceObject;
  return 0;
}
EXPORT int cublasLtMatmulPreferenceDestroy(CublasLtPreference preference) {
  delete preference;
  return 0;
}
EXPORT int cublasLtMatmulPreferenceSetAttribute(CublasLtPreference, int attribute, const void *,
                                                size_t bytes) {
  return bytes == (attribute == 1 ? 8 : 4) ? 0 : 7;
}
EXPORT int cublasLtMatmulAlgoGetHeuristic(CublasLtHandle, CublasLtOperation operation,
                                          CublasLtLayout a, CublasLtLayout b, CublasLtLayout c,
                                          CublasLtLayout d, CublasLtPreference, int wanted,
                                          CublasLtHeuristic *results, int *count) {
  ++fakeCuda()->heuristics;
  if (!operation->transposed || a->rows != b->rows || a->columns != d->rows ||
      b->columns != d->columns || c != d || wanted < 4)
    return 7;
  // The fourth cannot run, as its status says.
  for (int i = 0; i < 4; ++i)
    results[i] = {{{uint64_t(i)}}, 1024, i == 3 ? notSupported : 0, 1, {}};
  *count = 4;
  return fail("cublasLtMatmulAlgoGetHeuristic");
}
EXPORT int cublasLtMatmul(CublasLtHandle, CublasLtOperation, const void *alpha, const void *a,
                          CublasLtLayout layoutA, const void *b, CublasLtLayout layoutB,
                          const void *beta, const void *, CublasLtLayout, void *d,
                          CublasLtLayout layoutD, const CublasLtAlgorithm *algorithm,
                          void *workspace, size_t workspaceBytes, CUstream stream) {
  FakeCuda &state = *fakeCuda();
  if (layoutA->type != f16 || layoutD->type != f16 || *static_cast<const float *>(alpha) != 1 ||
      *static_cast<const float *>(beta) != 0 || !workspace || workspaceBytes < 1024 ||
      reinterpret_cast<uintptr_t>(workspace) % 256 != 0)
    return 7;
  state.lastAlgorithm = int(algorithm->data[0]);
  state.lastStream = stream;
  ++state.products;
  constexpr auto type = sparseflow::DType::f16;
  for (uint64_t n = 0; n < layoutD->rows; ++n)
    for (uint64_t m = 0; m < layoutD->columns; ++m) {
      float sum = 0;
      for (uint64_t k = 0; k < layoutA->rows; ++k)
        sum += loadAsFloat(type, a, n * layoutA->stride + k) *
               loadAsFloat(type, b, m * layoutB->stride + k);
      storeFromFloat(type, d, m * layoutD->stride + n, sum);
    }
  return fail("cublasLtMatmul");
}
