// What a run needs to go on as if nothing had happened. Work that is out is not saved: its tasks
// are sent again, and since a task's result depends on the task alone, it comes out the same.

#include <algorithm>
#include <chrono>

#include "espalier/protocol/rounds/server.h"

namespace espalier::rounds {
namespace {

/// Byte strings that tasks share, each stored once; tasks name them by their place.
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
    sent.buffer_layout = experiment.plans->buffer_layout(sent.task.submodel, Packing::dense);
  }
  archive_shared(archive, "payload", sent.payload, payloads);
  archive.value("flops", flight.flops);
  archive.value("bytes_down", flight.bytes_down);
  archive.value("bytes_up", flight.bytes_up);
  archive.value("share", sent.share);
  archive.value("slowdown", sent.fault.slowdown);
  archive_flags(archive, "flags",
                {&sent.fault.crashes, &sent.fault.vanishes, &sent.fault.twice,
                 &sent.fault.not_finite, &flight.is_final, &flight.is_bounded});
  if (archive.loading()) set_identity(flight, sent);
  for (Nanoseconds* time : {&flight.sent, &flight.download, &flight.compute, &flight.upload,
                            &flight.queued, &flight.finish}) {
    archive.value("time", *time);
  }
}

/// A list of whatever `item` archives, as one byte string: a thousand tasks in flight would be
/// thousands of datasets otherwise.
template <class Item, class ArchiveItem>
void archive_list(Archive& archive, const char* name, std::vector<Item>& items,
                  const ArchiveItem& archive_item) {
  Bytes bytes;
  if (archive.loading()) {
    archive.value(name, bytes);
    ByteArchive in(bytes);
    std::int64_t count = 0;
    in.value("count", count);
    items.resize(static_cast<std::size_t>(count));
    for (Item& item : items) archive_item(in, item);
    return;
  }
  ByteArchive out;
  auto count = std::ssize(items);
  out.value("count", count);
  for (Item& item : items) archive_item(out, item);
  bytes = out.take();
  archive.value(name, bytes);
}

void archive_outcome(Archive& archive, Outcome& outcome) {
  std::string name = name_of(outcome);
  archive.value("outcome", name);
  outcome = outcome_called(name);
}

template <class Value>
std::vector<std::int64_t> sorted_keys(const std::unordered_map<std::int64_t, Value>& map) {
  std::vector<std::int64_t> keys;
  for (const auto& [key, value] : map) keys.push_back(key);
  std::ranges::sort(keys);
  return keys;
}

void archive_evaluation(Archive& archive, std::optional<Evaluation>& last) {
  Evaluation e = last.value_or(Evaluation{});
  std::int64_t made = last ? 1 : 0;
  archive.value("made", made);
  archive.value("version", e.version);
  archive.value("time", e.time);
  archive.value("loss", e.loss);
  archive.value("top1", e.top1);
  archive.value("top5", e.top5);
  archive.value("perplexity", e.perplexity);
  if (made != 0) last = e;
}

}  // namespace

void RoundsServer::archive(Archive& archive) {
  archive.open("model");
  const Layout& layout = model_.buffer_layout().layout();
  for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
    const BufferLayout::Place& place = model_.buffer_layout().place(static_cast<int>(entry));
    archive.value(
        layout.entries[entry].name.c_str(),
        std::span<float>(model_.data() + place.offset, static_cast<std::size_t>(place.count)));
  }
  archive.close();

  if (!archive.loading()) {  // for those who use the model; the run has its data
    archive.open("data");
    archive_format(archive, const_cast<Dataset&>(experiment_.data));  // only read
    archive.close();
  }

  archive.open("server");
  archive.value("version", version_);
  archive.value("now", now_);
  archive.value("next_task", next_task_);
  archive.value("barren", failed_windows_);
  archive_flags(archive, "flags", {&tasks_due_});
  archive.value("bytes_up", summary_.bytes_up);
  archive.value("bytes_down", summary_.bytes_down);
  archive_clients(archive);
  archive.open("window");
  window_.archive(archive);
  archive.close();
  archive.open("sampler");
  sampler_.archive(archive);
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
  archive.close();

  archive_tasks(archive);
  archive.open("evaluations");
  archive.open("last");
  archive_evaluation(archive, last_evaluation_);
  archive.close();
  evaluator_.archive(archive, model_);
  archive.close();
  archive_wall(archive);
  if (!archive.loading()) return;
  is_restored_ = true;
  saved_version_ = version_;
}

void RoundsServer::archive_clients(Archive& archive) {
  archive.value("tasks_of", tasks_of_);
  std::vector<std::int64_t> idle(idle_.begin(), idle_.end());
  archive.value("idle", idle);
  idle_ = {idle.begin(), idle.end()};
  std::vector<std::int64_t> away = sorted_keys(away_until_), until;
  for (const std::int64_t client : away) until.push_back(away_until_.at(client));
  archive.value("away", away);
  archive.value("away_until", until);
  for (std::size_t i = 0; i < away.size(); ++i) away_until_[away[i]] = until[i];
  std::vector<std::int64_t> clients = sorted_keys(too_large_);
  archive.value("out_of_memory", clients);
  archive_list(archive, "too_large", clients, [&](Archive& a, std::int64_t& client) {
    a.value("client", client);
    std::vector<std::int64_t> code;
    if (!a.loading()) code = too_large_.at(client).encode();
    a.value("submodel", code);
    if (a.loading()) too_large_[client] = Submodel::decode(*experiment_.model.layout, code);
  });
  std::vector<std::pair<std::string, Outcome>> told(told_.begin(), told_.end());
  archive_list(archive, "failures_told", told, [](Archive& a, auto& item) {
    a.value("device", item.first);
    archive_outcome(a, item.second);
  });
  told_ = {told.begin(), told.end()};
  archive.open("states");
  clients = sorted_keys(states_);
  archive.value("clients", clients);
  for (const std::int64_t client : clients) {
    archive.value(std::to_string(client).c_str(), states_[client]);
  }
  archive.close();
}

void RoundsServer::archive_tasks(Archive& archive) {
  archive.open("tasks");
  SharedList payloads, updates;
  if (!archive.loading()) {
    in_flight_.clear();
    for (const auto& [key, flight] : clock_->out()) {
      in_flight_.push_back({out_.at(flight.number), flight});
    }
    // The lists first: reading needs them before those who name their items.
    for (const InFlight& item : in_flight_) payloads.place(item.sent.payload);
    for (const Delivered& d : delivered_) {
      payloads.place(d.sent.payload);
      updates.place(d.arrival.values);
    }
  }
  payloads.archive(archive, "payloads");
  updates.archive(archive, "updates");
  archive_list(archive, "in_flight", in_flight_, [&](Archive& a, InFlight& item) {
    archive_sent(a, experiment_, item.sent, item.flight, payloads);
  });
  archive_list(archive, "delivered", delivered_, [&](Archive& a, Delivered& d) {
    archive_sent(a, experiment_, d.sent, d.flight, payloads);
    archive_outcome(a, d.outcome);
    a.value("staleness", d.staleness);
    archive_flags(a, "flags", {&d.waiting});
    Arrival& arrival = d.arrival;
    archive_shared(a, "values", arrival.values, updates);
    std::int64_t answered_by = d.flight.is_answered ? d.sent.task.client : 0;  // in older files too
    a.value("client", answered_by);
    Bytes result;
    if (!a.loading()) {
      ClientResult equal = arrival.result;  // without what differs between equal runs
      equal.wall_compute_s = 0;
      result = equal.encode();
    }
    a.value("result", result);
    if (a.loading()) arrival.result = ClientResult::decode(result);
  });
  if (archive.loading()) {
    // Further tasks of this version share the payload of those that were sent.
    const auto remember = [&](const SentTask& sent) {
      const Submodel& submodel = sent.task.submodel;
      if (sent.task.base_version == version_) payloads_[submodel.hash()] = {submodel, sent.payload};
    };
    for (const InFlight& item : in_flight_) remember(item.sent);
    for (const Delivered& d : delivered_) remember(d.sent);
  } else {
    in_flight_.clear();
  }
  archive.close();
}

/// What may differ between equal runs, and the records so far.
void RoundsServer::archive_wall(Archive& archive) {
  archive.open("wall");
  double elapsed_s = wall_seconds() - wall_start_;
  archive.value("elapsed_s", elapsed_s);
  archive.value("busy_s", busy_s_);
  archive.value("saving_s", saving_s_);
  if (archive.loading()) elapsed_before_s_ = elapsed_s;
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
  if (!archive.loading()) {
    Bytes records = records_.image();
    archive.value("records", records);
  }
  archive.close();
}

}  // namespace espalier::rounds
