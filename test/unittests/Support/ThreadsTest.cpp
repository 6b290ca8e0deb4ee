//===- ThreadsTest.cpp - The same work on several threads -----------------===//

#include "sparseflow/Support/Threads.h"
#include "gtest/gtest.h"
#include <atomic>
#include <new>
#include <thread>

using namespace sparseflow;

TEST(Threads, all_work) {
  std::atomic<int> next{0}, done{0};
  runOnThreads(4, [&] {
    while (next++ < 1000)
      ++done;
  });
  EXPECT_EQ(done, 1000);
  runOnThreads(0, [&] { ++done; });
  EXPECT_EQ(done, 1001);
}

TEST(Threads, what_one_throws_reaches_the_caller_after_all_have_ended) {
  std::atomic<int> begun{0}, ended{0};
  EXPECT_THROW(runOnThreads(4,
                            [&] {
                              if (begun++ % 2)
                                throw std::bad_alloc();
                              std::this_thread::yield();
                              ++ended;
                            }),
               std::bad_alloc);
  EXPECT_EQ(begun, 4);
  EXPECT_EQ(ended, 2);
}
