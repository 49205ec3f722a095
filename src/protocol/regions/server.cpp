#include "espalier/protocol/regions/server.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/base/kill_point.h"
#include "espalier/protocol/regions/merge.h"

namespace espalier::regions {

RegionsServer::RegionsServer(const Experiment& experiment, ServerSettings settings,
                             Parameters model, Run& run)
    : experiment_(experiment),
      settings_(std::move(settings)),
      run_(run),
      shared_(experiment, settings_.regions, settings_.merge, std::move(model)),
      schedule_(settings_.schedule, sizes_of(settings_.regions.fragments)),
      network_(devices_of(*experiment.fleet), settings_.clock.server),
      places_(experiment, settings_, run),
      replicas_(experiment, settings_.regions.shows_replicas, settings_.evaluate_every) {}

void RegionsServer::begin() {
  places_.clock().start(state_.now);
  for (std::int64_t region = 0; region < places_.size(); ++region) {
    const Place& p = places_.at(region);
    if (p.job >= 0) {
      places_.send_again(region);
    } else if (p.is_present != 0 && !run_.reached_a_stop(state_.version, state_.now)) {
      go_on(region, state_.now);
    }
  }
}

void RegionsServer::advance() {
  Clock& clock = places_.clock();
  const auto limit = network_.next_time();
  std::optional<Clock::Event> event;
  if (!clock.out().empty()) {
    run_.heed_stops([&] { event = clock.next(limit); });
  } else {
    if (!limit) throw NoRegion();
    run_.heed_stops([&] { clock.pass(*limit); });
  }
  const Stopwatch busy = run_.busy();
  if (event) {
    finished(*event);
  } else if (const auto change = network_.take()) {
    on_network(*change);
  }
  make_versions();
}

void RegionsServer::end() {
  for (const auto& [number, exchange] : exchanges_) record_unapplied(exchange);
  places_.record_last();
}

// Regions ---------------------------------------------------------------------------------------

/// The next step after `step` at which the region sends, applies, fails or ends a period.
std::int64_t RegionsServer::next_stop(std::int64_t region, std::int64_t step) const {
  std::int64_t next =
      std::min((period_of(step) + 1) * settings_.schedule.period, schedule_.next_slot(step));
  for (const auto& [number, exchange] : exchanges_) {
    if (applied_step(exchange) > step) next = std::min(next, applied_step(exchange));
  }
  return std::min(next, places_.failing_step(region, step).value_or(next));
}

/// The exchanges that the region applies at `step`; it has sent its own values before.
std::vector<Exchange*> RegionsServer::due(std::int64_t region, std::int64_t step) {
  const auto i = static_cast<std::size_t>(region);
  std::vector<Exchange*> found;
  for (auto& [number, exchange] : exchanges_) {
    if (applied_step(exchange) == step && exchange.handed[i] != Exchange::kWaiting &&
        exchange.applied[i] == Exchange::kWaiting) {
      found.push_back(&exchange);
    }
  }
  return found;
}

/// What the region sends at `step` and has not sent yet. The first region that comes to a slot
/// decides for all; it has applied all that was due before, so all would decide alike.
std::vector<RegionTask::Sent> RegionsServer::sendings(std::int64_t region, std::int64_t step) {
  if (step == 0 || schedule_.next_slot(step - 1) != step) return {};
  const auto [slot, is_new] = slots_.try_emplace(step);
  if (is_new) {
    for (const int fragment : schedule_.choose(step)) {
      slot->second.push_back(state_.next_exchange);
      open_exchange(fragment, step);
    }
  }
  std::vector<RegionTask::Sent> sent;
  for (const std::int64_t number : slot->second) {
    const auto found = exchanges_.find(number);
    if (found == exchanges_.end()) continue;  // over
    if (found->second.handed[static_cast<std::size_t>(region)] != Exchange::kWaiting) continue;
    sent.push_back({number, found->second.fragment});
  }
  return sent;
}

void RegionsServer::open_exchange(int fragment, std::int64_t step) {
  Exchange e(state_.next_exchange++, fragment, step, places_.presence());
  for (std::int64_t region = 0; region < places_.size(); ++region) {
    e.lost[static_cast<std::size_t>(region)] = places_.loses_message(region, e.number) ? 1 : 0;
  }
  exchanges_.emplace(e.number, std::move(e));
}

/// Sends the region's next job, unless it has to wait for a fragment, is at the end of the run, or
/// leaves.
void RegionsServer::go_on(std::int64_t region, Nanoseconds now) {
  const auto i = static_cast<std::size_t>(region);
  Place& p = places_.at(region);
  const std::vector<Exchange*> applied = due(region, p.step);
  for (const Exchange* exchange : applied) {
    if (exchange->arrived[i] == Exchange::kWaiting) return;
  }
  RegionTask task;
  task.from = task.goal = p.step;
  task.sent = sendings(region, p.step);
  if (task.sent.empty()) {
    if (p.step >= last_step()) return;
    if (!places_.is_available(region, now)) {
      leave(region, false);
      return;
    }
    task.goal = next_stop(region, p.step);
    if (due(region, task.goal).empty()) task.sent = sendings(region, task.goal);
    const bool ends_period = task.goal % settings_.schedule.period == 0;
    task.shows = ends_period && replicas_.is_wanted(period_of(task.goal)) ? 1 : 0;
  }
  Bytes payload;
  for (Exchange* exchange : applied) {
    task.applied.push_back(
        {exchange->number, exchange->fragment, p.step - exchange->slot, exchange->lost[i]});
    payload.insert(payload.end(), exchange->merged.begin(), exchange->merged.end());
    exchange->applied[i] = now;
    exchange->applied_step[i] = p.step;
    record(*exchange, region, p.time);
  }
  forget_finished();
  places_.send(region, std::move(task), std::move(payload), shared_, now);
}

/// A region has done its job, or failed.
void RegionsServer::finished(const Clock::Event& event) {
  state_.now = event.flight.finish;
  const std::int64_t region = event.flight.endpoint;
  const SharedBytes values = places_.finished(event);
  if (!values) {
    leave(region, true);
    return;
  }
  const Place& p = places_.at(region);
  std::size_t first = 0;
  if (p.task.shows != 0) {
    first = static_cast<std::size_t>(shared_.bytes());
    replicas_.add(period_of(p.step), floats_of(*values).first(first / sizeof(float)));
  }
  hand_over(region, *values, first);
  go_on(region, state_.now);
}

/// Hands what the region sends to its link; the values begin at byte `first`.
void RegionsServer::hand_over(std::int64_t region, const Bytes& values, std::size_t first) {
  const auto i = static_cast<std::size_t>(region);
  Place& p = places_.at(region);
  auto next = values.begin() + static_cast<std::ptrdiff_t>(first);
  for (const RegionTask::Sent& sent : p.task.sent) {
    Exchange& exchange = exchanges_.at(sent.exchange);
    const std::int64_t bytes =
        encoded_bytes(settings_.regions.codec, fragment_of(exchange).tensors);
    exchange.values[i] = Bytes(next, next + bytes);
    next += bytes;
    exchange.handed[i] = state_.now;
    exchange.sent_step[i] = p.step;
    exchange.tokens[i] = std::exchange(p.tokens_since[static_cast<std::size_t>(sent.fragment)], 0);
    exchange.steps[i] = std::exchange(p.steps_since[static_cast<std::size_t>(sent.fragment)], 0);
    state_.bytes_up += bytes;
    if (settings_.topology == Topology::star && exchange.contributes(i)) {
      network_.hand_over(sent.exchange, region, bytes, state_.now);
    }
    begin_merge(sent.exchange);
  }
}

/// The region has failed, or is not available. Merges go on without it until it is back and has the
/// shared copy.
void RegionsServer::leave(std::int64_t region, bool failed) {
  const auto i = static_cast<std::size_t>(region);
  std::vector<std::int64_t> open;
  for (auto& [number, exchange] : exchanges_) {
    if (exchange.handed[i] == Exchange::kWaiting) {
      exchange.handed[i] = Exchange::kNever;
      open.push_back(number);
    }
    if (exchange.applied[i] == Exchange::kWaiting) exchange.applied[i] = Exchange::kNever;
  }
  if (const auto back = places_.leave(region, state_.now, failed)) {
    network_.send_copy(region, shared_.bytes(), *back);
  }
  for (const std::int64_t number : open) begin_merge(number);
  forget_finished();
}

/// The region has the shared copy. Merges that are still to come reach it too.
void RegionsServer::join(std::int64_t region) {
  places_.join(region, state_.now);
  for (auto& [number, exchange] : exchanges_) {
    if (exchange.is_merged == 0 && applied_step(exchange) >= places_.at(region).step) {
      exchange.applied[static_cast<std::size_t>(region)] = Exchange::kWaiting;
    }
  }
  go_on(region, state_.now);
}

// Exchanges -------------------------------------------------------------------------------------

void RegionsServer::on_network(const Network::Event& event) {
  state_.now = std::max(state_.now, event.time);
  switch (event.kind) {
    case Network::Event::Kind::at_server_link:
      return;
    case Network::Event::Kind::received:
      exchanges_.at(event.exchange).received[static_cast<std::size_t>(event.region)] = 1;
      begin_merge(event.exchange);
      return;
    case Network::Event::Kind::averaged:
      merge(exchanges_.at(event.exchange));
      on_merged(event.exchange);
      return;
    case Network::Event::Kind::arrived: {
      const auto exchange = exchanges_.find(event.exchange);
      if (exchange == exchanges_.end()) return;  // the region left, and all others have applied it
      exchange->second.arrived[static_cast<std::size_t>(event.region)] = state_.now;
      state_.bytes_down += std::ssize(exchange->second.merged);
      wake(event.exchange, event.region);
      return;
    }
    case Network::Event::Kind::joined:
      state_.bytes_down += shared_.bytes();
      join(event.region);
      return;
    case Network::Event::Kind::asked:
    case Network::Event::Kind::closes:
      return;  // only regions that never wait have these
  }
}

/// Begins to merge an exchange if every region that takes part has sent its values, and, with a
/// star, the server has them.
void RegionsServer::begin_merge(std::int64_t number) {
  const auto found = exchanges_.find(number);
  if (found == exchanges_.end()) return;
  Exchange& exchange = found->second;
  if (exchange.is_begun != 0 || !exchange.is_complete()) return;
  const std::vector<std::int64_t> members = exchange.contributors();
  const Fragment& fragment = fragment_of(exchange);
  if (members.empty()) {
    exchange.is_begun = exchange.is_merged = 1;
    exchange.merged = shared_.unchanged(exchange.fragment);
    on_merged(number);
    return;
  }
  if (settings_.topology == Topology::star) {
    if (std::ranges::count(exchange.received, 1) < std::ssize(members)) return;
    exchange.is_begun = 1;
    network_.merge(number, merge_flops(fragment, std::ssize(members)), state_.now);
    return;
  }
  exchange.is_begun = 1;
  network_.all_reduce(number, members, encoded_bytes(settings_.regions.codec, fragment.tensors),
                      state_.now);
}

void RegionsServer::merge(Exchange& exchange) {
  const double norm =
      merge_exchange(experiment_, settings_.weights, exchange.contributors(), exchange, shared_);
  schedule_.merged(static_cast<int>(exchange.fragment), exchange.slot, norm);
  kill_point("regions.merged");
}

/// Brings the merged values to the regions that will apply them.
void RegionsServer::on_merged(std::int64_t number) {
  Exchange& exchange = exchanges_.at(number);
  std::vector<std::int64_t> receivers;
  for (std::int64_t region = 0; region < places_.size(); ++region) {
    if (exchange.applied[static_cast<std::size_t>(region)] == Exchange::kWaiting) {
      receivers.push_back(region);
    }
  }
  if (settings_.topology == Topology::star) {
    for (const std::int64_t region : receivers) {
      network_.send_down(number, region, std::ssize(exchange.merged), state_.now);
    }
    return;
  }
  const std::int64_t bytes = encoded_bytes(settings_.regions.codec, fragment_of(exchange).tensors);
  for (const std::int64_t region : receivers) {
    exchange.arrived[static_cast<std::size_t>(region)] = state_.now;
    state_.bytes_down += bytes;
  }
  for (const std::int64_t region : receivers) wake(number, region);
}

/// Lets a region go on that waits for the exchange.
void RegionsServer::wake(std::int64_t number, std::int64_t region) {
  const Place& p = places_.at(region);
  const auto exchange = exchanges_.find(number);
  if (exchange == exchanges_.end() || !p.is_ready()) return;
  if (p.step == applied_step(exchange->second)) go_on(region, state_.now);
}

void RegionsServer::forget_finished() {
  std::erase_if(exchanges_, [this](const auto& item) {
    const Exchange& exchange = item.second;
    if (exchange.is_merged == 0 || !exchange.is_over()) return false;
    record_unapplied(exchange);
    return true;
  });
}

/// Rows of the regions that sent values and did not apply the merged ones.
void RegionsServer::record_unapplied(const Exchange& exchange) {
  for (std::int64_t region = 0; region < places_.size(); ++region) {
    const auto i = static_cast<std::size_t>(region);
    if (exchange.handed[i] >= 0 && exchange.applied[i] < 0) record(exchange, region, 0);
  }
}

/// `reached`: when the region came to the step at which it applies the exchange.
void RegionsServer::record(const Exchange& exchange, std::int64_t region, Nanoseconds reached) {
  const auto i = static_cast<std::size_t>(region);
  const Fragment& fragment = fragment_of(exchange);
  const std::int64_t up = encoded_bytes(settings_.regions.codec, fragment.tensors);
  const std::int64_t down = settings_.topology == Topology::star
                                ? fragment.values() * static_cast<std::int64_t>(sizeof(float))
                                : up;
  const Nanoseconds stall =
      exchange.applied[i] >= 0 ? std::max<Nanoseconds>(0, exchange.arrived[i] - reached) : 0;
  run_.records().append(exchange_row(exchange, region, up, down, stall));
}

/// Version v is the shared copy with every exchange that was sent up to the end of period v.
void RegionsServer::make_versions() {
  while (true) {
    const std::int64_t step = (state_.version + 1) * settings_.schedule.period;
    if (step > last_step()) return;
    const auto is_there = [&](const Place& p) { return p.step >= step; };
    const bool any = std::ranges::any_of(places_, is_there);
    const bool all = std::ranges::all_of(
        places_, [&](const Place& p) { return p.is_present == 0 || is_there(p); });
    // Regions that wait for a fragment may not have sent yet what they send after this step.
    const bool is_chosen = schedule_.next_slot(step - 1) != step || slots_.contains(step);
    const bool are_merged = std::ranges::none_of(exchanges_, [&](const auto& item) {
      return item.second.slot <= step && item.second.is_merged == 0;
    });
    if (!any || !all || !is_chosen || !are_merged) return;
    ++state_.version;
    state_.made = state_.now;
    run_.report({state_.version, state_.now, places_.period_loss()});
    kill_point("regions.version");
    std::erase_if(slots_, [&](const auto& slot) { return slot.first < step; });
    const auto replicas = replicas_.take(state_.version, shared_.model());
    const Parameters& model = replicas ? *replicas : shared_.model();
    if (!run_.made_version(state_.version, state_.now, model)) return;
  }
}

// Checkpoints -----------------------------------------------------------------------------------

void RegionsServer::archive(Archive& archive) {
  archive.open("regions");
  state_.archive(archive);
  schedule_.archive(archive);
  shared_.archive(archive);
  archive.open("network");
  network_.archive(archive);
  archive.close();
  archive_exchanges(archive, exchanges_);
  std::vector<std::pair<std::int64_t, std::vector<std::int64_t>>> slots(slots_.begin(),
                                                                        slots_.end());
  archive_list(archive, "slots", slots, [](Archive& a, auto& slot) {
    a.value("step", slot.first);
    a.value("exchanges", slot.second);
  });
  slots_ = {slots.begin(), slots.end()};
  replicas_.archive(archive);
  places_.archive(archive);
  archive.close();
}

}  // namespace espalier::regions
