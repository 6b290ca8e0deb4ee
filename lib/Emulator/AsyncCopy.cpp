//===- AsyncCopy.cpp - cp.async -------------------------------------------===//
//
// A copy reads its source when it is issued and owns its destination until its thread waits for the
// group that it was committed to; only then do the bytes arrive. A kernel whose wait is missing or
// covers too few groups therefore never finds its data there by luck.
//
//===----------------------------------------------------------------------===//

#include "Operations.h"

#include <cstring>

using namespace sparseflow::emulator;
using Kind = Report::Kind;

static void issue(Thread &thread, const char *name, uint64_t destination, uint64_t source,
                  uint32_t bytes, uint32_t sourceBytes) {
  Block &block = *thread.block;
  if (sourceBytes > bytes)
    block.fail(thread, Kind::IllegalOperand,
               "%s with a source size of %u bytes; expected no more than the %u that it copies",
               name, sourceBytes, bytes);
  if (source % bytes != 0)
    block.fail(thread, Kind::Misaligned,
               "%s from address 0x%llx of global memory; expected a multiple of %u", name,
               static_cast<unsigned long long>(source), bytes);
  if (sourceBytes)
    checkGlobal(thread, source, sourceBytes, 1, /*write=*/false, name);
  SharedMemory &shared = block.getShared();
  shared.beginCopy(thread, destination, bytes, name);

  AsyncCopies &pending = thread.asyncCopies;
  AsyncCopies::Copy &copy = pending.copies.emplace_back();
  copy.offset = static_cast<uint32_t>(destination - reinterpret_cast<uint64_t>(shared.getBase()));
  copy.bytes = bytes;
  copy.group = pending.committed;
  std::memcpy(copy.data, reinterpret_cast<const void *>(source), sourceBytes);
  std::memset(copy.data + sourceBytes, 0, bytes - sourceBytes);
}

/// Lands the copies of all groups before `end`.
static void land(Thread &thread, uint32_t end) {
  AsyncCopies &pending = thread.asyncCopies;
  SharedMemory &shared = thread.block->getShared();
  while (pending.landed != pending.copies.size()) {
    const AsyncCopies::Copy &copy = pending.copies[pending.landed];
    if (copy.group >= end)
      break;
    shared.land(thread, copy.offset, copy.data, copy.bytes);
    ++pending.landed;
  }
  // Copies in flight are few: dropping the landed ones when they are the majority keeps this
  // linear.
  if (pending.landed * 2 >= pending.copies.size()) {
    pending.copies.erase(pending.copies.begin(), pending.copies.begin() + pending.landed);
    pending.landed = 0;
  }
}

template <uint32_t bytes, bool hasSourceSize>
static void copy(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  static const char *const name = bytes == 16  ? "16-byte cp.async"
                                  : bytes == 8 ? "8-byte cp.async"
                                               : "4-byte cp.async";
  issue(thread, name, arguments[0], arguments[1], bytes,
        hasSourceSize ? static_cast<uint32_t>(arguments[2]) : bytes);
}

static void commit(Thread &thread, uint32_t, const uint64_t *, uint64_t *) {
  ++thread.asyncCopies.committed;
}

static void waitGroup(Thread &thread, uint32_t, const uint64_t *arguments, uint64_t *) {
  uint32_t mayRemain = static_cast<uint32_t>(arguments[0]);
  uint32_t committed = thread.asyncCopies.committed;
  land(thread, committed > mayRemain ? committed - mayRemain : 0);
}

static void waitAll(Thread &thread, uint32_t, const uint64_t *, uint64_t *) {
  ++thread.asyncCopies.committed;
  land(thread, thread.asyncCopies.committed);
}

llvm::ArrayRef<ThreadOp> sparseflow::emulator::getAsyncCopyOps() {
  static const ThreadOp ops[] = {
      {"cp.async.ca.shared.global.4", copy<4, false>},
      {"cp.async.ca.shared.global.4.s", copy<4, true>},
      {"cp.async.ca.shared.global.8", copy<8, false>},
      {"cp.async.ca.shared.global.8.s", copy<8, true>},
      {"cp.async.ca.shared.global.16", copy<16, false>},
      {"cp.async.ca.shared.global.16.s", copy<16, true>},
      {"cp.async.cg.shared.global.16", copy<16, false>},
      {"cp.async.cg.shared.global.16.s", copy<16, true>},
      {"cp.async.commit.group", commit},
      {"cp.async.wait.group", waitGroup},
      {"cp.async.wait.all", waitAll},
  };
  return ops;
}
