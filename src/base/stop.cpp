#include "espalier/base/stop.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "espalier/base/error.h"

namespace espalier {
namespace {

// A signal handler writes these, so their types are those that it may write.
volatile sig_atomic_t the_signal = 0;
volatile sig_atomic_t speaks_here = 0;
timespec the_first = {};
char the_loss[256] = "stopped at once\n";

std::optional<std::chrono::steady_clock::time_point> the_limit;

// `timeout` signals the process and then its whole group, and so do a terminal and a launcher.
bool is_echo() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const auto seconds = now.tv_sec - the_first.tv_sec;
  return seconds < 1 || (seconds == 1 && now.tv_nsec < the_first.tv_nsec);
}

void on_signal(int number) {
  if (the_signal == 0) {
    clock_gettime(CLOCK_MONOTONIC, &the_first);
    the_signal = number;
    return;
  }
  if (speaks_here == 0 || is_echo()) return;
  [[maybe_unused]] const auto written = write(STDERR_FILENO, the_loss, std::strlen(the_loss));
  _exit(128 + number);
}

void on_early_signal(int) {
  static constexpr char kText[] = "stopped before the run began; start again to run it\n";
  if (speaks_here != 0) {
    [[maybe_unused]] const auto written = write(STDERR_FILENO, kText, sizeof(kText) - 1);
  }
  _exit(static_cast<int>(Status::stopped));
}

/// Whether this process is rank 0, which MPI cannot tell before it has started.
bool is_first_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK"}) {
    if (const char* rank = std::getenv(name)) return std::strcmp(rank, "0") == 0;
  }
  return true;
}

void handle(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  for (const int number : {SIGUSR1, SIGTERM, SIGINT}) sigaddset(&action.sa_mask, number);
  for (const int number : {SIGUSR1, SIGTERM, SIGINT}) sigaction(number, &action, nullptr);
}

const char* name_of(int number) {
  return number == SIGUSR1 ? "SIGUSR1" : number == SIGTERM ? "SIGTERM" : "SIGINT";
}

}  // namespace

void end_at_stop_signals() {
  speaks_here = is_first_rank() ? 1 : 0;
  handle(on_early_signal);
}

void keep_stop_signals(bool speaks) {
  speaks_here = speaks ? 1 : 0;
  handle(on_signal);
}

void set_loss(const std::string& text) {
  const std::string line = "stopped at once; " + text + "\n";
  const std::size_t length = std::min(line.size(), sizeof(the_loss) - 1);
  std::memcpy(the_loss, line.data(), length);
  the_loss[length] = '\0';
}

void set_stop_time(std::chrono::steady_clock::time_point moment) { the_limit = moment; }

std::optional<std::string> stop_request() {
  if (the_signal != 0) return name_of(the_signal);
  if (the_limit && std::chrono::steady_clock::now() >= *the_limit) return "the wall limit";
  return std::nullopt;
}

}  // namespace espalier
