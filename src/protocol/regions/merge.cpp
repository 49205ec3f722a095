#include "espalier/protocol/regions/merge.h"

#include <algorithm>

#include "espalier/train/experiment.h"

namespace espalier::regions {
namespace {

double weight_of(const Experiment& experiment, Weights weights, const Exchange& exchange,
                 std::int64_t region) {
  const auto i = static_cast<std::size_t>(region);
  const auto tokens = static_cast<double>(exchange.tokens[i]);
  switch (weights) {
    case Weights::uniform:
      return 1;
    case Weights::samples:
      return static_cast<double>(experiment.samples_of(region));
    case Weights::tokens:
      return tokens;
    case Weights::tokens_per_step:
      return exchange.steps[i] > 0 ? tokens * tokens / static_cast<double>(exchange.steps[i]) : 0;
  }
  return 1;
}

}  // namespace

std::int64_t merge_flops(const Fragment& fragment, std::int64_t members) {
  return kFlopsPerMergedValue * fragment.values() * members;
}

double merge_exchange(const Experiment& experiment, Weights weights,
                      const std::vector<std::int64_t>& members, Exchange& exchange,
                      SharedCopy& shared) {
  std::vector<Contribution> contributions;
  for (const std::int64_t region : members) {
    contributions.push_back({&exchange.values[static_cast<std::size_t>(region)],
                             weight_of(experiment, weights, exchange, region)});
  }
  const auto weighs = [](const Contribution& c) { return c.weight > 0; };
  if (std::ranges::none_of(contributions, weighs)) {
    // Regions that have just taken the shared copy have trained nothing yet.
    for (Contribution& contribution : contributions) contribution.weight = 1;
  }
  SharedCopy::Merged merged = shared.merge(exchange.fragment, exchange.slot, contributions);
  for (std::size_t k = 0; k < members.size(); ++k) {
    const auto i = static_cast<std::size_t>(members[k]);
    exchange.weights[i] = contributions[k].weight;
    exchange.norms[i] = contributions[k].norm;
  }
  for (Bytes& values : exchange.values) values = Bytes();
  exchange.is_merged = 1;
  exchange.merged = std::move(merged.values);
  return merged.norm;
}

}  // namespace espalier::regions
