//===- BulkCopy.h - Copies by the copy engine (TMA) -------------*- C++ -*-===//
//
// A load is in flight from its instruction until it lands, which is when it writes its bytes and
// reports them to its mbarrier. A store reads shared memory when its thread waits for its group.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_BULKCOPY_H
#define SPARSEFLOW_LIB_EMULATOR_BULKCOPY_H

#include "sparseflow/Runtime/TensorMap.h"

#include <cstdint>
#include <vector>

namespace sparseflow::emulator {

class Block;
struct Mbarrier;
struct Thread;

/// A box of a matrix, at a column and a row that may lie outside of it; or `bytes` contiguous bytes
/// at the map's base, if the map has no rows in its box.
struct BulkSpan {
  runtime::HostTensorMap map;
  int32_t column = 0, row = 0;
  uint32_t bytes = 0;

  bool isContiguous() const { return map.boxRows == 0; }
};

struct BulkLoad {
  const Thread *issuer = nullptr;
  BulkSpan source;
  Block *target = nullptr;
  uint32_t offset = 0;
  Mbarrier *barrier = nullptr;

  void land() const;
};

/// Stores of one thread, oldest first.
struct BulkStores {
  struct Store {
    BulkSpan target;
    uint32_t offset;
    uint32_t group;
  };
  std::vector<Store> stores;
  /// The number of groups committed so far, which is also the group of the next store.
  uint32_t committed = 0;
};

/// A thread may not return while its stores still read the block's shared memory.
void checkBulkStoresDone(Thread &thread);

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_BULKCOPY_H
