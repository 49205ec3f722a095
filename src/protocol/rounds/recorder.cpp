#include "espalier/protocol/rounds/recorder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "espalier/protocol/rounds/catalogue.h"
#include "espalier/protocol/rounds/merge.h"
#include "espalier/protocol/rounds/tables.h"

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
          "ran out of memory: {:.3f} MB needed, cap {:.3f} MB; it does not get this submodel again "
          "(give device.{} more memory_mb, or choose smaller widths)",
          static_cast<double>(needed) * 1e-6, device.memory_mb, device.name);
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

Row sent_row(const ClientTask& task, std::int64_t parameters) {
  Row row(tasks_schema());
  row.set("task", task.task).set("client", task.client).set("base_version", task.base_version);
  row.set("parameters", parameters);
  return row;
}

}  // namespace

void RoundRecorder::record(const ClosedWindow& window, const BufferLayout& model) {
  const auto& [version, opened, closed, delivered, updates, outstanding] = window;
  std::int64_t merged = 0, stale = 0, dropped = 0, staleness_max = 0, peak = 0;
  std::int64_t bytes_down = 0, bytes_up = 0, samples = 0;
  double staleness_sum = 0, loss_sum = 0;
  std::map<std::int64_t, Nanoseconds> busy;  // per client, within the window
  for (const Delivered& d : delivered) {
    const ClientResult& result = d.arrival.result;
    const bool is_merged = d.outcome == Outcome::merged;
    if (is_merged) {
      ++merged;
      stale += d.staleness > 0 ? 1 : 0;
      staleness_sum += static_cast<double>(d.staleness);
      staleness_max = std::max(staleness_max, d.staleness);
      // A search has no loss.
      const std::int64_t trained =
          d.sent.task.search > 0 ? rules_.search->training(experiment_, d.sent.task.client).samples
                                 : result.samples;
      loss_sum += result.train_loss * static_cast<double>(trained);
      samples += trained;
    } else {
      ++dropped;
    }
    peak = std::max(peak, result.peak_bytes);
    bytes_down += d.flight.bytes_down;
    const std::int64_t up = !d.flight.is_answered  ? 0
                            : result.out_of_memory ? answer_bytes()
                                                   : d.flight.bytes_up;
    bytes_up += up;
    busy[d.sent.task.client] += overlap(d.flight.leaves(), d.flight.arrives(), opened, closed);
    Row row = sent_row(d.sent.task, d.sent.buffer_layout->count(Kind::trainable));
    row.set("merged_version", is_merged ? version : std::int64_t{-1})
        .set("staleness", d.staleness)
        .set("outcome", name_of(d.outcome))
        .set("sent_s", seconds(d.flight.sent))
        .set("finished_s", seconds(d.flight.finish))
        .set("download_s", seconds(d.flight.download))
        .set("compute_s", seconds(d.flight.compute))
        .set("upload_s", seconds(d.flight.upload))
        .set("server_s", seconds(d.flight.at_server()))
        .set("wall_compute_s", result.wall_compute_s)
        .set("behind_s",
             d.flight.behind ? seconds(*d.flight.behind) : std::numeric_limits<double>::quiet_NaN())
        .set("bytes_down", d.flight.bytes_down)
        .set("bytes_up", up)
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
        .set("share", d.sent.width)
        .set("rank", static_cast<std::int64_t>(d.arrival.rank));
    run_.records().append(row);
  }
  for (const Flight& flight : outstanding) {
    busy[flight.endpoint] += overlap(flight.leaves(), flight.done(closed), opened, closed);
  }
  Nanoseconds busy_sum = 0;
  for (const auto& [client, time] : busy) busy_sum += time;
  const auto length = static_cast<double>(closed - opened) * static_cast<double>(busy.size());
  const Coverage holders = coverage(experiment_, model, updates);
  const double loss = samples == 0 ? 0 : loss_sum / static_cast<double>(samples);
  Row row(rounds_schema());
  row.set("round", version)
      .set("version", version)
      .set("virtual_time_s", seconds(closed))
      .set("wall_time_s", run_.elapsed_s())
      .set("updates_merged", merged)
      .set("updates_stale", stale)
      .set("updates_dropped", dropped)
      .set("staleness_mean", merged == 0 ? 0 : staleness_sum / static_cast<double>(merged))
      .set("staleness_max", staleness_max)
      .set("coverage_min", holders.minimum)
      .set("coverage_mean", holders.mean)
      .set("train_loss", loss)
      .set("bytes_down", bytes_down)
      .set("bytes_up", bytes_up)
      .set("utilisation", length > 0 ? static_cast<double>(busy_sum) / length
                                     : std::numeric_limits<double>::quiet_NaN())
      .set("server_busy_s", run_.busy_s())
      .set("checkpoint_s", run_.saving_s())
      .set("peak_client_bytes", peak);
  run_.records().append(row);
  run_.records().flush(1.0);
  bytes_down_ += bytes_down;
  bytes_up_ += bytes_up;
  if (!std::isfinite(loss)) {
    throw NotFiniteError(formatted(
        "the training loss of round {} is not finite; lower train.lr or set train.clip", version));
  }
  run_.report({version, closed, loss});
}

void RoundRecorder::warn_of_failure(const Delivered& d) {
  const ClientTask& task = d.sent.task;
  const DeviceClass& device = experiment_.fleet->device(task.client);
  const Assignment assigned{task.submodel, d.sent.width, task.search};
  const std::int64_t needed =
      d.outcome == Outcome::out_of_memory
          ? assignment_peaks(experiment_, rules_, assigned, task.client).largest()
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
  Row row = sent_row(sent.task, sent.buffer_layout->count(Kind::trainable));
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
      .set("cap_bytes", memory_bytes(experiment_.fleet->device(sent.task.client)))
      .set("share", sent.width);
  run_.records().append(row);
}

std::string RoundRecorder::traffic() const {
  return formatted("up_mb={:.3f} down_mb={:.3f}", static_cast<double>(bytes_up_) * 1e-6,
                   static_cast<double>(bytes_down_) * 1e-6);
}

void RoundRecorder::archive(Archive& archive) {
  archive.value("bytes_up", bytes_up_);
  archive.value("bytes_down", bytes_down_);
  // A resumed run does not warn of the same failures again.
  std::vector<std::pair<std::string, Outcome>> warned(warned_.begin(), warned_.end());
  archive_list(archive, "failures_told", warned, [](Archive& a, auto& item) {
    a.value("device", item.first);
    archive_outcome(a, item.second);
  });
  warned_ = {warned.begin(), warned.end()};
}

}  // namespace espalier::rounds
