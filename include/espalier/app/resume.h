#pragma once
// The action of a request on the run's folder: begin a run, resume an unfinished one, or report the
// result of a finished one again. On a resume, options that the request does not give keep their
// stored values. Of the given ones only the length of the run and the frequency of records and
// checkpoints may differ from the stored ones.

#include <filesystem>
#include <optional>
#include <string>

#include "espalier/app/request.h"
#include "espalier/app/run_directory.h"
#include "espalier/comm/environment.h"
#include "espalier/config/config.h"
#include "espalier/data/dataset.h"
#include "espalier/record/checkpoint.h"
#include "espalier/record/run_file.h"

namespace espalier {

struct Intent {
  enum class Kind { begin, resume, report };
  Kind kind = Kind::begin;
  /// resume: the configuration of the resumed run, as an input file. report: the closing line.
  std::string text;
};

/// Writes nothing. InputError if the folder holds another run, with the name of each option that
/// differs, or if the request forbids the action.
Intent intent(const Config& requested, const Request& request, const std::filesystem::path& folder);
/// Rank 0's intent, on every rank. Collective.
Intent broadcast(const MpiEnvironment& mpi, Intent intent);

/// The checkpoint to resume from.
struct Newest {
  std::unique_ptr<CheckpointReader> checkpoint;  ///< null: none exists
  std::vector<std::string> warnings;             ///< of newer checkpoints that cannot be used
};
/// Where the records of a checkpoint end in the journal of its run; none if it was written by a
/// release whose checkpoints hold the records themselves.
std::optional<RecordsMark> records_mark(CheckpointReader& checkpoint);
/// The newest checkpoint of the folder that can be used, with the journal. OutputError if all are
/// damaged; InputError if it was written under another configuration than `config`.
Newest newest_checkpoint(const RunDirectory& directory, const Config& config);

/// The name of the data's fingerprint (data/fingerprint.h) in checkpoints.
inline constexpr const char* kDataPrint = "data_fingerprint";
/// InputError, with the files of `data` and the differences, unless two fingerprints are equal:
/// `here`, of `data`, and `there`, of the data `whose` ("of rank 0").
void refuse_other_data(const Dataset& data, const std::string& there, const std::string& here,
                       const std::string& whose, const std::string& advice);
/// Compares with the data with which the checkpoint's run began. Checkpoints of earlier versions of
/// the program have no fingerprint and pass.
void refuse_other_data(const Dataset& data, const std::string& here, CheckpointReader& checkpoint);

}  // namespace espalier
