#pragma once
// Requests to stop early: SIGUSR1 (Slurm, before the limit), SIGTERM, SIGINT, and a limit of wall
// time. The first request is kept for stop_request(); a second signal, a second or more later, ends
// the process at once.

#include <chrono>
#include <optional>
#include <string>

namespace espalier {

/// Until keep_stop_signals(): a signal ends the process at once with status 85, as nothing was
/// begun and the same command starts the run. A launcher gets this status, not that of a crash.
void end_at_stop_signals();
/// Keeps the signals for stop_request(). On a rank that `speaks`, a second signal prints what is
/// lost and ends the process, and with it the job; on other ranks it changes nothing.
void keep_stop_signals(bool speaks);
/// Sets what the message of a second signal says about the work that is lost.
void set_loss(const std::string& text);
/// Makes the wall limit a request from `moment` on.
void set_stop_time(std::chrono::steady_clock::time_point moment);
/// "SIGTERM", "the wall limit", or none: the first request.
std::optional<std::string> stop_request();

}  // namespace espalier
