#pragma once
// Checkpoints: HDF5 files that objects write and read themselves into through the archives, with a
// checksum (XXH3) per dataset, the attribute `complete` last, and after HDF5's own end 24 bytes
// that close the file: "ESPALIER", its length and the checksum of all of it. So no damage reaches
// HDF5, which may crash on it. A file is made in memory, while nothing else can change, and
// brought to the disk beside the training: NAME.tmp, synced, renamed, folder synced.

#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/archive.h"

namespace espalier {

/// The bytes of a file that was made in memory.
struct FileImage {
  std::shared_ptr<const std::byte> data;
  std::size_t bytes = 0;
};

/// A checkpoint before it is written: `content` is handed a saving archive.
FileImage make_checkpoint(const std::string& config_text,
                          const std::function<void(Archive&)>& content);

/// Brings checkpoints to the disk, one after the other, while the caller goes on.
class CheckpointWriter {
 public:
  ~CheckpointWriter();  // waits; never throws
  /// Starts writing, once the one before is written; OutputError where that failed. `written` is
  /// called by the writing thread once the file is on the disk under its name.
  void write(const std::filesystem::path& path, FileImage checkpoint,
             std::function<void()> written = {});
  /// Waits for the last. OutputError where it could not be written; the previous file of its name
  /// is untouched then.
  void finish();

 private:
  std::future<void> writing_;
};

/// Throws an InputError that names the newest checkpoint in the folder, which may be a run's.
[[noreturn]] void refuse_folder(const std::filesystem::path& path);

/// Opens a complete checkpoint, checking kind, version and checksums (OutputError naming what is
/// damaged); refuses a folder.
class CheckpointReader {
 public:
  explicit CheckpointReader(const std::filesystem::path& path);
  ~CheckpointReader();
  std::string config_text() const;
  /// Whether it holds a value or group of this name; those that came later are not in older files.
  bool holds(const char* name) const;
  void read(const std::function<void(Archive&)>& content);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace espalier
