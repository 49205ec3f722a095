#pragma once
// What a request means for the run's folder: begin, go on with what was begun, or tell again what
// is finished. On going on, values that were not given keep what the run was begun with; of those
// that were, only how long to run, what to record and how often to save may differ.

#include <filesystem>
#include <optional>
#include <string>

#include "espalier/app/request.h"
#include "espalier/app/run_directory.h"
#include "espalier/comm/environment.h"
#include "espalier/config/config.h"
#include "espalier/record/checkpoint.h"

namespace espalier {

struct Intent {
  enum class Kind { begin, go_on, tell };
  Kind kind = Kind::begin;
  /// go_on: the configuration to go on with, as an input file. tell: the closing line.
  std::string text;
};

/// Writes nothing. InputError where the folder holds something else, naming each option that
/// differs, or where the request forbids what is needed.
Intent intent(const Config& asked, const Request& request, const std::filesystem::path& folder);
/// What rank 0 found, on every rank; collective.
Intent shared(const MpiEnvironment& mpi, Intent intent);

/// The newest checkpoint of the folder that can be used, warning of those that cannot; none where
/// there is none at all. OutputError where all are damaged; InputError where it was written under
/// another configuration than `resolved`.
std::unique_ptr<CheckpointReader> newest_checkpoint(const RunDirectory& directory,
                                                    const std::string& resolved);

}  // namespace espalier
