//===- Operations.cpp - The tables, and what generated code calls ---------===//

#include "Operations.h"

#include "Cluster.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/Compiler.h"

#include <algorithm>
#include <mutex>

using namespace sparseflow::emulator;
using Kind = Report::Kind;

//===----------------------------------------------------------------------===//
// Tables
//===----------------------------------------------------------------------===//

template <typename Op>
static llvm::StringMap<const Op *> index(std::initializer_list<llvm::ArrayRef<Op>> families) {
  llvm::StringMap<const Op *> map;
  for (llvm::ArrayRef<Op> family : families)
    for (const Op &op : family)
      map[op.name] = &op;
  return map;
}

const PureOp *sparseflow::emulator::lookupPureOp(llvm::StringRef name) {
  static const auto map = index<PureOp>({getConversionOps(), getScalarMathOps()});
  return map.lookup(name);
}

const ThreadOp *sparseflow::emulator::lookupThreadOp(llvm::StringRef name) {
  static const auto map = index<ThreadOp>({getAsyncCopyOps(), getBarrierOps(), getBulkCopyOps(),
                                           getClusterOps(), getMbarrierOps(), getWgmmaOps()});
  return map.lookup(name);
}

const CollectiveOp *sparseflow::emulator::lookupCollectiveOp(llvm::StringRef name) {
  static const auto map = index<CollectiveOp>({getWarpCollectiveOps(), getMatrixMoveOps()});
  if (const CollectiveOp *op = map.lookup(name))
    return op;
  // There are hundreds of matrix multiplications; each is made when it is first met, and stays.
  static std::mutex mutex;
  static llvm::StringMap<std::unique_ptr<CollectiveOp>> multiplications;
  std::lock_guard<std::mutex> lock(mutex);
  auto it = multiplications.find(name);
  if (it != multiplications.end())
    return it->second.get();
  auto op = std::make_unique<CollectiveOp>();
  if (!parseMatrixMultiply(name, *op))
    return nullptr;
  return (multiplications[name] = std::move(op)).get();
}

llvm::StringRef sparseflow::emulator::lookupInlineAsm(llvm::StringRef text) {
  static const std::pair<const char *, const char *> forms[] = {
      {"tanh.approx.f32 $0, $1;", "tanh.approx.f32"},
      {"tanh.approx.f16 $0, $1;", "tanh.approx.f16"},
      {"tanh.approx.f16x2 $0, $1;", "tanh.approx.f16x2"},
      {"tanh.approx.bf16x2 $0, $1;", "tanh.approx.bf16x2"},
      {"ex2.approx.ftz.f32 $0, $1;", "ex2.approx.ftz.f32"},
      {"ex2.approx.f32 $0, $1;", "ex2.approx.f32"},
      {"movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "movmatrix.sync.aligned.m8n8.trans.b16"},
      // What nvvm.barrier.arrive becomes.
      {"bar.arrive $0, $1;", "barrier.cta.arrive.aligned.count"},
  };
  std::string normalized;
  for (llvm::StringRef word : llvm::split(text.trim(), ' '))
    if (!word.empty())
      normalized += (normalized.empty() ? "" : " ") + word.str();
  for (auto [form, name] : forms)
    if (normalized == form)
      return name;
  return {};
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

/// Why no known range holds the access: the range it starts in, or the nearest one.
[[noreturn]] static void failGlobal(Thread &thread, uint64_t address, uint64_t size, bool write,
                                    const char *what) {
  const std::vector<GlobalRange> &ranges = thread.block->getLaunch().ranges;
  const GlobalRange *nearest = nullptr;
  uint64_t nearestDistance = ~uint64_t(0);
  for (const GlobalRange &range : ranges) {
    uint64_t begin = reinterpret_cast<uint64_t>(range.base), end = begin + range.bytes;
    uint64_t distance = address < begin ? begin - address : address >= end ? address - end : 0;
    if (distance < nearestDistance) {
      nearest = &range;
      nearestDistance = distance;
    }
  }
  const char *verb = write ? "write" : "read";
  uint64_t begin = reinterpret_cast<uint64_t>(nearest->base);
  long long offset = static_cast<long long>(address - begin);
  if (offset >= 0 && offset + size <= nearest->bytes)
    thread.block->fail(thread, Kind::GlobalOutOfBounds,
                       "%s of %llu bytes at offset %lld of '%s' (%s), which is read-only", verb,
                       static_cast<unsigned long long>(size), offset, nearest->name.c_str(), what);
  thread.block->fail(
      thread, Kind::GlobalOutOfBounds,
      "%s of %llu bytes at offset %lld of '%s' (%s); expected it to lie within its %llu bytes",
      verb, static_cast<unsigned long long>(size), offset, nearest->name.c_str(), what,
      static_cast<unsigned long long>(nearest->bytes));
}

static bool holds(const GlobalRange &range, uint64_t address, uint64_t size, bool write) {
  uint64_t offset = address - reinterpret_cast<uint64_t>(range.base);
  return offset < range.bytes && size <= range.bytes - offset && (range.writable || !write);
}

void sparseflow::emulator::checkGlobal(Thread &thread, uint64_t address, uint64_t size,
                                       uint32_t align, bool write, const char *what) {
  if (LLVM_UNLIKELY(address & (align - 1)))
    thread.block->fail(
        thread, Kind::Misaligned,
        "%s of %llu bytes at address 0x%llx of global memory (%s); expected a multiple of %u",
        write ? "write" : "read", static_cast<unsigned long long>(size),
        static_cast<unsigned long long>(address), what, align);
  const std::vector<GlobalRange> &ranges = thread.block->getLaunch().ranges;
  if (ranges.empty() || !size)
    return;
  if (LLVM_LIKELY(thread.lastRange && holds(*thread.lastRange, address, size, write)))
    return;
  auto it = llvm::upper_bound(ranges, address, [](uint64_t address, const GlobalRange &range) {
    return address < reinterpret_cast<uint64_t>(range.base);
  });
  // Ranges may overlap (two views of one buffer): look at all that start at or before the address.
  const GlobalRange *unwaited = nullptr;
  while (it != ranges.begin()) {
    --it;
    if (!holds(*it, address, size, write))
      continue;
    if (LLVM_LIKELY(thread.hasWaitedForGrid || it->isConstant)) {
      thread.lastRange = &*it;
      return;
    }
    unwaited = &*it;
  }
  if (unwaited)
    thread.block->fail(
        thread, Kind::UnwaitedGrid,
        "%s of %llu bytes of '%s' (%s) before griddepcontrol.wait; expected the thread to wait "
        "first, as the kernel before may still run",
        write ? "write" : "read", static_cast<unsigned long long>(size), unwaited->name.c_str(),
        what);
  failGlobal(thread, address, size, write, what);
}

static const char *getAccessName(uint32_t flags) {
  if (flags & entry::isReadWrite)
    return "atomic";
  return flags & entry::isWrite ? "store" : "load";
}

void sparseflow::emulator::failFinished(Thread &thread, Block &owner, const char *what) {
  thread.block->fail(thread, Kind::SharedOutOfBounds,
                     "%s in the shared memory of block %u of the cluster, whose threads have "
                     "returned; expected a barrier.cluster after the last access and before any "
                     "block returns",
                     what, owner.getRank());
}

void entry::accessShared(Thread *thread, uint64_t address, uint64_t size, uint32_t align,
                         uint32_t flags) {
  // A pointer that mapa made leads to another block of the cluster.
  Block *owner = thread->block->getCluster().findBlock(address);
  if (LLVM_UNLIKELY(owner && owner != thread->block && owner->isFinished()))
    failFinished(*thread, *owner, getAccessName(flags));
  SharedMemory &shared = (owner ? owner : thread->block)->getShared();
  AccessMode mode = flags & isConcurrent ? AccessMode::Concurrent : AccessMode::Plain;
  // A length that does not fit 32 bits is out of bounds anyway.
  uint32_t bytes = static_cast<uint32_t>(std::min<uint64_t>(size, 1u << 30));
  if (!(flags & isWrite) || (flags & isReadWrite))
    shared.checkRead(*thread, address, bytes, align, mode, getAccessName(flags));
  if (flags & (isWrite | isReadWrite))
    shared.checkWrite(*thread, address, bytes, align, mode, getAccessName(flags));
}

void entry::accessGlobal(Thread *thread, uint64_t address, uint64_t size, uint32_t align,
                         uint32_t flags) {
  bool write = flags & (isWrite | isReadWrite);
  if (write)
    thread->block->noteProgress();
  checkGlobal(*thread, address, size, align, write, getAccessName(flags));
}

void entry::accessGeneric(Thread *thread, uint64_t address, uint64_t size, uint32_t align,
                          uint32_t flags) {
  if (thread->block->getCluster().findBlock(address))
    return accessShared(thread, address, size, align, flags);
  if (address - reinterpret_cast<uint64_t>(thread->stackBottom) <
      static_cast<uint64_t>(thread->stackTop - thread->stackBottom))
    return;
  accessGlobal(thread, address, size, align, flags);
}

//===----------------------------------------------------------------------===//
// Control
//===----------------------------------------------------------------------===//

void entry::collective(Thread *thread, const CollectiveOp *op, uint32_t site,
                       const uint32_t *arguments, uint32_t *results) {
  thread->block->meet(*thread, *op, site, arguments, results);
}

void entry::spendTurn(Thread *thread) { thread->block->spendTurn(*thread); }

void entry::trap(Thread *thread) {
  thread->block->fail(*thread, Kind::Trap, "the kernel trapped (llvm.trap)");
}

void entry::fence(Thread *thread) { thread->block->fence(*thread->warp); }
