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
using CUgraph = struct CudaGraph *;
using CUgraphExec = struct CudaGraphExec *;

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_CUDATYPES_H
