#include "espalier/protocol/regions/replica_mean.h"

#include <algorithm>

#include "espalier/train/weights.h"

namespace espalier::regions {

void ReplicaMean::add(std::int64_t period, std::span<const float> replica) {
  Sum& sum = sums_[period];
  ++sum.regions;
  sum.values.resize(replica.size(), 0.0);
  for (std::size_t i = 0; i < replica.size(); ++i) sum.values[i] += replica[i];
}

std::optional<Parameters> ReplicaMean::take(std::int64_t period, const Parameters& shared) {
  const auto node = sums_.extract(period);
  std::erase_if(sums_, [&](const auto& sum) { return sum.first < period; });
  if (node.empty()) return std::nullopt;
  const Sum& sum = node.mapped();
  std::vector<float> mean(sum.values.size());
  std::ranges::transform(sum.values, mean.begin(), [&](double value) {
    return static_cast<float>(value / static_cast<double>(sum.regions));
  });
  Parameters model = shared.copy();
  const auto dense =
      experiment_.plans->buffer_layout(Submodel::full(*experiment_.model.layout), Packing::dense);
  experiment_.plans->plan(*dense, model.buffer_layout(), nullptr, kTrained)
      ->copy(mean.data(), model.data());
  return model;
}

void ReplicaMean::archive(Archive& archive) {
  std::vector<std::pair<std::int64_t, Sum>> sums(sums_.begin(), sums_.end());
  archive_list(archive, "replicas", sums, [](Archive& a, auto& sum) {
    a.value("period", sum.first);
    a.value("regions", sum.second.regions);
    a.value("values", sum.second.values);
  });
  sums_ = {sums.begin(), sums.end()};
}

}  // namespace espalier::regions
