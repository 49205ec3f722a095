#pragma once
// The architecture of Llama as Hugging Face's config.json states it, against the options of our gpt
// family: tensors alone do not tell the number of heads, the rotary base or the norms' epsilon.

#include <filesystem>
#include <string>

#include "espalier/record/safetensors.h"
#include "espalier/train/weights.h"

namespace espalier {

/// If `weights` (a folder, or a file in one) has a config.json of a Llama beside it and the model
/// is a gpt: InputError, in one sentence with the options to set, where they differ from it. With
/// `partial`, the depth and the head may differ. DataError if config.json cannot be read.
void refuse_other_llama(const Config& config, const std::filesystem::path& weights, bool partial);

/// The content of config.json of a model that has Llama's architecture. InputError naming the
/// option that it has otherwise.
std::string llama_config(const StoredModel& stored, FloatType type);

/// Writes config.json and model.safetensors, from which Hugging Face's transformers builds the
/// model, into `folder`, which is made if it is missing. Errors as llama_config() and
/// write_safetensors().
void write_llama_folder(const std::filesystem::path& folder, const StoredModel& stored,
                        FloatType type);

}  // namespace espalier
