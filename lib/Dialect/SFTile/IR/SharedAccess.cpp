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

namespace {
/// Where a stage's elements lie.
class StageOffsets {
public:
  static llvm::Expected<StageOffsets> create(RingType ring) {
    if (!ring.getLayout())
      return llvm::createStringError("expected layouts to be assigned");
    LinearLayout stage = ring.getLayout().toLinearLayout();
    if (!stage.isBijective())
      return llvm::createStringError("expected a stage's layout to be a bijection, got " +
                                     stage.toString());
    return StageOffsets(stage.invert(), ring.getElementType().getIntOrFloatBitWidth());
  }

  /// In bits: elements may be smaller than a byte.
  uint64_t bitsOf(ArrayRef<int64_t> coords) const {
    std::vector<std::string> names;
    for (unsigned i = 0; i < coords.size(); ++i)
      names.push_back("dim" + std::to_string(i));
    LinearLayout::Coords position;
    for (auto [name, coord] : llvm::zip_equal(names, coords))
      position.emplace_back(name, coord);
    return inverse.apply(position, "offset") * bits;
  }
  uint64_t bytesOf(ArrayRef<int64_t> coords) const { return bitsOf(coords) / 8; }

private:
  StageOffsets(LinearLayout inverse, unsigned bits) : inverse(std::move(inverse)), bits(bits) {}

  LinearLayout inverse;
  unsigned bits;
};
} // namespace

llvm::Expected<SharedReadPlan> sf_tile::planSharedRead(RingType ring, TileType tile,
                                                       ArrayRef<int64_t> start) {
  LayoutAttr layout = tile.getLayout();
  if (!layout)
    return llvm::createStringError("expected layouts to be assigned");
  unsigned bits = tile.getElementType().getIntOrFloatBitWidth();
  llvm::Expected<StageOffsets> offsets = StageOffsets::create(ring);
  if (!offsets)
    return offsets.takeError();
  auto offsetOf = [&](ArrayRef<int64_t> coords) { return offsets->bitsOf(coords); };
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

/// Values of the descriptor's layout field.
constexpr uint64_t kNoSwizzle = 0, kSwizzle128 = 1;
/// Strides are counted in 16 bytes.
static uint64_t makeFields(uint64_t layout, uint64_t leading, uint64_t stride) {
  return layout << 62 | (stride >> 4) << 32 | (leading >> 4) << 16;
}

llvm::Expected<DescriptorPlan> sf_tile::planDescriptor(RingType ring, TileType tile,
                                                       ArrayRef<int64_t> start, int64_t rows,
                                                       ArrayRef<uint64_t> rowBases) {
  llvm::Expected<StageOffsets> offsets = StageOffsets::create(ring);
  if (!offsets)
    return offsets.takeError();
  constexpr unsigned coreRowBits = 3, coreRowBytes = 16, swizzleBytes = 128;
  unsigned elementBits = ring.getElementType().getIntOrFloatBitWidth();
  int64_t piece = coreRowBytes * 8 / elementBits;
  auto rowBit = [&](unsigned bit) { return offsets->bytesOf({int64_t(rowBases[bit]), 0}); };

  // A core matrix, 8 rows of 16 bytes: one row behind the other, or each in a span of 128 bytes
  // that is permuted by the row.
  bool plain = true, swizzled = true;
  for (unsigned bit = 0; bit < coreRowBits; ++bit) {
    plain &= rowBit(bit) == uint64_t(coreRowBytes) << bit;
    swizzled &= rowBit(bit) == uint64_t(swizzleBytes + coreRowBytes) << bit;
  }
  for (int64_t column = 1; column < piece; column *= 2)
    plain &= offsets->bitsOf({0, column}) == uint64_t(column) * elementBits;
  uint64_t stride = rowBases.size() > coreRowBits ? rowBit(coreRowBits) : 0;
  bool regular = true;
  for (unsigned bit = coreRowBits; bit < rowBases.size(); ++bit)
    regular &= rowBit(bit) == stride << (bit - coreRowBits);
  uint64_t leading = offsets->bytesOf({0, piece});
  if (!regular || !(plain || (swizzled && leading == coreRowBytes)))
    return llvm::createStringError(
        "expected a stage of core matrices (8 rows of 16 bytes) at equal "
        "distances, plain or with the 128-byte swizzle");

  DescriptorPlan plan;
  plan.fields = plain ? makeFields(kNoSwizzle, leading, stride)
                      : makeFields(kSwizzle128, /*unused=*/coreRowBytes, stride);
  plan.start = offsets->bytesOf(start);
  if (tile.getShape()[0] > rows)
    plan.warpgroupStride = offsets->bytesOf({rows, 0});
  return plan;
}

llvm::Expected<DescriptorPlan> sf_tile::planDescriptor(LoadOp load) {
  Value tile = load.getResult();
  MmaOp mma;
  bool isA = false, isB = false;
  for (Operation *user : tile.getUsers()) {
    mma = dyn_cast<MmaOp>(user);
    if (!mma || !mma.getAtom().getAtom().isWarpgroup())
      break;
    isA |= mma.getA() == tile;
    isB |= mma.getB() == tile;
  }
  if (!mma || isA == isB)
    return llvm::createStringError("expected a tile in shared memory to be one operand of products "
                                   "of warpgroups");
  auto ring = cast<RingType>(load.getSource().getType());
  SmallVector<int64_t> start(ring.getRank(), 0);
  if (load.getStart())
    start.assign(load.getStart()->begin(), load.getStart()->end());
  if (isA)
    return planDescriptor(ring, load.getResult().getType(), start, kPackedChunkFeatures,
                          kWgmmaRowFeatures);
  int64_t tokens = load.getResult().getType().getShape()[0];
  SmallVector<uint64_t> rowBases;
  for (int64_t row = 1; row < tokens; row *= 2)
    rowBases.push_back(row);
  return planDescriptor(ring, load.getResult().getType(), start, tokens, rowBases);
}
