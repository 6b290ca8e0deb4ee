//===- SharedAccessTest.cpp - How a tile is read from a stage -------------===//

#include "sparseflow/Dialect/SFTile/IR/SharedAccess.h"
#include "sparseflow/Support/PackedLayout.h"

#include "mlir/IR/MLIRContext.h"
#include "gtest/gtest.h"

using namespace mlir;
using namespace sparseflow;
using namespace sparseflow::sf_tile;

namespace {

struct SharedAccessTest : testing::Test {
  SharedAccessTest() { context.loadDialect<SFTileDialect>(); }

  /// A stage of 8 rows of 64 f16; row bit i also moves the element by `shifts[i]`.
  RingType makeStage(ArrayRef<uint64_t> shifts) {
    std::vector<LinearLayout::Basis> bases;
    for (uint64_t column : {1, 2, 4, 8, 16, 32})
      bases.push_back({0, column});
    for (unsigned bit = 0; bit < 3; ++bit)
      bases.push_back({uint64_t(1) << bit, shifts[bit]});
    LinearLayout map({{"offset", bases}}, {{"dim0", 8}, {"dim1", 64}});
    return RingType::get(2, {8, 64}, Float16Type::get(&context),
                         LayoutAttr::fromLinearLayout(&context, map, {}, {}));
  }

  TileType makeTokens() {
    const Atom &atom = *findAtom("mma_sp_m16n8k32_f16");
    return TileType::get({8, atom.k}, Float16Type::get(&context),
                         LayoutAttr::fromLinearLayout(&context, atom.bLayout(8), {1, 1}, {-1, 0}));
  }

  MLIRContext context;
};

TEST_F(SharedAccessTest, SwizzledStageIsReadByLdmatrixWithoutConflicts) {
  SharedReadPlan plan =
      llvm::cantFail(planSharedRead(makeStage({8, 16, 32}), makeTokens(), {0, 0}));
  EXPECT_TRUE(plan.ldmatrix);
  EXPECT_EQ(plan.vectorBytes, 16u);
  EXPECT_TRUE(plan.instruction.empty());
  EXPECT_TRUE(plan.getBankConflicts().isFree());
}

TEST_F(SharedAccessTest, PlainRowsConflict) {
  SharedReadPlan plan = llvm::cantFail(planSharedRead(makeStage({0, 0, 0}), makeTokens(), {0, 0}));
  EXPECT_TRUE(plan.ldmatrix);
  EXPECT_FALSE(plan.getBankConflicts().isFree());
  EXPECT_EQ(plan.getBankConflicts().wavefronts, 8 * plan.getBankConflicts().ideal);
}

TEST_F(SharedAccessTest, StartIsAnOffsetInTheStage) {
  SharedReadPlan plan =
      llvm::cantFail(planSharedRead(makeStage({8, 16, 32}), makeTokens(), {0, 32}));
  EXPECT_EQ(plan.start, 64u);
}

TEST_F(SharedAccessTest, PackedWeightsAreSixteenContiguousBytesALane) {
  const Atom &atom = *findAtom("mma_sp_m16n8k32_f16");
  LinearLayout chunk = packedValuesLayout(PackOrder::Mma, /*sparse=*/true, 2).flattenIns("offset");
  chunk = chunk.renameOut("feature", "dim0").renameOut("kept", "dim1");
  auto ring = RingType::get(2, {64, 32}, Float16Type::get(&context),
                            LayoutAttr::fromLinearLayout(&context, chunk, {}, {}));
  auto tile =
      TileType::get({64, 16}, Float16Type::get(&context),
                    LayoutAttr::fromLinearLayout(&context, atom.aLayout(64), {1, 1}, {0, -1}));
  SharedReadPlan plan = llvm::cantFail(planSharedRead(ring, tile, {0, 16}));
  EXPECT_FALSE(plan.ldmatrix);
  EXPECT_EQ(plan.vectorBytes, 16u);
  EXPECT_EQ(plan.lane, (SmallVector<uint32_t, 5>{16, 32, 64, 128, 256}));
  EXPECT_EQ(plan.instruction, (SmallVector<uint32_t, 8>{512, 1024}));
  EXPECT_EQ(plan.start, 2048u);
  EXPECT_TRUE(plan.getBankConflicts().isFree());
}

TEST_F(SharedAccessTest, UnassignedLayoutsAreAnError) {
  auto ring = RingType::get(2, {8, 64}, Float16Type::get(&context));
  llvm::Expected<SharedReadPlan> plan = planSharedRead(ring, makeTokens(), {0, 0});
  ASSERT_FALSE(plan);
  EXPECT_EQ(llvm::toString(plan.takeError()), "expected layouts to be assigned");
}

} // namespace
