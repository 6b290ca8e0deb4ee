//===- cusparselt.cu - cuSPARSELt, 2:4 ---------------------------------------------------------===//
//
// The candidates are each of its algorithm numbers, then what its own search finds, and last what it
// takes unasked. W is the structured operand, X and Y are row-major; plan and compressed weight are made
// once, when a candidate is selected, and stay out of the times. It multiplies multiples of 8 tokens, or
// of 16 with 8-bit types: others are rounded up, as its callers have to.
//
//===-------------------------------------------------------------------------------------------===//

#include "harness.cuh"

#include <cusparseLt.h>

namespace {

void check(cusparseStatus_t status, const char *what) {
  if (status != CUSPARSE_STATUS_SUCCESS)
    fail(std::string(what) + ": " + cusparseLtGetErrorString(status));
}
#define LT(call) check(call, #call)

class CusparseLt : public Contender {
public:
  CusparseLt() { LT(cusparseLtInit(&handle)); }

  std::string describe() override {
    int version = 0;
    cusparseLtGetVersion(&handle, &version);
    return "\"library\": \"cuSPARSELt " + std::to_string(version) + "\"";
  }
  bool isSparse() const override { return true; }

  int open(const Product &product) override {
    bool isInteger = product.dtype == DType::S8;
    cudaDataType element = product.dtype == DType::F16    ? CUDA_R_16F
                           : product.dtype == DType::BF16 ? CUDA_R_16BF
                           : product.dtype == DType::E4M3 ? CUDA_R_8F_E4M3
                                                          : CUDA_R_8I;
    cudaDataType result = product.resultDType() == DType::BF16 ? CUDA_R_16BF : CUDA_R_16F;
    int64_t multiple = product.elementBytes() == 2 ? 8 : 16;
    int64_t tokens = (product.m + multiple - 1) / multiple * multiple;
    constexpr uint32_t alignment = 16;
    LT(cusparseLtStructuredDescriptorInit(&handle, &a, product.n, product.k, product.k, alignment, element,
                                          CUSPARSE_ORDER_ROW, CUSPARSELT_SPARSITY_50_PERCENT));
    LT(cusparseLtDenseDescriptorInit(&handle, &b, tokens, product.k, product.k, alignment, element,
                                     CUSPARSE_ORDER_ROW));
    // Row-major Y[M, N] is column-major [N, M].
    LT(cusparseLtDenseDescriptorInit(&handle, &c, product.n, tokens, product.n, alignment, result,
                                     CUSPARSE_ORDER_COL));
    LT(cusparseLtMatmulDescriptorInit(&handle, &operation, CUSPARSE_OPERATION_NON_TRANSPOSE,
                                      CUSPARSE_OPERATION_TRANSPOSE, &a, &b, &c, &c,
                                      isInteger ? CUSPARSE_COMPUTE_32I : CUSPARSE_COMPUTE_32F));
    alpha = isInteger ? kInt8Scale : 1;
    resultScale = alpha;
    cusparseLtMatmulAlgSelection_t selection;
    LT(cusparseLtMatmulAlgSelectionInit(&handle, &selection, &operation, CUSPARSELT_MATMUL_ALG_DEFAULT));
    algorithms = 0;
    LT(cusparseLtMatmulAlgGetAttribute(&handle, &selection, CUSPARSELT_MATMUL_ALG_CONFIG_MAX_ID, &algorithms,
                                       sizeof algorithms));
    return algorithms + 2;
  }

  int defaultCandidate() const override { return algorithms + 1; }

  void select(int candidate) override {
    releasePlan();
    LT(cusparseLtMatmulAlgSelectionInit(&handle, &selection, &operation, CUSPARSELT_MATMUL_ALG_DEFAULT));
    bool search = candidate == algorithms;
    if (candidate < algorithms)
      LT(cusparseLtMatmulAlgSetAttribute(&handle, &selection, CUSPARSELT_MATMUL_ALG_CONFIG_ID, &candidate,
                                         sizeof candidate));
    LT(cusparseLtMatmulPlanInit(&handle, &plan, &operation, &selection));
    hasPlan = true;
    size_t bytes = 0, bufferBytes = 0;
    LT(cusparseLtSpMMACompressedSize(&handle, &plan, &bytes, &bufferBytes));
    compressed = std::make_unique<DeviceBuffer>(bytes);
    DeviceBuffer buffer(bufferBytes);
    LT(cusparseLtSpMMACompress(&handle, &plan, w, compressed->get(), buffer.get(), nullptr));
    CUDA(cudaDeviceSynchronize());
    if (search) {
      // The search may choose an algorithm that needs more than the default one.
      reserveWorkspace(64 << 20);
      cudaStream_t stream = nullptr;
      LT(cusparseLtMatmulSearch(&handle, &plan, &alpha, compressed->get(), x, &beta, y, y, workspace->get(),
                                &stream, 1));
      CUDA(cudaDeviceSynchronize());
    }
    size_t workspaceBytes = 0;
    LT(cusparseLtMatmulGetWorkspace(&handle, &plan, &workspaceBytes));
    reserveWorkspace(workspaceBytes);
    chosen = search ? "search" : candidate < algorithms ? "explicit" : "default";
  }

  void launch(cudaStream_t stream) override {
    LT(cusparseLtMatmul(&handle, &plan, &alpha, compressed->get(), x, &beta, y, y, workspace->get(), &stream, 1));
  }

  std::string describeCandidate() override {
    int id = -1, splitK = 1;
    cusparseLtMatmulAlgGetAttribute(&handle, &selection, CUSPARSELT_MATMUL_ALG_CONFIG_ID, &id, sizeof id);
    cusparseLtMatmulAlgGetAttribute(&handle, &selection, CUSPARSELT_MATMUL_SPLIT_K, &splitK, sizeof splitK);
    return "\"candidate\": \"" + chosen + ": algorithm " + std::to_string(id) + ", split-K " + std::to_string(splitK) +
           "\", \"result\": \"" + nameOf(resultDType) + "\"";
  }

  void close() override { releasePlan(); }

private:
  void reserveWorkspace(size_t bytes) {
    if (bytes > workspaceBytes || !workspace) {
      workspace = std::make_unique<DeviceBuffer>(bytes);
      workspaceBytes = bytes;
    }
  }

  void releasePlan() {
    if (hasPlan)
      cusparseLtMatmulPlanDestroy(&plan);
    hasPlan = false;
    compressed.reset();
  }

  cusparseLtHandle_t handle;
  cusparseLtMatDescriptor_t a, b, c;
  cusparseLtMatmulDescriptor_t operation;
  cusparseLtMatmulAlgSelection_t selection;
  cusparseLtMatmulPlan_t plan;
  bool hasPlan = false;
  int algorithms = 0;
  float alpha = 1, beta = 0;
  std::string chosen;
  size_t workspaceBytes = 0;
  std::unique_ptr<DeviceBuffer> compressed, workspace;
};

} // namespace

int main() {
  CusparseLt contender;
  return Server(contender).run();
}
