// The few types of the CUDA driver and of cuBLASLt that are used, spelled out: they are part of
// their stable binary interfaces, and nothing here needs cuda.h.
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

using CublasLtHandle = struct CublasLtContext *;
using CublasLtOperation = struct CublasLtOperationObject *;
using CublasLtLayout = struct CublasLtLayoutObject *;
using CublasLtPreference = struct CublasLtPreferenceObject *;

/// cublasLtMatmulAlgo_t.
struct CublasLtAlgorithm {
  uint64_t data[8];
};

/// cublasLtMatmulHeuristicResult_t.
struct CublasLtHeuristic {
  CublasLtAlgorithm algorithm;
  size_t workspaceBytes;
  int status;
  float waves;
  int reserved[4];
};
static_assert(sizeof(CublasLtHeuristic) == 96);

} // namespace sparseflow::runtime

#endif // SPARSEFLOW_RUNTIME_CUDATYPES_H
