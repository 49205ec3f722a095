#include "espalier/train/llama.h"

#include <fmt/ranges.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/new_file.h"
#include "espalier/config/option_text.h"
#include "espalier/model/transformer.h"
#include "espalier/record/software.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// Options that say more than sizes; every Llama has these values.
constexpr std::pair<const char*, const char*> kAlways[] = {
    {"model.rms_norm", "true"}, {"model.activation", "swiglu"}, {"model.positions", "rotary"}};

constexpr const char* kQueryHeads = "num_attention_heads";

/// A part of the architecture in config.json, and what the model has.
struct Part {
  const char* key;     ///< of config.json
  const char* option;  ///< of ours
  Json own;
  Json usual;  ///< the value if config.json lacks the key, or the key that has it; null: none
  bool may_differ = false;  ///< where only a part of the weights is loaded
};

std::vector<Part> parts_of(const Config& config) {
  TransformerChoice choice = transformer_choice(config, kGptEpsilon);
  read_positions(choice, config);
  return {{"hidden_size", "model.embed", choice.embed, nullptr},
          {"num_hidden_layers", "model.depth", choice.depth, nullptr, true},
          {kQueryHeads, "model.heads", choice.heads, nullptr},
          {"num_key_value_heads", "model.kv_heads", choice.kv_heads, kQueryHeads},
          {"intermediate_size", "model.mlp", choice.hidden, nullptr},
          {"rms_norm_eps", "model.norm_epsilon", choice.epsilon, 1e-6},
          {"rope_theta", "model.rotary_base", choice.rotary_base, 10000.0},
          {"attention_bias", "model.qkv_bias", choice.qkv_bias, false},
          {"mlp_bias", "model.linear_bias", choice.linear_bias, false},
          {"tie_word_embeddings", "model.tied", config.boolean("model.tied"), false, true}};
}

/// Numbers of any type are equal if they are as 32-bit floats: files converted from other formats
/// state 1e-5 as 9.999999747378752e-06.
bool same(const Json& a, const Json& b) {
  if (a.is_number_integer() && b.is_number_integer()) return a == b;
  if (a.is_number() && b.is_number()) return a.get<float>() == b.get<float>();
  return a == b;
}

/// The value of config.json; the rotary base is in an object from transformers 5 on.
Json stated(const Json& content, const Part& part) {
  for (const char* inner : {"rope_parameters", "rope_scaling"}) {
    if (content.contains(inner) && content[inner].is_object() && content[inner].contains(part.key))
      return content[inner][part.key];
  }
  if (content.contains(part.key) && !content[part.key].is_null()) return content[part.key];
  return part.usual == kQueryHeads ? content.value(kQueryHeads, Json()) : part.usual;
}

/// What our family cannot compute, or an empty text.
std::string foreign_part(const Json& content) {
  for (const char* inner : {"rope_parameters", "rope_scaling"}) {
    if (!content.contains(inner) || !content[inner].is_object()) continue;
    for (const char* key : {"rope_type", "type"}) {
      const Json type = content[inner].value(key, Json("default"));
      if (type != "default") return formatted("{} of type {}", inner, type.dump());
    }
  }
  const Json activation = content.value("hidden_act", Json("silu"));
  if (activation != "silu") return formatted("hidden_act {}", activation.dump());
  const Json head = content.value("head_dim", Json());
  const Json heads = content.value("num_attention_heads", Json());
  const Json width = content.value("hidden_size", Json());
  if (head.is_number_integer() && heads.is_number_integer() && width.is_number_integer() &&
      head.get<std::int64_t>() * heads.get<std::int64_t>() != width.get<std::int64_t>()) {
    return formatted("head_dim {}, which is not hidden_size / num_attention_heads", head.dump());
  }
  return "";
}

}  // namespace

void refuse_other_llama(const Config& config, const fs::path& weights, bool partial) {
  if (config.text("model.name") != "gpt") return;
  std::error_code ignored;
  const fs::path path =
      (fs::is_directory(weights, ignored) ? weights : weights.parent_path()) / "config.json";
  if (!fs::exists(path, ignored)) return;
  std::ifstream file(path);
  const Json content = Json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!content.is_object()) {
    throw DataError(formatted("{} is not a JSON object: fetch or make it again", path.string()));
  }
  if (content.value("model_type", Json()) != "llama") return;
  if (const std::string foreign = foreign_part(content); !foreign.empty()) {
    throw InputError(
        formatted("{} states {}, which the gpt family does not have", path.string(), foreign));
  }
  std::vector<std::string> settings;
  const auto set = [&](const char* option, const std::string& value, const std::string& own) {
    settings.push_back(formatted("{} = {} instead of {}", option, value, own));
  };
  for (const auto& [option, value] : kAlways) {
    if (const std::string own = option_text(config, option); own != value) set(option, value, own);
  }
  if (config.text("model.attention_scale") == "embed") {
    set("model.attention_scale", "kept", "embed");
  }
  for (const Part& part : parts_of(config)) {
    const Json value = stated(content, part);
    if (value.is_null()) {
      throw DataError(formatted("{} has no {}: fetch or make it again", path.string(), part.key));
    }
    if (same(value, part.own) || (partial && part.may_differ)) continue;
    set(part.option, value.dump(), part.own.dump());
  }
  if (settings.empty()) return;
  throw InputError(
      formatted("{} states another model: set {}", path.string(), fmt::join(settings, ", ")));
}

std::string llama_config(const StoredModel& stored, FloatType type) {
  const Config& config = stored.config;
  const auto refuse = [&](const std::string& what) {
    throw InputError(formatted(
        "the model has not the architecture of Llama, for which alone a folder can be written: {}; "
        "give a name that ends in .safetensors",
        what));
  };
  if (stored.model.name != "gpt") refuse(formatted("model.name = {}", stored.model.name));
  for (const auto& [option, value] : kAlways) {
    if (option_text(config, option) != value) refuse(formatted("{} is not {}", option, value));
  }
  const bool bias = config.boolean("model.qkv_bias");
  if (bias != config.boolean("model.linear_bias")) {
    refuse("model.qkv_bias and model.linear_bias differ");
  }
  if (config.text("model.attention_scale") == "embed") refuse("model.attention_scale = embed");
  if (stored.model.exits.size() > 1) refuse("it has several classifiers");
  nlohmann::ordered_json content;
  content["architectures"] = {"LlamaForCausalLM"};
  content["model_type"] = "llama";
  for (const Part& part : parts_of(config)) content[part.key] = part.own;
  content["head_dim"] = config.integer("model.embed") / config.integer("model.heads");
  content["hidden_act"] = "silu";
  const Layout& layout = *stored.model.layout;
  content["vocab_size"] = layout.axes[static_cast<std::size_t>(stored.model.class_axis)].size;
  content["max_position_embeddings"] = stored.model.shape.sample[0];
  content["torch_dtype"] = float_type_name(type);
  content["bos_token_id"] = nullptr;
  content["eos_token_id"] = nullptr;
  content["software"] = "espalier " + software_version();
  return content.dump(2) + "\n";
}

void write_llama_folder(const fs::path& folder, const StoredModel& stored, FloatType type) {
  const std::string config = llama_config(stored, type);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    throw OutputError(formatted("cannot make the folder {}: {}", folder.string(), error.message()));
  }
  write_safetensors(folder / "model.safetensors", llama_tensors(stored.values), type);
  write_file(folder / "config.json", config);
}

}  // namespace espalier
