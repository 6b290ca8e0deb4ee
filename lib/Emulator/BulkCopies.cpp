//===- BulkCopies.cpp - cp.async.bulk and cp.async.bulk.tensor ------------===//
//
// Everything that can be wrong is reported when the copy is issued, at the thread that does it; the
// bytes move later. A box of a matrix lies in shared memory row by row, its 16-byte chunks permuted
// by the swizzle: chunk bits of the address are XORed with the row bits above, so the pattern hangs
// on absolute addresses (PTX ISA, "Swizzling modes").
//
//===----------------------------------------------------------------------===//

#include "BulkCopy.h"

#include "Cluster.h"
#include "Operations.h"
#include "Swizzle.h"

#include "llvm/Support/Compiler.h"

#include <cstring>

using namespace sparseflow;
using namespace sparseflow::emulator;
using Kind = Report::Kind;

//===----------------------------------------------------------------------===//
// Boxes
//===----------------------------------------------------------------------===//

namespace {
/// The part of a box's row that lies inside of the matrix, in bytes of the box's row.
struct RowPart {
  uint64_t address = 0;
  uint32_t begin = 0, end = 0;
};
} // namespace

static uint32_t getRowBytes(const BulkSpan &span) {
  return span.map.boxColumns * span.map.elementBytes;
}

static RowPart getRowPart(const BulkSpan &span, uint32_t boxRow) {
  const runtime::HostTensorMap &map = span.map;
  int64_t row = int64_t(span.row) + boxRow;
  if (row < 0 || row >= int64_t(map.rows))
    return {};
  int64_t first = std::max<int64_t>(span.column, 0);
  int64_t last = std::min<int64_t>(int64_t(span.column) + map.boxColumns, map.columns);
  if (first >= last)
    return {};
  RowPart part;
  part.begin = static_cast<uint32_t>((first - span.column) * map.elementBytes);
  part.end = static_cast<uint32_t>((last - span.column) * map.elementBytes);
  part.address =
      reinterpret_cast<uint64_t>(map.base) + row * map.rowStrideBytes + first * map.elementBytes;
  return part;
}

/// Calls `body(offset, begin, end)` for the pieces of a box's row that are contiguous in shared
/// memory: bytes [begin, end) of the row lie at `offset`. The box starts at `base`.
template <typename Body>
static void forEachPiece(const BulkSpan &span, uint32_t base, uint32_t boxRow, Body body) {
  uint32_t rowBytes = getRowBytes(span), start = base + boxRow * rowBytes;
  if (!span.map.swizzleBytes)
    return body(start, 0u, rowBytes);
  for (uint32_t begin = 0; begin < rowBytes; begin += 16)
    body(swizzle(start + begin, span.map.swizzleBytes), begin, begin + 16);
}

/// What the hardware's encoder would have refused.
static void checkMap(Thread &thread, const runtime::HostTensorMap &map, const char *what) {
  uint32_t swizzleBytes = map.swizzleBytes;
  uint64_t rowBytes = uint64_t(map.boxColumns) * map.elementBytes;
  bool legal =
      (map.elementBytes == 1 || map.elementBytes == 2 || map.elementBytes == 4 ||
       map.elementBytes == 8) &&
      map.boxRows >= 1 && map.boxRows <= runtime::maxTensorMapBox && map.boxColumns >= 1 &&
      map.boxColumns <= runtime::maxTensorMapBox &&
      (swizzleBytes == 0 || swizzleBytes == 32 || swizzleBytes == 64 || swizzleBytes == 128) &&
      rowBytes % 16 == 0 && (!swizzleBytes || rowBytes <= swizzleBytes) &&
      map.rowStrideBytes % 16 == 0 && reinterpret_cast<uint64_t>(map.base) % 16 == 0;
  if (LLVM_UNLIKELY(!legal))
    thread.block->fail(
        thread, Kind::IllegalOperand,
        "%s with a tensor map of elements of %u bytes, a box of %u rows and %u columns, a swizzle "
        "of %u bytes, rows of a stride of %llu bytes and base %p; expected elements of 1 to 8 "
        "bytes, a box of 1 to 256 each way with rows of whole 16 bytes no longer than the swizzle "
        "(0, 32, 64 or 128), and strides and bases that are multiples of 16",
        what, map.elementBytes, map.boxRows, map.boxColumns, swizzleBytes,
        static_cast<unsigned long long>(map.rowStrideBytes), map.base);
  // A row shorter than the swizzle would leave gaps whose place no kernel of ours relies on.
  if (LLVM_UNLIKELY(swizzleBytes && rowBytes != swizzleBytes))
    thread.block->fail(thread, Kind::IllegalOperand,
                       "%s of rows of %llu bytes with a swizzle of %u; expected rows as long as "
                       "the swizzle",
                       what, static_cast<unsigned long long>(rowBytes), swizzleBytes);
}

static BulkSpan getBox(Thread &thread, uint64_t map, uint64_t column, uint64_t row,
                       const char *what) {
  BulkSpan span;
  std::memcpy(&span.map, reinterpret_cast<const void *>(map), sizeof(span.map));
  checkMap(thread, span.map, what);
  span.column = static_cast<int32_t>(column);
  span.row = static_cast<int32_t>(row);
  span.bytes = span.map.boxRows * getRowBytes(span);
  return span;
}

static BulkSpan getContiguous(Thread &thread, uint64_t address, uint64_t bytes, const char *what) {
  BulkSpan span;
  span.map.base = reinterpret_cast<const void *>(address);
  span.bytes = static_cast<uint32_t>(bytes);
  if (LLVM_UNLIKELY(span.bytes % 16 || !span.bytes))
    thread.block->fail(thread, Kind::Misaligned,
                       "%s of %u bytes; expected a positive multiple of 16", what, span.bytes);
  return span;
}

/// Ends the block with a report unless all bytes that the span touches may be touched.
static void checkSpan(Thread &thread, const BulkSpan &span, bool write, const char *what) {
  if (span.isContiguous())
    return checkGlobal(thread, reinterpret_cast<uint64_t>(span.map.base), span.bytes, 16, write,
                       what);
  for (uint32_t row = 0; row != span.map.boxRows; ++row)
    if (RowPart part = getRowPart(span, row); part.end)
      checkGlobal(thread, part.address, part.end - part.begin, 1, write, what);
}

/// The alignment of a span in shared memory. That of swizzled boxes is the pattern's: the hardware
/// takes 128, but kernels of ours address the pattern from its start.
static uint32_t getSharedAlignment(const BulkSpan &span) {
  if (span.isContiguous())
    return 16;
  return std::max(128u, span.map.swizzleBytes * 8);
}

//===----------------------------------------------------------------------===//
// Loads
//===----------------------------------------------------------------------===//

void BulkLoad::land() const {
  SharedMemory &shared = target->getShared();
  uint8_t *base = shared.getBase();
  if (source.isContiguous()) {
    std::memcpy(base + offset, source.map.base, source.bytes);
  } else {
    for (uint32_t row = 0; row != source.map.boxRows; ++row) {
      RowPart part = getRowPart(source, row);
      forEachPiece(source, offset, row, [&](uint32_t at, uint32_t begin, uint32_t end) {
        uint32_t first = std::max(begin, part.begin), last = std::min(end, part.end);
        if (first >= last) {
          std::memset(base + at, 0, end - begin);
          return;
        }
        std::memset(base + at, 0, first - begin);
        std::memcpy(base + at + (first - begin),
                    reinterpret_cast<const void *>(part.address + (first - part.begin)),
                    last - first);
        std::memset(base + at + (last - begin), 0, end - last);
      });
    }
  }
  shared.landBulkCopy(offset, source.bytes, barrier->component, barrier->phase + 1);
  barrier->landBytes(source.bytes);
}

/// Issues the load into `destination`; with a mask, into the same offset of each of its blocks.
static void load(Thread &thread, uint64_t destination, uint64_t barrierAddress,
                 const BulkSpan &source, uint32_t mask, const char *what) {
  Cluster &cluster = thread.block->getCluster();
  Mbarrier &barrier = getMbarrierForCopy(thread, barrierAddress, what);
  Block *target = cluster.findBlock(destination);
  if (LLVM_UNLIKELY(!target))
    thread.block->fail(thread, Kind::SharedOutOfBounds,
                       "%s to address 0x%llx; expected an address in shared memory", what,
                       static_cast<unsigned long long>(destination));
  uint32_t offset = target->getShared().checkRange(thread, destination, source.bytes,
                                                   getSharedAlignment(source), "write", what);
  checkSpan(thread, source, /*write=*/false, what);
  auto issue = [&](Block &block, Mbarrier &itsBarrier) {
    block.getShared().beginBulkCopy(thread, offset, source.bytes, itsBarrier.component, what);
    cluster.issue({&thread, source, &block, offset, &itsBarrier});
  };
  if (!mask)
    return issue(*target, barrier);
  for (unsigned rank = 0; mask >> rank; ++rank) {
    if (!(mask >> rank & 1))
      continue;
    if (LLVM_UNLIKELY(rank >= cluster.getBlockCount()))
      thread.block->fail(thread, Kind::IllegalOperand,
                         "%s to the blocks 0x%x of a cluster of %u; expected only blocks that it "
                         "has",
                         what, mask, cluster.getBlockCount());
    Block &block = cluster.getBlock(rank);
    uint64_t address = reinterpret_cast<uint64_t>(block.getShared().getBase()) + barrier.offset;
    issue(block, getMbarrierForCopy(thread, address, what));
  }
}

/// Operands: destination, mbarrier, source, bytes, mask, hint, whether there is a mask, and a hint.
static void loadContiguous(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  const char *what = "cp.async.bulk";
  load(thread, arguments[0], arguments[1], getContiguous(thread, arguments[2], arguments[3], what),
       arguments[6] & 1 ? arguments[4] & 0xffff : 0, what);
}
/// Operands: destination, mbarrier, source, bytes.
static void loadContiguousHere(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  const char *what = "cp.async.bulk";
  load(thread, arguments[0], arguments[1], getContiguous(thread, arguments[2], arguments[3], what),
       0, what);
}
/// Operands: destination, mbarrier, map, column, row, mask, hint, whether there is a mask.
static void loadBox(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  const char *what = "cp.async.bulk.tensor";
  load(thread, arguments[0], arguments[1],
       getBox(thread, arguments[2], arguments[3], arguments[4], what),
       arguments[7] & 1 ? arguments[5] & 0xffff : 0, what);
}
/// Operands: destination, mbarrier, map, column, row.
static void loadBoxHere(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  const char *what = "cp.async.bulk.tensor";
  load(thread, arguments[0], arguments[1],
       getBox(thread, arguments[2], arguments[3], arguments[4], what), 0, what);
}

//===----------------------------------------------------------------------===//
// Stores
//===----------------------------------------------------------------------===//

static void store(Thread &thread, uint64_t source, const BulkSpan &target, const char *what) {
  SharedMemory &shared = thread.block->getShared();
  uint32_t offset =
      shared.checkRange(thread, source, target.bytes, getSharedAlignment(target), "read", what);
  checkSpan(thread, target, /*write=*/true, what);
  BulkStores &stores = thread.bulkStores;
  Clocks &known = thread.block->getReaderClocks();
  known = thread.warp->clocks;
  known.stepBack(thread.warp->component);
  shared.checkAsyncRead(thread, offset, target.bytes, known, what);
  shared.beginBulkRead(offset, target.bytes);
  stores.stores.push_back({target, offset, stores.committed});
  thread.block->noteProgress();
}

/// Operands: source, map, column, row.
static void storeBox(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  const char *what = "bulk tensor store";
  store(thread, arguments[0], getBox(thread, arguments[1], arguments[2], arguments[3], what), what);
}
/// Operands: target, source, bytes.
static void storeContiguous(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  const char *what = "bulk store";
  store(thread, arguments[1], getContiguous(thread, arguments[0], arguments[2], what), what);
}

static void finish(Thread &thread, const BulkStores::Store &store) {
  SharedMemory &shared = thread.block->getShared();
  const uint8_t *base = shared.getBase();
  const BulkSpan &target = store.target;
  if (target.isContiguous()) {
    std::memcpy(const_cast<void *>(target.map.base), base + store.offset, target.bytes);
  } else {
    for (uint32_t row = 0; row != target.map.boxRows; ++row) {
      RowPart part = getRowPart(target, row);
      forEachPiece(target, store.offset, row, [&](uint32_t at, uint32_t begin, uint32_t end) {
        uint32_t first = std::max(begin, part.begin), last = std::min(end, part.end);
        if (first < last)
          std::memcpy(reinterpret_cast<void *>(part.address + (first - part.begin)),
                      base + at + (first - begin), last - first);
      });
    }
  }
  shared.endBulkRead(thread, store.offset, target.bytes);
}

static void commit(Thread &thread, uint32_t, const uint64_t *, uint64_t *) {
  ++thread.bulkStores.committed;
}

/// A store's bytes are written as soon as they are read: wait_group and wait_group.read are one.
static void wait(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  BulkStores &pending = thread.bulkStores;
  uint32_t mayRemain = static_cast<uint32_t>(arguments[0]);
  uint32_t end = pending.committed > mayRemain ? pending.committed - mayRemain : 0;
  size_t done = 0;
  while (done != pending.stores.size() && pending.stores[done].group < end)
    finish(thread, pending.stores[done++]);
  pending.stores.erase(pending.stores.begin(), pending.stores.begin() + done);
  thread.block->noteProgress();
}

void sparseflow::emulator::checkBulkStoresDone(Thread &thread) {
  const BulkStores &pending = thread.bulkStores;
  if (LLVM_UNLIKELY(!pending.stores.empty()))
    thread.block->fail(
        thread, Kind::UnwaitedAsyncCopy,
        "the thread returns while %zu of its bulk stores may still read shared "
        "memory; expected %scp.async.bulk.wait_group.read 0 before",
        pending.stores.size(),
        pending.stores.back().group == pending.committed ? "cp.async.bulk.commit_group and " : "");
}

static void nothing(Thread &, uint32_t, const uint64_t *, uint64_t *) {}

llvm::ArrayRef<ThreadOp> sparseflow::emulator::getBulkCopyOps() {
  static const ThreadOp ops[] = {
      {"cp.async.bulk.global.to.shared.cluster", loadContiguous},
      {"cp.async.bulk.global.to.shared.cta", loadContiguousHere},
      {"cp.async.bulk.tensor.g2s.tile.2d", loadBox},
      {"cp.async.bulk.tensor.g2s.cta.tile.2d", loadBoxHere},
      {"cp.async.bulk.tensor.s2g.tile.2d", storeBox},
      {"cp.async.bulk.shared.cta.to.global", storeContiguous},
      {"cp.async.bulk.commit.group", commit},
      {"cp.async.bulk.wait.group", wait},
      {"cp.async.bulk.wait.group.read", wait},
      {"cp.async.bulk.prefetch.L2", nothing},
      {"cp.async.bulk.tensor.prefetch.tile.2d", nothing},
  };
  return ops;
}
