// What runs on GPUs that the table of chips does not have.
#include "sparseflow/Target/Chip.h"
#include "gtest/gtest.h"

using namespace sparseflow::target;

TEST(Chip, a_known_gpu_runs_its_own) {
  for (const Chip &chip : sparseflow::sf::getChips())
    EXPECT_EQ(findNewestRunnable(chip.computeCapability)->computeCapability, chip.computeCapability)
        << chip.name.str();
}

TEST(Chip, a_newer_gpu_runs_the_newest_of_the_older) {
  EXPECT_EQ(findNewestRunnable(88)->name, "sm_87");
  EXPECT_EQ(findNewestRunnable(92)->name, "sm_90");
  EXPECT_EQ(findNewestRunnable(103)->name, "sm_100");
  EXPECT_EQ(findNewestRunnable(121)->name, "sm_120");
  EXPECT_EQ(findNewestRunnable(999)->name, "sm_120");
}

TEST(Chip, kernels_of_one_chip_alone_are_chosen_there) {
  EXPECT_EQ(findNewestRunnable(90)->name, "sm_90a");
}

TEST(Chip, an_older_gpu_runs_none) { EXPECT_EQ(findNewestRunnable(75), nullptr); }

TEST(Chip, an_old_chip_is_told_apart_from_a_misspelled_one) {
  EXPECT_NE(llvm::toString(findChip("sm_75").takeError()).find("no 2:4 sparse tensor cores"),
            std::string::npos);
  EXPECT_NE(llvm::toString(findChip("sm90").takeError()).find("unknown target 'sm90'"),
            std::string::npos);
}

TEST(Chip, what_a_multiprocessor_holds) {
  const Chip &a100 = *llvm::cantFail(findChip("sm_80")),
             &rtx3090 = *llvm::cantFail(findChip("sm_86"));
  using sparseflow::sf::getResidentBlocks;
  EXPECT_EQ(getResidentBlocks(a100, 128, 0, 0), 16); // threads
  EXPECT_EQ(getResidentBlocks(rtx3090, 128, 0, 0), 12);
  EXPECT_EQ(getResidentBlocks(a100, 32, 16, 0), 32); // blocks
  EXPECT_EQ(getResidentBlocks(rtx3090, 32, 16, 0), 16);
  EXPECT_EQ(getResidentBlocks(a100, 256, 97, 0), 2); // registers: 104 a thread
  EXPECT_EQ(getResidentBlocks(a100, 33, 128, 0), 8); // two warps
  EXPECT_EQ(getResidentBlocks(a100, 512, 255, 0), 0);
  EXPECT_EQ(getResidentBlocks(a100, 128, 32, 40960), 4); // shared memory
}
