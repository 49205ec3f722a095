#pragma once
// The choice of the weights that a common mask keeps, by squared gradients over time (PruneFL;
// docs/methods/prunefl_published.md). Only numbers: no model, no clock.

#include <cstdint>
#include <vector>

namespace espalier::rounds {

/// One weight matrix.
struct PrunableLayer {
  double time_s = 0;               ///< of a round, for each kept weight
  std::vector<float> magnitudes;   ///< of the kept weights; of others not read
  std::vector<double> squares;     ///< of the accumulated gradients
  std::vector<std::uint8_t> kept;  ///< 1: in the mask
};

/// Changes the masks (Jiang et al. 2022, as in the authors' code). First the floor(drop K) of the K
/// kept weights of each layer with the smallest magnitudes are candidates to leave; of weights with
/// the limit's magnitude all stay. Then they and all pruned weights are admitted in the order of
/// squares / time_s, as long as this quotient is above the objective
///   (other_squares + sum of the kept weights' squares) / (constant_s + sum of their times),
/// which is computed again after each. `other_squares`: of parameters that are never pruned. Equal
/// quotients are admitted in the order of layers and weights.
void adjust_masks(std::vector<PrunableLayer>& layers, double drop, double other_squares,
                  double constant_s);

}  // namespace espalier::rounds
