#pragma once
// A whole run in rounds on this process, in a test's own hands.

#include <utility>
#include <vector>

#include "espalier/engine/driver.h"
#include "espalier/engine/tables.h"
#include "espalier/protocol/rounds/server.h"
#include "espalier/protocol/rounds/tables.h"
#include "fixture.h"
#include "mpi_for_all.h"

namespace espalier::rounds {

inline std::vector<const TableSchema*> all_tables() {
  return with_engine_tables({&rounds_schema(), &tasks_schema()});
}

/// Runs to the end with these rules; `config` has the defaults of its method.
inline void run_all_rounds(const Config& config, const Experiment& experiment, ServerRules rules,
                           RunFile& records) {
  const RuleNames names = rule_names(rounds_catalogue(), config);
  Parameters model(
      experiment.plans->buffer_layout(Submodel::full(*experiment.model.layout), Packing::aligned));
  initialise(model, experiment.seed);
  if (experiment.frozen) experiment.frozen->share(model);
  Mailbox mailbox(mpi_for_all->get());
  JobKinds kinds;
  add_evaluation_jobs(kinds, experiment, evaluation_plan(config, experiment));
  add_client_jobs(kinds, {config, experiment}, client_rules(rounds_catalogue(), names));
  Worker worker(kinds, mailbox, nullptr);
  Pool pool(mailbox, 1, &worker, false);
  Run run(experiment, run_settings(config, experiment), pool, records, nullptr, {});
  RoundsServer server(experiment, server_settings(config, experiment), std::move(rules),
                      std::move(model), run);
  EXPECT_FALSE(drive(run, server, false).has_value());
  EXPECT_EQ(server.progress().version, experiment.rounds);
  pool.stop();
}

}  // namespace espalier::rounds
