#pragma once
// The objective "contrastive": cross-entropy, and a term that draws what the model makes of a
// sample towards what the received model makes of it, and away from a negative. MOON (Li et al.
// 2021) and the cross-submodel contrast of MSfusion use it; docs/methods/moon.md,
// docs/methods/msfusion.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

/// Mean over the rows of -log(e^{cos(z, positive)/t} / (e^{cos(z, positive)/t} + the sum over the
/// negatives of e^{cos(z, negative)/t})). All [rows, size].
at::Tensor contrast_to(const at::Tensor& z, const at::Tensor& positive,
                       const std::vector<at::Tensor>& negatives, double temperature);
/// Mean over the rows i of -log(e^{cos(z_i, anchor_i)/t} / sum_j e^{cos(z_i, anchor_j)/t}).
at::Tensor contrast_within(const at::Tensor& z, const at::Tensor& anchors, double temperature);

/// method.contrast, method.temperature, method.negatives, method.peers; the objective
/// "contrastive".
void add_contrast(Catalogue& catalogue);

}  // namespace espalier::rounds
