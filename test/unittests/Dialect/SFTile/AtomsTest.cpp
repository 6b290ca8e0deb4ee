//===- AtomsTest.cpp - Every row of the table of instructions -------------===//
//
// A new row is tested by being there: its fragments must be bijections, count the registers that
// its instruction takes, and lie in the packed weight where the kernels read them. What a
// warpgroup's instruction reads itself is in SharedAccessTest; what it takes in registers is here.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SFTile/IR/SFTileDialect.h"
#include "sparseflow/Support/PackedLayout.h"

#include "mlir/IR/MLIRContext.h"
#include "llvm/ADT/STLExtras.h"
#include "gtest/gtest.h"

#include <optional>
#include <vector>

using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

class AtomTest : public testing::TestWithParam<Atom> {};
class WarpAtomTest : public testing::TestWithParam<Atom> {};
class WarpgroupAtomTest : public testing::TestWithParam<Atom> {};

std::vector<Atom> listAtoms(std::optional<bool> ofWarpgroups = std::nullopt) {
  std::vector<Atom> atoms;
  llvm::copy_if(getAtoms(), std::back_inserter(atoms), [&](const Atom &atom) {
    return !ofWarpgroups || atom.isWarpgroup() == *ofWarpgroups;
  });
  return atoms;
}

/// 32-bit registers that a lane holds of a tile.
unsigned countRegisters(const LinearLayout &layout, unsigned elementBits) {
  return (elementBits << layout.getInBits("register")) / 32;
}

//===----------------------------------------------------------------------===//
// All instructions
//===----------------------------------------------------------------------===//

TEST_P(AtomTest, accumulator_and_metadata_are_bijections) {
  const Atom &atom = GetParam();
  for (unsigned tokens : {8u, 32u, 256u}) {
    LinearLayout layout = atom.accLayout(atom.featureStep(), tokens);
    EXPECT_TRUE(layout.isBijective()) << layout.toString();
    // A warp's share of the features.
    EXPECT_EQ(countRegisters(layout, 32), atom.featureStep() * tokens / 32);
  }
  if (atom.sparse) {
    LinearLayout layout = atom.metadataLayout(atom.featureStep());
    EXPECT_TRUE(layout.isBijective()) << layout.toString();
    EXPECT_EQ(countRegisters(layout, 4), atom.featureStep() / 16);
  }
}

TEST_P(AtomTest, is_found) {
  const Atom &atom = GetParam();
  EXPECT_EQ(findAtom(atom.name)->name, atom.name);
  EXPECT_EQ(findAtom(atom.type, atom.sparse, atom.packOrder(), atom.registerA)->name, atom.name);
}

TEST(AtomTable, unknown_names_are_not_found) {
  EXPECT_EQ(findAtom("mma_m16n8k16_f64"), nullptr);
  for (PackOrder order : {PackOrder::Mma, PackOrder::Wgmma})
    EXPECT_EQ(findAtom(DType::f32, /*sparse=*/false, order), nullptr);
}

//===----------------------------------------------------------------------===//
// One warp: all operands in registers
//===----------------------------------------------------------------------===//

TEST_P(WarpAtomTest, fragments_are_bijections) {
  const Atom &atom = GetParam();
  for (unsigned features : {64u, 128u})
    EXPECT_TRUE(atom.aLayout(features).isBijective()) << atom.aLayout(features).toString();
  for (unsigned tokens : {8u, 32u})
    EXPECT_TRUE(atom.bLayout(tokens).isBijective()) << atom.bLayout(tokens).toString();
  EXPECT_TRUE(atom.accLayout(128, 32).isBijective()) << atom.accLayout(128, 32).toString();
  if (atom.sparse) {
    EXPECT_TRUE(atom.metadataLayout(128).isBijective()) << atom.metadataLayout(128).toString();
  }
}

TEST_P(WarpAtomTest, tiles_hold_the_instructions_registers) {
  const Atom &atom = GetParam();
  unsigned bits = 8 * atom.elementBytes(), blocks = 64 / atom.m;
  EXPECT_EQ(countRegisters(atom.aLayout(64), bits), blocks * atom.aRegisters());
  EXPECT_EQ(countRegisters(atom.bLayout(atom.n), bits), atom.bRegisters());
  EXPECT_EQ(countRegisters(atom.accLayout(64, atom.n), 32), blocks * 4);
  if (atom.sparse) {
    EXPECT_EQ(countRegisters(atom.metadataLayout(64), 4), blocks);
  }
}

TEST_P(WarpAtomTest, lane_owns_eight_contiguous_features) {
  LinearLayout acc = GetParam().accLayout(64, 8);
  for (uint64_t lane = 0; lane < 32; ++lane)
    for (uint64_t reg = 0; reg < 16; ++reg)
      EXPECT_EQ(acc.apply({{"register", reg}, {"lane", lane}}, "dim0"), 8 * (lane / 4) + reg % 8);
}

// A lane reads 16 bytes of a chunk for each block and k-step: they are its registers, in order.
TEST_P(WarpAtomTest, fragments_of_weights_lie_as_packed) {
  const Atom &atom = GetParam();
  LinearLayout packed = packedValuesLayout(PackOrder::Mma, atom.sparse, atom.elementBytes());
  LinearLayout fragment = atom.aLayout(kPackedChunkFeatures);
  std::string column = packed.hasOut("kept") ? "kept" : "k";
  uint64_t elements = packed.getInSize("elem"), steps = packed.getInSize("step");
  ASSERT_EQ(elements * atom.elementBytes(), 16u);
  ASSERT_EQ(steps * atom.keptPerStep(), packed.getOutSize(column));
  for (uint64_t step = 0; step < steps; ++step)
    for (uint64_t block = 0; block < packed.getInSize("block"); ++block)
      for (uint64_t lane = 0; lane < 32; ++lane)
        for (uint64_t elem = 0; elem < elements; ++elem) {
          LinearLayout::Coords where =
              fragment.apply({{"register", block * elements + elem}, {"lane", lane}});
          LinearLayout::Coord from[] = {
              {"elem", elem}, {"lane", lane}, {"block", block}, {"step", step}};
          EXPECT_EQ(packed.apply(from, "feature"), where[0].second);
          EXPECT_EQ(packed.apply(from, column), where[1].second + step * atom.keptPerStep());
        }
}

// A lane's word of metadata for a block is its register.
/// Whether several instructions along K share a metadata word.
static bool hasStep(const LinearLayout &packed) {
  return llvm::any_of(packed.getInDims(), [](const LayoutDim &dim) { return dim.name == "step"; });
}

TEST_P(WarpAtomTest, metadata_lies_as_packed) {
  const Atom &atom = GetParam();
  if (!atom.sparse)
    GTEST_SKIP() << "a dense instruction has no metadata";
  LinearLayout packed = packedMetadataLayout(PackOrder::Mma, atom.elementBytes());
  LinearLayout fragment = atom.metadataLayout(kPackedChunkFeatures);
  uint64_t steps = hasStep(packed) ? packed.getInSize("step") : 1;
  uint64_t groupsPerWord = fragment.getOutSize("dim1");
  ASSERT_EQ(steps * groupsPerWord, packed.getOutSize("group"));
  for (uint64_t step = 0; step < steps; ++step)
    for (uint64_t block = 0; block < packed.getInSize("block"); ++block)
      for (uint64_t lane = 0; lane < 32; ++lane)
        for (uint64_t nibble = 0; nibble < 8; ++nibble) {
          LinearLayout::Coords where =
              fragment.apply({{"register", block * 8 + nibble}, {"lane", lane}});
          llvm::SmallVector<LinearLayout::Coord, 4> from = {
              {"nibble", nibble}, {"block", block}, {"lane", lane}};
          if (hasStep(packed))
            from.push_back({"step", step});
          EXPECT_EQ(packed.apply(from, "feature"), where[0].second);
          EXPECT_EQ(packed.apply(from, "group"), where[1].second + step * groupsPerWord);
        }
}

//===----------------------------------------------------------------------===//
// Warpgroups: operands in shared memory
//===----------------------------------------------------------------------===//

// A lane stores pairs of features.
TEST_P(WarpgroupAtomTest, lane_owns_two_contiguous_features) {
  LinearLayout acc = GetParam().accLayout(16, 8);
  for (uint64_t lane = 0; lane < 32; ++lane)
    for (uint64_t reg = 0; reg < 4; ++reg)
      EXPECT_EQ(acc.apply({{"register", reg}, {"lane", lane}}, "dim0"), 2 * (lane / 4) + reg % 2);
}

// PTX ISA, 9.7.15.5, "Register Fragments": warp w of the warpgroup holds rows 16w to 16w + 15 of
// the accumulator; its d[i] is in row lane / 4 + 8 * (i / 2 % 2) of these and in column
// 8 * (i / 4) + 2 * (lane % 4) + i % 2. Row g + 8h is feature 2g + h. A tile's registers count the
// row half before the token, the instruction's the other way round.
TEST_P(WarpgroupAtomTest, accumulator_is_the_instructions) {
  constexpr unsigned tokens = 256;
  LinearLayout layout = GetParam().accLayout(16, tokens);
  for (uint64_t lane = 0; lane < 32; ++lane)
    for (uint64_t i = 0; i < 16 * tokens / 32; ++i) {
      uint64_t row = lane / 4 + 8 * (i / 2 % 2), token = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
      uint64_t reg = (i & ~uint64_t(3)) | (i & 1) << 1 | (i >> 1 & 1);
      LinearLayout::Coords where = layout.apply({{"register", reg}, {"lane", lane}});
      EXPECT_EQ(where[0].second, 2 * (row % 8) + row / 8);
      EXPECT_EQ(where[1].second, token);
    }
}

// Tokens are the last bits of a register's number, so what a power of two has more is left out at
// the end.
TEST_P(WarpgroupAtomTest, tiles_need_not_be_powers_of_two) {
  using Extent = llvm::SmallVector<int64_t>;
  mlir::MLIRContext context;
  context.loadDialect<SFTileDialect>();
  auto all = LayoutAttr::fromLinearLayout(&context, GetParam().accLayout(16, 128), {12, 1}, {0, 1});
  LayoutAttr layout = all.withRegisters(all.getNumRegisters() * 96 / 128);
  EXPECT_EQ(layout.getNumRegisters(), 48u);
  EXPECT_EQ(layout.getBlockTile(), (Extent{192, 96}));
  EXPECT_EQ(layout.slice({false, true}).getWarpTile(), (Extent{1, 96}));
  EXPECT_EQ(layout.slice({true, false}).getWarpTile(), (Extent{16, 1}));
  EXPECT_EQ(layout.withRegisters(64), all);
}

// PTX ISA, 9.7.15.5, "Register Fragments": a lane's register r holds 4 bytes of row lane / 4 +
// 8 * (r % 2) from byte 4 * (lane % 4) + 16 * (r / 2) on; of a sparse row the bytes are kept ones.
TEST_P(WarpgroupAtomTest, values_in_registers_are_the_instructions) {
  const Atom &atom = GetParam();
  if (!atom.registerA)
    GTEST_SKIP() << "the instruction reads values from shared memory";
  LinearLayout layout = atom.aLayout(16);
  EXPECT_TRUE(layout.isBijective()) << layout.toString();
  EXPECT_EQ(countRegisters(layout, 8 * atom.elementBytes()), 4u);
  for (uint64_t lane = 0; lane < 32; ++lane)
    for (uint64_t byte = 0; byte < 16; byte += atom.elementBytes()) {
      uint64_t r = byte / 4, row = lane / 4 + 8 * (r % 2);
      uint64_t column = 4 * (lane % 4) + 16 * (r / 2) + byte % 4;
      LinearLayout::Coords where =
          layout.apply({{"register", byte / atom.elementBytes()}, {"lane", lane}});
      EXPECT_EQ(where[0].second, 2 * (row % 8) + row / 8);
      EXPECT_EQ(where[1].second, column / atom.elementBytes());
    }
}

// PTX ISA, 9.7.15.6.1: 16-bit types take two of each four lanes, which the selector names: lane
// 4g + 2s has columns 0 to 15 of step s, the next one 16 to 31, each of row g in the low half of
// the word and of row g + 8 in the high one. 8-bit types take all lanes: even ones have row g, odd
// ones row g + 8; the first two columns 0 to 31, the others 32 to 63.
TEST_P(WarpgroupAtomTest, metadata_is_the_instructions) {
  const Atom &atom = GetParam();
  if (!atom.sparse)
    GTEST_SKIP() << "a dense instruction has no metadata";
  LinearLayout layout = atom.metadataLayout(16);
  for (uint64_t lane = 0; lane < 32; ++lane)
    for (uint64_t nibble = 0; nibble < 8; ++nibble) {
      uint64_t g = lane / 4, low = lane & 1, high = lane >> 1 & 1, row, column;
      if (atom.elementBytes() == 2) {
        row = g + 8 * (nibble / 4);
        column = 32 * high + 16 * low + 4 * (nibble % 4);
      } else {
        row = g + 8 * low;
        column = 32 * high + 4 * nibble;
      }
      LinearLayout::Coords where = layout.apply({{"register", nibble}, {"lane", lane}});
      EXPECT_EQ(where[0].second, 2 * (row % 8) + row / 8);
      EXPECT_EQ(where[1].second, column / 4);
    }
}

// Warp w reads word lane of its 32: they are its register.
TEST_P(WarpgroupAtomTest, metadata_lies_as_packed) {
  const Atom &atom = GetParam();
  if (!atom.sparse)
    GTEST_SKIP() << "a dense instruction has no metadata";
  LinearLayout packed = packedMetadataLayout(PackOrder::Wgmma, atom.elementBytes());
  LinearLayout fragment = atom.metadataLayout(16);
  uint64_t steps = hasStep(packed) ? packed.getInSize("step") : 1;
  uint64_t groupsPerWord = fragment.getOutSize("dim1");
  ASSERT_EQ(steps * groupsPerWord, packed.getOutSize("group"));
  for (uint64_t step = 0; step < steps; ++step)
    for (uint64_t warp = 0; warp < 4; ++warp)
      for (uint64_t lane = 0; lane < 32; ++lane)
        for (uint64_t nibble = 0; nibble < 8; ++nibble) {
          LinearLayout::Coords where = fragment.apply({{"register", nibble}, {"lane", lane}});
          LinearLayout::Coords from = {{"nibble", nibble}, {"lane", lane}, {"warp", warp}};
          if (hasStep(packed))
            from.push_back({"step", step});
          EXPECT_EQ(packed.apply(from, "feature"), where[0].second + 16 * warp);
          EXPECT_EQ(packed.apply(from, "group"), where[1].second + step * groupsPerWord);
        }
}

std::string getName(const testing::TestParamInfo<Atom> &info) { return info.param.name.str(); }

INSTANTIATE_TEST_SUITE_P(Table, AtomTest, testing::ValuesIn(listAtoms()), getName);
INSTANTIATE_TEST_SUITE_P(Table, WarpAtomTest, testing::ValuesIn(listAtoms(/*ofWarpgroups=*/false)),
                         getName);
INSTANTIATE_TEST_SUITE_P(Table, WarpgroupAtomTest,
                         testing::ValuesIn(listAtoms(/*ofWarpgroups=*/true)), getName);

} // namespace
