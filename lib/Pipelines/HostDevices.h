//===- HostDevices.h - Devices that need a compiler -------------*- C++ -*-===//
//
// Private to lib/Pipelines; registerHostDevices makes them known to the runtime.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_PIPELINES_HOSTDEVICES_H
#define SPARSEFLOW_LIB_PIPELINES_HOSTDEVICES_H

#include "sparseflow/Runtime/Device.h"

namespace sparseflow {

std::shared_ptr<runtime::Device> createEmulatorDevice();
std::shared_ptr<runtime::Device> createReferenceDevice();

} // namespace sparseflow

#endif // SPARSEFLOW_LIB_PIPELINES_HOSTDEVICES_H
