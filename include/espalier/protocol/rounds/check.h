#pragma once
// `--check` of a run in rounds: the run's parts, and the memory that each kind of client needs.

#include "espalier/protocol/rounds/catalogue.h"
#include "espalier/protocol/rounds/heterogeneity.h"

namespace espalier::rounds {

/// What the server's memory follows from beside the rules.
struct ServerSizes {
  std::int64_t at_once = 0;  ///< clients that work at the same time, 0 for all
  std::int64_t copies = 0;   ///< of the model, of the server's optimiser
};
void print_check(const Experiment& experiment, const RuleNames& names, const ServerRules& rules,
                 const std::optional<Heterogeneity>& heterogeneity, const ServerSizes& server);

}  // namespace espalier::rounds
