#include "espalier/protocol/regions/decoupled.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/base/kill_point.h"
#include "espalier/device/emulated_time.h"
#include "espalier/protocol/regions/merge.h"

namespace espalier::regions {
namespace {

/// The regions whose values the server has, in order.
std::vector<std::int64_t> received(const Exchange& exchange) {
  std::vector<std::int64_t> regions;
  for (std::size_t i = 0; i < exchange.received.size(); ++i) {
    if (exchange.received[i] != 0) regions.push_back(static_cast<std::int64_t>(i));
  }
  return regions;
}

/// Whether values of any region can still come.
bool awaits_values(const Exchange& exchange) {
  for (std::size_t i = 0; i < exchange.handed.size(); ++i) {
    if (exchange.handed[i] == Exchange::kWaiting) return true;
    if (exchange.contributes(i) && exchange.received[i] == 0) return true;
  }
  return false;
}

}  // namespace

DecoupledServer::DecoupledServer(const Experiment& experiment, ServerSettings settings,
                                 Parameters model, Run& run)
    : experiment_(experiment),
      settings_(std::move(settings)),
      run_(run),
      shared_(experiment, settings_.regions, settings_.merge, std::move(model)),
      schedule_(settings_.schedule, sizes_of(settings_.regions.fragments)),
      network_(devices_of(*experiment.fleet), settings_.clock.server),
      places_(experiment, settings_, run),
      inboxes_(static_cast<std::size_t>(experiment.fleet->size())) {}

void DecoupledServer::begin() {
  places_.clock().start(state_.now);
  for (std::int64_t region = 0; region < places_.size(); ++region) {
    if (places_.at(region).job >= 0) places_.send_again(region);
  }
}

/// Regions between two steps go on once everything that happens at that time has been handled.
void DecoupledServer::advance() {
  Clock& clock = places_.clock();
  const bool any_ready =
      std::ranges::any_of(places_, [](const Place& place) { return place.is_ready(); });
  const auto next = network_.next_time();
  const bool is_due = next && (!any_ready || *next <= state_.now);
  const auto limit = any_ready && !is_due ? std::optional(state_.now) : next;
  std::optional<Clock::Event> event;
  if (!clock.out().empty()) {
    run_.heed_stops([&] { event = clock.next(limit); });
  } else if (!any_ready) {
    if (!next) throw NoRegion();
    run_.heed_stops([&] { clock.pass(*next); });
  }
  const Stopwatch busy = run_.busy();
  if (event) {
    finished(*event);
  } else if (!is_due) {
    go_on();
  } else if (const auto change = network_.take()) {
    on_network(*change);
  }
  make_versions();
}

void DecoupledServer::end() {
  for (const auto& [number, exchange] : exchanges_) {
    for (std::int64_t region = 0; region < places_.size(); ++region) record(exchange, region);
  }
  places_.record_last();
}

// Regions ---------------------------------------------------------------------------------------

/// What the region answers before its next step: every fragment that it was asked for and has
/// trained for a step since it last got it.
std::vector<RegionTask::Sent> DecoupledServer::answers(std::int64_t region) {
  const auto i = static_cast<std::size_t>(region);
  Inbox& inbox = inboxes_[i];
  std::erase_if(inbox.asked, [&](std::int64_t number) {
    const auto found = exchanges_.find(number);
    return found == exchanges_.end() || found->second.handed[i] != Exchange::kWaiting;
  });
  std::vector<RegionTask::Sent> answers;
  for (const std::int64_t number : inbox.asked) {
    const std::int64_t fragment = exchanges_.at(number).fragment;
    const bool is_fresh = std::ranges::any_of(inbox.arrived, [&](std::int64_t other) {
      return exchanges_.at(other).fragment == fragment;
    });
    if (is_fresh || places_.at(region).steps_since[static_cast<std::size_t>(fragment)] == 0) {
      continue;
    }
    answers.push_back({number, fragment});
  }
  return answers;
}

/// First all answers are sent, because they may change what happens at this time; then all steps.
void DecoupledServer::go_on() {
  bool any_answers = false;
  for (std::int64_t region = 0; region < places_.size(); ++region) {
    const Place& p = places_.at(region);
    if (!p.is_ready()) continue;
    if (!places_.is_available(region, state_.now)) {
      leave(region, false);
      continue;
    }
    RegionTask task;
    task.from = task.goal = p.step;
    task.sent = answers(region);
    if (task.sent.empty()) continue;
    send(region, std::move(task));
    any_answers = true;
  }
  if (any_answers) return;
  for (std::int64_t region = 0; region < places_.size(); ++region) {
    const Place& p = places_.at(region);
    if (!p.is_ready()) continue;
    RegionTask task;
    task.from = p.step;
    task.goal = p.step + 1;
    send(region, std::move(task));
  }
}

/// Sends the region's next job, which first applies what has arrived.
void DecoupledServer::send(std::int64_t region, RegionTask task) {
  const auto i = static_cast<std::size_t>(region);
  Place& p = places_.at(region);
  Bytes payload;
  for (const std::int64_t number : std::exchange(inboxes_[i].arrived, {})) {
    Exchange& exchange = exchanges_.at(number);
    const bool has_sent = exchange.handed[i] >= 0;
    task.applied.push_back({number, exchange.fragment,
                            has_sent ? p.step - exchange.sent_step[i] : 0,
                            has_sent ? exchange.lost[i] : 0});
    payload.insert(payload.end(), exchange.merged.begin(), exchange.merged.end());
    exchange.applied[i] = state_.now;
    exchange.applied_step[i] = p.step;
    if (!has_sent) exchange.handed[i] = Exchange::kNever;  // its answer would come too late
    p.tokens_since[static_cast<std::size_t>(exchange.fragment)] = 0;
    p.steps_since[static_cast<std::size_t>(exchange.fragment)] = 0;
    record(exchange, region);
  }
  forget_finished();
  places_.send(region, std::move(task), std::move(payload), shared_, state_.now);
}

/// A region has done its job, or failed.
void DecoupledServer::finished(const Clock::Event& event) {
  state_.now = event.flight.finish;
  const std::int64_t region = event.flight.endpoint;
  const SharedBytes values = places_.finished(event);
  if (!values) {
    leave(region, true);
    return;
  }
  hand_over(region, *values);
  open_slots(places_.at(region).step);
}

/// Hands what the region sends to its link.
void DecoupledServer::hand_over(std::int64_t region, const Bytes& values) {
  const auto i = static_cast<std::size_t>(region);
  const Place& p = places_.at(region);
  auto next = values.begin();
  for (const RegionTask::Sent& sent : p.task.sent) {
    Exchange& exchange = exchanges_.at(sent.exchange);
    const std::int64_t bytes =
        encoded_bytes(settings_.regions.codec, fragment_of(exchange).tensors);
    if (exchange.is_begun == 0) exchange.values[i] = Bytes(next, next + bytes);
    next += bytes;
    exchange.handed[i] = state_.now;
    exchange.sent_step[i] = p.step;
    exchange.tokens[i] = p.tokens_since[static_cast<std::size_t>(sent.fragment)];
    exchange.steps[i] = p.steps_since[static_cast<std::size_t>(sent.fragment)];
    state_.bytes_up += bytes;
    if (exchange.contributes(i)) network_.hand_over(sent.exchange, region, bytes, state_.now);
    settle(sent.exchange);
  }
}

/// The region has failed, or is not available. Merges go on without it until it is back and has the
/// shared copy.
void DecoupledServer::leave(std::int64_t region, bool failed) {
  const auto i = static_cast<std::size_t>(region);
  inboxes_[i] = {};
  std::vector<std::int64_t> open;
  for (auto& [number, exchange] : exchanges_) {
    open.push_back(number);
    for (auto* waiting : {&exchange.handed, &exchange.applied}) {
      if ((*waiting)[i] == Exchange::kWaiting) (*waiting)[i] = Exchange::kNever;
    }
  }
  if (const auto back = places_.leave(region, state_.now, failed)) {
    network_.send_copy(region, shared_.bytes(), *back);
  }
  for (const std::int64_t number : open) settle(number);
  forget_finished();
}

// Exchanges -------------------------------------------------------------------------------------

void DecoupledServer::on_network(const Network::Event& event) {
  state_.now = std::max(state_.now, event.time);
  const auto i = static_cast<std::size_t>(event.region);
  if (event.kind == Network::Event::Kind::joined) {
    state_.bytes_down += shared_.bytes();
    places_.join(event.region, state_.now);
    return;
  }
  const auto found = exchanges_.find(event.exchange);
  if (found == exchanges_.end()) return;  // it is over
  Exchange& exchange = found->second;
  switch (event.kind) {
    case Network::Event::Kind::asked:
      if (exchange.handed[i] == Exchange::kWaiting) inboxes_[i].asked.push_back(event.exchange);
      return;
    case Network::Event::Kind::received:
      if (exchange.is_begun != 0) return;  // too late
      exchange.received[i] = 1;
      settle(event.exchange);
      if (exchange.is_begun == 0 &&
          std::ranges::count(exchange.received, 1) == settings_.decoupling->quorum) {
        network_.close_at(event.exchange, later(state_.now, grace()));
      }
      return;
    case Network::Event::Kind::closes:
      begin_merge(exchange);
      return;
    case Network::Event::Kind::averaged:
      merge(exchange);
      return;
    case Network::Event::Kind::arrived:
      if (exchange.applied[i] != Exchange::kWaiting) return;  // the region left
      exchange.arrived[i] = state_.now;
      state_.bytes_down += std::ssize(exchange.merged);
      inboxes_[i].arrived.push_back(event.exchange);
      return;
    case Network::Event::Kind::at_server_link:
    case Network::Event::Kind::joined:
      return;
  }
}

/// Chooses fragments for all slots up to `step`, which a region has reached.
void DecoupledServer::open_slots(std::int64_t step) {
  while (true) {
    const std::int64_t slot = schedule_.next_slot(slot_.step);
    if (slot > step) return;
    slot_.step = slot;
    slot_.time = state_.now;
    for (const int fragment : schedule_.choose(slot)) ask(fragment, slot);
  }
}

/// Asks all regions for the fragment, once its last exchange is merged.
void DecoupledServer::ask(std::int64_t fragment, std::int64_t slot) {
  const bool is_waiting =
      std::ranges::find(waiting_, fragment, &Waiting::fragment) != waiting_.end();
  if (is_waiting) return;
  const bool is_under_way = std::ranges::any_of(exchanges_, [&](const auto& item) {
    return item.second.fragment == fragment && item.second.is_merged == 0;
  });
  if (is_under_way) {
    waiting_.push_back({fragment, slot});
    return;
  }
  Exchange e(state_.next_exchange++, fragment, slot, places_.presence());
  for (std::int64_t region = 0; region < places_.size(); ++region) {
    const auto i = static_cast<std::size_t>(region);
    e.lost[i] = places_.loses_message(region, e.number) ? 1 : 0;
    if (e.handed[i] == Exchange::kWaiting) network_.ask(e.number, region, state_.now);
  }
  exchanges_.emplace(e.number, std::move(e));
}

/// Begins the merge if no further values can come. Without any values there is nothing to merge.
void DecoupledServer::settle(std::int64_t number) {
  Exchange& exchange = exchanges_.at(number);
  if (exchange.is_begun != 0 || awaits_values(exchange)) return;
  if (std::ranges::count(exchange.received, 1) > 0) {
    begin_merge(exchange);
    return;
  }
  exchange.is_begun = exchange.is_merged = 1;
  std::ranges::fill(exchange.applied, Exchange::kNever);
}

void DecoupledServer::begin_merge(Exchange& exchange) {
  if (exchange.is_begun != 0) return;
  exchange.is_begun = 1;
  network_.merge(exchange.number,
                 merge_flops(fragment_of(exchange), std::ranges::count(exchange.received, 1)),
                 state_.now);
}

/// How long a merge waits for further values: a fraction of the time until the foremost region
/// reaches the next slot, and at most of one of its steps.
Nanoseconds DecoupledServer::grace() const {
  const Nanoseconds step = places_.shortest_step();
  const Nanoseconds next_slot =
      later(slot_.time, times(schedule_.next_slot(slot_.step) - slot_.step, step));
  const Nanoseconds spare = std::clamp<Nanoseconds>(next_slot - state_.now, 0, step);
  return std::llround(settings_.decoupling->grace * static_cast<double>(spare));
}

void DecoupledServer::merge(Exchange& exchange) {
  const double norm =
      merge_exchange(experiment_, settings_.weights, received(exchange), exchange, shared_);
  schedule_.merged(static_cast<int>(exchange.fragment), exchange.slot, norm);
  kill_point("regions.merged");
  for (std::int64_t region = 0; region < places_.size(); ++region) {
    const bool is_present = places_.at(region).is_present != 0;
    exchange.applied[static_cast<std::size_t>(region)] =
        is_present ? Exchange::kWaiting : Exchange::kNever;
    if (is_present) {
      network_.send_down(exchange.number, region, std::ssize(exchange.merged), state_.now);
    }
  }
  forget_finished();
}

/// Forgets exchanges that are over, and asks for fragments that waited for them.
void DecoupledServer::forget_finished() {
  std::erase_if(exchanges_, [this](const auto& item) {
    const Exchange& exchange = item.second;
    if (exchange.is_merged == 0 || !exchange.is_over()) return false;
    for (std::int64_t region = 0; region < places_.size(); ++region) {
      if (exchange.applied[static_cast<std::size_t>(region)] < 0) record(exchange, region);
    }
    return true;
  });
  for (const Waiting& waiting : std::exchange(waiting_, {})) ask(waiting.fragment, waiting.slot);
}

/// Records what the region sent or applied, if anything.
void DecoupledServer::record(const Exchange& exchange, std::int64_t region) {
  const auto i = static_cast<std::size_t>(region);
  if (exchange.handed[i] < 0 && exchange.applied[i] < 0) return;
  const Fragment& fragment = fragment_of(exchange);
  run_.records().append(
      exchange_row(exchange, region, encoded_bytes(settings_.regions.codec, fragment.tensors),
                   fragment.values() * static_cast<std::int64_t>(sizeof(float)), 0));
}

/// Version v is the shared copy with every fragment that was chosen up to step v H.
void DecoupledServer::make_versions() {
  while (state_.version < experiment_.rounds) {
    const std::int64_t step = (state_.version + 1) * settings_.schedule.period;
    const auto is_open = [&](const auto& item) {
      return item.second.slot <= step && item.second.is_merged == 0;
    };
    if (schedule_.next_slot(slot_.step) <= step || std::ranges::any_of(exchanges_, is_open) ||
        std::ranges::any_of(waiting_, [&](const Waiting& w) { return w.slot <= step; })) {
      return;
    }
    ++state_.version;
    state_.made = state_.now;
    run_.report({state_.version, state_.now, places_.period_loss()});
    kill_point("regions.version");
    if (!run_.made_version(state_.version, state_.now, shared_.model())) return;
  }
}

// Checkpoints -----------------------------------------------------------------------------------

void DecoupledServer::archive(Archive& archive) {
  archive.open("regions");
  state_.archive(archive);
  archive.value("slot", slot_.step);
  archive.value("slot_time", slot_.time);
  schedule_.archive(archive);
  shared_.archive(archive);
  archive.open("network");
  network_.archive(archive);
  archive.close();
  archive_exchanges(archive, exchanges_);
  archive_list(archive, "waiting", waiting_, [](Archive& a, Waiting& waiting) {
    a.value("fragment", waiting.fragment);
    a.value("slot", waiting.slot);
  });
  archive_list(archive, "inboxes", inboxes_, [](Archive& a, Inbox& inbox) {
    a.value("asked", inbox.asked);
    a.value("arrived", inbox.arrived);
  });
  places_.archive(archive);
  archive.close();
}

}  // namespace espalier::regions
