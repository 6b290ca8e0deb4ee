// GPUs as devices of the runtime.
#ifndef SPARSEFLOW_RUNTIME_CUDADEVICE_H
#define SPARSEFLOW_RUNTIME_CUDADEVICE_H

#include "sparseflow/Runtime/CudaDriver.h"
#include "sparseflow/Runtime/Device.h"

namespace sparseflow::runtime {

/// What the driver says of a GPU.
struct CudaDeviceInfo {
  int ordinal = 0;
  std::string name;
  unsigned chip = 0; // 90 for sm_90
  uint64_t memory = 0;
  int sharedPerBlock = 0; // the most that a kernel may ask for
  int multiprocessors = 0;
};

/// Every GPU that the driver shows, by its number.
llvm::Expected<std::vector<CudaDeviceInfo>> listCudaDevices(CudaDriver &driver);

/// Opens a GPU by its number among those that the driver shows. An error if there is none of it.
llvm::Expected<std::shared_ptr<Device>> createCudaDevice(CudaDriver &driver, int ordinal);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_CUDADEVICE_H
