//===- AtomsTest.cpp - Every row of the table of instructions -------------===//
//
// A new row is tested by being there: its fragments must be bijections, count the registers that
// its instruction takes, and lie in the packed weight where the kernels read them.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SFTile/IR/Atoms.h"
#include "sparseflow/Support/PackedLayout.h"

#include "gtest/gtest.h"

using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

class AtomTest : public testing::TestWithParam<Atom> {};

/// 32-bit registers that a lane holds of a tile.
unsigned countRegisters(const LinearLayout &layout, unsigned elementBits) {
  return (elementBits << layout.getInBits("register")) / 32;
}

TEST_P(AtomTest, FragmentsAreBijections) {
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

TEST_P(AtomTest, TilesHoldTheInstructionsRegisters) {
  const Atom &atom = GetParam();
  unsigned bits = 8 * atom.elementBytes(), blocks = 64 / atom.m;
  EXPECT_EQ(countRegisters(atom.aLayout(64), bits), blocks * atom.aRegisters());
  EXPECT_EQ(countRegisters(atom.bLayout(atom.n), bits), atom.bRegisters());
  EXPECT_EQ(countRegisters(atom.accLayout(64, atom.n), 32), blocks * 4);
  if (atom.sparse) {
    EXPECT_EQ(countRegisters(atom.metadataLayout(64), 4), blocks);
  }
}

TEST_P(AtomTest, LaneOwnsEightContiguousFeatures) {
  LinearLayout acc = GetParam().accLayout(64, 8);
  for (uint64_t lane = 0; lane < 32; ++lane)
    for (uint64_t reg = 0; reg < 16; ++reg)
      EXPECT_EQ(acc.apply({{"register", reg}, {"lane", lane}}, "dim0"), 8 * (lane / 4) + reg % 8);
}

// A lane reads 16 bytes of a chunk for each block and k-step: they are its registers, in order.
TEST_P(AtomTest, FragmentsOfWeightsLieAsPacked) {
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
TEST_P(AtomTest, MetadataLiesAsPacked) {
  const Atom &atom = GetParam();
  if (!atom.sparse)
    GTEST_SKIP() << "a dense instruction has no metadata";
  LinearLayout packed = packedMetadataLayout(PackOrder::Mma, atom.elementBytes());
  LinearLayout fragment = atom.metadataLayout(kPackedChunkFeatures);
  uint64_t steps = packed.hasIn("step") ? packed.getInSize("step") : 1;
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
          if (packed.hasIn("step"))
            from.push_back({"step", step});
          EXPECT_EQ(packed.apply(from, "feature"), where[0].second);
          EXPECT_EQ(packed.apply(from, "group"), where[1].second + step * groupsPerWord);
        }
}

TEST_P(AtomTest, IsFound) {
  const Atom &atom = GetParam();
  EXPECT_EQ(findAtom(atom.name)->name, atom.name);
  EXPECT_EQ(findAtom(atom.type, atom.sparse)->name, atom.name);
}

TEST(AtomTable, UnknownNamesAreNotFound) {
  EXPECT_EQ(findAtom("mma_m16n8k16_f64"), nullptr);
  EXPECT_EQ(findAtom(DType::f32, /*sparse=*/false), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Table, AtomTest, testing::ValuesIn(getAtoms().begin(), getAtoms().end()),
                         [](const testing::TestParamInfo<Atom> &info) {
                           return info.param.name.str();
                         });

} // namespace
