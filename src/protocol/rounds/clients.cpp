#include "espalier/protocol/rounds/clients.h"

#include <algorithm>
#include <string>

#include "espalier/base/format.h"

namespace espalier::rounds {
namespace {

template <class Value>
std::vector<std::int64_t> sorted_keys(const std::unordered_map<std::int64_t, Value>& map) {
  std::vector<std::int64_t> keys;
  for (const auto& [key, value] : map) keys.push_back(key);
  std::ranges::sort(keys);
  return keys;
}

// Of a million clients few have been sent a task and few are not idle. So that a checkpoint does
// not cost bytes for each of the others, both are saved in a short form, which begins with a number
// that the long one (of earlier releases, or where it is no longer) cannot begin with.
constexpr std::int64_t kShort = -1;

/// kShort, then client and count of those that are not 0; or the counts of all clients.
std::vector<std::int64_t> shortened(const std::vector<std::int64_t>& counts) {
  std::vector<std::int64_t> pairs{kShort};
  for (std::size_t client = 0; client < counts.size(); ++client) {
    if (counts[client] == 0) continue;
    pairs.insert(pairs.end(), {static_cast<std::int64_t>(client), counts[client]});
    if (pairs.size() >= counts.size()) return counts;
  }
  return pairs.size() < counts.size() ? pairs : counts;
}

std::vector<std::int64_t> counts_of(const std::vector<std::int64_t>& saved, std::int64_t clients) {
  if (saved.empty() || saved[0] != kShort) return saved;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(clients), 0);
  for (std::size_t i = 1; i + 1 < saved.size(); i += 2) {
    counts.at(static_cast<std::size_t>(saved[i])) = saved[i + 1];
  }
  return counts;
}

/// kShort, then the clients that are not in the set; or those that are.
std::vector<std::int64_t> shortened(const ClientSet& set, std::int64_t clients) {
  if (2 * set.size() <= clients) return set.ascending();
  std::vector<std::int64_t> others{kShort};
  for (std::int64_t client = 0; client < clients; ++client) {
    if (!set.contains(client)) others.push_back(client);
  }
  return others;
}

ClientSet set_of(const std::vector<std::int64_t>& saved, std::int64_t clients) {
  ClientSet set(clients);
  if (saved.empty() || saved[0] != kShort) {
    for (const std::int64_t client : saved) set.insert(client);
    return set;
  }
  for (std::int64_t client = 0; client < clients; ++client) set.insert(client);
  for (std::size_t i = 1; i < saved.size(); ++i) set.erase(saved[i]);
  return set;
}

}  // namespace

Clients::Clients(const Experiment& experiment, SubmodelRule& rule, Sampler sampler,
                 Availability availability, std::optional<std::int64_t> max_spread)
    : experiment_(experiment),
      rule_(rule),
      sampler_(std::move(sampler)),
      availability_(std::move(availability)),
      max_spread_(max_spread) {
  tasks_of_.assign(static_cast<std::size_t>(experiment.fleet->size()), 0);
  idle_ = ClientSet(experiment.fleet->size());
  for (std::int64_t client = 0; client < experiment.fleet->size(); ++client) {
    insert_idle(client);
  }
}

std::vector<std::int64_t> Clients::take(const Moment& moment) {
  std::vector<std::int64_t> chosen;
  if (max_spread_) {
    chosen = within_spread(moment);
  } else {
    const std::int64_t want =
        sampler_.at_once() == 0 ? idle_.size() : sampler_.at_once() - moment.at_work;
    const std::int64_t period = availability_.period(moment.now);
    // Called for each of those present, so it reads no more than it must.
    const auto can_work = [&](std::int64_t client) {
      return is_available(client, moment.now, period) && has_memory(client, moment);
    };
    chosen = sampler_.choose(want, {idle_, can_work, [&] { return present(moment.now); }});
  }
  for (const std::int64_t client : chosen) erase_idle(client);
  return chosen;
}

void Clients::insert_idle(std::int64_t client) {
  idle_.insert(client);
  if (!max_spread_) return;
  idle_by_task_.try_emplace(next_task(client), experiment_.fleet->size())
      .first->second.insert(client);
}

void Clients::erase_idle(std::int64_t client) {
  idle_.erase(client);
  const auto others = idle_by_task_.find(next_task(client));
  if (others == idle_by_task_.end()) return;
  others->second.erase(client);
  if (others->second.size() == 0) idle_by_task_.erase(others);
}

/// All idle clients that can work and are not too far ahead of the slowest, ascending; with
/// max_spread all work at the same time.
std::vector<std::int64_t> Clients::within_spread(const Moment& moment) const {
  const std::int64_t furthest = furthest_task(moment);
  const std::int64_t period = availability_.period(moment.now);
  std::vector<std::int64_t> clients;
  for (const auto& [task, set] : idle_by_task_) {
    if (task > furthest) break;
    for (std::int64_t c = set.next(0); c < set.end(); c = set.next(c + 1)) {
      if (is_available(c, moment.now, period) && has_memory(c, moment)) clients.push_back(c);
    }
  }
  std::ranges::sort(clients);
  return clients;
}

/// The largest number of a task that a client may start now.
std::int64_t Clients::furthest_task(const Moment& moment) const {
  constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
  std::int64_t slowest = moment.slowest_out;
  const auto counts = [&](const ClientSet& set) {
    std::int64_t c = set.next(0);
    while (c < set.end() && !has_memory(c, moment)) c = set.next(c + 1);
    return c < set.end();
  };
  for (const auto& [task, set] : idle_by_task_) {
    if (task >= slowest) break;
    if (counts(set)) slowest = task;
  }
  return slowest > kAny - *max_spread_ ? slowest : slowest + *max_spread_;
}

/// The smallest known set of which all that are available are a part; null if there is none.
const ClientSet* Clients::present(Nanoseconds now) {
  const ClientSet* const drawn_now = drawn(availability_.period(now));
  const ClientSet* const in_trace_now = in_trace(now);
  if (drawn_now == nullptr || in_trace_now == nullptr) {
    return drawn_now != nullptr ? drawn_now : in_trace_now;
  }
  return drawn_now->size() < in_trace_now->size() ? drawn_now : in_trace_now;
}

/// Whether so few clients are idle that to look at each of them is less work than to know who is
/// present.
bool Clients::few_are_idle() const {
  constexpr std::int64_t kFew = 16;
  return kFew * idle_.size() < experiment_.fleet->size();
}

/// The clients that a period has; null if it is not worth while to draw for all clients,
/// which is done once in a period.
const ClientSet* Clients::drawn(std::int64_t period) {
  if (availability_.always_drawn()) return nullptr;
  if (period == drawn_.at) return &drawn_.clients;
  if (few_are_idle()) return nullptr;
  const std::int64_t clients = experiment_.fleet->size();
  drawn_.clients = ClientSet(clients);
  for (std::int64_t client = 0; client < clients; ++client) {
    if (availability_.is_drawn(client, period)) drawn_.clients.insert(client);
  }
  drawn_.at = period;
  return &drawn_.clients;
}

/// The clients that are available by the trace; null if there is none, or if it is not worth while
/// to know. The set follows the changes of the trace.
const ClientSet* Clients::in_trace(Nanoseconds now) {
  const AvailabilityTrace* const trace = availability_.trace();
  if (trace == nullptr || few_are_idle()) return nullptr;
  const std::int64_t clients = experiment_.fleet->size();
  const auto look_at = [&](std::int64_t recorded) {
    const bool is_there = trace->available(recorded, now);
    for (std::int64_t c = recorded; c < clients; c += trace->recorded()) {
      is_there ? traced_.clients.insert(c) : traced_.clients.erase(c);
    }
  };
  if (traced_.at < 0) {
    traced_.clients = ClientSet(clients);
    for (std::int64_t recorded = 0; recorded < trace->recorded(); ++recorded) look_at(recorded);
  } else {
    for (const std::int64_t recorded : trace->changed(traced_.at, now)) look_at(recorded);
  }
  traced_.at = now;
  return &traced_.clients;
}

bool Clients::is_available(std::int64_t client, Nanoseconds now, std::int64_t period) const {
  const bool is_drawn = availability_.always_drawn() ||
                        (period == drawn_.at ? drawn_.clients.contains(client)
                                             : availability_.is_drawn(client, period));
  if (!is_drawn) return false;
  const auto away = away_until_.find(client);
  return (away == away_until_.end() || away->second <= now) &&
         availability_.is_in_trace(client, now);
}

std::optional<Nanoseconds> Clients::next_return(Nanoseconds now) const {
  std::optional<Nanoseconds> next = availability_.next_change(now);
  for (const auto& [client, until] : away_until_) {
    if (until > now && (!next || until < *next)) next = until;
  }
  return next;
}

std::string Clients::obstacle(const Moment& moment) const {
  const std::int64_t clients = experiment_.fleet->size();
  std::int64_t too_small = 0;
  for (std::int64_t client = 0; client < clients; ++client) {
    too_small += has_memory(client, moment) ? 0 : 1;
  }
  const std::string memory = "give the devices more memory_mb, or choose smaller widths";
  const std::string presence = formatted(
      "waited until {:.6g} s of emulated time; give the devices a higher availability, or change "
      "clients.availability_trace or faults.vanish_tasks",
      seconds(moment.now));
  if (too_small == clients) {
    return formatted("none of the {} clients has the memory for its submodel; {}", clients, memory);
  }
  if (too_small == 0) {
    return formatted("none of the {} clients is available, and the server has {}", clients,
                     presence);
  }
  return formatted(
      "{} of the {} clients lack the memory for their submodel, and the others are not available, "
      "although the server has {}; or {}",
      too_small, clients, presence, memory);
}

/// Whether the client's next submodel does not contain the one with which it last ran out of
/// memory.
bool Clients::has_memory(std::int64_t client, const Moment& moment) const {
  const auto refused = too_large_.find(client);
  if (refused == too_large_.end()) return true;
  const SendMoment next{client, next_task(client), moment.version, moment.slot};
  return !refused->second.inside(rule_.choose(experiment_, next).submodel);
}

const Bytes& Clients::state(std::int64_t client) const {
  static const Bytes none;
  const auto state = states_.find(client);
  return state == states_.end() ? none : state->second;
}

std::int64_t Clients::receive_frozen(std::int64_t client, const Submodel& submodel) {
  if (!experiment_.frozen) return 0;
  const auto& layout = experiment_.model.layout;
  const auto [place, is_first] = frozen_.try_emplace(client, submodel);
  Submodel& held = place->second;
  if (is_first) return frozen_values(layout, held);
  if (submodel.inside(held)) return 0;
  const std::int64_t before = frozen_values(layout, held);
  held = held.united(submodel);
  return frozen_values(layout, held) - before;
}

void Clients::archive(Archive& archive) {
  std::vector<std::int64_t> counts = archive.loading() ? tasks_of_ : shortened(tasks_of_);
  archive.value("tasks_of", counts);
  if (archive.loading()) tasks_of_ = counts_of(counts, experiment_.fleet->size());
  const auto archive_submodel = [this](Archive& a, std::int64_t& client,
                                       std::unordered_map<std::int64_t, Submodel>& map) {
    a.value("client", client);
    std::vector<std::int64_t> code;
    if (!a.loading()) code = map.at(client).encode();
    a.value("submodel", code);
    if (a.loading()) map[client] = Submodel::decode(*experiment_.model.layout, code);
  };
  std::vector<std::int64_t> idle = shortened(idle_, experiment_.fleet->size());
  archive.value("idle", idle);
  if (archive.loading()) {
    idle_by_task_.clear();
    const ClientSet saved = set_of(idle, experiment_.fleet->size());
    idle_ = ClientSet(experiment_.fleet->size());
    for (const std::int64_t client : saved.ascending()) insert_idle(client);
  }
  std::vector<std::int64_t> away = sorted_keys(away_until_), until;
  for (const std::int64_t client : away) until.push_back(away_until_.at(client));
  archive.value("away", away);
  archive.value("away_until", until);
  for (std::size_t i = 0; i < away.size(); ++i) away_until_[away[i]] = until[i];
  std::vector<std::int64_t> clients = sorted_keys(too_large_);
  archive.value("out_of_memory", clients);
  archive_list(archive, "too_large", clients,
               [&](Archive& a, std::int64_t& client) { archive_submodel(a, client, too_large_); });
  if (experiment_.frozen) {
    clients = sorted_keys(frozen_);
    archive.value("with_frozen", clients);
    archive_list(archive, "frozen", clients,
                 [&](Archive& a, std::int64_t& client) { archive_submodel(a, client, frozen_); });
  }
  archive.open("states");
  clients = sorted_keys(states_);
  archive.value("clients", clients);
  for (const std::int64_t client : clients) {
    archive.value(std::to_string(client).c_str(), states_[client]);
  }
  archive.close();
  archive.open("sampler");
  sampler_.archive(archive);
  archive.close();
}

}  // namespace espalier::rounds
