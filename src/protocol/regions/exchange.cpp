#include "espalier/protocol/regions/exchange.h"

namespace espalier::regions {

void Exchange::archive(Archive& archive) {
  archive.value("number", number);
  archive.value("fragment", fragment);
  archive.value("sent_step", sent_step);
  archive.value("applied_step", applied_step);
  archive.value("handed", handed);
  archive.value("arrived", arrived);
  archive.value("applied", applied);
  archive.value("lost", lost);
  archive.value("tokens", tokens);
  archive.value("norms", norms);
  archive.value("weights", weights);
  archive.value("received", received);
  archive.value("is_begun", is_begun);
  archive.value("is_merged", is_merged);
  archive.value("merged", merged);
  values.resize(handed.size());
  for (Bytes& bytes : values) archive.value("values", bytes);
}

}  // namespace espalier::regions
