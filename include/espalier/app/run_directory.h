#pragma once
// runs/<name>/: config.ini, run.h5, checkpoints/, log.txt, LOCK (who uses it), DONE (its closing
// line). One process at a time uses a folder, and a folder holds one run.

#include <filesystem>
#include <optional>
#include <string>

#include "espalier/config/config.h"

namespace espalier {

class RunDirectory {
 public:
  /// Where the configuration's run lives; {seed}, {method} and {job} of run.name are filled in.
  static std::filesystem::path path_for(const Config& config);

  /// The closing line, if `path` holds this very run, finished. InputError, nothing written, if it
  /// holds another run or an unfinished one; with `overwrite`, none of that is looked at.
  static std::optional<std::string> finished(const std::filesystem::path& path,
                                             const std::string& resolved, bool overwrite);

  /// Takes the folder: waits up to 5 s for a live owner on this host, then refuses (InputError).
  /// With `overwrite` its old content is removed. OutputError where it cannot be written.
  RunDirectory(std::filesystem::path path, const std::string& resolved, bool overwrite);
  ~RunDirectory();  // gives the lock back
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path run_file() const { return path_ / "run.h5"; }
  std::filesystem::path checkpoint(std::int64_t version) const;
  /// Marks the run as finished.
  void done(const std::string& line);

 private:
  std::filesystem::path path_;
};

/// The first option in which two resolved configurations differ, those that only place a run
/// (run.name, run.dir, data.dir) left aside; empty if none.
std::string first_config_difference(const std::string& a, const std::string& b);

}  // namespace espalier
