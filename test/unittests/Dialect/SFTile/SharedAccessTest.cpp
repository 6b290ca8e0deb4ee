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

TEST_F(SharedAccessTest, swizzled_stage_is_read_by_ldmatrix_without_conflicts) {
  SharedReadPlan plan =
      llvm::cantFail(planSharedRead(makeStage({8, 16, 32}), makeTokens(), {0, 0}));
  EXPECT_TRUE(plan.ldmatrix);
  EXPECT_EQ(plan.vectorBytes, 16u);
  EXPECT_TRUE(plan.instruction.empty());
  EXPECT_TRUE(plan.getBankConflicts().isFree());
}

TEST_F(SharedAccessTest, plain_rows_conflict) {
  SharedReadPlan plan = llvm::cantFail(planSharedRead(makeStage({0, 0, 0}), makeTokens(), {0, 0}));
  EXPECT_TRUE(plan.ldmatrix);
  EXPECT_FALSE(plan.getBankConflicts().isFree());
  EXPECT_EQ(plan.getBankConflicts().wavefronts, 8 * plan.getBankConflicts().ideal);
}

TEST_F(SharedAccessTest, start_is_an_offset_in_the_stage) {
  SharedReadPlan plan =
      llvm::cantFail(planSharedRead(makeStage({8, 16, 32}), makeTokens(), {0, 32}));
  EXPECT_EQ(plan.start, 64u);
}

TEST_F(SharedAccessTest, packed_weights_are_sixteen_contiguous_bytes_a_lane) {
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

// Core matrices, which descriptors find, are what ldmatrix reads: one instruction brings a lane the
// 16 bytes that a product takes in registers. 8 rows further are 128 bytes, half a step 1024; a
// warp has 16 rows, and the second warpgroup the next chunk.
TEST_F(SharedAccessTest, core_matrices_are_fragments_by_ldmatrix) {
  const Atom &atom = *findAtom("wgmma_sp_rs_m64k32_f16");
  LinearLayout chunk =
      packedValuesLayout(PackOrder::Wgmma, /*sparse=*/true, 2).flattenIns("offset");
  std::vector<LinearLayout::Basis> bases;
  for (unsigned bit = 0; bit < chunk.getTotalInBits(); ++bit)
    bases.push_back(
        {chunk.getBasis("offset", bit, "feature"), chunk.getBasis("offset", bit, "kept")});
  bases.push_back({64, 0});
  LinearLayout stage({{"offset", bases}}, {{"dim0", 128}, {"dim1", 32}});
  auto ring = RingType::get(2, {128, 32}, Float16Type::get(&context),
                            LayoutAttr::fromLinearLayout(&context, stage, {}, {}));
  auto tile =
      TileType::get({128, 16}, Float16Type::get(&context),
                    LayoutAttr::fromLinearLayout(&context, atom.aLayout(16), {8, 1}, {0, -1}));
  SharedReadPlan plan = llvm::cantFail(planSharedRead(ring, tile, {0, 16}));
  EXPECT_TRUE(plan.ldmatrix);
  EXPECT_EQ(plan.vectorBytes, 16u);
  EXPECT_EQ(plan.lane, (SmallVector<uint32_t, 5>{16, 32, 64, 128, 1024}));
  EXPECT_TRUE(plan.instruction.empty());
  EXPECT_EQ(plan.warp[0], (SmallVector<uint32_t, 4>{256, 512, 4096}));
  EXPECT_EQ(plan.start, 2048u);
  EXPECT_TRUE(plan.getBankConflicts().isFree());
}

//===----------------------------------------------------------------------===//
// Descriptors
//===----------------------------------------------------------------------===//

// PTX ISA, 9.7.15.5.1, "Matrix Descriptor Format": bits 0 to 13 address, 16 to 29 leading and 32 to
// 45 stride byte offset, each in 16 bytes; bits 62 and 63 the swizzle: 0 none, 1 of 128 bytes.
uint64_t makeDescriptor(uint64_t swizzle, uint64_t leading, uint64_t stride) {
  return swizzle << 62 | stride / 16 << 32 | leading / 16 << 16;
}

struct DescriptorTest : SharedAccessTest {
  RingType makeRing(ArrayRef<int64_t> shape, unsigned elementBytes,
                    ArrayRef<LinearLayout::Basis> bases) {
    LinearLayout map({{"offset", std::vector<LinearLayout::Basis>(bases)}},
                     {{"dim0", uint64_t(shape[0])}, {"dim1", uint64_t(shape[1])}});
    return RingType::get(2, shape, getElement(elementBytes),
                         LayoutAttr::fromLinearLayout(&context, map, {}, {}));
  }
  Type getElement(unsigned bytes) {
    return bytes == 2 ? Type(Float16Type::get(&context)) : IntegerType::get(&context, 8);
  }

  /// A stage of x: panels of 128 bytes, whose 16-byte pieces are permuted by the row.
  RingType makeTokenStage(uint64_t tokens, uint64_t columns, unsigned bytes) {
    uint64_t panel = 128 / bytes;
    std::vector<LinearLayout::Basis> bases;
    for (uint64_t column = 1; column < panel; column *= 2)
      bases.push_back({0, column});
    for (uint64_t row = 1; row < tokens; row *= 2)
      bases.push_back({row, row < 8 ? row * 16 / bytes : 0});
    for (uint64_t column = panel; column < columns; column *= 2)
      bases.push_back({0, column});
    return makeRing({int64_t(tokens), int64_t(columns)}, bytes, bases);
  }

  /// A stage of packed values: chunks along k, then along features.
  RingType makeWeightStage(PackOrder order, bool sparse, unsigned bytes, int64_t features,
                           int64_t columns) {
    LinearLayout chunk = packedValuesLayout(order, sparse, bytes).flattenIns("offset");
    std::vector<LinearLayout::Basis> bases;
    StringRef column = sparse ? "kept" : "k";
    for (unsigned bit = 0; bit < chunk.getTotalInBits(); ++bit)
      bases.push_back(
          {chunk.getBasis("offset", bit, "feature"), chunk.getBasis("offset", bit, column)});
    for (int64_t c = chunk.getOutSize(column); c < columns; c *= 2)
      bases.push_back({0, uint64_t(c)});
    for (int64_t f = kPackedChunkFeatures; f < features; f *= 2)
      bases.push_back({uint64_t(f), 0});
    return makeRing({features, columns}, bytes, bases);
  }

  /// All rows of the stage from `start`, `columns` wide, by instructions that take all of them.
  llvm::Expected<DescriptorPlan> planTokens(RingType ring, ArrayRef<int64_t> start,
                                            int64_t columns) {
    int64_t tokens = ring.getShape()[0];
    std::vector<uint64_t> rowBases;
    for (int64_t row = 1; row < tokens; row *= 2)
      rowBases.push_back(row);
    return planDescriptor(ring, TileType::get({tokens, columns}, ring.getElementType()), start,
                          tokens, rowBases);
  }
  /// The same by instructions that take 64 rows each.
  llvm::Expected<DescriptorPlan> planWeights(RingType ring, ArrayRef<int64_t> start,
                                             int64_t columns) {
    return planDescriptor(ring, TileType::get({ring.getShape()[0], columns}, ring.getElementType()),
                          start, kPackedChunkFeatures, kWgmmaRowFeatures);
  }
  std::string expectError(llvm::Expected<DescriptorPlan> plan) {
    EXPECT_FALSE(plan);
    return llvm::toString(plan.takeError());
  }
};

// 8 rows of 128 bytes lie together; the leading offset is not used.
TEST_F(DescriptorTest, tokens_have_the_128_byte_swizzle) {
  for (unsigned bytes : {1u, 2u})
    for (uint64_t tokens : {16, 256}) {
      RingType ring = makeTokenStage(tokens, 128 / bytes, bytes);
      DescriptorPlan plan = llvm::cantFail(planTokens(ring, {0, 0}, 32 / bytes));
      EXPECT_EQ(plan.fields, makeDescriptor(/*swizzle=*/1, /*leading=*/16, /*stride=*/1024));
      EXPECT_EQ(plan.start, 0u);
      EXPECT_EQ(plan.warpgroupStride, 0u);
    }
}

TEST_F(DescriptorTest, steps_of_tokens_advance_in_the_row) {
  // A sparse step takes 64 bytes of a row.
  EXPECT_EQ(llvm::cantFail(planTokens(makeTokenStage(64, 64, 2), {0, 32}, 32)).start, 64u);
  EXPECT_EQ(llvm::cantFail(planTokens(makeTokenStage(64, 128, 1), {0, 64}, 64)).start, 64u);
  EXPECT_EQ(llvm::cantFail(planTokens(makeTokenStage(64, 64, 2), {0, 48}, 16)).start, 96u);
  // A second panel stands behind all rows of the first.
  EXPECT_EQ(llvm::cantFail(planTokens(makeTokenStage(64, 128, 2), {0, 96}, 32)).start,
            64u * 128 + 64);
}

TEST_F(DescriptorTest, eight_tokens_are_one_core_matrix_column) {
  DescriptorPlan plan = llvm::cantFail(planTokens(makeTokenStage(8, 64, 2), {0, 32}, 32));
  EXPECT_EQ(plan.fields, makeDescriptor(1, 16, 0));
}

TEST_F(DescriptorTest, weights_are_core_matrices_without_swizzle) {
  for (unsigned bytes : {1u, 2u})
    for (bool sparse : {false, true}) {
      int64_t columns = 128 / bytes / (sparse ? 2 : 1), step = 32 / bytes;
      uint32_t chunk = 64 * columns * bytes;
      RingType ring = makeWeightStage(PackOrder::Wgmma, sparse, bytes, 128, columns);
      for (int64_t i = 0; i < columns / step; ++i) {
        DescriptorPlan plan = llvm::cantFail(planWeights(ring, {0, i * step}, step));
        EXPECT_EQ(plan.fields, makeDescriptor(/*swizzle=*/0, /*leading=*/1024, /*stride=*/128));
        EXPECT_EQ(plan.start, i * 2048);
        // The second warpgroup's rows are the next chunk.
        EXPECT_EQ(plan.warpgroupStride, chunk);
      }
    }
}

TEST_F(DescriptorTest, one_chunk_of_features_has_one_warpgroup) {
  RingType ring = makeWeightStage(PackOrder::Wgmma, /*sparse=*/true, 2, 64, 32);
  EXPECT_EQ(llvm::cantFail(planWeights(ring, {0, 16}, 16)).warpgroupStride, 0u);
}

TEST_F(DescriptorTest, other_stages_are_refused) {
  const char *expected = "expected a stage of core matrices (8 rows of 16 bytes) at equal "
                         "distances, plain or with the 128-byte swizzle";
  // Rows of 128 bytes one below the other.
  EXPECT_EQ(expectError(planTokens(makeStage({0, 0, 0}), {0, 0}, 32)), expected);
  // Pieces permuted by another function of the row.
  EXPECT_EQ(expectError(planTokens(makeStage({16, 8, 32}), {0, 0}, 32)), expected);
  // The order of mma.sp.
  RingType fragments = makeWeightStage(PackOrder::Mma, /*sparse=*/true, 2, 64, 32);
  EXPECT_EQ(expectError(planWeights(fragments, {0, 0}, 16)), expected);
  // Core matrices whose distance doubles and then does not: rows 16 to 31 stand behind 32 to 63.
  std::vector<LinearLayout::Basis> bases = {{0, 1}, {0, 2}, {0, 4},  {2, 0},  {4, 0},
                                            {8, 0}, {1, 0}, {32, 0}, {16, 0}, {0, 8}};
  EXPECT_EQ(expectError(planWeights(makeRing({64, 16}, 2, bases), {0, 0}, 16)), expected);
}

TEST_F(SharedAccessTest, unassigned_layouts_are_an_error) {
  auto ring = RingType::get(2, {8, 64}, Float16Type::get(&context));
  llvm::Expected<SharedReadPlan> plan = planSharedRead(ring, makeTokens(), {0, 0});
  ASSERT_FALSE(plan);
  EXPECT_EQ(llvm::toString(plan.takeError()), "expected layouts to be assigned");
}

} // namespace
