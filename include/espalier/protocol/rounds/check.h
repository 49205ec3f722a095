#pragma once
// `--check` of a run in rounds: the run's parts, and the memory that each kind of client needs.

#include "espalier/protocol/rounds/catalogue.h"
#include "espalier/protocol/rounds/heterogeneity.h"

namespace espalier::rounds {

void print_check(const Experiment& experiment, const RuleNames& names, const ServerRules& rules,
                 const std::optional<Heterogeneity>& heterogeneity);

}  // namespace espalier::rounds
