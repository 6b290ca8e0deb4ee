// A function's kernels on a GPU. Private to lib/Runtime.
#ifndef SPARSEFLOW_LIB_RUNTIME_CUDAFUNCTION_H
#define SPARSEFLOW_LIB_RUNTIME_CUDAFUNCTION_H

#include "sparseflow/Runtime/CudaDevice.h"

namespace sparseflow::runtime {

/// Loads the kernels of one of the function's programs. `gpu` must live as long as `device`, which
/// the result keeps.
llvm::Expected<std::unique_ptr<LoadedFunction>>
loadCudaFunction(std::shared_ptr<Device> device, CudaDriver &driver, const CudaDeviceInfo &gpu,
                 ProgramFile::Ptr file, const Function &function, const Program &program);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_LIB_RUNTIME_CUDAFUNCTION_H
