#pragma once
// Progress of a run for a person: a table under one header, with a row for every evaluation. On a
// terminal the newest round is one live line below it; otherwise rounds are rows too, at most one a
// second, or with -v every one. The log has the rows of rounds in both cases.

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "espalier/base/log.h"
#include "espalier/engine/run.h"

namespace espalier {

/// "top-1 0.9876", or "perplexity 5.432" of a language model.
std::string quality(const Evaluation& evaluation);

class Progress {
 public:
  Progress(std::int64_t rounds, bool is_language, Verbosity verbosity);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void version(const VersionReport& report);
  void evaluation(const Evaluation& evaluation);
  void warning(const std::string& text);
  /// Erases the live line, for other lines or the end.
  void erase();

 private:
  double elapsed_s() const;
  std::size_t width() const;
  void head();
  void show(const std::string& line);
  void above(const std::function<void()>& print);

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::int64_t rounds_;
  bool is_language_, is_live_, is_verbose_;
  bool has_head_ = false;
  std::string live_;     // the line that is shown and not ended
  std::string quality_;  // of the last evaluation, which may be of an earlier version
  std::int64_t evaluated_ = 0;
  std::int64_t first_ = -1;  // the version before the first report
  double last_s_ = -1;       // when the last row was written
};

}  // namespace espalier
