//===- Clocks.h - Vector clocks ---------------------------------*- C++ -*-===//
//
// Order between the parties of a cluster: warps, the matrix units of warpgroups, and the copies
// that report to an mbarrier. Each party is a component with a clock that grows whenever something
// of its past may become known to others; an event is ordered before now if now's clocks have
// reached the event's. Mbarriers come and go, so the number of components is open: one that is not
// there is 0.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_CLOCKS_H
#define SPARSEFLOW_LIB_EMULATOR_CLOCKS_H

#include "llvm/ADT/SmallVector.h"

#include <algorithm>
#include <cstdint>

namespace sparseflow::emulator {

class Clocks {
public:
  uint32_t operator[](size_t component) const {
    return component < values.size() ? values[component] : 0;
  }
  void raise(size_t component, uint32_t clock) {
    if (component >= values.size())
      values.resize(component + 1);
    values[component] = std::max(values[component], clock);
  }
  void advance(size_t component) { raise(component, (*this)[component] + 1); }
  /// Knows what either knew.
  void join(const Clocks &other) {
    if (values.size() < other.values.size())
      values.resize(other.values.size());
    for (size_t i = 0; i != other.values.size(); ++i)
      values[i] = std::max(values[i], other.values[i]);
  }
  /// Knows only what both knew.
  void intersect(const Clocks &other) {
    if (values.size() > other.values.size())
      values.resize(other.values.size());
    for (size_t i = 0; i != values.size(); ++i)
      values[i] = std::min(values[i], other.values[i]);
  }
  /// Forgets a component's latest span: what is left was known before its last synchronization.
  void stepBack(size_t component) {
    if (component < values.size() && values[component])
      --values[component];
  }
  void clear() { values.clear(); }

private:
  llvm::SmallVector<uint32_t, 48> values;
};

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_CLOCKS_H
