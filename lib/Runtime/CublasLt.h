// cuBLASLt, found with dlopen like the driver: nothing links it, and without it only the variants
// that call it are missing.
#ifndef SPARSEFLOW_LIB_RUNTIME_CUBLASLT_H
#define SPARSEFLOW_LIB_RUNTIME_CUBLASLT_H

#include "sparseflow/Runtime/CudaDriver.h"
#include "sparseflow/Runtime/Device.h"
#include "llvm/ADT/Twine.h"

namespace sparseflow::runtime {

class CublasLt {
public:
  /// The process's library; one that is already loaded, such as PyTorch's, comes first. A failure
  /// is tried again at the next call. `SPARSEFLOW_LIBCUBLASLT` names another library.
  static llvm::Expected<CublasLt *> get(const CudaDriver &driver);

  /// "cuBLASLt 13.1.0"
  std::string name() const;
  llvm::Error check(int status, const llvm::Twine &what) const;

#define SPARSEFLOW_CUBLASLT(function, parameters) int(*function) parameters = nullptr;
#include "CublasLtSymbols.def"
#undef SPARSEFLOW_CUBLASLT

private:
  static llvm::Expected<std::unique_ptr<CublasLt>> open(llvm::ArrayRef<std::string> candidates);

  size_t version = 0;
  const char *(*statusText)(int status) = nullptr;
};

/// The handle must outlive it. Unsupported: the library has no algorithm for it.
llvm::Expected<std::unique_ptr<LibraryMatmul>>
createCublasLtMatmul(const CublasLt &library, CublasLtHandle handle, const CudaDriver &driver,
                     Device &device, const MatmulType &type);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_LIB_RUNTIME_CUBLASLT_H
