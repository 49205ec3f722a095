#pragma once
// runs/<name>/: config.ini, run.h5, checkpoints/, log.txt, LOCK (who uses it), DONE (its closing
// line). One process at a time uses a folder, and a folder holds one run.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/config/config.h"

namespace espalier {

/// Which checkpoints stay: the last few (at least 2), and with `every` > 0 those whose version is a
/// multiple of it.
struct KeptCheckpoints {
  explicit KeptCheckpoints(const Config& config);  // checkpoint.keep, checkpoint.keep_every
  std::int64_t last, every;
};

class RunDirectory {
 public:
  /// Where the configuration's run lives; {seed}, {method} and {job} of run.name are filled in.
  static std::filesystem::path path_for(const Config& config);

  /// What a folder holds.
  struct Found {
    std::string config;        ///< resolved
    std::string closing_line;  ///< of a finished run, else empty
  };
  /// None where there is no folder, or one that holds nothing but what a start leaves that was
  /// ended before its config.ini stood. Waits up to 5 s for a live owner on this host. InputError
  /// where it is in use, or holds something that is no run.
  static std::optional<Found> look(const std::filesystem::path& path);

  enum class Content { keep, remove };
  /// Takes the folder: waits up to 5 s for a live owner on this host, then refuses (InputError).
  /// OutputError where it cannot be written.
  RunDirectory(std::filesystem::path path, Content content);
  ~RunDirectory();  // gives the lock back
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  /// Writes `resolved` as its config.ini; the run is unfinished from here on. OutputError where it
  /// cannot be written.
  void begin(const std::string& resolved) const;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path run_file() const { return path_ / "run.h5"; }
  std::filesystem::path checkpoint(std::int64_t version) const;
  /// Those that are there, the newest first.
  std::vector<std::filesystem::path> checkpoints() const;
  /// Removes all but those.
  void prune_checkpoints(const KeptCheckpoints& kept) const;
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
