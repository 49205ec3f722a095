#pragma once
// Checkpoints: HDF5 files that objects write and read themselves into through the archives, with
// the attribute `complete` last, and after HDF5's own end 24 bytes that close the file:
// "ESPALIER", its length and the checksum (XXH3) of all of it. So no damage reaches HDF5, which may
// crash on it. Values are written while nothing else can change, large ones straight from where
// they are; a thread completes the file, which is NAME.tmp until it is on the disk.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/archive.h"

namespace espalier {

/// What a checkpoint leaves to the writing thread, in a copy. More would take memory from the
/// model; without it, a small checkpoint would wait for the disk.
inline constexpr std::int64_t kMostCopiedBytes = std::int64_t{64} << 20;

/// Functions that the writing thread calls; each may be empty.
struct CheckpointSteps {
  std::function<void()> before;  ///< the file gets its name, which brings to the disk what it needs
  std::function<void()> after;   ///< the file is on the disk under its name
};

/// Writes checkpoints, one after the other.
class CheckpointWriter {
 public:
  ~CheckpointWriter();  // waits; never throws
  /// Hands `content` a saving archive, once the checkpoint before is written; OutputError where
  /// that failed. Afterwards its values may change, and a thread completes the file.
  void write(const std::filesystem::path& path, const std::string& config_text,
             const std::function<void(Archive&)>& content, CheckpointSteps steps = {});
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
