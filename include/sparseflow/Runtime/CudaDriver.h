// The CUDA driver, found with dlopen: nothing here needs CUDA to build, and everything but
// launching works without it.
#ifndef SPARSEFLOW_RUNTIME_CUDADRIVER_H
#define SPARSEFLOW_RUNTIME_CUDADRIVER_H

#include "sparseflow/Runtime/CudaTypes.h"
#include "llvm/Support/Error.h"
#include <memory>

namespace sparseflow::runtime {

/// The functions of the driver (CudaSymbols.def). Those of drivers newer than minimumVersion are
/// null where the driver has none.
class CudaDriver {
public:
  /// Drivers below this are refused: 11.4 is the first with all that a launch and a graph need, and
  /// older than any that can run this compiler's cubins.
  static constexpr int minimumVersion = 11040;

  /// The process's driver, initialized. Opened at the first call; a failure is tried again at the
  /// next, since a driver may be installed meanwhile. `SPARSEFLOW_LIBCUDA` names another library
  /// than libcuda.so.1.
  static llvm::Expected<CudaDriver *> get();
  /// Opens a library by name; for get and for tests.
  static llvm::Expected<std::unique_ptr<CudaDriver>> open(const char *library);

  int version() const { return driverVersion; }
  /// What failed, in words, and what to do about it.
  llvm::Error error(CUresult result, const llvm::Twine &what) const;
  llvm::Error check(CUresult result, const llvm::Twine &what) const {
    return result == 0 ? llvm::Error::success() : error(result, what);
  }

#define SPARSEFLOW_CUDA(function, symbol, version, parameters)                                     \
  CUresult(*function) parameters = nullptr;
#include "sparseflow/Runtime/CudaSymbols.def"
#undef SPARSEFLOW_CUDA

private:
  int driverVersion = 0;
};

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_CUDADRIVER_H
