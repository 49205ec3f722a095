#include "espalier/protocol/rounds/recorder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "espalier/base/units.h"
#include "espalier/protocol/rounds/tables.h"
#include "espalier/protocol/rounds/task_costs.h"

namespace espalier::rounds {
namespace {

Nanoseconds overlap(Nanoseconds a_begin, Nanoseconds a_end, Nanoseconds b_begin,
                    Nanoseconds b_end) {
  return std::max<Nanoseconds>(0, std::min(a_end, b_end) - std::max(a_begin, b_begin));
}

double mean_of_local(double sum, const EvaluationSums& local) {
  return local.samples > 0 ? sum / static_cast<double>(local.samples)
                           : std::numeric_limits<double>::quiet_NaN();
}

/// The description of a failure for the user; empty if the outcome is not a failure of the client.
std::string failure_of(Outcome outcome, std::int64_t needed, const DeviceClass& device) {
  switch (outcome) {
    case Outcome::out_of_memory:
      return formatted(
          "ran out of memory: {} needed, cap {}; it gets no submodel again that contains this one "
          "(give device.{} more memory_mb, or choose smaller widths)",
          megabytes(needed), megabytes(memory_bytes(device)), device.name);
    case Outcome::crashed:
      return "crashed during its task, which is lost (faults.crash)";
    case Outcome::rejected:
      return "sent values that are not finite: its update is rejected (lower train.lr, or set "
             "train.clip)";
    case Outcome::unavailable:
      return "vanished during its task, which is lost (faults.vanish)";
    case Outcome::merged:
    case Outcome::dropped_stale:
    case Outcome::unfinished:
      break;
  }
  return {};
}

Row sent_row(const Fleet& fleet, const SentTask& sent) {
  const ClientTask& task = sent.task;
  const Modes modes = fleet.modes_at(task.client, task.base_version);
  Row row(tasks_schema());
  row.set("task", task.task).set("client", task.client).set("base_version", task.base_version);
  row.set("mode", modes.speed).set("link_mode", modes.link);
  row.set("parameters", sent.buffer_layout->count(Kind::trainable)).set("share", sent.width);
  return row;
}

/// Bytes that the client sent: none if it failed, the head alone if it ran out of memory.
std::int64_t bytes_up_of(const Delivered& d) {
  if (!d.flight.is_answered) return 0;
  return d.arrival.result.out_of_memory ? answer_bytes() : d.flight.bytes_up;
}

Row task_row(const Fleet& fleet, const Delivered& d, std::int64_t version) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  const ClientResult& result = d.arrival.result;
  Row row = sent_row(fleet, d.sent);
  row.set("merged_version", d.outcome == Outcome::merged ? version : std::int64_t{-1})
      .set("staleness", d.staleness)
      .set("outcome", name_of(d.outcome))
      .set("sent_s", seconds(d.flight.sent))
      .set("finished_s", seconds(d.flight.finish))
      .set("download_s", seconds(d.flight.download))
      .set("compute_s", seconds(d.flight.compute))
      .set("upload_s", seconds(d.flight.upload))
      .set("server_s", seconds(d.flight.at_server()))
      .set("wall_compute_s", result.wall_compute_s)
      .set("behind_s", d.flight.behind ? seconds(*d.flight.behind) : kNone)
      .set("bytes_down", d.flight.bytes_down)
      .set("bytes_up", bytes_up_of(d))
      .set("duplicates", std::int64_t{d.sent.fault.twice && d.flight.is_answered ? 1 : 0})
      .set("state_bytes", static_cast<std::int64_t>(result.state.size()))
      .set("flops", d.flight.flops)
      .set("peak_bytes", result.peak_bytes)
      .set("search_peak_bytes", result.search_peak_bytes)
      .set("cap_bytes", result.cap_bytes)
      .set("asked_bytes", result.asked_bytes)
      .set("samples", result.samples)
      .set("steps", result.steps)
      .set("train_loss", result.train_loss)
      .set("local_loss", mean_of_local(result.local.loss, result.local))
      .set("local_top1", mean_of_local(static_cast<double>(result.local.top1), result.local))
      .set("weight", d.weight)
      .set("rank", static_cast<std::int64_t>(d.arrival.rank));
  return row;
}

/// Fraction of the window in which the clients that had a task in it were busy; NaN if the window
/// has no length.
double utilisation(const ClosedWindow& window) {
  std::map<std::int64_t, Nanoseconds> busy;  // per client
  for (const Delivered& d : window.delivered) {
    busy[d.sent.task.client] +=
        overlap(d.flight.leaves(), d.flight.arrives(), window.opened, window.closed);
  }
  for (const Flight& flight : window.outstanding) {
    busy[flight.endpoint] +=
        overlap(flight.leaves(), flight.done(window.closed), window.opened, window.closed);
  }
  Nanoseconds sum = 0;
  for (const auto& [client, time] : busy) sum += time;
  const auto length =
      static_cast<double>(window.closed - window.opened) * static_cast<double>(busy.size());
  return length > 0 ? static_cast<double>(sum) / length : std::numeric_limits<double>::quiet_NaN();
}

/// Sums over the tasks of a window.
struct Totals {
  std::int64_t merged = 0, stale = 0, dropped = 0, staleness_max = 0, peak_bytes = 0;
  std::int64_t bytes_down = 0, bytes_up = 0, samples = 0;
  double staleness_sum = 0, loss_sum = 0;

  double staleness_mean() const {
    return merged == 0 ? 0 : staleness_sum / static_cast<double>(merged);
  }
  double train_loss() const { return samples == 0 ? 0 : loss_sum / static_cast<double>(samples); }
};

Totals totals_of(const Experiment& experiment, const ServerRules& rules,
                 const ClosedWindow& window) {
  Totals t;
  for (const Delivered& d : window.delivered) {
    const ClientResult& result = d.arrival.result;
    t.peak_bytes = std::max(t.peak_bytes, result.peak_bytes);
    t.bytes_down += d.flight.bytes_down;
    t.bytes_up += bytes_up_of(d);
    if (d.outcome != Outcome::merged) {
      ++t.dropped;
      continue;
    }
    ++t.merged;
    t.stale += d.staleness > 0 ? 1 : 0;
    t.staleness_sum += static_cast<double>(d.staleness);
    t.staleness_max = std::max(t.staleness_max, d.staleness);
    // A search has no loss.
    const std::int64_t trained =
        d.sent.task.search > 0
            ? rules.tasks.search->training(experiment, d.sent.task.client).samples
            : result.samples;
    t.loss_sum += result.train_loss * static_cast<double>(trained);
    t.samples += trained;
  }
  return t;
}

}  // namespace

void RoundRecorder::record(const ClosedWindow& window, const Parameters& model) {
  for (const Delivered& d : window.delivered)
    run_.records().append(task_row(*experiment_.fleet, d, window.version));
  const Totals totals = totals_of(experiment_, rules_, window);
  const Coverage holders = coverage(experiment_, model.buffer_layout(), window.updates);
  ever_trained_.add(experiment_, model.buffer_layout(), window.updates);
  Row row(rounds_schema());
  row.set("round", window.version)
      .set("version", window.version)
      .set("virtual_time_s", seconds(window.closed))
      .set("wall_time_s", run_.elapsed_s())
      .set("updates_merged", totals.merged)
      .set("updates_stale", totals.stale)
      .set("updates_dropped", totals.dropped)
      .set("staleness_mean", totals.staleness_mean())
      .set("staleness_max", totals.staleness_max)
      .set("coverage_min", holders.minimum)
      .set("coverage_mean", holders.mean)
      .set("coverage_ever", ever_trained_.share())
      .set("agreement", with_agreement_ ? agreement(experiment_, model, window.updates)
                                        : std::numeric_limits<double>::quiet_NaN())
      .set("train_loss", totals.train_loss())
      .set("bytes_down", totals.bytes_down)
      .set("bytes_up", totals.bytes_up)
      .set("utilisation", utilisation(window))
      .set("server_busy_s", run_.busy_s())
      .set("checkpoint_s", run_.saving_s())
      .set("peak_client_bytes", totals.peak_bytes);
  run_.records().append(row);
  run_.records().flush(1.0);
  bytes_down_ += totals.bytes_down;
  bytes_up_ += totals.bytes_up;
  if (!std::isfinite(totals.train_loss())) {
    throw NotFiniteError(
        formatted("the training loss of round {} is not finite; lower train.lr or set train.clip",
                  window.version));
  }
  run_.report({window.version, window.closed, totals.train_loss()});
}

void RoundRecorder::record_failures(std::span<const Delivered> delivered, std::int64_t version) {
  for (const Delivered& d : delivered)
    run_.records().append(task_row(*experiment_.fleet, d, version));
  run_.records().flush();
}

void RoundRecorder::warn_of_failure(const Delivered& d) {
  const ClientTask& task = d.sent.task;
  const DeviceClass& device = experiment_.fleet->device(task.client);
  const Assignment assigned{task.submodel, d.sent.width, task.search};
  const std::int64_t needed =
      d.outcome == Outcome::out_of_memory
          ? assignment_peaks(experiment_, rules_.tasks, assigned, task.client).largest()
          : 0;
  const std::string text = failure_of(d.outcome, needed, device);
  if (text.empty() || !warned_.emplace(device.name, d.outcome).second) return;
  run_.warn(
      formatted("client {} ({}) {}. Further failures of this kind on {} are recorded in "
                "/tasks without a warning",
                task.client, device.name, text, device.name));
}

void RoundRecorder::record_unfinished(const SentTask& sent, const Flight& flight,
                                      std::int64_t version) {
  Row row = sent_row(*experiment_.fleet, sent);
  row.set("merged_version", std::int64_t{-1})
      .set("staleness", version - sent.task.base_version)
      .set("outcome", name_of(Outcome::unfinished))
      .set("sent_s", seconds(flight.sent))
      .set("finished_s", seconds(flight.arrives()))
      .set("download_s", seconds(flight.download))
      .set("compute_s", seconds(flight.compute))
      .set("upload_s", seconds(flight.upload))
      .set("server_s", seconds(flight.queued))
      .set("bytes_down", flight.bytes_down)
      .set("flops", flight.flops)
      .set("cap_bytes", memory_bytes(experiment_.fleet->device(sent.task.client)));
  run_.records().append(row);
}

std::string RoundRecorder::traffic() const {
  return formatted("up_mb={:.3f} down_mb={:.3f}", static_cast<double>(bytes_up_) * 1e-6,
                   static_cast<double>(bytes_down_) * 1e-6);
}

void RoundRecorder::archive(Archive& archive) {
  archive.value("bytes_up", bytes_up_);
  archive.value("bytes_down", bytes_down_);
  ever_trained_.archive(archive);
  // A resumed run does not warn of the same failures again.
  std::vector<std::pair<std::string, Outcome>> warned(warned_.begin(), warned_.end());
  archive_list(archive, "failures_told", warned, [](Archive& a, auto& item) {
    a.value("device", item.first);
    archive_outcome(a, item.second);
  });
  warned_ = {warned.begin(), warned.end()};
}

}  // namespace espalier::rounds
