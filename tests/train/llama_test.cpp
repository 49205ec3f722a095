// config.json against the options of our gpt family.

#include "espalier/train/llama.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "record/folder.h"

namespace espalier {
namespace {

using Json = nlohmann::json;

/// SmolLM2-135M, as its config.json and as our options.
Json smollm2() {
  return {{"model_type", "llama"},    {"hidden_size", 576},
          {"num_hidden_layers", 30},  {"num_attention_heads", 9},
          {"num_key_value_heads", 3}, {"intermediate_size", 1536},
          {"rms_norm_eps", 1e-5},     {"rope_theta", 100000},
          {"hidden_act", "silu"},     {"tie_word_embeddings", true},
          {"attention_bias", false},  {"rope_scaling", nullptr},
          {"head_dim", 64},           {"vocab_size", 49152}};
}
constexpr const char* kOptions =
    "[model]\nname = gpt\ndepth = 30\nembed = 576\nheads = 9\nkv_heads = 3\nmlp = 1536\n"
    "fused_qkv = false\nqkv_bias = false\nlinear_bias = false\nrms_norm = true\n"
    "activation = swiglu\npositions = rotary\nrotary_base = 100000\n";

Config config_of(const std::string& more = "") {
  OptionTable table;
  declare_model_options(table);
  Config config(table);
  config.read_text(kOptions, "the test");
  std::istringstream lines(more);
  for (std::string line; std::getline(lines, line);) {
    const auto at = line.find('=');
    config.set("model." + line.substr(0, at), line.substr(at + 1), "the test");
  }
  return config;
}

class LlamaFolder : public ::testing::Test {
 protected:
  std::string refused(const Json& content, const std::string& options = "", bool partial = false) {
    std::ofstream(folder_.path() / "config.json") << content.dump();
    try {
      refuse_other_llama(config_of(options), folder_.path(), partial);
      refuse_other_llama(config_of(options), folder_.path() / "model.safetensors", partial);
    } catch (const InputError& error) {
      return error.what();
    }
    return "accepted";
  }
  Folder folder_;
};

TEST_F(LlamaFolder, ThatStatesTheModelIsAccepted) {
  EXPECT_EQ(refused(smollm2()), "accepted");
  // As transformers 5 writes it.
  Json newer = smollm2();
  newer.erase("rope_theta");
  newer["rms_norm_eps"] = 9.999999747378752e-06;  // 1e-5 in a GGUF file
  newer["rope_parameters"] = {{"rope_theta", 100000.0}, {"rope_type", "default"}};
  EXPECT_EQ(refused(newer), "accepted");
  // Of another architecture the tensors' names must do.
  Json other = smollm2();
  other["model_type"] = "gpt2";
  EXPECT_EQ(refused(other, "heads=3"), "accepted");
  EXPECT_EQ(refused(smollm2(), "name=mlp"), "accepted");
  std::filesystem::remove(folder_.path() / "config.json");
  refuse_other_llama(config_of("heads=3"), folder_.path(), false);
}

TEST_F(LlamaFolder, ThatStatesAnotherModelIsRefusedWithTheOptionsToSet) {
  const std::string file = (folder_.path() / "config.json").string();
  // None of these shows in the shape of a tensor.
  EXPECT_EQ(refused(smollm2(), "heads=18\nkv_heads=6\nrotary_base=10000\nnorm_epsilon=1e-6"),
            file +
                " states another model: set model.heads = 9 instead of 18, model.kv_heads = 3 "
                "instead of 6, model.norm_epsilon = 1e-05 instead of 1e-06, model.rotary_base = "
                "100000 instead of 10000.0");
  Json older = smollm2();  // the customary values of keys that are not there
  for (const char* key : {"rope_theta", "rms_norm_eps", "num_key_value_heads"}) older.erase(key);
  EXPECT_EQ(refused(older, "norm_epsilon=1e-6\nrotary_base=10000\nkv_heads=9"), "accepted");
  EXPECT_NE(refused(older).find("set model.kv_heads = 9 instead of 3, model.norm_epsilon = 1e-06"),
            std::string::npos);
  EXPECT_NE(
      refused(smollm2(), "activation=gelu\nattention_scale=embed")
          .find("set model.activation = swiglu instead of gelu, model.attention_scale = kept"),
      std::string::npos);
  EXPECT_NE(refused(smollm2(), "depth=2").find("model.depth = 30 instead of 2"), std::string::npos);
  EXPECT_EQ(refused(smollm2(), "depth=2\ntied=false", /*partial=*/true), "accepted");
}

TEST_F(LlamaFolder, ThatNeedsWhatTheFamilyLacksIsRefused) {
  for (const auto& [key, value, words] :
       {std::tuple("rope_scaling", Json{{"rope_type", "llama3"}, {"factor", 8}},
                   "rope_scaling of type \"llama3\""),
        std::tuple("hidden_act", Json("gelu"), "hidden_act \"gelu\""),
        std::tuple("head_dim", Json(128), "head_dim 128")}) {
    Json content = smollm2();
    content[key] = value;
    EXPECT_NE(refused(content).find(words), std::string::npos) << refused(content);
  }
  std::ofstream(folder_.path() / "config.json") << "{";
  EXPECT_THROW(refuse_other_llama(config_of(), folder_.path(), false), DataError);
}

/// A model whose layout is of no interest.
std::string written(const std::string& options) {
  StoredModel stored{.config = config_of(options)};
  stored.model.name = stored.config.text("model.name");
  Layout layout;
  stored.model.class_axis = layout.add_axis("vocabulary", 49152, false);
  stored.model.layout = std::make_shared<const Layout>(layout);
  stored.model.shape = {{511}, 49152, 49152, true};
  try {
    return llama_config(stored, FloatType::bfloat16);
  } catch (const InputError& error) {
    return error.what();
  }
}

TEST_F(LlamaFolder, IsWrittenAsItIsRead) {
  const Json content = Json::parse(written(""));
  const Json expected = smollm2();
  for (const auto& [key, value] : expected.items()) {
    if (key == "rope_scaling") continue;
    EXPECT_EQ(content[key], value) << key;
  }
  EXPECT_EQ(content["torch_dtype"], "bfloat16");
  EXPECT_EQ(refused(content), "accepted");
}

TEST_F(LlamaFolder, IsOnlyWrittenOfALlama) {
  for (const auto& [options, words] :
       {std::pair("name=mlp", "model.name = mlp"), std::pair("rms_norm=false", "model.rms_norm"),
        std::pair("activation=gelu", "model.activation is not swiglu"),
        std::pair("positions=learned", "model.positions is not rotary"),
        std::pair("qkv_bias=true", "model.qkv_bias and model.linear_bias differ"),
        std::pair("attention_scale=embed", "model.attention_scale = embed")}) {
    EXPECT_NE(written(options).find(words), std::string::npos) << written(options);
  }
}

}  // namespace
}  // namespace espalier
