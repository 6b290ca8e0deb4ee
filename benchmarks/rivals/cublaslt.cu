//===- cublaslt.cu - cuBLASLt, dense -----------------------------------------------------------===//
//
// The candidates are what its heuristics propose, up to 32 for each kind of result. Row-major Y is its
// column-major [N, M] with W transposed, the form that 8-bit types require. It has no 8-bit integer
// product with an f16 result: i32 and i8 results both stand in for it.
//
//===-------------------------------------------------------------------------------------------===//

#include "harness.cuh"

#include <cublasLt.h>

namespace {

void check(cublasStatus_t status, const char *what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(std::string(what) + ": " + cublasLtGetStatusString(status));
}
#define LT(call) check(call, #call)

/// One kind of product with its descriptors.
struct Form {
  cudaDataType_t result;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
};

class CublasLt : public Contender {
public:
  CublasLt() : workspace(kWorkspaceBytes) { LT(cublasLtCreate(&handle)); }

  std::string describe() override {
    return "\"library\": \"cuBLASLt " + std::to_string(cublasLtGetVersion()) + "\"";
  }
  bool isSparse() const override { return false; }

  int open(const Product &product) override {
    this->product = product;
    switch (product.dtype) {
    case DType::F16:
      propose(CUDA_R_16F, CUDA_R_16F);
      break;
    case DType::BF16:
      propose(CUDA_R_16BF, CUDA_R_16BF);
      break;
    case DType::E4M3:
      propose(CUDA_R_8F_E4M3, CUDA_R_16BF);
      break;
    case DType::S8:
      propose(CUDA_R_8I, CUDA_R_32I);
      propose(CUDA_R_8I, CUDA_R_8I);
      break;
    }
    return candidates.size();
  }

  void select(int candidate) override {
    selected = &candidates.at(candidate);
    const Form &form = forms[selected->form];
    resultIsI32 = form.result == CUDA_R_32I;
    resultDType = form.result == CUDA_R_8I ? DType::S8 : product.resultDType();
    resultScale = form.result == CUDA_R_8I ? kInt8Scale / 8 : 1;
  }

  void launch(cudaStream_t stream) override {
    const Form &form = forms[selected->form];
    // Integer results take integer factors.
    const float alpha = resultScale, beta = 0;
    const int32_t one = 1, zero = 0;
    bool isInteger = form.result == CUDA_R_32I;
    LT(cublasLtMatmul(handle, form.operation, isInteger ? static_cast<const void *>(&one) : &alpha, w, form.a, x,
                      form.b, isInteger ? static_cast<const void *>(&zero) : &beta, y, form.c, y, form.c,
                      &selected->heuristic.algo, workspace.get(), kWorkspaceBytes, stream));
  }

  std::string describeCandidate() override {
    std::string result = resultIsI32 ? "i32" : nameOf(resultDType);
    return "\"candidate\": \"heuristic " + std::to_string(selected->rank) + "\", \"result\": \"" + result + "\"";
  }

  void close() override {
    for (Form &form : forms) {
      cublasLtMatmulDescDestroy(form.operation);
      for (cublasLtMatrixLayout_t layout : {form.a, form.b, form.c})
        cublasLtMatrixLayoutDestroy(layout);
    }
    forms.clear();
    candidates.clear();
  }

private:
  static constexpr size_t kWorkspaceBytes = 64 << 20;
  struct Candidate {
    size_t form;
    int rank;
    cublasLtMatmulHeuristicResult_t heuristic;
  };

  void propose(cudaDataType_t element, cudaDataType_t result) {
    Form form;
    form.result = result;
    bool isInteger = element == CUDA_R_8I;
    LT(cublasLtMatmulDescCreate(&form.operation, isInteger ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                result == CUDA_R_32I ? CUDA_R_32I : CUDA_R_32F));
    cublasOperation_t transposed = CUBLAS_OP_T;
    LT(cublasLtMatmulDescSetAttribute(form.operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                      sizeof transposed));
    if (element == CUDA_R_8F_E4M3) {
      // Its faster mode, with a narrower accumulator.
      int8_t fast = 1;
      LT(cublasLtMatmulDescSetAttribute(form.operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast));
    }
    LT(cublasLtMatrixLayoutCreate(&form.a, element, product.k, product.n, product.k));
    LT(cublasLtMatrixLayoutCreate(&form.b, element, product.k, product.m, product.k));
    LT(cublasLtMatrixLayoutCreate(&form.c, result, product.n, product.m, product.n));
    forms.push_back(form);

    cublasLtMatmulPreference_t preference;
    LT(cublasLtMatmulPreferenceCreate(&preference));
    LT(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                            &kWorkspaceBytes, sizeof kWorkspaceBytes));
    constexpr int wanted = 32;
    cublasLtMatmulHeuristicResult_t found[wanted];
    int count = 0;
    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, form.operation, form.a, form.b, form.c, form.c, preference,
                                       wanted, found, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    // No algorithm for this form: the other form may have one.
    if (status != CUBLAS_STATUS_SUCCESS)
      return;
    for (int i = 0; i < count; ++i)
      if (found[i].state == CUBLAS_STATUS_SUCCESS)
        candidates.push_back({forms.size() - 1, i, found[i]});
  }

  cublasLtHandle_t handle = nullptr;
  DeviceBuffer workspace;
  Product product{};
  std::vector<Form> forms;
  std::vector<Candidate> candidates;
  Candidate *selected = nullptr;
};

} // namespace

int main() {
  CublasLt contender;
  return Server(contender).run();
}
