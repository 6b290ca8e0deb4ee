//===- Cluster.cpp - Blocks that run together -----------------------------===//

#include "Cluster.h"

#include "llvm/Support/FormatVariadic.h"

using namespace sparseflow::emulator;

bool Cluster::prepare(const LaunchState &launch, uint64_t index) {
  const Dim3 &extent = launch.cluster;
  blockCount = static_cast<unsigned>(extent.count());
  unsigned warps = static_cast<unsigned>((launch.block.count() + warpSize - 1) / warpSize);
  readersPerBlock = warps + (warps + 3) / 4;
  barrierOffsets.clear();
  loads.clear();
  fenceClocks.clear();
  barrier = {};
  liveThreads = launch.block.count() * blockCount;
  while (blocks.size() < blockCount)
    blocks.push_back(std::make_unique<Block>());
  uint32_t countX = launch.grid.x / extent.x, countY = launch.grid.y / extent.y;
  for (unsigned rank = 0; rank != blockCount; ++rank) {
    Dim3 ctaid;
    ctaid.x = index % countX * extent.x + rank % extent.x;
    ctaid.y = index / countX % countY * extent.y + rank / extent.x % extent.y;
    ctaid.z = index / countX / countY * extent.z + rank / extent.x / extent.y;
    if (!blocks[rank]->prepare(*this, rank, launch, ctaid))
      return false;
  }
  return true;
}

std::optional<Report> Cluster::run(const LaunchState &launch, uint64_t index) {
  if (!prepare(launch, index)) {
    Report failure;
    failure.kind = Report::Kind::Trap;
    failure.kernel = launch.kernel;
    failure.message = "no memory is left for the block's stacks and shared memory";
    return failure;
  }
  while (true) {
    bool ran = false;
    for (unsigned rank = 0; rank != blockCount; ++rank) {
      if (!blocks[rank]->canRun())
        continue;
      ran = true;
      blocks[rank]->resume();
      if (std::optional<Report> report = blocks[rank]->takeReport())
        return report;
    }
    if (ran || land(/*onlyAwaited=*/true))
      continue;
    for (unsigned rank = 0; rank != blockCount; ++rank)
      if (!blocks[rank]->isFinished())
        return blocks[rank]->describeDeadlock();
    return describeCopyInFlight();
  }
}

std::optional<Report> Cluster::describeCopyInFlight() const {
  if (loads.empty())
    return std::nullopt;
  const BulkLoad &load = loads.front();
  return load.issuer->block->makeReport(
      *load.issuer, Report::Kind::UnwaitedAsyncCopy,
      llvm::formatv("a copy of {0} bytes to offset {1} of shared memory is in flight when all "
                    "threads have returned; expected a wait for each phase of the mbarrier at "
                    "offset {2}",
                    load.source.bytes, load.offset, load.barrier->offset));
}

Block *Cluster::findBlock(uint64_t address) {
  for (unsigned rank = 0; rank != blockCount; ++rank)
    if (blocks[rank]->getShared().contains(address))
      return blocks[rank].get();
  return nullptr;
}

unsigned Cluster::addBarrier(uint32_t offset) {
  barrierOffsets.push_back(offset);
  return 2 * getReaderCount() + barrierOffsets.size() - 1;
}

uint32_t Cluster::getRetiredGroups(unsigned component) const {
  Block &block = *blocks[component / readersPerBlock];
  return block.getWarpgroup(component % readersPerBlock - block.getWarpCount()).retiredGroups;
}

//===----------------------------------------------------------------------===//
// Copies in flight
//===----------------------------------------------------------------------===//

bool Cluster::land(bool onlyAwaited) {
  for (auto it = loads.begin(); it != loads.end(); ++it) {
    if (onlyAwaited && it->barrier->waiting.empty())
      continue;
    BulkLoad load = *it;
    loads.erase(it);
    load.land();
    return true;
  }
  return false;
}

bool Cluster::landOne(const Mbarrier &barrier) {
  for (auto it = loads.begin(); it != loads.end(); ++it) {
    if (it->barrier != &barrier)
      continue;
    BulkLoad load = *it;
    loads.erase(it);
    load.land();
    return true;
  }
  return false;
}

bool Cluster::isInFlight(const Mbarrier &barrier) const {
  for (const BulkLoad &load : loads)
    if (load.barrier == &barrier)
      return true;
  return false;
}
