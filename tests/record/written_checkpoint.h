#pragma once
// A checkpoint on the disk, for tests.

#include <filesystem>
#include <functional>
#include <string>

#include "espalier/record/checkpoint.h"

namespace espalier {

inline void write_checkpoint(const std::filesystem::path& path, const std::string& config_text,
                             const std::function<void(Archive&)>& content) {
  CheckpointWriter writer;
  writer.write(path, config_text, content);
  writer.finish();
}

}  // namespace espalier
