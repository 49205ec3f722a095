#pragma once
// An ensemble: independent narrow networks of one family as one model (SplitMix's base networks,
// Hong et al. 2022). Each member is one block, reads the samples, and is one of the model's exits,
// so a submodel is a choice of members, and plans, costs and merging treat them as any blocks.

#include <span>
#include <string>

#include "espalier/model/model.h"

namespace espalier {

/// Declares "model.members".
void declare_ensemble_option(OptionTable& table);
/// `members` networks of the family, each with ceil(1 / members) of every width that the family's
/// options give, under the names "members.0.*", "members.1.*", ... They have first values of their
/// own and one common axis of classes. No member has masks or a depth that can be cut. InputError
/// if the family has no narrower networks, or if there are several classifiers in a network.
Model ensemble(const Config& config, const std::string& family, const DataShape& shape,
               std::int64_t members);

/// The mean of these logits, added in order; one tensor is returned as it is.
at::Tensor mean_of(std::span<const at::Tensor> logits);

}  // namespace espalier
