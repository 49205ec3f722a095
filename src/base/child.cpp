#include "espalier/base/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>

#include "espalier/base/process_memory.h"

namespace espalier {
namespace {

/// Instead of a Status, in the first byte of an answer.
constexpr int kTooMuchMemory = 255;

/// Lowers a limit, never above one that is set already.
void limit(__rlimit_resource_t resource, std::int64_t most) {
  rlimit now{};
  if (getrlimit(resource, &now) != 0) return;
  now.rlim_cur = std::min(now.rlim_cur, static_cast<rlim_t>(most));
  setrlimit(resource, &now);
}

bool send(int to, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::write(to, text.data(), text.size());
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

std::string receive(int from) {
  std::string all;
  std::array<char, 1 << 16> part;
  while (true) {
    const ssize_t got = ::read(from, part.data(), part.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return all;
    all.append(part.data(), static_cast<std::size_t>(got));
  }
}

/// A first byte that says how the work ended, and its text.
std::string answer_of(const std::function<std::string()>& work) {
  const auto answer = [](int how, const std::string& text) {
    return static_cast<char>(how) + text;
  };
  try {
    return answer(static_cast<int>(Status::done), work());
  } catch (const Error& error) {
    return answer(static_cast<int>(error.status()), error.what());
  } catch (const std::bad_alloc&) {
    return answer(kTooMuchMemory, "");
  } catch (const std::length_error&) {  // of a container: a size that no memory has
    return answer(kTooMuchMemory, "");
  } catch (const std::exception& error) {
    return answer(static_cast<int>(Status::internal), error.what());
  }
}

[[noreturn]] void be_child(int to, pid_t parent, const ChildLimits& limits,
                           const std::function<std::string()>& work) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  for (const int stop : {SIGINT, SIGUSR1}) ::signal(stop, SIG_IGN);  // the parent's matter
  for (const int end : {SIGTERM, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) {
    ::signal(end, SIG_DFL);  // without the reports of MPI's handlers
  }
  // The C library writes what it finds before it ends a process.
  if (const int nowhere = ::open("/dev/null", O_WRONLY); nowhere >= 0) {
    ::dup2(nowhere, STDOUT_FILENO);
    ::dup2(nowhere, STDERR_FILENO);
  }
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_CPU, limits.cpu_s);
  limit(RLIMIT_AS, process_memory().addressed + limits.memory_bytes);
  ::_exit(send(to, answer_of(work)) ? 0 : 1);
}

int wait_for(pid_t child) {
  int state = 0;
  while (::waitpid(child, &state, 0) < 0 && errno == EINTR) {
  }
  return state;
}

[[noreturn]] void rethrow(Status status, const std::string& message) {
  switch (status) {
    case Status::bad_input:
      throw InputError(message);
    case Status::data:
      throw DataError(message);
    case Status::output:
      throw OutputError(message);
    default:
      throw Error(status, message);
  }
}

}  // namespace

ChildLimits limits_for(std::int64_t bytes) {
  return {5 + bytes / 1'000'000, (std::int64_t{1} << 30) + 8 * bytes};
}

std::string in_child(const std::filesystem::path& file, Status damaged, const ChildLimits& limits,
                     const std::function<std::string()>& work) {
  int ends[2];
  const pid_t parent = ::getpid();
  const bool piped = ::pipe2(ends, O_CLOEXEC) == 0;
  const pid_t child = piped ? ::fork() : -1;
  if (child < 0) {
    const int reason = errno;
    for (int i = 0; piped && i < 2; ++i) ::close(ends[i]);
    rethrow(damaged, formatted("cannot start a process that reads {}: {}", file.string(),
                               std::strerror(reason)));
  }
  if (child == 0) be_child(ends[1], parent, limits, work);
  ::close(ends[1]);
  std::string answer = receive(ends[0]);
  ::close(ends[0]);
  const int state = wait_for(child);
  const bool whole = WIFEXITED(state) && WEXITSTATUS(state) == 0 && !answer.empty();
  const int how = whole ? static_cast<unsigned char>(answer[0]) : 0;
  if (!whole || how == kTooMuchMemory) {
    const int signal = WIFSIGNALED(state) ? WTERMSIG(state) : 0;
    rethrow(damaged,
            formatted("{} is damaged: reading it {}", file.string(),
                      whole               ? "takes more memory than its size explains"
                      : signal == SIGXCPU ? "takes more time than its size explains"
                                          : formatted("crashes the library (signal {})", signal)));
  }
  answer.erase(0, 1);
  if (how == static_cast<int>(Status::done)) return answer;
  rethrow(static_cast<Status>(how), answer);
}

}  // namespace espalier
