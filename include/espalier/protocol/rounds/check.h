#pragma once
// `--check` of a run in rounds: the run's parts, and the memory that each kind of client needs.

#include "espalier/protocol/rounds/catalogue.h"
#include "espalier/protocol/rounds/heterogeneity.h"

namespace espalier::rounds {

/// `at_once`: clients that work at the same time, 0 for all.
void print_check(const Experiment& experiment, const RuleNames& names, const ServerRules& rules,
                 const std::optional<Heterogeneity>& heterogeneity, std::int64_t at_once);

}  // namespace espalier::rounds
