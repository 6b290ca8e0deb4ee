// GPUs as devices of the runtime.
#ifndef SPARSEFLOW_RUNTIME_CUDADEVICE_H
#define SPARSEFLOW_RUNTIME_CUDADEVICE_H

#include "sparseflow/Runtime/CudaDriver.h"
#include "sparseflow/Runtime/Device.h"

namespace sparseflow::runtime {

struct CudaDeviceInfo {
  int ordinal = 0;
  std::string name;
  unsigned chip = 0; // 90 for sm_90
  uint64_t memory = 0;
  int sharedPerBlock = 0; // the most that a kernel may ask for
  int multiprocessors = 0;
};

llvm::Expected<std::vector<CudaDeviceInfo>> listCudaDevices(CudaDriver &driver);

/// Cubins run on their own chip and on later minors of its major ('a': only on its own; 'f': within
/// the major). PTX runs on its own chip and every later one ('a', 'f': as cubins).
bool cubinRunsOn(Chip code, unsigned chip);
bool ptxRunsOn(Chip code, unsigned chip);
/// The best program for the chip: cubins before PTX, the nearest target first. An error lists what
/// there is.
llvm::Expected<const Program *> chooseProgram(const Function &function, unsigned chip);

/// Checks that a cubin is an ELF file for CUDA whose sections lie within it: the driver takes a
/// pointer without a size.
llvm::Error checkCubin(llvm::ArrayRef<uint8_t> cubin);

llvm::Expected<std::shared_ptr<Device>> createCudaDevice(CudaDriver &driver, int ordinal);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_CUDADEVICE_H
