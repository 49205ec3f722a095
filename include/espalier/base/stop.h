#pragma once
// Requests to stop early: SIGUSR1 (Slurm, before the limit), SIGTERM, SIGINT, and a limit of wall
// time. Before the run begins, the first one ends the process. Then it is kept for stop_request();
// a second signal, a second or more later, ends the process at once.

#include <chrono>
#include <optional>
#include <string>

namespace espalier {

/// The exit status of a run that was asked to stop: the same command goes on with it.
inline constexpr int kStoppedEarly = 85;

/// Holds SIGUSR1 back until one of the next two functions, because it would kill the process. For
/// the time before the rank is known.
void hold_stop_signals();
/// While nothing of the run is written: on a rank that `speaks`, a signal ends the process with
/// kStoppedEarly and a sentence, and with it the job; on other ranks SIGUSR1 changes nothing.
void end_at_stop_signals(bool speaks);
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
