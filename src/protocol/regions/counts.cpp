#include "espalier/protocol/regions/counts.h"

#include "espalier/base/error.h"

namespace espalier::regions {

std::string Counts::summary() const {
  return formatted("up_mb={:.3f} down_mb={:.3f}", static_cast<double>(bytes_up) * 1e-6,
                   static_cast<double>(bytes_down) * 1e-6);
}

void Counts::archive(Archive& archive) {
  archive.value("version", version);
  archive.value("made", made);
  archive.value("now", now);
  archive.value("next_exchange", next_exchange);
  archive.value("bytes_up", bytes_up);
  archive.value("bytes_down", bytes_down);
}

}  // namespace espalier::regions
