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
