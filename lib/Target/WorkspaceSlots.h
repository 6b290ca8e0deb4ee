//===- WorkspaceSlots.h - Which tensors share memory ------------*- C++ -*-===//
//
// Interval colouring: tensors that never live at the same time may lie in one slot of the
// workspace. Private to lib/Target.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_TARGET_WORKSPACESLOTS_H
#define SPARSEFLOW_LIB_TARGET_WORKSPACESLOTS_H

#include "sparseflow/Runtime/Manifest.h"
#include "llvm/ADT/ArrayRef.h"

namespace sparseflow::target {

/// A tensor that needs workspace, from the launch that writes it to the last that reads it.
struct Interval {
  int64_t begin = 0, end = 0;
  /// The step and variant it is private to; -1 when later steps see it.
  int64_t step = -1, variant = -1;
  runtime::SlotSize size;

  bool conflictsWith(const Interval &other) const {
    if (step >= 0 && step == other.step && variant != other.variant)
      return false;
    return begin <= other.end && other.begin <= end;
  }
};

/// Gives each interval a slot, and the slots what they have to hold. Each goes where the workspace
/// grows the least.
llvm::SmallVector<int64_t> assignSlots(llvm::ArrayRef<Interval> intervals,
                                       std::vector<runtime::Slot> &slots);

} // namespace sparseflow::target

#endif // SPARSEFLOW_LIB_TARGET_WORKSPACESLOTS_H
