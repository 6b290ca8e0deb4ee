//===- sparseflow.cu - SparseFlow, through its C ABI -------------------------------------------===//
//
// Runs the program that run.py compiled for the product (with the weight inside) as any C program
// would. The one candidate is what the compiler chose, or was told to choose.
//
//===-------------------------------------------------------------------------------------------===//

#include "harness.cuh"

#include <sparseflow-c/sparseflow.h>

namespace {

void check(SfStatus status) {
  if (status != SF_OK)
    fail(sfLastError());
}

SfDType abiDType(DType dtype) {
  switch (dtype) {
  case DType::F16:
    return SF_F16;
  case DType::BF16:
    return SF_BF16;
  case DType::S8:
    return SF_I8;
  case DType::E4M3:
    return SF_E4M3;
  }
  return 0;
}

class SparseFlow : public Contender {
public:
  std::string describe() override { return std::string("\"library\": \"SparseFlow ") + sfVersion() + "\""; }
  bool isSparse() const override { return true; }

  int open(const Product &product) override {
    tokens = product.m;
    w = nullptr; // it is in the file, and run.py has checked the product
    check(sfProgramOpen(product.file.c_str(), 0, &program));
    check(sfExecutableCreate(program, "cuda", &executable));
    check(sfReserve(executable, nullptr, &tokens, 1, nullptr));
    describeTensor(input, inputShape, x, abiDType(product.dtype), product.m, product.k);
    describeTensor(output, outputShape, y, abiDType(resultDType), product.m, product.n);
    return 1;
  }

  void select(int) override {}

  void launch(cudaStream_t stream) override {
    SfRunOptions options;
    SF_INIT(options);
    options.stream = stream;
    check(sfRun(executable, nullptr, &input, 1, &output, 1, &options));
  }

  std::string describeCandidate() override {
    char *report = nullptr;
    check(sfReport(executable, nullptr, &tokens, 1, &report));
    std::string json = report;
    sfFree(report);
    return std::string("\"result\": \"") + (resultDType == DType::BF16 ? "bf16" : "f16") + "\", \"report\": " + json;
  }

  void close() override {
    sfExecutableDestroy(executable);
    sfProgramRelease(program);
    executable = nullptr;
    program = nullptr;
  }

private:
  static void describeTensor(SfTensor &tensor, int64_t *shape, void *data, SfDType dtype, int64_t rows,
                             int64_t columns) {
    SF_INIT(tensor);
    shape[0] = rows;
    shape[1] = columns;
    tensor.data = data;
    tensor.dtype = dtype;
    tensor.rank = 2;
    tensor.shape = shape;
  }

  SfProgram *program = nullptr;
  SfExecutable *executable = nullptr;
  SfTensor input, output;
  int64_t inputShape[2], outputShape[2], tokens = 0;
};

} // namespace

int main() {
  SparseFlow contender;
  return Server(contender).run();
}
