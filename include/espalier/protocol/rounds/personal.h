#pragma once
// Personal parameters (method.personal): each client trains its own and keeps them, so that they
// are in no message and in no merge. Sources: Arivazhagan et al. 2019 (FedPer), Li et al. 2021
// (FedBN); docs/methods/personal.md.

#include <string>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/train/experiment.h"

namespace espalier::rounds {

/// method.personal.
void declare_personal_options(OptionTable& table);
/// Marks the personal entries of the model's layout. Call it before anything else uses the layout.
/// InputError if a pattern matches nothing, or if nothing is left to share.
void mark_personal(const Config& config, Experiment& experiment);
/// A line of --check; empty if nothing is personal.
std::string personal_description(const Experiment& experiment);

/// A client's values of all personal entries of the whole model: the values of units that its
/// submodel lacks keep their place.
class PersonalValues {
 public:
  /// Zeros, where nothing is archived. `experiment` must outlive it.
  explicit PersonalValues(const Experiment& experiment);
  /// Into the parameters of a submodel, which may be of a layout with frozen entries.
  void place(Parameters& parameters) const;
  /// From the trained parameters of a submodel.
  void take(const Parameters& parameters);
  /// Nothing if the model has no personal entries.
  void archive(Archive& archive);

 private:
  std::shared_ptr<const BufferLayout> layout_;
  std::vector<float> values_;
};

/// The state of a client before its first task: its personal values are those of the model, which
/// no merge changes. Empty if the model has no personal entries.
Bytes first_personal_state(const Experiment& experiment, const Parameters& model);

}  // namespace espalier::rounds
