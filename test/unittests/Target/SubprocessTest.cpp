//===- SubprocessTest.cpp - Programs that end well, badly and never -------===//
//
// The shell stands in for ptxas.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Target/Subprocess.h"
#include "gtest/gtest.h"
#include <chrono>

using namespace sparseflow::target;

static llvm::Expected<SubprocessResult> shell(std::string script, unsigned timeoutSeconds = 20) {
  return runSubprocess({"/bin/sh", "-c", std::move(script)}, timeoutSeconds);
}

TEST(Subprocess, keeps_both_streams_and_the_exit_code) {
  llvm::Expected<SubprocessResult> result = shell("echo out; echo err >&2; exit 3");
  ASSERT_TRUE(bool(result));
  EXPECT_EQ(result->output, "out\nerr\n");
  EXPECT_EQ(result->exitCode, 3);
}

TEST(Subprocess, more_output_than_a_pipe_holds) {
  llvm::Expected<SubprocessResult> result = shell("i=0; while [ $i -lt 20000 ]; do echo 0123456789;"
                                                  " i=$((i+1)); done");
  ASSERT_TRUE(bool(result));
  EXPECT_EQ(result->output.size(), 220000u);
}

TEST(Subprocess, a_signal_is_an_exit_code) {
  llvm::Expected<SubprocessResult> result = shell("kill -KILL $$");
  ASSERT_TRUE(bool(result));
  EXPECT_EQ(result->exitCode, 128 + 9);
}

TEST(Subprocess, stdin_is_empty) {
  llvm::Expected<SubprocessResult> result = shell("cat; echo end");
  ASSERT_TRUE(bool(result));
  EXPECT_EQ(result->output, "end\n");
}

TEST(Subprocess, a_program_that_hangs_is_stopped_with_its_children) {
  auto start = std::chrono::steady_clock::now();
  llvm::Expected<SubprocessResult> result = shell("sleep 60 & sleep 60", 1);
  EXPECT_EQ(llvm::toString(result.takeError()), "'/bin/sh' did not finish in 1 s and was stopped");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(Subprocess, a_program_that_is_not_there) {
  llvm::Expected<SubprocessResult> result = runSubprocess({"/nonexistent/ptxas"}, 5);
  EXPECT_EQ(llvm::toString(result.takeError()),
            "cannot run '/nonexistent/ptxas': No such file or directory");
}
