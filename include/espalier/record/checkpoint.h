#pragma once
// Checkpoints: written to NAME.tmp, closed, file and folder synced, renamed; attribute `complete`
// last; a checksum (XXH3) per dataset. Objects write and read themselves through the archives.

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/archive.h"

namespace espalier {

/// Writes one checkpoint file: `content` is handed a saving archive. OutputError where it cannot;
/// the previous file of that name is untouched then.
void write_checkpoint(const std::filesystem::path& path, const std::string& config_text,
                      const std::function<void(Archive&)>& content);

/// Opens a complete checkpoint, checking kind, version and checksums (OutputError naming what is
/// damaged).
class CheckpointReader {
 public:
  explicit CheckpointReader(const std::filesystem::path& path);
  ~CheckpointReader();
  std::string config_text() const;
  void read(const std::function<void(Archive&)>& content);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace espalier
