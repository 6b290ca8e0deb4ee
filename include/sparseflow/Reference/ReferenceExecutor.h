//===- ReferenceExecutor.h - sf functions on the CPU ------------*- C++ -*-===//
//
// Compiles a function of `sf` and upstream tensor operations for the host and runs it: the numbers
// that kernels are compared with. It shares no code with the kernels below the `sf` dialect (see
// convert-sf-to-linalg): sums are taken in f64, weights are dense.
//
//   auto executor = ReferenceExecutor::create(module, "main");
//   llvm::Error error = (*executor)->run({x}, {y});
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_REFERENCE_REFERENCEEXECUTOR_H
#define SPARSEFLOW_REFERENCE_REFERENCEEXECUTOR_H

#include "sparseflow/Support/NumericTypes.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace mlir {
class ModuleOp;
} // namespace mlir

namespace sparseflow {

/// A tensor in host memory. Rows may be apart: `strides` are in elements, the last one is 1; empty
/// means contiguous. A tensor of an encoded weight type has the logical shape, and `data` points to
/// the bytes that the encoding describes.
struct HostTensor {
  void *data = nullptr;
  DType dtype = DType::f32;
  llvm::ArrayRef<int64_t> shape;
  llvm::ArrayRef<int64_t> strides;
};

/// An argument or a result of the compiled function.
struct HostTensorSpec {
  std::string name; ///< sf.name, or "input 0", "output 0".
  DType dtype;
  std::vector<int64_t> shape; ///< kDynamicTokens where the number of tokens stands.
  size_t storageBytes = 0;    ///< Bytes of an encoded weight; 0 for any other tensor.
};
constexpr int64_t kDynamicTokens = -1;

/// Where a function gets what its module does not hold.
struct ReferenceOptions {
  /// Finds the bytes of a `dense_resource` that the module names without holding: in one piece, or,
  /// for a 2:4 weight, elements and positions apart. They must outlive the executor.
  std::function<llvm::Expected<llvm::SmallVector<llvm::ArrayRef<char>, 2>>(llvm::StringRef name)>
      findConstant;
};

/// One function, compiled.
class ReferenceExecutor {
public:
  /// `module` is not changed. Its context gets the dialects that the lowering needs. The executor
  /// does not refer to module or context afterwards.
  ///
  /// Preconditions: the function takes and returns ranked tensors of the supported element types
  /// whose first dimension alone may be dynamic, and all dynamic dimensions are the same number of
  /// tokens; upstream sparse tensors have been imported (sf-import-sparse-tensor).
  static llvm::Expected<std::unique_ptr<ReferenceExecutor>>
  create(mlir::ModuleOp module, llvm::StringRef function, const ReferenceOptions &options = {});
  ~ReferenceExecutor();

  llvm::ArrayRef<HostTensorSpec> getInputs() const;
  llvm::ArrayRef<HostTensorSpec> getOutputs() const;

  /// Computes the outputs, whose memory the caller provides and which must not overlap any other.
  /// Fails on a tensor that does not fit the function, and on what an operation of the function
  /// objects to (sf.compress of a weight that is not 2:4). May be called from several threads at
  /// once.
  llvm::Error run(llvm::ArrayRef<HostTensor> inputs, llvm::ArrayRef<HostTensor> outputs) const;

private:
  ReferenceExecutor();
  struct Impl;
  std::unique_ptr<Impl> impl;
};

} // namespace sparseflow

#endif // SPARSEFLOW_REFERENCE_REFERENCEEXECUTOR_H
