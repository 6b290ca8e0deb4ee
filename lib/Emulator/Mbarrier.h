//===- Mbarrier.h - Barriers in shared memory -------------------*- C++ -*-===//
//
// An mbarrier counts two things in each of its phases: arrivals of threads, and bytes of copies,
// which expect_tx announces and landing copies pay back. When both counts are zero the phase
// completes. The eight bytes in shared memory only mark the place; the state is here, where no
// stray store can reach it.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_MBARRIER_H
#define SPARSEFLOW_LIB_EMULATOR_MBARRIER_H

#include "Clocks.h"

#include <cstdint>
#include <map>
#include <vector>

namespace sparseflow::emulator {

class Block;
struct Thread;

struct Mbarrier {
  Block *block = nullptr;
  uint32_t offset = 0;
  /// The component of clocks that stands for its completed phases.
  unsigned component = 0;
  /// Arrivals that a phase takes, those that the current one still lacks, and its bytes.
  uint32_t expected = 0, pending = 0;
  int64_t expectedBytes = 0;
  /// Completed phases, which is also the number of the current one.
  uint32_t phase = 0;
  /// What is known of those that arrived so far, and of those that had when a phase completed last.
  Clocks arriving, completed;
  std::vector<Thread *> waiting;
  /// Who made it, and when.
  uint16_t initThread = 0;
  unsigned initComponent = 0;
  uint32_t initClock = 0, initFences = 0;

  void completeIfDone();
  void landBytes(uint32_t bytes) {
    expectedBytes -= bytes;
    completeIfDone();
  }
};

/// Those of a block, by offset. References stay valid.
using Mbarriers = std::map<uint32_t, Mbarrier>;

/// The mbarrier at `address`, in any block of the cluster; `what` names the instruction in reports.
Mbarrier &getMbarrier(Thread &thread, uint64_t address, const char *what);
/// The same for a copy that will report to it: the async proxy must see it initialized.
Mbarrier &getMbarrierForCopy(Thread &thread, uint64_t address, const char *what);

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_MBARRIER_H
