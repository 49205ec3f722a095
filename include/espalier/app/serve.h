#pragma once
// The work of rank 0 once the ranks have agreed and it has locked its folder: it serves until the
// run ends or a stop is requested, and writes records and checkpoints into the folder.

#include <memory>
#include <optional>
#include <string>

#include "espalier/app/request.h"
#include "espalier/app/run_directory.h"
#include "espalier/comm/environment.h"
#include "espalier/engine/protocol.h"
#include "espalier/record/checkpoint.h"

namespace espalier {

/// Built before anything is written, because this reports errors of the input.
struct Service {
  std::unique_ptr<Preparation> preparation;
  RunSettings settings;
  KeptCheckpoints kept;
  bool lacks_init = false;  ///< the first model is not that of model.init, whose file is gone
};
/// `resumes`: a checkpoint is to replace the first model, so the file of model.init may be gone.
Service build_service(const Protocol& protocol, Config& config, const Experiment& experiment,
                      bool resumes);

/// The parts of the run that all ranks have built.
struct Surroundings {
  const Protocol& protocol;
  const Config& config;
  const Experiment& experiment;
  const JobKinds& kinds;
  const RealTime* real_time;      ///< of a paced run, else null
  const std::string& data_print;  ///< fingerprint of the data, for checkpoints
};

/// Gives all ranks the frozen values, which rank 0 has. Collective; before the first job.
void distribute_frozen(const MpiEnvironment& mpi, const Experiment& experiment);

/// Returns the exit status. `checkpoint`: the one to resume from; null: the run begins.
int serve(const Surroundings& run, Service service, const Request& request, RunDirectory& directory,
          const MpiEnvironment& mpi, std::unique_ptr<CheckpointReader> checkpoint);

}  // namespace espalier
