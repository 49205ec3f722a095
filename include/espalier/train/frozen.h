#pragma once
// Frozen entries (train.freeze, train.only): they never change, so that each rank has their values
// once, and the tasks on it use them. What a client holds of them is the server's business
// (protocol/rounds/clients.h).

#include <memory>
#include <string>

#include "espalier/config/config.h"
#include "espalier/model/model.h"
#include "espalier/model/parameters.h"
#include "espalier/model/plan.h"

namespace espalier {

/// train.freeze, train.only.
void declare_freeze_options(OptionTable& table);
/// Marks the frozen entries of the model's layout. Call it before anything else uses the layout.
/// InputError if a pattern matches nothing, or if nothing is left to train.
void freeze_entries(const Config& config, Model& model);

bool has_frozen(const Layout& layout);
/// Values of the frozen entries of a submodel, without padding.
std::int64_t frozen_values(const std::shared_ptr<const Layout>& layout, const Submodel& submodel);
/// "123 parameters", and how many of them are trained and frozen if some are frozen.
std::string parameters_description(const BufferLayout& buffer_layout);

/// The frozen values of a rank.
class FrozenValues {
 public:
  /// Those of `model`, which is full and whose frozen entries nothing changes.
  void share(const Parameters& model) { values_ = model; }
  /// Allocates a buffer of its own, for values that come from another rank.
  void allocate_own(PlanCache& plans, const Layout& layout);
  /// The values one after the other, aligned (Packing::frozen).
  at::Tensor buffer() const;
  /// Zeros, with the frozen values in their places. `own` is the layout of the model and of
  /// `plans`; `aligned` may be of one in which more is frozen (Stage). The memory scope is charged
  /// for all frozen values.
  Parameters allocate(PlanCache& plans, const Layout& own,
                      std::shared_ptr<const BufferLayout> aligned) const;

 private:
  Parameters values_;
};

}  // namespace espalier
