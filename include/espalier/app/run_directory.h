#pragma once
// runs/<name>/: config.ini, run.h5, run.journal (its rows again), checkpoints/, log.txt, LOCK (the
// process that uses it), DONE (the closing line). One process at a time uses a folder, and a folder
// holds one run.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/config/config.h"

namespace espalier {

/// The checkpoints to keep: the last few (at least 2), and with `every` > 0 also those whose
/// version is a multiple of it.
struct KeptCheckpoints {
  explicit KeptCheckpoints(const Config& config);  // checkpoint.keep, checkpoint.keep_every
  std::int64_t last, every;
};

class RunDirectory {
 public:
  /// The folder of the configuration's run, with the values of {seed}, {method} and {job} in
  /// run.name.
  static std::filesystem::path path_for(const Config& config);

  /// The run in a folder.
  struct Found {
    std::string config;        ///< resolved
    std::string closing_line;  ///< of a finished run, else empty
  };
  /// None if the folder does not exist, or if it holds only files of a start that ended before it
  /// wrote config.ini. Waits up to 5 s for a live owner on this host. InputError if the folder is
  /// in use, or holds something other than a run.
  static std::optional<Found> find(const std::filesystem::path& path);

  enum class Content { keep, remove };
  /// Locks the folder: waits up to 5 s for a live owner on this host, then throws InputError.
  /// OutputError if the folder cannot be written.
  RunDirectory(std::filesystem::path path, Content content);
  ~RunDirectory();  // removes the lock
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  /// Writes `resolved` as config.ini; from here on the run is unfinished. OutputError if the file
  /// cannot be written.
  void begin(const std::string& resolved) const;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path run_file() const { return path_ / "run.h5"; }
  /// Of run.h5; the checkpoints refer to it.
  std::filesystem::path journal() const { return path_ / "run.journal"; }
  std::filesystem::path checkpoint(std::int64_t version) const;
  /// The existing checkpoints, the newest first.
  std::vector<std::filesystem::path> checkpoints() const;
  /// Removes all but the kept checkpoints.
  void prune_checkpoints(const KeptCheckpoints& kept) const;
  /// Makes the folder of checkpoints again if it was removed during the run; whether it was.
  /// OutputError if it cannot be made.
  bool restore_checkpoint_folder() const;
  /// Replaces run.h5.
  void restore_run_file(const Bytes& image) const;
  /// Marks the run as finished.
  void done(const std::string& line);

 private:
  std::filesystem::path path_;
};

/// The values of a resolved configuration, by key.
std::map<std::string, std::string> option_lines(const std::string& resolved);

}  // namespace espalier
