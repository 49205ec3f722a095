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
#include "espalier/data/dataset.h"
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
/// Rank 0's, on every rank. Collective.
Intent broadcast(const MpiEnvironment& mpi, Intent intent);

/// A checkpoint to go on from.
struct Newest {
  std::unique_ptr<CheckpointReader> checkpoint;  ///< null: there is none
  std::vector<std::string> warnings;             ///< of newer ones that cannot be used
};
/// The newest checkpoint of the folder that can be used. OutputError where all are damaged;
/// InputError where it was written under another configuration than `config`.
Newest newest_checkpoint(const RunDirectory& directory, const Config& config);

/// The name of the data's fingerprint (data/fingerprint.h) in checkpoints.
inline constexpr const char* kDataPrint = "data_fingerprint";
/// InputError, naming the files of `data` and what differs, unless the fingerprints agree: that of
/// `data`, `here`, and another, of the data `whose` ("of rank 0").
void refuse_other_data(const Dataset& data, const std::string& there, const std::string& here,
                       const std::string& whose, const std::string& advice);
/// The same with the data that the checkpoint's run was begun with; files of earlier versions do
/// not tell it.
void refuse_other_data(const Dataset& data, const std::string& here, CheckpointReader& checkpoint);

}  // namespace espalier
