#pragma once
// What both conversations of `regions` count: versions, emulated time, exchanges, bytes.

#include <cstdint>
#include <string>

#include "espalier/base/archive.h"
#include "espalier/engine/protocol.h"

namespace espalier::regions {

struct Counts {
  std::int64_t version = 0;
  Nanoseconds made = 0, now = 0;
  std::int64_t next_exchange = 0;
  std::int64_t bytes_up = 0, bytes_down = 0;

  Conversation::Progress progress() const { return {version, made, now}; }
  /// For the closing line of the run.
  std::string summary() const;
  void archive(Archive& archive);
};

}  // namespace espalier::regions
