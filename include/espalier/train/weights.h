#pragma once
// Weights in and out: the initial values of the global model (drawn, or from model.init), and the
// model of a checkpoint for other programs. Tensors have the names of the layout, which are
// PyTorch's. One table (weights.cpp) translates the customary names of other programs.

#include <filesystem>
#include <string>
#include <vector>

#include "espalier/record/safetensors.h"
#include "espalier/train/experiment.h"

namespace espalier {

/// Declares model.init and model.init_partial.
void declare_weight_options(OptionTable& table);

/// The global model before round 0, aligned: the weights of model.init, with its norm statistics if
/// it has any; all others drawn by initialise(). Needs no memory beside the model for weights that
/// other programs wrote. Only the rank of the global model calls it. Throws DataError if the file
/// cannot be used, InputError if it states another architecture than the options.
Parameters first_model(const Config& config, const Experiment& experiment);

/// The model of a checkpoint, aligned. If the run was stopped before its norm statistics were
/// computed, lacks_statistics() is true for it.
struct StoredModel {
  Model model{};
  Parameters values{};
  Dataset data{};  ///< only its format, without samples
  Config config;   ///< of its run
};
/// Builds the model that the checkpoint's own configuration and data format describe. Throws
/// OutputError if the file is not an intact checkpoint. Checkpoints of old releases have no data
/// format; their shapes come from the options. Throws DataError if only the data files have them.
StoredModel read_stored_model(const std::filesystem::path& checkpoint, const OptionTable& options);
/// OutputError if the model lacks its norm statistics, which a command `verb` ("export") needs.
void refuse_without_statistics(const StoredModel& stored, const std::filesystem::path& checkpoint,
                               const char* verb);

/// Every entry as a tensor with its name, in the order of the layout; factors of adapters only if
/// they are asked for. Reading a tensor copies from `model`, which must outlive the tensors.
std::vector<NamedTensor> named_tensors(const Parameters& model, bool with_adapters = true);

/// The same of a gpt without adapters under Hugging Face's names of Llama; a fused projection
/// becomes three.
std::vector<NamedTensor> llama_tensors(const Parameters& model);

/// Copies each tensor to the entry of its name, block by block. Shapes must agree, except for
/// dimensions of 1. Tensors that other programs store beside the weights (counters, causal masks,
/// tied output weights) are ignored. Throws DataError, in one sentence that names them, if entries
/// have no tensor, tensors have no entry or another shape, values are not finite, or output weights
/// differ from the embedding of a tied model. With `partial` only the tensors that fit are copied
/// and a warning names the others; DataError if none fits. `origin`: name of the file in messages.
/// Returns which entries have their first values now; statistics without a source are forgotten.
std::vector<bool> place_weights(const std::vector<NamedTensor>& tensors, const std::string& origin,
                                bool partial, Parameters& model);

}  // namespace espalier
