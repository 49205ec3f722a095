#pragma once
// Progress of a run for a person: one live line on a terminal; otherwise plain lines, at most one a
// second, or with -v one for every version.

#include <chrono>
#include <cstdint>
#include <string>

#include "espalier/base/log.h"
#include "espalier/engine/run.h"

namespace espalier {

/// "top-1 0.9876", or "perplexity 5.432" of a language model.
std::string quality(const Evaluation& evaluation);

class Progress {
 public:
  Progress(std::int64_t rounds, Verbosity verbosity);
  void version(const VersionReport& report);
  void evaluation(const Evaluation& evaluation);
  void warning(const std::string& text);

 private:
  double elapsed_s() const;

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::int64_t rounds_;
  bool is_live_, is_verbose_;
  std::string quality_;  // of the last evaluation, which may be of an earlier version
  std::int64_t evaluated_ = 0;
  double last_s_ = -1;  // when the last plain line was printed
};

}  // namespace espalier
