#pragma once
// Width levels, common to the methods that give each client a fraction of every layer: with `fixed`
// levels a client keeps its width for the whole run, with `dynamic` ones it is drawn for every
// task.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "espalier/protocol/rounds/rules.h"

namespace espalier::rounds {

/// method.widths, method.proportions, method.levels, clients.memory_fit, clients.time_fit.
void declare_width_options(OptionTable& table);
/// InputError if widths are to be fitted, for a rule that has none.
void refuse_fitted_widths(const Config& config);
/// Notes that the method masks single weights ("masked", "pruned") of a whole model.
void note_unstructured(const char* which);
/// InputError: the smallest submodel needs `least_bytes`, which the device does not have.
[[noreturn]] void refuse_memory(const DeviceClass& device, std::int64_t least_bytes);

/// The assignment of a client of a given width, for the bound of its memory.
using AssignmentOf = std::function<Assignment(double width)>;

class WidthLevels {
 public:
  /// With clients.memory_fit = width, each client's width is the largest multiple of 1/128 whose
  /// assignment fits its memory; with clients.time_fit = width, also the largest with which its
  /// update takes no longer than the fastest client's with width 1. InputError if there are not as
  /// many proportions as widths, or if a device is too small for the smallest width.
  WidthLevels(const RuleContext& context, const AssignmentOf& assignment);
  /// For rules that keep the same fraction of every layer.
  explicit WidthLevels(const RuleContext& context);
  /// The width of the client's task. Fixed: client i of n gets the level whose interval of the
  /// cumulated proportions contains (i + 1/2) / n, so that clients of a level are neighbours.
  /// Dynamic: drawn, keyed by the client and the number of its task.
  double width(const SendMoment& moment) const;
  /// The largest width of any client.
  double largest() const;

 private:
  void fit_memory(const RuleContext& context, const AssignmentOf& assignment);
  void fit_time(const RuleContext& context, const AssignmentOf& assignment);
  double fitted_width(std::int64_t client) const;

  std::int64_t seed_;
  std::int64_t clients_;
  bool dynamic_;
  std::vector<double> widths_;
  std::vector<double> upper_;             // cumulated proportions, last = 1
  const Fleet* fleet_ = nullptr;          // null unless widths are fitted to the memory
  std::map<std::string, double> fitted_;  // to the memory, by class of device
  std::vector<double> timed_;             // fitted to the time, by client; empty unless it is
};

}  // namespace espalier::rounds
