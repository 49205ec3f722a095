#include "espalier/method/widths.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "espalier/base/log.h"
#include "espalier/base/units.h"
#include "espalier/model/unit_window.h"

namespace espalier::rounds {
namespace {

const Purpose kLevels = register_purpose("method.levels");

// Widths are fitted in steps of 1 / kFitSteps.
constexpr std::int64_t kFitSteps = 128;

/// The largest width that fits, the smallest one if none does. A narrower one than a width that
/// fits must fit too.
double largest_width(const std::function<bool(double width)>& fits) {
  std::int64_t least = 1;
  std::int64_t beyond = kFitSteps + 1;
  while (beyond - least > 1) {
    const std::int64_t middle = (least + beyond) / 2;
    (fits(static_cast<double>(middle) / kFitSteps) ? least : beyond) = middle;
  }
  return static_cast<double>(least) / kFitSteps;
}

}  // namespace

void declare_width_options(OptionTable& table) {
  table.add({"method.widths", OptionType::real_list, "1, 0.5, 0.25",
             "widths of the levels, above 0 and at most 1"});
  table.add({"method.proportions", OptionType::real_list, "",
             "relative numbers of clients of the levels; empty = equal numbers"});
  table.add_choice("method.levels", "fixed",
                   "level of a client: the same in all its tasks, or drawn for every task",
                   {"fixed", "dynamic"});
  table.add_choice(
      "clients.memory_fit", "off",
      "use of the memory; width: each client has the largest width that its memory allows, instead "
      "of method.widths",
      {"off", "width"});
  table.add_choice(
      "clients.time_fit", "off",
      "use of the time of an update; width: each client has the largest width with which it is as "
      "fast as the fastest client with the whole model, instead of method.widths",
      {"off", "width"});
}

void refuse_fitted_widths(const Config& config) {
  for (const char* key : {"clients.memory_fit", "clients.time_fit"}) {
    if (config.text(key) != "width") continue;
    throw InputError(
        formatted("{} = width needs a rule that cuts widths: set method.submodel to static or "
                  "rolling",
                  key));
  }
}

void note_unstructured(const char* which) {
  log_note(formatted(
      "method   unstructured: {} weights are zeros in a whole model, which is charged in full for "
      "memory, operations and bytes",
      which));
}

void refuse_memory(const DeviceClass& device, std::int64_t least_bytes) {
  throw InputError(
      formatted("device.{}.memory_mb = {} is too little for the smallest submodel, which needs "
                "{}; give it more, or train a smaller model or batch",
                device.name, device.memory_mb, megabytes(least_bytes)));
}

WidthLevels::WidthLevels(const RuleContext& context)
    : WidthLevels(context, [&](double width) {
        return Assignment{window_submodel(*context.experiment.model.layout, width, 0), width};
      }) {}

WidthLevels::WidthLevels(const RuleContext& context, const AssignmentOf& assignment)
    : seed_(context.experiment.seed),
      clients_(context.experiment.fleet->size()),
      dynamic_(context.config.text("method.levels") == "dynamic"),
      widths_(context.config.reals("method.widths")) {
  const Config& config = context.config;
  std::vector<double> proportions = config.reals("method.proportions");
  if (widths_.empty()) throw InputError("method.widths is empty; give at least one width");
  for (double width : widths_) {
    if (!(width > 0 && width <= 1)) {
      throw InputError(formatted("method.widths has {}; widths are above 0 and at most 1", width));
    }
  }
  if (proportions.empty()) proportions.assign(widths_.size(), 1.0);
  if (proportions.size() != widths_.size()) {
    throw InputError(formatted("method.proportions has {} values for {} method.widths",
                               proportions.size(), widths_.size()));
  }
  const double sum = std::accumulate(proportions.begin(), proportions.end(), 0.0);
  if (std::ranges::any_of(proportions, [](double p) { return p < 0; }) || !(sum > 0)) {
    throw InputError("method.proportions must not be negative, and not all zero");
  }
  double cumulated = 0;
  for (double p : proportions) upper_.push_back((cumulated += p) / sum);
  upper_.back() = 1.0;
  if (config.text("clients.memory_fit") == "width") fit_memory(context, assignment);
  if (config.text("clients.time_fit") == "width") fit_time(context, assignment);
}

/// Finds the largest width whose update takes no longer than the fastest client's with width 1; the
/// smallest width if none does.
void WidthLevels::fit_time(const RuleContext& context, const AssignmentOf& assignment) {
  Nanoseconds fastest = std::numeric_limits<Nanoseconds>::max();
  for (std::int64_t client = 0; client < clients_; ++client) {
    fastest = std::min(fastest, context.update_time(assignment(1), client));
  }
  for (std::int64_t client = 0; client < clients_; ++client) {
    timed_.push_back(largest_width(
        [&](double width) { return context.update_time(assignment(width), client) <= fastest; }));
  }
}

/// Finds the largest width whose assignment fits the memory, for each device class.
void WidthLevels::fit_memory(const RuleContext& context, const AssignmentOf& assignment) {
  const Layout& layout = *context.experiment.model.layout;
  fleet_ = context.experiment.fleet.get();
  for (std::int64_t client = 0; client < clients_; ++client) {
    const DeviceClass& device = fleet_->device(client);
    auto [place, added] = fitted_.try_emplace(device.name, 1.0);
    const std::int64_t cap = memory_bytes(device);
    if (!added || cap == 0) continue;
    const auto bytes = [&](double width) {
      // The description of a window that passes the end of its axis has one more run of units.
      const auto longer = static_cast<std::int64_t>(16 * layout.axes.size());
      return context.peak(assignment(width), client) + longer;
    };
    constexpr double kSmallest = 1.0 / kFitSteps;
    if (bytes(kSmallest) > cap) refuse_memory(device, bytes(kSmallest));
    place->second = largest_width([&](double width) { return bytes(width) <= cap; });
  }
}

double WidthLevels::width(const SendMoment& moment) const {
  if (fleet_ != nullptr || !timed_.empty()) return fitted_width(moment.client);
  double position = (static_cast<double>(moment.client) + 0.5) / static_cast<double>(clients_);
  if (dynamic_) {
    position = Stream(seed_, kLevels, moment.client, moment.nth_task).uniform();
  }
  const auto level = std::upper_bound(upper_.begin(), upper_.end() - 1, position) - upper_.begin();
  return widths_[static_cast<std::size_t>(level)];
}

double WidthLevels::largest() const {
  if (fleet_ == nullptr && timed_.empty()) return *std::ranges::max_element(widths_);
  double most = 0;
  for (std::int64_t client = 0; client < clients_; ++client) {
    most = std::max(most, fitted_width(client));
  }
  return most;
}

double WidthLevels::fitted_width(std::int64_t client) const {
  const double by_memory = fleet_ == nullptr ? 1 : fitted_.at(fleet_->device(client).name);
  return timed_.empty() ? by_memory : std::min(by_memory, timed_[static_cast<std::size_t>(client)]);
}

}  // namespace espalier::rounds
