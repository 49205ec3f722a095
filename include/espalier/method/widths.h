#pragma once
// Width levels, shared by the methods that give each client a share of every layer: `fixed` levels
// stay with a client for the whole run, `dynamic` ones are redrawn for every task.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "espalier/protocol/rounds/rules.h"

namespace espalier::rounds {

/// method.widths, method.proportions, method.levels, clients.memory_fit.
void declare_width_options(OptionTable& table);

/// What a client of a width share would be assigned, as far as its memory is concerned.
using AssignmentOf = std::function<Assignment(double width)>;

class WidthLevels {
 public:
  /// With clients.memory_fit = width, each client's share is the largest multiple of 1/128 for
  /// whose assignment it has the memory. InputError where widths and proportions do not fit each
  /// other, or a device is too small for the smallest share.
  WidthLevels(const RuleContext& context, const AssignmentOf& assignment);
  /// Of rules that keep the same share of every layer.
  explicit WidthLevels(const RuleContext& context);
  /// The share of the client's task. Fixed: client i of n gets the level whose part of the
  /// proportions contains (i + 1/2) / n, so that equal levels are neighbours. Dynamic: drawn by
  /// (client, its n-th task).
  double width(const SendMoment& moment) const;
  /// The largest share that any client may have.
  double largest() const;

 private:
  void fit(const RuleContext& context, const AssignmentOf& assignment);

  std::int64_t seed_;
  std::int64_t clients_;
  bool dynamic_;
  std::vector<double> widths_;
  std::vector<double> upper_;             // cumulated proportions, last = 1
  const Fleet* fleet_ = nullptr;          // where shares are fitted to the memory
  std::map<std::string, double> fitted_;  // by class of device
};

}  // namespace espalier::rounds
