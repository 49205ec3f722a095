#pragma once
// Which parameters of the model the updates of a window hold, which were ever trained, and how far
// two updates agree on the parameters that both hold. For the record alone: no rule reads them.

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/protocol/rounds/rules.h"

namespace espalier::rounds {

/// Holders of each trained parameter that is not personal in one window.
struct Coverage {
  double minimum = 0;
  double mean = 0;
};
Coverage coverage(const Experiment& experiment, const BufferLayout& model,
                  std::span<const Update> updates);

/// The parameters that at least one merged update has held since the run began.
class EverTrained {
 public:
  /// Its work is proportional to the runs of values that the distinct submodels of these updates
  /// hold; nothing once all parameters are covered.
  void add(const Experiment& experiment, const BufferLayout& model,
           std::span<const Update> updates);
  /// Share of the model's trainable parameters that are not personal; never falls.
  double share() const;
  void archive(Archive& archive);

 private:
  void set(std::int64_t begin, std::int64_t end);

  std::int64_t count_ = 0;  // parameters covered
  std::int64_t all_ = 0;    // parameters of the model; 0 before the first window
  // One bit for each trained float of the model's buffer; empty once all parameters are covered.
  std::vector<std::int64_t> words_;
};

/// Mean over the pairs of updates of cos(d_i, d_j) with d = trained - sent values, both restricted
/// to the parameters that both updates hold. Pairs without common parameters, and those in which
/// one did not move there, are left out; NaN if there is no other. Reads the values of each pair,
/// so its work grows with the square of the updates.
double agreement(const Experiment& experiment, const Parameters& model,
                 std::span<const Update> updates);

/// record.agreement
void declare_coverage_options(OptionTable& table);

}  // namespace espalier::rounds
