//===- GridDependency.cpp - Kernels that begin while another one ends -----===//
//
// A kernel that is launched early waits itself before it touches global memory: what it reads may
// not be written yet, and what it writes may still be read. All threads wait, each as late as that
// allows, so that barriers are set up and constants read meanwhile.
//
// The kernel behind may be launched when the producer has brought everything, or where there is
// none from the wait on. Its blocks take what room there is, so with a ring still to fill they
// would crowd on the first multiprocessors that have some, and take bandwidth: that cost up to 10%
// where blocks are small.
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
  Location loc = first->getLoc();
  GridWaitOp::create(b, loc);
  auto role = dyn_cast<RoleOp>(block.getParentOp());
  if (role && role.getKind() == RoleKind::Consumer)
    return;
  if (role)
    b.setInsertionPointToEnd(&block);
  LaunchDependentsOp::create(b, loc);
}

void sf_tile::waitForGrid(KernelOp kernel) { waitIn(kernel, kernel.getBody().front()); }
