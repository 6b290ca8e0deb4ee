//===- SharedAccess.cpp - How a tile is read from a stage -----------------===//

#include "sparseflow/Dialect/SFTile/IR/SharedAccess.h"

#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

BankConflicts SharedReadPlan::getBankConflicts() const {
  std::vector<LinearLayout::Basis> bases;
  uint64_t size = 16;
  for (uint32_t offset : lane) {
    bases.push_back({offset});
    size = std::max<uint64_t>(size, llvm::PowerOf2Ceil(uint64_t(offset) + 1));
  }
  return bankConflicts(LinearLayout({{"lane", bases}}, {{"offset", size}}),
                       ldmatrix ? 16 : vectorBytes);
}

llvm::Expected<SharedReadPlan> sf_tile::planSharedRead(RingType ring, TileType tile,
                                                       ArrayRef<int64_t> start) {
  LayoutAttr layout = tile.getLayout();
  if (!ring.getLayout() || !layout)
    return llvm::createStringError("expected layouts to be assigned");
  unsigned bits = tile.getElementType().getIntOrFloatBitWidth();
  LinearLayout stage = ring.getLayout().toLinearLayout();
  if (!stage.isBijective())
    return llvm::createStringError("expected a stage's layout to be a bijection, got " +
                                   stage.toString());
  LinearLayout inverse = stage.invert();
  // The offset, in bits: elements may be smaller than a byte.
  auto offsetOf = [&](ArrayRef<int64_t> coords) -> uint64_t {
    std::vector<std::string> names;
    for (unsigned i = 0; i < coords.size(); ++i)
      names.push_back("dim" + std::to_string(i));
    LinearLayout::Coords position;
    for (auto [name, coord] : llvm::zip_equal(names, coords))
      position.emplace_back(name, coord);
    return inverse.apply(position, "offset") * bits;
  };
  auto offsetOfBasis = [&](ArrayRef<int32_t> basis) {
    return offsetOf(SmallVector<int64_t>(basis.begin(), basis.end()));
  };

  SmallVector<uint64_t> registers, lanes;
  for (ArrayRef<int32_t> basis : layout.getBases("register"))
    registers.push_back(offsetOfBasis(basis));
  for (ArrayRef<int32_t> basis : layout.getBases("lane"))
    lanes.push_back(offsetOfBasis(basis));

  // Low register bits that run along memory.
  unsigned contiguous = 0;
  while (contiguous < registers.size() && bits << contiguous < 128 &&
         registers[contiguous] == uint64_t(bits) << contiguous)
    ++contiguous;
  unsigned vectorBits = bits << contiguous;

  SharedReadPlan plan;
  // ldmatrix: 32 bits in a lane's registers, 128 bits over lane bits 0 and 1, rows over lane bits 2
  // to 4.
  plan.ldmatrix = vectorBits == 32 && lanes[0] == 32 && lanes[1] == 64;
  if (plan.ldmatrix) {
    unsigned matrixBits = std::min<unsigned>(2, registers.size() - contiguous);
    plan.vectorBytes = 4 << matrixBits;
    for (unsigned i : {2, 3, 4})
      plan.lane.push_back(lanes[i] / 8);
    for (unsigned i = 0; i < 2; ++i)
      plan.lane.push_back(i < matrixBits ? registers[contiguous + i] / 8 : 0);
    contiguous += matrixBits;
  } else {
    if (vectorBits < 32)
      return llvm::createStringError(llvm::formatv(
          "expected at least 32 contiguous bits in a lane's registers, got {0}", vectorBits));
    plan.vectorBytes = vectorBits / 8;
    for (uint64_t offset : lanes)
      plan.lane.push_back(offset / 8);
  }
  for (uint64_t offset : ArrayRef(registers).drop_front(contiguous))
    plan.instruction.push_back(offset / 8);

  SmallVector<int64_t> warpTile = layout.getWarpTile();
  for (auto [count, dim] : llvm::zip_equal(layout.getWarps(), layout.getAlong())) {
    auto &bases = plan.warp.emplace_back();
    for (int64_t step = 1; step < count; step *= 2) {
      SmallVector<int64_t> coords(tile.getRank(), 0);
      if (dim >= 0)
        coords[dim] = step * warpTile[dim];
      bases.push_back(offsetOf(coords) / 8);
    }
  }
  plan.start = offsetOf(start) / 8;
  return plan;
}
