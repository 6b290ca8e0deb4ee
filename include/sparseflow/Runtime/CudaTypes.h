// The few types of the CUDA driver that are used, spelled out: they are part of its stable binary
// interface, and nothing here needs cuda.h.
#ifndef SPARSEFLOW_RUNTIME_CUDATYPES_H
#define SPARSEFLOW_RUNTIME_CUDATYPES_H

#include <cstddef>
#include <cstdint>

namespace sparseflow::runtime {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = uint64_t;
using CUcontext = struct CudaContext *;
using CUmodule = struct CudaModule *;
using CUfunction = struct CudaFunction *;
using CUstream = struct CudaStream *;
using CUevent = struct CudaEvent *;
using CUgraph = struct CudaGraph *;
using CUgraphExec = struct CudaGraphExec *;

/// CUlaunchAttribute: a number and a union of 64 bytes, of which the first int is used here.
struct CudaLaunchAttribute {
  alignas(8) int id;
  alignas(8) int value;
  char unused[60];
};
static_assert(sizeof(CudaLaunchAttribute) == 72);

/// CUlaunchConfig.
struct CudaLaunchConfig {
  unsigned grid[3];
  unsigned block[3];
  unsigned sharedBytes;
  CUstream stream;
  CudaLaunchAttribute *attributes;
  unsigned attributeCount;
};
static_assert(sizeof(CudaLaunchConfig) == 56);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_CUDATYPES_H
