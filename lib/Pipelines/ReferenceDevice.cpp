//===- ReferenceDevice.cpp - Functions on the reference -------------------===//
//
// No kernels: the file's `sf` source is compiled for the host through linalg, so that results can
// be compared with something that shares nothing with the kernels.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Pipelines/FileSources.h"
#include "sparseflow/Pipelines/HostDevices.h"
#include "sparseflow/Reference/ReferenceExecutor.h"
#include "sparseflow/Runtime/ElementType.h"
#include "sparseflow/Runtime/Error.h"

using namespace llvm;
using namespace sparseflow;
namespace rt = sparseflow::runtime;

namespace {

class ReferenceFunction : public rt::LoadedFunction {
public:
  explicit ReferenceFunction(std::unique_ptr<ReferenceExecutor> executor)
      : executor(std::move(executor)) {}

  const rt::Program *program() const override { return nullptr; }

  Error evaluate(ArrayRef<rt::TensorRef> inputs, ArrayRef<rt::TensorRef> outputs) override {
    SmallVector<HostTensor> in, out;
    for (auto [tensor, spec] : zip(inputs, executor->getInputs()))
      in.push_back(convert(tensor, spec));
    for (auto [tensor, spec] : zip(outputs, executor->getOutputs()))
      out.push_back(convert(tensor, spec));
    if (Error error = executor->run(in, out))
      return rt::makeError(rt::Status::InvalidArgument, toString(std::move(error)));
    return Error::success();
  }

private:
  /// Encoded weights pass as bytes outside, and with their logical shape inside.
  static HostTensor convert(const rt::TensorRef &tensor, const HostTensorSpec &spec) {
    if (spec.storageBytes)
      return {tensor.data, spec.dtype, spec.shape, {}};
    return {tensor.data, spec.dtype, tensor.shape, tensor.strides};
  }

  std::unique_ptr<ReferenceExecutor> executor;
};

class ReferenceDevice : public rt::Device {
public:
  StringRef name() const override { return "reference"; }
  std::string description() const override { return "sf operations on the CPU, without kernels"; }
  bool usesHostMemory() const override { return true; }

  Expected<std::unique_ptr<rt::LoadedFunction>> load(const rt::ProgramFile::Ptr &file,
                                                     const rt::Function &function) override {
    Expected<LoadedModule> source = loadSource(*file);
    if (!source)
      return source.takeError();
    Expected<std::unique_ptr<ReferenceExecutor>> executor =
        ReferenceExecutor::create(*source->module, function.name);
    if (!executor)
      return rt::makeError(rt::Status::InvalidProgram, toString(executor.takeError()));
    auto agree = [](ArrayRef<HostTensorSpec> compiled, ArrayRef<rt::TensorSpec> claimed) {
      if (compiled.size() != claimed.size())
        return false;
      for (auto [a, b] : zip(compiled, claimed)) {
        if (a.storageBytes) {
          if (b.dtype != rt::DType::U8 || b.shape.size() != 1 || b.shape[0].isSymbol() ||
              b.shape[0].size != static_cast<int64_t>(a.storageBytes))
            return false;
          continue;
        }
        if (rt::fromElementType(a.dtype) != b.dtype || a.shape.size() != b.shape.size())
          return false;
        for (auto [extent, dim] : zip(a.shape, b.shape))
          if (dim.isSymbol() ? extent != kDynamicTokens : extent != dim.size)
            return false;
      }
      return true;
    };
    if (!agree((*executor)->getInputs(), function.inputs) ||
        !agree((*executor)->getOutputs(), function.outputs))
      return rt::makeError(rt::Status::InvalidProgram,
                           "function '" + function.name +
                               "' is not what the file's source says; the file was altered");
    return std::make_unique<ReferenceFunction>(std::move(*executor));
  }
};

} // namespace

std::shared_ptr<rt::Device> sparseflow::createReferenceDevice() {
  return std::make_shared<ReferenceDevice>();
}
