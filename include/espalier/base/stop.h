#pragma once
// Requests to stop early: SIGUSR1 (Slurm, before the limit), SIGTERM, SIGINT, and a limit of wall
// time. The first request is kept until somebody looks; a second signal ends the process at once.

#include <chrono>
#include <optional>
#include <string>

namespace espalier {

/// From here on the signals are kept. On a rank that `speaks`, a second one says what is lost;
/// others leave it to that rank to end the job.
void keep_stop_signals(bool speaks);
/// What a second signal would lose, for its message.
void set_loss(const std::string& text);
/// The run is to stop at `moment`.
void set_stop_time(std::chrono::steady_clock::time_point moment);
/// "SIGTERM", "the wall limit", or none.
std::optional<std::string> stop_request();

}  // namespace espalier
