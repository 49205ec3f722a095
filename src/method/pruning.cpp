#include "espalier/method/pruning.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace espalier::rounds {
namespace {

struct Candidate {
  double gain = 0;  ///< squares / time
  std::size_t layer = 0;
  std::size_t weight = 0;
};

/// The magnitude below which kept weights leave.
float limit_of(const PrunableLayer& layer, double drop) {
  std::vector<float> sizes;
  for (std::size_t i = 0; i < layer.kept.size(); ++i) {
    if (layer.kept[i] != 0) sizes.push_back(layer.magnitudes[i]);
  }
  if (sizes.empty()) return 0;
  const auto dropped = static_cast<std::size_t>(drop * static_cast<double>(sizes.size()));
  const auto limit =
      sizes.begin() + static_cast<std::ptrdiff_t>(std::min(dropped, sizes.size() - 1));
  std::nth_element(sizes.begin(), limit, sizes.end());
  return *limit;
}

double gain_of(const PrunableLayer& layer, std::size_t weight) {
  const double squares = layer.squares[weight];
  if (layer.time_s > 0) return squares / layer.time_s;
  return squares > 0 ? std::numeric_limits<double>::infinity() : 0;
}

}  // namespace

void adjust_masks(std::vector<PrunableLayer>& layers, double drop, double other_squares,
                  double constant_s) {
  double squares = other_squares;
  double time = constant_s;
  std::vector<Candidate> candidates;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    PrunableLayer& layer = layers[l];
    const float limit = limit_of(layer, drop);
    for (std::size_t i = 0; i < layer.kept.size(); ++i) {
      if (layer.kept[i] != 0 && layer.magnitudes[i] >= limit) {
        squares += layer.squares[i];
        time += layer.time_s;
      } else {
        layer.kept[i] = 0;
        candidates.push_back({gain_of(layer, i), l, i});
      }
    }
  }
  std::ranges::stable_sort(candidates, std::greater<>(), &Candidate::gain);
  for (const Candidate& candidate : candidates) {
    if (!(candidate.gain * time > squares)) break;
    PrunableLayer& layer = layers[candidate.layer];
    layer.kept[candidate.weight] = 1;
    squares += layer.squares[candidate.weight];
    time += layer.time_s;
  }
}

}  // namespace espalier::rounds
