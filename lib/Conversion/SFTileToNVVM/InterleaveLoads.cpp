//===- InterleaveLoads.cpp - Spread fragment reads over the products ------===//
//
// The schedule reads the fragments of the next product before the current one. As one burst the
// reads would hold two full sets of fragments in registers, and stall on shared memory while the
// tensor cores run dry. Spread over the current product, each read takes over registers that the
// product has finished with: the 64x64 warp tile needs it to fit.
//
//===----------------------------------------------------------------------===//

#include "Lowering.h"

#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace sparseflow;

static bool isSharedRead(Operation *op) {
  if (isa<NVVM::LdMatrixOp>(op))
    return true;
  auto load = dyn_cast<LLVM::LoadOp>(op);
  auto pointer =
      load ? dyn_cast<LLVM::LLVMPointerType>(load.getAddr().getType()) : LLVM::LLVMPointerType();
  return pointer &&
         pointer.getAddressSpace() == static_cast<unsigned>(NVVM::NVVMMemorySpace::Shared);
}

static bool isProduct(Operation *op) {
  auto call = dyn_cast<LLVM::CallIntrinsicOp>(op);
  return call && call.getIntrin().starts_with("llvm.nvvm.mma.");
}

/// What only takes values apart or puts them together.
static bool isShuffle(Operation *op) {
  return isa<LLVM::ExtractValueOp, LLVM::ExtractElementOp, LLVM::InsertElementOp, LLVM::BitcastOp>(
      op);
}

/// Whether `read` may move down to any product before `last`: nothing up to there uses what it
/// brings but shuffles, which move along and are put into `followers`.
static bool isMovable(Operation *read, Operation *last, llvm::SetVector<Operation *> &followers) {
  SmallVector<Operation *> work = {read};
  while (!work.empty())
    for (Operation *user : work.pop_back_val()->getUsers()) {
      Operation *inBlock = read->getBlock()->findAncestorOpInBlock(*user);
      if (!inBlock || last->isBeforeInBlock(inBlock))
        continue;
      if (inBlock != user || !isShuffle(user))
        return false;
      if (followers.insert(user))
        work.push_back(user);
    }
  return true;
}

static void interleave(ArrayRef<Operation *> reads, ArrayRef<Operation *> products) {
  SmallVector<std::pair<Operation *, llvm::SetVector<Operation *>>> movable;
  for (Operation *read : reads) {
    llvm::SetVector<Operation *> followers;
    if (isMovable(read, products.back(), followers))
      movable.emplace_back(read, followers);
  }
  // The last quarter of the products covers the latency of the last reads.
  size_t span = products.size() * 3 / 4;
  for (auto [i, entry] : llvm::enumerate(movable)) {
    auto &[read, followers] = entry;
    Operation *position = products[i * span / movable.size()];
    SmallVector<Operation *> group = {read};
    for (Operation *follower : followers)
      if (follower->isBeforeInBlock(position))
        group.push_back(follower);
    llvm::sort(group, [](Operation *x, Operation *y) { return x->isBeforeInBlock(y); });
    for (Operation *op : group)
      op->moveBefore(position);
  }
}

void sparseflow::interleaveLoads(Block &block) {
  SmallVector<Operation *> reads, products;
  auto finish = [&] {
    if (!products.empty())
      interleave(reads, products);
    reads.clear();
    products.clear();
  };
  for (Operation &op : block) {
    if (isProduct(&op)) {
      products.push_back(&op);
    } else if (isSharedRead(&op)) {
      if (!products.empty())
        finish();
      reads.push_back(&op);
    } else if (!isMemoryEffectFree(&op)) {
      finish();
    }
  }
  finish();
}
