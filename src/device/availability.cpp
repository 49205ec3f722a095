#include "espalier/device/availability.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/device/emulated_time.h"

namespace espalier {
namespace {

const Purpose kAvailability = register_purpose("clients.availability");

}  // namespace

void declare_availability_options(OptionTable& table) {
  table.add({"clients.availability_period_s", OptionType::real, "3600",
             "time between two draws of which clients are available (device.NAME.availability)",
             "s", 1e-6, 1e9});
  table.add({"clients.availability_trace", OptionType::text, "",
             "file of lines 'client begin_s end_s', the times in which clients are available; a "
             "header line is skipped; empty = none"});
}

AvailabilityTrace AvailabilityTrace::read(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream.is_open() || stream.bad()) {
    throw DataError(formatted("{} (clients.availability_trace) cannot be read", file.string()));
  }
  return parse(text.str(), file.string());
}

AvailabilityTrace AvailabilityTrace::parse(const std::string& text, const std::string& origin) {
  // Numbers of clients and seconds (a century) above these are mistakes.
  constexpr std::int64_t kMostClients = 10'000'000;
  constexpr double kMostSeconds = 3e9;
  AvailabilityTrace trace;
  std::istringstream lines{std::string(without_byte_order_mark(text))};
  std::int64_t number = 0;
  bool is_first = true;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    line.resize(std::min(line.size(), line.find('#')));
    std::ranges::replace(line, ',', ' ');
    std::istringstream words(line);
    std::vector<std::string> fields;
    for (std::string word; words >> word;) fields.push_back(word);
    if (fields.empty()) continue;
    const bool may_be_header = std::exchange(is_first, false);
    const auto is_number = [](const std::string& field) { return parse_real(field).has_value(); };
    if (may_be_header && fields.size() == 3 && std::ranges::none_of(fields, is_number)) continue;
    const auto client = fields.size() == 3 ? parse_integer(fields[0]) : std::nullopt;
    const auto begin = fields.size() == 3 ? parse_real(fields[1]) : std::nullopt;
    const auto end = fields.size() == 3 ? parse_real(fields[2]) : std::nullopt;
    if (!client || !begin || !end || *client < 0 || *client >= kMostClients || *begin < 0 ||
        *end <= *begin || *end > kMostSeconds) {
      throw DataError(formatted(
          "{}, line {}: '{}' is not 'client begin_s end_s', a number from 0 and two times in order",
          origin, number, line));
    }
    if (static_cast<std::size_t>(*client) >= trace.stays_.size()) {
      trace.stays_.resize(static_cast<std::size_t>(*client) + 1);
    }
    trace.stays_[static_cast<std::size_t>(*client)].push_back(
        {std::llround(*begin * 1e9), std::llround(*end * 1e9)});
  }
  if (trace.stays_.empty()) {
    throw DataError(origin + " has no line 'client begin_s end_s'");
  }
  for (std::vector<Stay>& stays : trace.stays_) {
    std::ranges::sort(stays, {}, &Stay::begin);
    std::vector<Stay> merged;
    for (const Stay& stay : stays) {
      if (!merged.empty() && stay.begin <= merged.back().end) {
        merged.back().end = std::max(merged.back().end, stay.end);
      } else {
        merged.push_back(stay);
      }
    }
    stays = std::move(merged);
    for (const Stay& stay : stays) {
      trace.changes_.push_back(stay.begin);
      trace.changes_.push_back(stay.end);
    }
  }
  std::ranges::sort(trace.changes_);
  const auto same = std::ranges::unique(trace.changes_);
  trace.changes_.erase(same.begin(), same.end());
  const Nanoseconds length = trace.changes_.back();
  for (std::int64_t client = 0; client < trace.recorded(); ++client) {
    for (const Stay& stay : trace.stays_[static_cast<std::size_t>(client)]) {
      trace.changes_of_clients_.push_back({stay.begin % length, client});
      trace.changes_of_clients_.push_back({stay.end % length, client});
    }
  }
  std::ranges::stable_sort(trace.changes_of_clients_, {}, &Change::time);
  return trace;
}

bool AvailabilityTrace::available(std::int64_t client, Nanoseconds now) const {
  const std::vector<Stay>& stays = stays_[static_cast<std::size_t>(client) % stays_.size()];
  const Nanoseconds time = now % changes_.back();
  const auto later = std::ranges::upper_bound(stays, time, {}, &Stay::begin);
  return later != stays.begin() && time < std::prev(later)->end;
}

Nanoseconds AvailabilityTrace::next_change(Nanoseconds now) const {
  const Nanoseconds time = now % changes_.back();
  return later(now - time, *std::ranges::upper_bound(changes_, time));
}

std::vector<std::int64_t> AvailabilityTrace::changed(Nanoseconds from, Nanoseconds to) const {
  const Nanoseconds length = changes_.back();
  std::vector<std::int64_t> clients;
  /// Of the changes after `first` and up to `last`.
  const auto add = [&](Nanoseconds first, Nanoseconds last) {
    for (auto change = std::ranges::upper_bound(changes_of_clients_, first, {}, &Change::time);
         change != changes_of_clients_.end() && change->time <= last; ++change) {
      clients.push_back(change->client);
    }
  };
  if (to - from >= length) {
    add(-1, length);
  } else if (from / length == to / length) {
    add(from % length, to % length);
  } else {
    add(from % length, length);
    add(-1, to % length);
  }
  return clients;
}

Availability::Availability(const Config& config, const Fleet& fleet)
    : fleet_(&fleet),
      seed_(config.integer("run.seed")),
      period_(std::llround(config.real("clients.availability_period_s") * 1e9)),
      always_(std::ranges::all_of(fleet.classes(),
                                  [](const DeviceClass& d) { return d.availability >= 1; })) {
  const std::string file = config.text("clients.availability_trace");
  if (!file.empty()) trace_ = AvailabilityTrace::read(file);
}

bool Availability::is_drawn(std::int64_t client, std::int64_t period) const {
  const double fraction = fleet_->device(client).availability;
  if (fraction >= 1) return true;
  Stream stream(seed_, kAvailability, client, period);
  return stream.uniform() < fraction;
}

std::optional<Nanoseconds> Availability::next_change(Nanoseconds now) const {
  std::optional<Nanoseconds> next;
  if (!always_) next = times(now / period_ + 1, period_);
  if (trace_) {
    const Nanoseconds change = trace_->next_change(now);
    next = std::min(next.value_or(change), change);
  }
  return next;
}

}  // namespace espalier
