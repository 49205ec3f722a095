#pragma once
// Weights in and out: the first values of the global model (keyed, or from model.init), and a
// checkpoint's model rebuilt for other programs. Names are the layout's, which are PyTorch's; files
// of other programs are matched through one table of customary variants (weights.cpp).

#include <filesystem>
#include <string>
#include <vector>

#include "espalier/record/safetensors.h"
#include "espalier/train/experiment.h"

namespace espalier {

/// model.init, model.init_partial.
void declare_weight_options(OptionTable& table);

/// The global model before round 0, aligned: initialise(), then what model.init holds, norm
/// statistics included if it has any. Needed where the global model lives only. DataError where the
/// file cannot be used.
Parameters first_model(const Config& config, const Experiment& experiment);

/// A model as its checkpoint holds it, aligned. Its statistics may be lacking (lacks_statistics),
/// where the run was stopped before they were computed.
struct StoredModel {
  Model model;
  Parameters values;
  Dataset data;  ///< its format alone
};
/// Builds the model that the checkpoint's own configuration and data format describe. OutputError
/// for a file that is no sound checkpoint. Those of old releases have no data format: shapes are
/// then as declared, DataError where only the files tell them.
StoredModel read_stored_model(const std::filesystem::path& checkpoint, const OptionTable& options);

/// Every entry, by name, in the layout's order; reading copies from `model`, which must outlive
/// them.
std::vector<NamedTensor> named_tensors(const Parameters& model);

/// Copies each tensor to the entry that its name stands for, block by block. Shapes must agree,
/// dimensions of 1 aside. Tensors that other programs store beside the weights (counters, causal
/// masks, tied output weights) are passed over. DataError, in one sentence that names them, where
/// entries have no tensor, tensors no entry or another shape, or values are not finite; with
/// `partial` the former are left as they are, with a warning, as long as anything fits. `origin`:
/// for messages.
void place_weights(const std::vector<NamedTensor>& tensors, const std::string& origin, bool partial,
                   Parameters& model);

}  // namespace espalier
