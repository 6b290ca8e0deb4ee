//===- sparseflow.cu - SparseFlow, through its C ABI -------------------------------------------===//
//
// Runs the program that was compiled for the product (with the weight and, where it has them, the scales
// of features inside) as any C program would. The scales of tokens are a second input. The one candidate
// is what the compiler chose, or was told to choose.
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

/// Scales of tokens, f32, spread around one.
__global__ void fillScales(float *scales, int64_t tokens) {
  int64_t token = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (token < tokens)
    scales[token] = 0.5f + float(uint32_t(mix(token))) * 2.3283064e-10f;
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
    describeTensor(inputs[0], inputShapes[0], x, abiDType(product.dtype), product.m, product.k);
    numInputs = 1;
    if (product.hasTokenScales) {
      scales = std::make_unique<DeviceBuffer>(product.m * sizeof(float));
      fillScales<<<(product.m + 255) / 256, 256>>>(static_cast<float *>(scales->get()), product.m);
      CUDA(cudaDeviceSynchronize());
      describeTensor(inputs[1], inputShapes[1], scales->get(), SF_F32, product.m, 1);
      numInputs = 2;
    }
    describeTensor(output, outputShape, y, abiDType(resultDType), product.m, product.n);
    return 1;
  }

  void select(int) override {}

  void launch(cudaStream_t stream) override {
    SfRunOptions options;
    SF_INIT(options);
    options.stream = stream;
    check(sfRun(executable, nullptr, inputs, numInputs, &output, 1, &options));
  }

  std::string describeCandidate() override {
    char *report = nullptr;
    check(sfReport(executable, nullptr, &tokens, 1, &report));
    std::string json = report;
    sfFree(report);
    return std::string("\"result\": \"") + nameOf(resultDType) + "\", \"report\": " + json;
  }

  void close() override {
    sfExecutableDestroy(executable);
    sfProgramRelease(program);
    executable = nullptr;
    program = nullptr;
    scales.reset();
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
  SfTensor inputs[2], output;
  size_t numInputs = 0;
  int64_t inputShapes[2][2], outputShape[2], tokens = 0;
  std::unique_ptr<DeviceBuffer> scales;
};

} // namespace

int main() {
  SparseFlow contender;
  return Server(contender).run();
}
