#pragma once
// Times two pieces of work in alternation. A temporary slow-down of the machine affects both, and
// changes single pairs but not their median. Measures processor time, so one thread.

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

namespace espalier {

/// Seconds of processor time of each of `times` runs of `work`.
inline double seconds(const std::function<void()>& work, int times) {
  const auto now = [] {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const double start = now();
  for (int i = 0; i < times; ++i) work();
  return (now() - start) / times;
}

inline double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// The median of 15 ratios of first's to second's time, each over `times` runs. Prints both times
/// on stderr.
inline double time_ratio(const std::string& name, const std::function<void()>& first,
                         const std::function<void()>& second, int times) {
  constexpr int kPairs = 15;
  seconds(first, times);
  seconds(second, times);
  std::vector<double> ratios, of_first, of_second;
  for (int pair = 0; pair < kPairs; ++pair) {
    of_first.push_back(seconds(first, times));
    of_second.push_back(seconds(second, times));
    ratios.push_back(of_first.back() / of_second.back());
  }
  std::fprintf(stderr, "%s: %.3f ms against %.3f ms\n", name.c_str(), 1e3 * median(of_first),
               1e3 * median(of_second));
  return median(ratios);
}

/// The line that tools/bench.sh reads.
inline bool report(const std::string& name, double measured, double bar, bool at_least = false) {
  const bool pass = at_least ? measured >= bar : measured <= bar;
  std::printf("%s\t%.3f\t%s %.2f\t%s\n", name.c_str(), measured, at_least ? ">=" : "<=", bar,
              pass ? "pass" : "miss");
  std::fflush(stdout);
  return pass;
}

}  // namespace espalier
