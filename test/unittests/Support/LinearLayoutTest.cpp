//===- LinearLayoutTest.cpp - The algebra of layouts ----------------------===//

#include "sparseflow/Support/LinearLayout.h"

#include "gtest/gtest.h"

using namespace sparseflow;

namespace {

/// Four 16-byte chunks a row, four rows, chunk index XORed with the row.
LinearLayout makeSwizzle() {
  return LinearLayout({{"chunk", {{1}, {2}}}, {"row", {{5}, {10}}}}, {{"offset", 16}});
}

std::string messageOf(llvm::Expected<LinearLayout> layout) {
  return layout ? std::string() : llvm::toString(layout.takeError());
}

TEST(LinearLayout, applies_the_header_example) {
  LinearLayout swizzle = makeSwizzle();
  EXPECT_EQ(swizzle.apply({{"chunk", 3}, {"row", 1}}, "offset"), 6u);
  EXPECT_EQ(swizzle.toString(), "{chunk: [1] [2]; row: [5] [10]} -> {offset: 16}");
}

TEST(LinearLayout, dimension_left_out_is_at_zero) {
  EXPECT_EQ(makeSwizzle().apply({{"row", 3}}, "offset"), 15u);
  EXPECT_EQ(makeSwizzle().apply({}, "offset"), 0u);
}

TEST(LinearLayout, flat_index_has_the_first_dimension_in_its_low_bits) {
  LinearLayout swizzle = makeSwizzle();
  for (uint64_t chunk = 0; chunk < 4; ++chunk)
    for (uint64_t row = 0; row < 4; ++row)
      EXPECT_EQ(swizzle.applyFlat(chunk | row << 2),
                swizzle.apply({{"row", row}, {"chunk", chunk}}, "offset"));
}

TEST(LinearLayout, create_rejects_bad_bases) {
  EXPECT_EQ(messageOf(LinearLayout::create({}, {{"a", 3}})),
            "expected a power of two as the size of output dimension 'a', got 3");
  EXPECT_EQ(messageOf(LinearLayout::create({{"x", {{1, 0}}}}, {{"a", 4}})),
            "expected 1 coordinates in a basis of input dimension 'x', got 2");
  EXPECT_EQ(messageOf(LinearLayout::create({{"x", {{4}}}}, {{"a", 4}})),
            "expected a coordinate below 4 of output dimension 'a', got 4 in a basis of 'x'");
  EXPECT_EQ(messageOf(LinearLayout::create({{"x", {}}, {"x", {}}}, {})),
            "expected distinct input dimensions, got 'x' twice");
  EXPECT_EQ(messageOf(LinearLayout::create({}, {{"a", 2}, {"a", 2}})),
            "expected distinct output dimensions, got 'a' twice");
  EXPECT_EQ(
      messageOf(LinearLayout::create({}, {{"a", uint64_t(1) << 40}, {"b", uint64_t(1) << 40}})),
      "expected at most 64 output bits, got 80");
}

TEST(LinearLayout, product_puts_outer_bits_above_inner_ones) {
  LinearLayout registers({{"register", {{1}, {2}}}}, {{"k", 4}});
  LinearLayout lanes({{"lane", {{1}, {2}, {4}}}}, {{"row", 8}});
  LinearLayout tile = registers * lanes * LinearLayout({{"register", {{1}}}}, {{"row", 2}});
  EXPECT_EQ(tile.getInSize("register"), 8u);
  EXPECT_EQ(tile.getOutSize("row"), 16u);
  EXPECT_EQ(tile.apply({{"register", 4}}, "row"), 8u);
  EXPECT_EQ(tile.apply({{"register", 3}, {"lane", 5}}, "k"), 3u);
  EXPECT_TRUE(tile.isBijective());
}

TEST(LinearLayout, product_with_the_empty_layout_changes_nothing) {
  EXPECT_EQ(LinearLayout() * makeSwizzle(), makeSwizzle());
  EXPECT_EQ(makeSwizzle() * LinearLayout(), makeSwizzle());
}

TEST(LinearLayout, composition_applies_one_after_the_other) {
  LinearLayout swizzle = makeSwizzle();
  LinearLayout reverse({{"offset", {{8}, {4}, {2}, {1}}}}, {{"address", 16}});
  LinearLayout both = swizzle.compose(reverse);
  for (uint64_t index = 0; index < 16; ++index)
    EXPECT_EQ(both.applyFlat(index), reverse.applyFlat(swizzle.applyFlat(index)));
}

TEST(LinearLayout, composition_matches_dimensions_by_name) {
  LinearLayout first({{"x", {{1, 0}, {0, 1}}}}, {{"a", 2}, {"b", 2}});
  LinearLayout second({{"b", {{1}}}, {"a", {{2}}}}, {{"y", 4}});
  LinearLayout both = first.compose(second);
  EXPECT_EQ(both.apply({{"x", 1}}, "y"), 2u);
  EXPECT_EQ(both.apply({{"x", 2}}, "y"), 1u);
}

TEST(LinearLayout, inverse_undoes_a_bijection) {
  LinearLayout swizzle = makeSwizzle();
  ASSERT_TRUE(swizzle.isBijective());
  LinearLayout identity = swizzle.compose(swizzle.invert());
  for (uint64_t index = 0; index < 16; ++index)
    EXPECT_EQ(identity.applyFlat(index), index);
}

TEST(LinearLayout, pseudo_inverse_is_a_right_inverse_with_free_bits_at_zero) {
  LinearLayout broadcast({{"lane", {{1}, {0}, {3}, {2}}}}, {{"row", 4}});
  EXPECT_FALSE(broadcast.isBijective());
  LinearLayout inverse = broadcast.pseudoInvert();
  for (uint64_t row = 0; row < 4; ++row) {
    EXPECT_EQ(broadcast.applyFlat(inverse.applyFlat(row)), row);
    EXPECT_EQ(inverse.applyFlat(row) & 0b1010u, 0u);
  }
}

TEST(LinearLayout, pseudo_inverse_of_a_partial_cover_inverts_what_is_covered) {
  LinearLayout partial({{"x", {{6}, {5}}}}, {{"y", 8}});
  EXPECT_FALSE(partial.isBijective());
  EXPECT_EQ(partial.getRank(), 2u);
  LinearLayout inverse = partial.pseudoInvert();
  for (uint64_t x = 0; x < 4; ++x)
    EXPECT_EQ(inverse.applyFlat(partial.applyFlat(x)), x);
}

TEST(LinearLayout, sublayout_keeps_the_named_dimensions) {
  LinearLayout layout({{"x", {{1, 0}, {0, 1}}}, {"y", {{2, 2}}}}, {{"a", 4}, {"b", 4}});
  LinearLayout part = layout.sublayout({"y"}, {"b"});
  EXPECT_EQ(part.toString(), "{y: [2]} -> {b: 4}");
}

TEST(LinearLayout, transposing_and_back_is_the_identity) {
  LinearLayout layout({{"x", {{1, 0}, {0, 1}}}, {"y", {{2, 2}}}}, {{"a", 4}, {"b", 4}});
  EXPECT_NE(layout.transposeOuts({"b", "a"}), layout);
  EXPECT_EQ(layout.transposeOuts({"b", "a"}).transposeOuts({"a", "b"}), layout);
  EXPECT_EQ(layout.transposeOuts({"b", "a"}).apply({{"y", 1}, {"x", 2}}, "b"), 3u);
}

TEST(LinearLayout, flattening_and_renaming_keep_the_flat_map) {
  LinearLayout flat = makeSwizzle().flattenIns("index").renameOut("offset", "byte");
  EXPECT_EQ(flat.toString(), "{index: [1] [2] [5] [10]} -> {byte: 16}");
}

TEST(LinearLayout, contiguous_bits_need_alignment) {
  LinearLayout vector({{"elem", {{1}, {2}, {4}}}, {"lane", {{8}}}}, {{"offset", 16}});
  EXPECT_EQ(vector.getContiguousBits("elem", "offset"), 3u);
  LinearLayout broken({{"elem", {{1}, {2}, {4}}}, {"lane", {{9}}}}, {{"offset", 16}});
  EXPECT_EQ(broken.getContiguousBits("elem", "offset"), 0u) << "the lane moves the first bit";
  EXPECT_EQ(makeSwizzle().getContiguousBits("row", "offset"), 0u);
}

TEST(LinearLayout, equality_and_hash_see_names_and_bases) {
  EXPECT_EQ(makeSwizzle(), makeSwizzle());
  EXPECT_EQ(hash_value(makeSwizzle()), hash_value(makeSwizzle()));
  EXPECT_NE(makeSwizzle(), makeSwizzle().renameOut("offset", "byte"));
  EXPECT_NE(hash_value(makeSwizzle()), hash_value(makeSwizzle().renameOut("offset", "byte")));
}

//===----------------------------------------------------------------------===//
// Shared memory
//===----------------------------------------------------------------------===//

LinearLayout lanes(std::vector<LinearLayout::Basis> bases) {
  return LinearLayout({{"lane", std::move(bases)}}, {{"offset", 65536}});
}

TEST(BankConflicts, contiguous_lanes_are_free) {
  for (unsigned bytes : {4u, 8u, 16u}) {
    BankConflicts result =
        bankConflicts(lanes({{bytes}, {bytes * 2}, {bytes * 4}, {bytes * 8}, {bytes * 16}}), bytes);
    EXPECT_EQ(result.ideal, bytes / 4);
    EXPECT_TRUE(result.isFree());
  }
}

TEST(BankConflicts, column_of_a_128_byte_row_serializes) {
  EXPECT_EQ(bankConflicts(lanes({{128}, {256}, {512}, {1024}, {2048}}), 4).wavefronts, 32u);
  EXPECT_EQ(bankConflicts(lanes({{128}, {256}, {512}, {16}, {32}}), 16).wavefronts, 32u);
}

TEST(BankConflicts, xor_swizzle_frees_the_column) {
  EXPECT_TRUE(bankConflicts(lanes({{128 + 16}, {256 + 32}, {512 + 64}, {16}, {32}}), 16).isFree());
}

TEST(BankConflicts, lanes_that_read_one_word_share_it) {
  EXPECT_TRUE(bankConflicts(lanes({{0}, {0}, {0}, {0}, {0}}), 4).isFree());
  EXPECT_EQ(bankConflicts(lanes({{0}, {0}, {0}, {128}, {0}}), 4).wavefronts, 2u);
}

} // namespace
