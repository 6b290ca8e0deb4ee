//===- WorkspaceSlots.cpp - Which tensors share memory --------------------===//

#include "WorkspaceSlots.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"

using namespace llvm;
using namespace sparseflow::target;
namespace rt = sparseflow::runtime;

/// How much a slot's workspace grows when it also has to hold `size`, in bytes for one token: the
/// measure by which the slot to reuse is chosen.
static int64_t growth(const rt::Slot &slot, const rt::SlotSize &size) {
  int64_t held = 0;
  for (const rt::SlotSize &other : slot.sizes)
    if (other.symbol == size.symbol && (!other.cap || (size.cap && *size.cap <= *other.cap)))
      held = std::max(held, size.symbol.empty() ? other.bytes : other.bytesPer);
  return std::max<int64_t>(0, (size.symbol.empty() ? size.bytes : size.bytesPer) - held);
}

/// Adds a size unless one that is there covers it.
static void include(rt::Slot &slot, const rt::SlotSize &size) {
  auto covers = [](const rt::SlotSize &a, const rt::SlotSize &b) {
    return a.symbol == b.symbol && a.bytesPer >= b.bytesPer && a.bytes >= b.bytes &&
           (!a.cap || (b.cap && *b.cap <= *a.cap));
  };
  if (any_of(slot.sizes, [&](const rt::SlotSize &other) { return covers(other, size); }))
    return;
  erase_if(slot.sizes, [&](const rt::SlotSize &other) { return covers(size, other); });
  slot.sizes.push_back(size);
}

SmallVector<int64_t> sparseflow::target::assignSlots(ArrayRef<Interval> intervals,
                                                     std::vector<rt::Slot> &slots) {
  SmallVector<int64_t> assigned;
  std::vector<SmallVector<const Interval *>> held; // by slot
  for (const Interval &interval : intervals) {
    int64_t best = -1, bestGrowth = 0;
    for (auto [slot, others] : enumerate(held)) {
      if (any_of(others, [&](const Interval *other) { return interval.conflictsWith(*other); }))
        continue;
      int64_t grows = growth(slots[slot], interval.size);
      if (best < 0 || grows < bestGrowth) {
        best = slot;
        bestGrowth = grows;
      }
    }
    if (best < 0) {
      best = held.size();
      held.emplace_back();
      slots.emplace_back();
    }
    held[best].push_back(&interval);
    include(slots[best], interval.size);
    assigned.push_back(best);
  }
  return assigned;
}
