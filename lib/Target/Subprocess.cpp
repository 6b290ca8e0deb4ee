//===- Subprocess.cpp - Runs a program, keeps what it prints --------------===//
//
// posix_spawn, not fork: the host process may be large and have threads. The pipe closing is taken
// as the end of the program; a grandchild that keeps it open runs into the timeout like the rest.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Target/Subprocess.h"

#include "llvm/Support/Errno.h"
#include <cerrno>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

using namespace sparseflow::target;
using Clock = std::chrono::steady_clock;

extern char **environ;

static llvm::Error systemError(const llvm::Twine &what, int error) {
  return llvm::createStringError(what + ": " + llvm::sys::StrError(error));
}

/// Reads until the writers are gone. False: the deadline passed first.
static bool readUntil(int fd, Clock::time_point deadline, std::string &output) {
  char chunk[16384];
  while (true) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0)
      return false;
    pollfd waiting{fd, POLLIN, 0};
    int ready = poll(&waiting, 1, static_cast<int>(left.count()));
    if (ready < 0 && errno == EINTR)
      continue;
    if (ready <= 0)
      return false;
    ssize_t count = read(fd, chunk, sizeof(chunk));
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return true;
    output.append(chunk, count);
  }
}

llvm::Expected<SubprocessResult>
sparseflow::target::runSubprocess(llvm::ArrayRef<std::string> arguments, unsigned timeoutSeconds) {
  int pipeEnds[2];
  if (pipe2(pipeEnds, O_CLOEXEC) != 0)
    return systemError("cannot create a pipe", errno);

  std::vector<char *> argv;
  for (const std::string &argument : arguments)
    argv.push_back(const_cast<char *>(argument.c_str()));
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, pipeEnds[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, pipeEnds[1], STDERR_FILENO);
  // A group of its own, so that a shell wrapper and what it started are killed together.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);

  pid_t child = 0;
  int error = posix_spawn(&child, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(pipeEnds[1]);
  if (error) {
    close(pipeEnds[0]);
    return systemError("cannot run '" + arguments[0] + "'", error);
  }

  SubprocessResult result;
  bool finished =
      readUntil(pipeEnds[0], Clock::now() + std::chrono::seconds(timeoutSeconds), result.output);
  close(pipeEnds[0]);
  if (!finished)
    kill(-child, SIGKILL);
  int status = 0;
  pid_t waited;
  do
    waited = waitpid(child, &status, 0);
  while (waited < 0 && errno == EINTR);
  if (!finished)
    return llvm::createStringError("'" + arguments[0] + "' did not finish in " +
                                   llvm::Twine(timeoutSeconds) + " s and was stopped");
  // A host that ignores SIGCHLD reaps its children itself; the output then has to speak for it.
  if (waited == child)
    result.exitCode = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}
