#include "espalier/base/stop.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <thread>

namespace espalier {
namespace {

void signal_at(std::initializer_list<int> moments_ms) {
  keep_stop_signals(true);
  set_loss("version 8 is lost");
  int now_ms = 0;
  for (const int moment_ms : moments_ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(moment_ms - now_ms));
    now_ms = moment_ms;
    std::raise(SIGTERM);
  }
  _exit(stop_request() == "SIGTERM" ? 0 : 1);
}

TEST(Stop, SignalsWithinASecondAreOne) {
  EXPECT_EXIT(signal_at({0, 0, 10}), testing::ExitedWithCode(0), "^$");
}

TEST(Stop, ASecondSignalEndsTheProcessWithItsStatus) {
  EXPECT_EXIT(signal_at({0, 0, 1100}), testing::ExitedWithCode(128 + SIGTERM),
              "stopped at once; version 8 is lost");
}

TEST(Stop, BeforeTheRunBeginsASignalEndsTheProcessThatSpeaks) {
  const auto signalled = [](bool speaks, int number) {
    hold_stop_signals();
    if (number == SIGUSR1) std::raise(number);
    end_at_stop_signals(speaks);
    std::raise(number);
    _exit(7);
  };
  for (const int number : {SIGUSR1, SIGINT, SIGTERM}) {
    EXPECT_EXIT(signalled(true, number), testing::ExitedWithCode(kStoppedEarly),
                "^stopped by SIG[A-Z1]+ before the run began; nothing was written");
  }
  EXPECT_EXIT(signalled(false, SIGUSR1), testing::ExitedWithCode(7), "^$");
}

TEST(Stop, ARequestThatWasHeldBackIsKept) {
  const auto signalled = [] {
    hold_stop_signals();
    std::raise(SIGUSR1);
    keep_stop_signals(true);
    _exit(stop_request() == "SIGUSR1" ? 0 : 1);
  };
  EXPECT_EXIT(signalled(), testing::ExitedWithCode(0), "^$");
}

}  // namespace
}  // namespace espalier
