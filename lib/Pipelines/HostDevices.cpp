//===- HostDevices.cpp - Devices that need a compiler ---------------------===//

#include "sparseflow/Pipelines/HostDevices.h"

using namespace sparseflow;

void sparseflow::registerHostDevices() {
  runtime::registerDevice("emulator", [] { return createEmulatorDevice(); });
  runtime::registerDevice("reference", [] { return createReferenceDevice(); });
}
