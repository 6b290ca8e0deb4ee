//===- Warpgroup.h - Four warps and their wgmma in flight -------*- C++ -*-===//
//
// The accumulators of a wgmma are the matrix unit's until wgmma.wait_group. So the instruction's
// results are not numbers but tags (quiet NaNs with a payload of their own) that name an
// accumulator here; the next wgmma on the same accumulators hands the tags on, and the empty inline
// assembly that kernels put between the wait and the first use exchanges them for the numbers, if
// the wait has been executed.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_LIB_EMULATOR_WARPGROUP_H
#define SPARSEFLOW_LIB_EMULATOR_WARPGROUP_H

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace sparseflow::emulator {

struct WgmmaOp;
struct WgmmaWorkspace;

constexpr unsigned warpgroupSize = 128;
constexpr unsigned wgmmaRows = 64;

/// An accumulator tile of 64 rows by n columns, and where its tags are valid.
struct AccumulatorTile {
  /// The wgmma whose results name the tile now.
  uint32_t id = 0;
  unsigned columns = 0;
  /// The group of the last wgmma on it.
  uint32_t group = 0;
  /// wgmmaFences of each thread when it last read the tile.
  std::array<uint32_t, warpgroupSize> readFences = {};
  /// [row][column], bits of f32 or s32.
  std::vector<uint32_t> values;
};

/// A wgmma between its instruction and its wait.
struct PendingWgmma {
  const WgmmaOp *op = nullptr;
  uint32_t group = 0;
  AccumulatorTile *tile = nullptr;
  bool addsToTile = true;
  uint64_t descriptorA = 0, descriptorB = 0;
  uint32_t selector = 0;
  std::array<std::array<uint32_t, 4>, warpgroupSize> registersA;
  std::array<uint32_t, warpgroupSize> metadata;
  /// The clock of each warp when it issued this.
  std::array<uint32_t, 4> issueClocks = {};
};

struct Warpgroup {
  Warpgroup();
  ~Warpgroup();

  unsigned index = 0;
  /// The component of all clocks that stands for the groups it has finished.
  unsigned component = 0;

  // The threads that wait at one instruction.
  uint32_t arrived = 0, site = 0;
  const char *name = nullptr;
  std::array<const uint32_t *, warpgroupSize> operands;

  std::vector<std::unique_ptr<PendingWgmma>> pending;
  /// Groups before this one have finished.
  uint32_t retiredGroups = 0;
  /// The id of the latest wgmma, and the tag of its first register.
  uint32_t lastId = 0, lastTag = 0;
  /// Tiles whose tags may still be around.
  std::vector<std::unique_ptr<AccumulatorTile>> tiles;
  /// Kept from one product to the next.
  std::unique_ptr<WgmmaWorkspace> workspace;

  void reset(unsigned newIndex, unsigned newComponent);
  bool isInFlight(const AccumulatorTile &tile) const { return tile.group >= retiredGroups; }
};

} // namespace sparseflow::emulator

#endif // SPARSEFLOW_LIB_EMULATOR_WARPGROUP_H
