//===- GridDependency.cpp - Kernels that begin while another one ends -----===//
//
// A kernel that is launched early waits itself before it touches global memory: what it reads may
// not be written yet, and what it writes may still be read. All threads wait, each as late as that
// allows, so that barriers are set up and constants read meanwhile.
//
// The kernel behind may be launched from there on. Earlier would bring kernels whose wait is a long
// one; later would gain nothing, since its blocks take no room but what is left.
//
//===----------------------------------------------------------------------===//

#include "Roles.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

/// Whether the operation itself reads or writes global memory that a kernel may write.
static bool touchesGlobalMemory(KernelOp kernel, Operation *op) {
  if (auto load = dyn_cast<LoadOp>(op))
    return !load.isFromRing() && !kernel.isConstant(load.getSource());
  if (auto copy = dyn_cast<CopyAsyncOp>(op))
    return !kernel.isConstant(copy.getSource());
  return isa<StoreOp>(op);
}

/// Waits in front of the block's first operation that needs it.
static void waitIn(KernelOp kernel, Block &block) {
  auto needsWait = [&](Operation &op) {
    return op
        .walk([&](Operation *nested) {
          return touchesGlobalMemory(kernel, nested) ? WalkResult::interrupt()
                                                     : WalkResult::advance();
        })
        .wasInterrupted();
  };
  auto first = llvm::find_if(block, needsWait);
  if (first == block.end())
    return;
  if (isa<RoleOp>(*first)) {
    // Each thread has one role.
    for (auto role : block.getOps<RoleOp>())
      waitIn(kernel, role.getBody().front());
    return;
  }
  OpBuilder b(&*first);
  GridWaitOp::create(b, first->getLoc());
  LaunchDependentsOp::create(b, first->getLoc());
}

void sf_tile::waitForGrid(KernelOp kernel) { waitIn(kernel, kernel.getBody().front()); }
