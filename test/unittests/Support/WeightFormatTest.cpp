//===- WeightFormatTest.cpp - Any stored form of a weight -----------------===//

#include "sparseflow/Support/WeightFormat.h"

#include "sparseflow/Support/Sparse24.h"
#include "gtest/gtest.h"

#include <vector>

using namespace sparseflow;

namespace {

std::vector<char> makePruned(DType type, int64_t n, int64_t k) {
  std::vector<char> dense(size_t(n * k) * getByteWidth(type));
  for (int64_t i = 0; i < n * k; ++i)
    storeFromFloat(type, dense.data(), i, float(i * 7 % 31) - 15);
  llvm::cantFail(prune24(type, n, k, dense.data()));
  return dense;
}

TEST(WeightFormat, decoding_inverts_encoding_in_every_form) {
  for (DType type : {DType::f16, DType::bf16, DType::i8, DType::e4m3, DType::e5m2})
    for (bool isSparse : {false, true})
      for (std::optional<PackOrder> pack :
           {std::optional<PackOrder>(), std::optional(PackOrder::Mma),
            std::optional(PackOrder::Wgmma)}) {
        WeightFormat format{type, 70, 132, isSparse, pack};
        std::vector<char> dense = makePruned(type, format.n, format.k);
        std::vector<char> storage(format.storageBytes()), back(format.denseBytes());
        ASSERT_EQ(llvm::toString(encodeWeight(format, dense, storage)), "");
        ASSERT_EQ(llvm::toString(decodeWeight(format, {llvm::ArrayRef<char>(storage)}, back)), "");
        EXPECT_EQ(back, dense);

        llvm::ArrayRef<char> whole = storage;
        llvm::ArrayRef<char> pieces[] = {whole.take_front(format.valuesBytes()),
                                         whole.drop_front(format.valuesBytes())};
        std::fill(back.begin(), back.end(), 1);
        ASSERT_EQ(llvm::toString(decodeWeight(format, pieces, back)), "");
        EXPECT_EQ(back, dense);
      }
}

TEST(WeightFormat, storage_of_another_size_is_rejected) {
  WeightFormat format{DType::f16, 4, 8, true, std::nullopt};
  std::vector<char> storage(format.storageBytes() - 1), dense(format.denseBytes());
  EXPECT_EQ(llvm::toString(decodeWeight(format, {llvm::ArrayRef<char>(storage)}, dense)),
            "expected 32 bytes of elements and 4 of positions for a weight [4, 8] of f16, got 35 "
            "bytes in 1 piece(s)");
}

TEST(WeightFormat, sparse_form_of_a_dense_weight_is_rejected) {
  WeightFormat format{DType::i8, 1, 4, true, PackOrder::Mma};
  std::vector<char> dense = {1, 2, 3, 4}, storage(format.storageBytes());
  EXPECT_NE(llvm::toString(encodeWeight(format, dense, storage)), "");
}

} // namespace
