#include "espalier/base/stop.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace espalier {
namespace {

constexpr int kSignals[] = {SIGUSR1, SIGTERM, SIGINT};

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

const char* name_of(int number) {
  return number == SIGUSR1 ? "SIGUSR1" : number == SIGTERM ? "SIGTERM" : "SIGINT";
}

void before_the_run(int number) {
  for (const char* part : {"stopped by ", name_of(number),
                           " before the run began; nothing was written, start again to run\n"}) {
    [[maybe_unused]] const auto written = write(STDERR_FILENO, part, std::strlen(part));
  }
  _exit(kStoppedEarly);
}

void handle(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  for (const int number : kSignals) sigaddset(&action.sa_mask, number);
  for (const int number : kSignals) sigaction(number, &action, nullptr);
}

/// SIGUSR1 alone: while the other two are held back, a start that hangs could not be ended.
void hold(int how) {
  sigset_t held;
  sigemptyset(&held);
  sigaddset(&held, SIGUSR1);
  sigprocmask(how, &held, nullptr);
}

}  // namespace

void hold_stop_signals() { hold(SIG_BLOCK); }

void end_at_stop_signals(bool speaks) {
  if (speaks) {
    handle(before_the_run);
  } else {
    signal(SIGUSR1, SIG_IGN);
  }
  hold(SIG_UNBLOCK);
}

void keep_stop_signals(bool speaks) {
  speaks_here = speaks ? 1 : 0;
  handle(on_signal);
  hold(SIG_UNBLOCK);
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
