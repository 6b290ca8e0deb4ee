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

TEST(Subprocess, KeepsBothStreamsAndTheExitCode) {
  llvm::Expected<SubprocessResult> result = shell("echo out; echo err >&2; exit 3");
  ASSERT_TRUE(bool(result));
  EXPECT_EQ(result->output, "out\nerr\n");
  EXPECT_EQ(result->exitCode, 3);
}

TEST(Subprocess, MoreOutputThanAPipeHolds) {
  llvm::Expected<SubprocessResult> result = shell("i=0; while [ $i -lt 20000 ]; do echo 0123456789;"
                                                  " i=$((i+1)); done");
  ASSERT_TRUE(bool(result));
  EXPECT_EQ(result->output.size(), 220000u);
}

TEST(Subprocess, ASignalIsAnExitCode) {
  llvm::Expected<SubprocessResult> result = shell("kill -KILL $$");
  ASSERT_TRUE(bool(result));
  EXPECT_EQ(result->exitCode, 128 + 9);
}

TEST(Subprocess, StdinIsEmpty) {
  llvm::Expected<SubprocessResult> result = shell("cat; echo end");
  ASSERT_TRUE(bool(result));
  EXPECT_EQ(result->output, "end\n");
}

TEST(Subprocess, AProgramThatHangsIsStoppedWithItsChildren) {
  auto start = std::chrono::steady_clock::now();
  llvm::Expected<SubprocessResult> result = shell("sleep 60 & sleep 60", 1);
  EXPECT_EQ(llvm::toString(result.takeError()), "'/bin/sh' did not finish in 1 s and was stopped");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(Subprocess, AProgramThatIsNotThere) {
  llvm::Expected<SubprocessResult> result = runSubprocess({"/nonexistent/ptxas"}, 5);
  EXPECT_EQ(llvm::toString(result.takeError()),
            "cannot run '/nonexistent/ptxas': No such file or directory");
}
