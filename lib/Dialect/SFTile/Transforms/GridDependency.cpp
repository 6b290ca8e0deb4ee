//===- GridDependency.cpp - Kernels that begin while another one ends -----===//
//
// A kernel that is launched early waits itself before it touches global memory: what it reads may
// not be written yet, and what it writes may still be read. All threads wait at one place, as late
// as that allows, so that barriers are set up meanwhile.
//
// The kernel behind may be launched from there on. Earlier would bring kernels whose wait is a long
// one; later would gain nothing, since its blocks take no room but what is left.
//
//===----------------------------------------------------------------------===//

#include "Roles.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

static bool touchesGlobalMemory(Operation *op) {
  auto load = dyn_cast<LoadOp>(op);
  return isa<StoreOp, CopyAsyncOp>(op) || (load && !load.isFromRing());
}

void sf_tile::waitForGrid(KernelOp kernel) {
  for (Operation &op : kernel.getBody().front()) {
    auto interrupt = [](Operation *nested) {
      return touchesGlobalMemory(nested) ? WalkResult::interrupt() : WalkResult::advance();
    };
    if (!op.walk(interrupt).wasInterrupted())
      continue;
    OpBuilder b(&op);
    GridWaitOp::create(b, op.getLoc());
    LaunchDependentsOp::create(b, op.getLoc());
    return;
  }
}
