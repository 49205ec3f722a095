// The state of the server in checkpoints. The work of outstanding tasks is not saved: a resume
// sends these tasks again, and gets the same results, because a result depends on the task alone.

#include <algorithm>
#include <string>

#include "espalier/protocol/rounds/server.h"

namespace espalier::rounds {
namespace {

/// Byte strings that several tasks use, each stored once; tasks refer to them by their index.
class SharedList {
 public:
  /// -1 for none.
  std::int64_t place(const SharedBytes& bytes) {
    if (!bytes) return -1;
    const auto found = std::ranges::find(list_, bytes);
    if (found == list_.end()) list_.push_back(bytes);
    return found == list_.end() ? std::ssize(list_) - 1 : found - list_.begin();
  }
  SharedBytes at(std::int64_t place) const {
    return place < 0 ? nullptr : list_.at(static_cast<std::size_t>(place));
  }
  void archive(Archive& archive, const char* name) {
    archive.open(name);
    auto count = std::ssize(list_);
    archive.value("count", count);
    list_.resize(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      SharedBytes& item = list_[static_cast<std::size_t>(i)];
      if (archive.loading()) {
        auto bytes = std::make_shared<Bytes>();
        archive.value(std::to_string(i).c_str(), *bytes);
        item = std::move(bytes);
      } else {
        archive.value(std::to_string(i).c_str(), const_cast<Bytes&>(*item));  // only read
      }
    }
    archive.close();
  }

 private:
  std::vector<SharedBytes> list_;
};

void archive_shared(Archive& archive, const char* name, SharedBytes& bytes, SharedList& list) {
  std::int64_t place = archive.loading() ? 0 : list.place(bytes);
  archive.value(name, place);
  if (archive.loading()) bytes = list.at(place);
}

void archive_sent(Archive& archive, const Experiment& experiment, SentTask& sent, Flight& flight,
                  SharedList& payloads) {
  Bytes task;
  if (!archive.loading()) {
    sent.task.finish = flight.due;
    task = sent.task.encode();
  }
  archive.value("task", task);
  if (archive.loading()) {
    sent.task = ClientTask::decode(*experiment.model.layout, task);
    sent.buffer_layout = experiment.plans->buffer_layout(sent.task.submodel, Packing::shared);
  }
  archive_shared(archive, "payload", sent.payload, payloads);
  archive.value("flops", flight.flops);
  archive.value("bytes_down", flight.bytes_down);
  archive.value("bytes_up", flight.bytes_up);
  archive.value("share", sent.width);
  archive.value("slowdown", sent.fault.slowdown);
  bool may_fail = flight.failure_upload.has_value();
  archive_flags(archive, "flags",
                {&sent.fault.crashes, &sent.fault.vanishes, &sent.fault.twice,
                 &sent.fault.not_finite, &flight.is_final, &flight.is_bounded, &may_fail});
  if (may_fail && archive.loading()) flight.failure_upload = 0;
  if (may_fail) archive.value("failure_upload", *flight.failure_upload);
  if (archive.loading()) set_identity(flight, sent);
  for (Nanoseconds* time : {&flight.sent, &flight.download, &flight.compute, &flight.upload,
                            &flight.queued, &flight.finish}) {
    archive.value("time", *time);
  }
}

}  // namespace

void RoundsServer::archive(Archive& archive) {
  archive.open("server");
  archive.value("version", state_.version);
  archive.value("now", state_.now);
  archive.value("next_task", state_.next_task);
  archive.value("barren", state_.failed_windows);
  archive_flags(archive, "flags", {&state_.tasks_due});
  recorder_.archive(archive);
  clients_.archive(archive);
  archive.open("window");
  window_.archive(archive);
  archive.close();
  archive.open("queues");
  clock_->archive(archive);
  archive.close();
  archive.open("submodel_rule");
  rules_.submodel->archive(archive);
  archive.close();
  archive.open("merge_rule");
  rules_.merge->archive(archive);
  archive.close();
  payloads_.peers().archive(archive, *experiment_.model.layout);
  archive.close();
  archive.open("tasks");
  archive_tasks(archive);
  archive.close();
}

void RoundsServer::archive_tasks(Archive& archive) {
  struct InFlight {
    SentTask sent;
    Flight flight;
  };
  std::vector<InFlight> in_flight;
  SharedList payloads, updates;
  if (!archive.loading()) {
    for (const auto& [key, flight] : clock_->out()) {
      in_flight.push_back({out_.at(flight.number), flight});
    }
    // The lists come first, because reading the tasks needs them.
    for (const InFlight& item : in_flight) payloads.place(item.sent.payload);
    for (const Delivered& d : delivered_) {
      payloads.place(d.sent.payload);
      updates.place(d.arrival.values);
    }
  }
  payloads.archive(archive, "payloads");
  updates.archive(archive, "updates");
  archive_list(archive, "in_flight", in_flight, [&](Archive& a, InFlight& item) {
    archive_sent(a, experiment_, item.sent, item.flight, payloads);
  });
  archive_list(archive, "delivered", delivered_, [&](Archive& a, Delivered& d) {
    archive_sent(a, experiment_, d.sent, d.flight, payloads);
    archive_outcome(a, d.outcome);
    a.value("staleness", d.staleness);
    archive_flags(a, "flags", {&d.is_waiting});
    Arrival& arrival = d.arrival;
    archive_shared(a, "values", arrival.values, updates);
    std::int64_t answered_by = d.flight.is_answered ? d.sent.task.client : 0;  // as in older files
    a.value("client", answered_by);
    Bytes result;
    if (!a.loading()) {
      ClientResult equal = arrival.result;  // without values that differ between equal runs
      equal.wall_compute_s = 0;
      result = equal.encode();
    }
    a.value("result", result);
    if (a.loading()) arrival.result = ClientResult::decode(result);
  });
  if (!archive.loading()) return;
  // Further tasks of this version use the payloads of the earlier ones.
  const auto remember = [&](const SentTask& sent) {
    if (sent.task.base_version != state_.version) return;
    payloads_.keep(sent.task.submodel, sent.payload);
    ++state_.sent_tasks;
  };
  for (const Delivered& d : delivered_) remember(d.sent);
  for (InFlight& item : in_flight) {
    remember(item.sent);
    to_resend_.push_back(item.flight);
    out_.emplace(item.flight.number, std::move(item.sent));
  }
}

void RoundsServer::archive_wall(Archive& archive) {
  std::vector<double> compute_s;
  std::vector<std::int64_t> ranks;
  for (const Delivered& d : delivered_) {
    compute_s.push_back(d.arrival.result.wall_compute_s);
    ranks.push_back(d.arrival.rank);
  }
  archive.value("compute_s", compute_s);
  archive.value("ranks", ranks);
  for (std::size_t i = 0; i < delivered_.size(); ++i) {
    delivered_[i].arrival.result.wall_compute_s = compute_s[i];
    delivered_[i].arrival.rank = static_cast<int>(ranks[i]);
  }
}

}  // namespace espalier::rounds
