//===- HostDevices.h - Devices that need a compiler -------------*- C++ -*-===//
//
// Two devices run programs on the CPU, from the IR that the program's file holds. The runtime knows
// them once they were registered; it works without a compiler, and they do not.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_PIPELINES_HOSTDEVICES_H
#define SPARSEFLOW_PIPELINES_HOSTDEVICES_H

#include "sparseflow/Runtime/Device.h"
#include <memory>

namespace sparseflow {

/// Runs the kernels themselves, instruction by instruction.
std::shared_ptr<runtime::Device> createEmulatorDevice();
/// Computes the `sf` operations through linalg, without kernels.
std::shared_ptr<runtime::Device> createReferenceDevice();

/// Makes both known to runtime::openDevice, as "emulator" and "reference".
void registerHostDevices();

} // namespace sparseflow

#endif // SPARSEFLOW_PIPELINES_HOSTDEVICES_H
