#include "espalier/protocol/regions/schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "espalier/base/error.h"
#include "espalier/config/choice.h"

namespace espalier::regions {
namespace {

constexpr const char* kSchedules[] = {"together", "every_step", "offset", "adaptive"};

}  // namespace

void declare_schedule_options(OptionTable& table) {
  table.add({"regions.period", OptionType::integer, "100",
             "steps of a period; run.rounds counts periods", "steps", 1, 1e9});
  table.add_choice("regions.exchange", "values",
                   "what regions exchange: values, from which their differences to the shared copy "
                   "are taken; or gradients, in every step (data parallel)",
                   {"values", "gradients"});
  table.add({"regions.overlap", OptionType::integer, "0",
             "steps that a region trains between sending a fragment and applying the merged one; 0 "
             "= it waits",
             "steps", 0, 1e9});
  table.add_choice(
      "regions.schedule", "together",
      "when fragments are sent: all at the end of a period, or in every step; each at its "
      "own offset in the period; or adaptive: at equal distances the one that changes "
      "fastest",
      {std::begin(kSchedules), std::end(kSchedules)});
  table.add({"regions.sends", OptionType::integer, "0",
             "schedule adaptive: fragments sent in a period; 0 = as many as the links allow", "", 0,
             1e9});
  table.add({"regions.network_use", OptionType::real, "0.4",
             "schedule adaptive with regions.sends = 0: fraction of the time in which the links "
             "may be busy",
             "", 0.001, 1});
}

ScheduleSettings schedule_settings(const Config& config, std::int64_t fragments,
                                   const ExchangeTimes& times) {
  ScheduleSettings s;
  s.kind = choice<ScheduleKind>(config, "regions.schedule", kSchedules);
  s.period = s.longest = config.integer("regions.period");
  s.overlap = config.integer("regions.overlap");
  const bool is_gradient = config.text("regions.exchange") == "gradients";
  if (is_gradient != (s.kind == ScheduleKind::every_step)) {
    throw InputError(
        "regions.exchange = gradients and regions.schedule = every_step belong together: set both "
        "or none");
  }
  if (s.overlap >= s.period) {
    throw InputError(formatted(
        "regions.overlap = {} must be less than regions.period = {}: a fragment is applied before "
        "it is sent again",
        s.overlap, s.period));
  }
  if (fragments > s.period) {
    throw InputError(
        formatted("{} fragments do not fit into regions.period = {}, which must have a step for "
                  "each: choose fewer or a longer period",
                  fragments, s.period));
  }
  if (s.kind != ScheduleKind::adaptive) return s;
  std::int64_t sends = config.integer("regions.sends");
  if (sends == 0) {
    const double fit = times.exchange_s > 0
                           ? config.real("regions.network_use") * static_cast<double>(s.period) *
                                 times.step_s / times.exchange_s
                           : static_cast<double>(s.period);
    sends = std::clamp(static_cast<std::int64_t>(fit), fragments, s.period);
  }
  if (sends < fragments || sends > s.period) {
    throw InputError(formatted(
        "regions.sends = {} must be between the {} fragments and the {} steps of a period", sends,
        fragments, s.period));
  }
  s.spacing = s.period / sends;
  if (config.integer("regions.sends") > 0 || !(times.step_s > 0)) return s;
  // Links that are too slow for one exchange of every fragment in a period stretch the schedule.
  const double needed = std::ceil(times.exchange_s / times.step_s);
  if (needed > static_cast<double>(s.spacing)) {
    s.spacing = static_cast<std::int64_t>(needed);
    s.longest = std::max(s.period, fragments * s.spacing);
  }
  return s;
}

Schedule::Schedule(ScheduleSettings settings, std::vector<std::int64_t> values)
    : settings_(settings),
      values_(std::move(values)),
      last_sent_(values_.size(), 0),
      interval_(values_.size(), 0),
      change_(values_.size(), 0) {}

std::int64_t Schedule::next_slot(std::int64_t step) const {
  const std::int64_t period = settings_.period;
  switch (settings_.kind) {
    case ScheduleKind::together:
      return (step / period + 1) * period;
    case ScheduleKind::every_step:
      return step + 1;
    case ScheduleKind::adaptive:
      return (step / settings_.spacing + 1) * settings_.spacing;
    case ScheduleKind::offset:
      break;
  }
  const auto count = std::ssize(values_);
  std::int64_t next = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t p = 0; p < count; ++p) {
    const std::int64_t offset = p * period / count;
    const std::int64_t passed = step < offset ? -1 : (step - offset) / period;
    const std::int64_t slot = offset + (passed + 1) * period;
    if (slot > 0) next = std::min(next, slot);
  }
  // Fragment 0 has the offset 0; its first slot is the end of the first period.
  return next;
}

std::vector<int> Schedule::choose(std::int64_t step) {
  std::erase_if(norms_, [&](const Norm& norm) {
    if (norm.sent_step + settings_.overlap > step) return false;
    const auto p = static_cast<std::size_t>(norm.fragment);
    change_[p] = norm.norm / (static_cast<double>(std::max<std::int64_t>(1, interval_[p])) *
                              static_cast<double>(values_[p]));
    return true;
  });
  std::vector<int> fragments;
  const auto count = static_cast<int>(values_.size());
  for (int p = 0; p < count; ++p) {
    const std::int64_t offset =
        settings_.kind == ScheduleKind::offset ? p * settings_.period / count : 0;
    const bool is_due =
        settings_.kind == ScheduleKind::every_step || (step - offset) % settings_.period == 0;
    if (settings_.kind != ScheduleKind::adaptive && is_due) fragments.push_back(p);
  }
  if (settings_.kind == ScheduleKind::adaptive) {
    if (const auto one = chosen(step)) fragments.push_back(*one);
  }
  for (const int fragment : fragments) {
    const auto p = static_cast<std::size_t>(fragment);
    interval_[p] = step - last_sent_[p];
    last_sent_[p] = step;
  }
  return fragments;
}

/// The first that waited too long; else the first that was never sent; else the one that changed
/// most per step and value at its last exchange. A fragment under way is not sent again.
std::optional<int> Schedule::chosen(std::int64_t step) const {
  std::vector<int> candidates;
  for (int p = 0; p < static_cast<int>(values_.size()); ++p) {
    const std::int64_t sent = last_sent_[static_cast<std::size_t>(p)];
    if (sent == 0 || sent + settings_.overlap <= step) candidates.push_back(p);
  }
  const auto sent = [&](int p) { return last_sent_[static_cast<std::size_t>(p)]; };
  for (const int p : candidates) {
    if (step - sent(p) >= settings_.longest) return p;
  }
  for (const int p : candidates) {
    if (sent(p) == 0) return p;
  }
  if (candidates.empty()) return std::nullopt;
  return *std::ranges::max_element(candidates, {},
                                   [&](int p) { return change_[static_cast<std::size_t>(p)]; });
}

void Schedule::merged(int fragment, std::int64_t sent_step, double norm) {
  norms_.push_back({fragment, sent_step, norm});
}

void Schedule::archive(Archive& archive) {
  archive.value("last_sent", last_sent_);
  archive.value("interval", interval_);
  archive.value("change", change_);
  archive_list(archive, "norms", norms_, [](Archive& a, Norm& norm) {
    std::int64_t fragment = norm.fragment;
    a.value("fragment", fragment);
    norm.fragment = static_cast<int>(fragment);
    a.value("sent_step", norm.sent_step);
    a.value("norm", norm.norm);
  });
}

}  // namespace espalier::regions
