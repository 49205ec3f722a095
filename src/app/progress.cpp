#include "espalier/app/progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace espalier {
namespace {

/// mpirun gives every program a pseudo-terminal, so under mpirun a variable of tools/mpirun.sh says
/// whether the user has a terminal.
bool on_terminal() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr)
    return std::getenv("ESPALIER_TERMINAL") != nullptr;
  return isatty(STDOUT_FILENO) != 0;
}

/// "1:02:03", "2:03" minutes and seconds; "-" if unknown.
std::string clock_text(double seconds) {
  if (!(seconds >= 0 && seconds < 1e9)) return "-";
  const auto s = static_cast<std::int64_t>(seconds);
  return s < 3600 ? formatted("{}:{:02}", s / 60, s % 60)
                  : formatted("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

/// A row of the table: what is counted, its number, and the columns.
std::string row(const std::string& what, const std::string& number, std::size_t width,
                const std::string& loss, const std::string& virtual_s, const std::string& wall_s,
                const std::string& rate, const std::string& left, const std::string& quality) {
  std::string line = formatted("{:<7} {:>{}} {:>8} {:>11} {:>9} {:>8} {:>8}", what, number, width,
                               loss, virtual_s, wall_s, rate, left);
  if (!quality.empty()) return line + formatted("  {}", quality);
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

std::string quality_value(const Evaluation& e) {
  return std::isnan(e.perplexity) ? formatted("{:.4f}", e.top1) : formatted("{:.4g}", e.perplexity);
}

}  // namespace

std::string quality(const Evaluation& e) {
  return std::string(std::isnan(e.perplexity) ? "top-1 " : "perplexity ") + quality_value(e);
}

Progress::Progress(std::int64_t rounds, bool is_language, Verbosity verbosity)
    : rounds_(rounds),
      is_language_(is_language),
      is_live_(on_terminal() && verbosity == Verbosity::normal),
      is_verbose_(verbosity == Verbosity::verbose) {}

Progress::~Progress() { erase(); }

double Progress::elapsed_s() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

std::size_t Progress::width() const { return 2 * formatted("{}", rounds_).size() + 1; }

void Progress::head() {
  if (std::exchange(has_head_, true)) return;
  log_note(row("", "", width(), "loss", "virtual s", "wall s", "rounds/s", "left",
               is_language_ ? "perplexity" : "top-1"));
}

void Progress::erase() {
  if (std::exchange(live_, "").empty()) return;
  std::fputs("\r\033[K", stdout);
  std::fflush(stdout);
}

void Progress::show(const std::string& line) {
  constexpr std::size_t kMost = 79;  // a terminal cannot erase a line that it had to break
  live_ = line.substr(0, kMost);
  if (live_.empty()) return;
  std::printf("\r\033[K%s", live_.c_str());
  std::fflush(stdout);
}

/// Lets `print` write lines above the live line.
void Progress::above(const std::function<void()>& print) {
  const std::string line = live_;
  erase();
  print();
  std::fflush(stdout);  // warnings go to stderr
  show(line);
}

void Progress::version(const VersionReport& report) {
  above([&] { head(); });
  // A resumed run's time is that of its own rounds.
  if (first_ < 0) first_ = report.version - 1;
  const double rate = static_cast<double>(report.version - first_) / elapsed_s();
  const std::string line =
      row("round", formatted("{}/{}", report.version, rounds_), width(),
          formatted("{:.4f}", report.train_loss), formatted("{:.2f}", seconds(report.time)),
          formatted("{:.1f}", elapsed_s()), formatted("{:.3g}", rate),
          clock_text(static_cast<double>(rounds_ - report.version) / rate),
          quality_.empty() || evaluated_ == report.version
              ? quality_
              : formatted("{} (v{})", quality_, evaluated_));
  const bool is_due =
      is_verbose_ || elapsed_s() - last_s_ >= 1 || report.version == rounds_ || last_s_ < 0;
  if (is_due) last_s_ = elapsed_s();
  if (is_live_) {
    if (is_due) log_to_file(line);
    show(line);
  } else if (is_due) {
    log_note(line);
  }
}

void Progress::evaluation(const Evaluation& e) {
  quality_ = quality_value(e);
  evaluated_ = e.version;
  above([&] {
    head();
    log_note(row("version", formatted("{}", e.version), width(), formatted("{:.4f}", e.loss),
                 formatted("{:.2f}", seconds(e.time)), formatted("{:.1f}", elapsed_s()), "", "",
                 quality_));
  });
}

void Progress::warning(const std::string& text) {
  above([&] { log_warning(text); });
}

}  // namespace espalier
