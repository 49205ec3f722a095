#include "espalier/engine/server_memory.h"

#include <algorithm>

#include "espalier/base/format.h"
#include "espalier/base/process_memory.h"
#include "espalier/base/units.h"
#include "espalier/record/checkpoint.h"

namespace espalier {

std::string server_line(const Experiment& e, const HeldBytes& held) {
  constexpr std::int64_t kEvaluations = 2;  // one that ranks work on, and one that begins
  const auto full = Submodel::full(*e.model.layout);
  const auto whole = e.plans->buffer_layout(full, Packing::aligned);
  const std::int64_t model = static_cast<std::int64_t>(sizeof(float)) *
                             (whole->count(Kind::trainable) + whole->count(Kind::statistic));
  const std::int64_t evaluations = kEvaluations * model;
  const std::int64_t copied = std::min(model + evaluations + held.saved, kMostCopiedBytes);
  // What is resident already: libraries, data, clients and the model.
  return formatted("server   {} at most, on a rank of its own",
                   megabytes(process_memory().resident + evaluations + held.most + copied));
}

}  // namespace espalier
