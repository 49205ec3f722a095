#include "espalier/protocol/rounds/clients.h"

#include <algorithm>
#include <string>

namespace espalier::rounds {
namespace {

template <class Value>
std::vector<std::int64_t> sorted_keys(const std::unordered_map<std::int64_t, Value>& map) {
  std::vector<std::int64_t> keys;
  for (const auto& [key, value] : map) keys.push_back(key);
  std::ranges::sort(keys);
  return keys;
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
  for (std::int64_t client = 0; client < experiment.fleet->size(); ++client) {
    idle_.insert(idle_.end(), client);
  }
}

std::vector<std::int64_t> Clients::take(const Moment& moment) {
  const std::int64_t want =
      sampler_.at_once() == 0 ? std::ssize(idle_) : sampler_.at_once() - moment.at_work;
  const std::int64_t furthest = furthest_task(moment);
  const auto chosen = sampler_.choose(want, idle_, [&](std::int64_t client) {
    return next_task(client) <= furthest && is_available(client, moment.now) &&
           has_memory(client, moment);
  });
  for (const std::int64_t client : chosen) idle_.erase(client);
  return chosen;
}

/// The largest number of a task that a client may start now.
std::int64_t Clients::furthest_task(const Moment& moment) const {
  constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
  if (!max_spread_) return kAny;
  std::int64_t slowest = moment.slowest_out;
  for (const std::int64_t client : idle_) {
    if (has_memory(client, moment)) slowest = std::min(slowest, next_task(client));
  }
  return slowest > kAny - *max_spread_ ? slowest : slowest + *max_spread_;
}

bool Clients::is_available(std::int64_t client, Nanoseconds now) const {
  const auto away = away_until_.find(client);
  return (away == away_until_.end() || away->second <= now) && availability_.available(client, now);
}

std::optional<Nanoseconds> Clients::next_return(Nanoseconds now) const {
  std::optional<Nanoseconds> next = availability_.next_change(now);
  for (const auto& [client, until] : away_until_) {
    if (until > now && (!next || until < *next)) next = until;
  }
  return next;
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
  archive.value("tasks_of", tasks_of_);
  const auto archive_submodel = [this](Archive& a, std::int64_t& client,
                                       std::unordered_map<std::int64_t, Submodel>& map) {
    a.value("client", client);
    std::vector<std::int64_t> code;
    if (!a.loading()) code = map.at(client).encode();
    a.value("submodel", code);
    if (a.loading()) map[client] = Submodel::decode(*experiment_.model.layout, code);
  };
  std::vector<std::int64_t> idle;
  idle.reserve(idle_.size());  // of a million clients, in one walk
  for (const std::int64_t client : idle_) idle.push_back(client);
  archive.value("idle", idle);
  if (archive.loading()) idle_ = {idle.begin(), idle.end()};
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
