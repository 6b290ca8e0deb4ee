// The state of the fake driver (FakeCuda.cpp) that tests set and read.
#ifndef SPARSEFLOW_TEST_UNITTESTS_RUNTIME_FAKECUDA_H
#define SPARSEFLOW_TEST_UNITTESTS_RUNTIME_FAKECUDA_H

#include <cstddef>
#include <cstdint>

struct FakeCuda {
  const char *failFunction = nullptr; // this call returns failResult
  int failResult = 0;
  int sharedPerBlock = 232448;

  int retained = 0;
  int modules = 0;
  int graphs = 0;
  int graphLaunches = 0;
  // cuBLASLt: which of three algorithms the last product took, and how long each takes.
  int libraries = 0;
  int heuristics = 0;
  int products = 0;
  int lastAlgorithm = -1;
  float milliseconds[3] = {3, 1, 2};
  int cubinLoads = 0, ptxLoads = 0;
  int launches = 0;
  int dependentLaunches = 0;
  int moreParameters = 0; // than the test program's kernels have
  int lastLaunchGpu = -1;
  int pointerQueries = 0;
  int dynamicShared = 0;
  // The last tensor map: element type, columns, rows, row stride, columns and rows of the box,
  // swizzle.
  uint64_t tensorMap[7] = {};
  void *lastStream = nullptr;
};

#endif // SPARSEFLOW_TEST_UNITTESTS_RUNTIME_FAKECUDA_H
