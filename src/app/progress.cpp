#include "espalier/app/progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace espalier {
namespace {

/// mpirun gives every program a pseudo-terminal, so under mpirun a variable of tools/mpirun.sh says
/// whether the user has a terminal.
bool on_terminal() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr)
    return std::getenv("ESPALIER_TERMINAL") != nullptr;
  return isatty(STDOUT_FILENO) != 0;
}

void clear_line() {
  std::printf("\r\033[K");
  std::fflush(stdout);
}

}  // namespace

std::string quality(const Evaluation& e) {
  return std::isnan(e.perplexity) ? formatted("top-1 {:.4f}", e.top1)
                                  : formatted("perplexity {:.4g}", e.perplexity);
}

Progress::Progress(std::int64_t rounds, Verbosity verbosity)
    : rounds_(rounds),
      is_live_(on_terminal() && verbosity == Verbosity::normal),
      is_verbose_(verbosity == Verbosity::verbose) {}

double Progress::elapsed_s() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Progress::version(const VersionReport& report) {
  const std::string line =
      formatted("round {:>5}/{}   loss {:.4f}   virtual {:>9.1f} s   {:>6.1f} s{}", report.version,
                rounds_, report.train_loss, seconds(report.time), elapsed_s(),
                quality_.empty() ? "" : formatted("   (version {}: {})", evaluated_, quality_));
  if (is_live_) {
    std::printf("\r\033[K%s", line.c_str());
    std::fflush(stdout);
  } else if (is_verbose_ || elapsed_s() - last_s_ >= 1 || report.version == rounds_) {
    last_s_ = elapsed_s();
    log_note(line);
  }
}

void Progress::evaluation(const Evaluation& e) {
  quality_ = quality(e);
  evaluated_ = e.version;
  if (is_live_) clear_line();
  log_note(formatted("version {:>3}       loss {:.4f}   virtual {:>9.1f} s   {:>6.1f} s   {}",
                     e.version, e.loss, seconds(e.time), elapsed_s(), quality_));
}

void Progress::warning(const std::string& text) {
  if (is_live_) clear_line();
  std::fflush(stdout);  // warnings go to stderr
  log_warning(text);
}

}  // namespace espalier
