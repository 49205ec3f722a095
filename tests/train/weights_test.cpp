// Names of other programs, on small layouts.

#include "espalier/train/weights.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <numeric>

#include "espalier/record/checkpoint.h"
#include "espalier/train/evaluate.h"
#include "record/written_checkpoint.h"

namespace espalier {
namespace {

Dimension plain(std::int64_t size) { return Layout::constant(size); }

/// Two blocks of a GPT-2 of width 2, so that c_proj is square and c_attn is not, and batch norm.
std::shared_ptr<const Layout> gpt_layout() {
  Layout l;
  const int stem = l.add_block("stem"), block = l.add_block("block");
  l.add_entry({"wte.weight", Kind::trainable, stem, {plain(5), plain(2)}, {}});
  l.add_entry({"h.0.attn.c_attn.weight", Kind::trainable, block, {plain(6), plain(2)}, {}});
  l.add_entry({"h.0.attn.c_attn.bias", Kind::trainable, block, {plain(6)}, {}});
  l.add_entry({"h.0.attn.c_proj.weight", Kind::trainable, block, {plain(2), plain(2)}, {}});
  return std::make_shared<const Layout>(l);
}

std::shared_ptr<const Layout> vit_layout(bool fused = true) {
  Layout l;
  const int block = l.add_block("block");
  l.add_entry({"cls_token", Kind::trainable, block, {plain(2)}, {}});
  l.add_entry({"pos_embed", Kind::trainable, block, {plain(3), plain(2)}, {}});
  l.add_entry({"patch_embed.proj.weight",
               Kind::trainable,
               block,
               {plain(2), plain(1), plain(1), plain(1)},
               {}});
  l.add_entry({"blocks.0.norm1.weight", Kind::trainable, block, {plain(2)}, {}});
  if (fused) {
    l.add_entry({"blocks.0.attn.qkv.weight", Kind::trainable, block, {plain(6), plain(2)}, {}});
  } else {
    for (const char* third : {"q", "k", "v"}) {
      l.add_entry({formatted("blocks.0.attn.{}_proj.weight", third),
                   Kind::trainable,
                   block,
                   {plain(2), plain(2)},
                   {}});
    }
  }
  l.add_entry({"blocks.0.attn.proj.weight", Kind::trainable, block, {plain(2), plain(2)}, {}});
  l.add_entry({"blocks.0.norm2.weight", Kind::trainable, block, {plain(2)}, {}});
  l.add_entry({"blocks.0.mlp.fc1.weight", Kind::trainable, block, {plain(4), plain(2)}, {}});
  l.add_entry({"blocks.0.mlp.fc2.weight", Kind::trainable, block, {plain(2), plain(4)}, {}});
  l.add_entry({"norm.weight", Kind::trainable, block, {plain(2)}, {}});
  l.add_entry({"head.weight", Kind::trainable, block, {plain(3), plain(2)}, {}});
  return std::make_shared<const Layout>(l);
}

Parameters zeros(std::shared_ptr<const Layout> layout) {
  const Submodel full = Submodel::full(*layout);
  return Parameters(
      std::make_shared<const BufferLayout>(std::move(layout), full, Packing::aligned));
}

/// A tensor of first, first + 1, ...
NamedTensor counted(const std::string& name, std::vector<std::int64_t> shape, float first) {
  NamedTensor tensor{name, std::move(shape), nullptr};
  tensor.read = [first](std::int64_t begin, std::int64_t count, float* to) {
    std::iota(to, to + count, first + static_cast<float>(begin));
  };
  return tensor;
}

std::vector<float> entry(const Parameters& p, const std::string& name) {
  const Layout& layout = p.buffer_layout().layout();
  for (std::size_t i = 0; i < layout.entries.size(); ++i) {
    if (layout.entries[i].name != name) continue;
    const BufferLayout::Place& place = p.buffer_layout().place(static_cast<int>(i));
    return {p.data() + place.offset, p.data() + place.offset + place.count};
  }
  return {};
}

std::string refused(const std::vector<NamedTensor>& tensors, Parameters& model,
                    bool partial = false) {
  try {
    place_weights(tensors, "the file", partial, model);
  } catch (const DataError& error) {
    return error.what();
  }
  return "not refused";
}

std::vector<NamedTensor> gpt_tensors(const std::string& prefix) {
  return {counted(prefix + "wte.weight", {5, 2}, 100),
          counted(prefix + "h.0.attn.c_attn.weight", {6, 2}, 200),
          counted(prefix + "h.0.attn.c_attn.bias", {6}, 300),
          counted(prefix + "h.0.attn.c_proj.weight", {2, 2}, 400)};
}

TEST(Weights, PrefixesOfWrappersAreRemoved) {
  for (const char* prefix : {"", "module.", "transformer.", "module._orig_mod.transformer."}) {
    Parameters model = zeros(gpt_layout());
    place_weights(gpt_tensors(prefix), "the file", false, model);
    EXPECT_EQ(entry(model, "wte.weight").front(), 100);
    EXPECT_EQ(entry(model, "h.0.attn.c_attn.weight"),
              (std::vector<float>{200, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211}));
    EXPECT_EQ(entry(model, "h.0.attn.c_proj.weight"), (std::vector<float>{400, 401, 402, 403}));
  }
}

TEST(Weights, TransposedLinearLayersOfAFileAreTransposedBack) {
  std::vector<NamedTensor> tensors = gpt_tensors("transformer.");
  tensors[1].shape = {2, 6};  // [in, out]; c_proj is square, and turned with it
  tensors.push_back(counted("transformer.h.0.attn.bias", {1, 1, 4, 4}, 0));
  tensors.push_back(counted("lm_head.weight", {5, 2}, 100));
  Parameters model = zeros(gpt_layout());
  place_weights(tensors, "the file", false, model);
  EXPECT_EQ(entry(model, "h.0.attn.c_attn.weight"),
            (std::vector<float>{200, 206, 201, 207, 202, 208, 203, 209, 204, 210, 205, 211}));
  EXPECT_EQ(entry(model, "h.0.attn.c_proj.weight"), (std::vector<float>{400, 402, 401, 403}));
  EXPECT_EQ(entry(model, "h.0.attn.c_attn.bias"),
            (std::vector<float>{300, 301, 302, 303, 304, 305}));
}

/// Names within a layer: of transformers up to 4, and from 5 on.
struct ViTNames {
  std::string layer, query, key, value, projection, fc1, fc2;
};
const ViTNames kOlder{"vit.encoder.layer.0.",
                      "attention.attention.query",
                      "attention.attention.key",
                      "attention.attention.value",
                      "attention.output.dense",
                      "intermediate.dense",
                      "output.dense"};
const ViTNames kNewer{"vit.layers.0.",    "attention.q_proj", "attention.k_proj",
                      "attention.v_proj", "attention.o_proj", "mlp.fc1",
                      "mlp.fc2"};

class HuggingFacesViT : public ::testing::TestWithParam<ViTNames> {};
INSTANTIATE_TEST_SUITE_P(Weights, HuggingFacesViT, ::testing::Values(kOlder, kNewer));

TEST_P(HuggingFacesViT, IsTimms) {
  const ViTNames& names = GetParam();
  const std::string layer = names.layer;
  const std::vector<NamedTensor> tensors{
      counted("vit.embeddings.cls_token", {1, 1, 2}, 10),
      counted("vit.embeddings.position_embeddings", {1, 3, 2}, 20),
      counted("vit.embeddings.patch_embeddings.projection.weight", {2, 1, 1, 1}, 30),
      counted(layer + "layernorm_before.weight", {2}, 40),
      counted(layer + names.value + ".weight", {2, 2}, 58),
      counted(layer + names.query + ".weight", {2, 2}, 50),
      counted(layer + names.key + ".weight", {2, 2}, 54),
      counted(layer + names.projection + ".weight", {2, 2}, 70),
      counted(layer + "layernorm_after.weight", {2}, 80),
      counted(layer + names.fc1 + ".weight", {4, 2}, 90),
      counted(layer + names.fc2 + ".weight", {2, 4}, 110),
      counted("vit.layernorm.weight", {2}, 120),
      counted("classifier.weight", {3, 2}, 130)};
  Parameters model = zeros(vit_layout());
  place_weights(tensors, "the file", false, model);
  EXPECT_EQ(entry(model, "blocks.0.attn.qkv.weight"),
            (std::vector<float>{50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61}));
  const std::vector<std::pair<const char*, float>> firsts{{"cls_token", 10},
                                                          {"pos_embed", 20},
                                                          {"patch_embed.proj.weight", 30},
                                                          {"blocks.0.norm1.weight", 40},
                                                          {"blocks.0.attn.proj.weight", 70},
                                                          {"blocks.0.norm2.weight", 80},
                                                          {"blocks.0.mlp.fc1.weight", 90},
                                                          {"blocks.0.mlp.fc2.weight", 110},
                                                          {"norm.weight", 120},
                                                          {"head.weight", 130}};
  for (const auto& [name, first] : firsts) EXPECT_EQ(entry(model, name).front(), first) << name;

  // Into a model that has three projections.
  Parameters apart = zeros(vit_layout(false));
  place_weights(tensors, "the file", false, apart);
  EXPECT_EQ(entry(apart, "blocks.0.attn.k_proj.weight"), (std::vector<float>{54, 55, 56, 57}));

  // One third of a fused entry is not the whole entry.
  std::vector<NamedTensor> without_key = tensors;
  without_key.erase(without_key.begin() + 6);
  EXPECT_NE(refused(without_key, model).find("it lacks blocks.0.attn.qkv.weight"),
            std::string::npos);
}

TEST(Weights, FusedProjectionsAreSplitAfterTransposition) {
  Layout l;
  const int block = l.add_block("block");
  for (const char* third : {"q", "k", "v"}) {
    l.add_entry({formatted("h.0.attn.{}_proj.weight", third),
                 Kind::trainable,
                 block,
                 {plain(2), plain(2)},
                 {}});
  }
  const auto layout = std::make_shared<const Layout>(l);
  Parameters model = zeros(layout);
  place_weights({counted("h.0.attn.c_attn.weight", {6, 2}, 0)}, "the file", false, model);
  EXPECT_EQ(entry(model, "h.0.attn.k_proj.weight"), (std::vector<float>{4, 5, 6, 7}));
  place_weights({counted("h.0.attn.c_attn.weight", {2, 6}, 0)}, "the file", false, model);
  EXPECT_EQ(entry(model, "h.0.attn.k_proj.weight"), (std::vector<float>{2, 8, 3, 9}));
}

/// A block of Llama with two heads that share one head of keys and values, or with a fused
/// projection.
std::shared_ptr<const Layout> llama_layout(bool fused) {
  Layout l;
  const int stem = l.add_block("stem"), block = l.add_block("h.0"), head = l.add_block("head");
  const auto add = [&](int in, const char* name, Dimension rows, Dimension columns) {
    l.add_entry({name, Kind::trainable, in, {std::move(rows), std::move(columns)}, {}});
  };
  const auto add_norm = [&](int in, const char* name) {
    l.add_entry({name, Kind::trainable, in, {plain(4)}, {Init::Rule::ones, 0}});
  };
  add(stem, "wte.weight", plain(5), plain(4));
  add_norm(block, "h.0.ln_1.weight");
  if (fused) {
    add(block, "h.0.attn.c_attn.weight", plain(12), plain(4));
  } else {
    add(block, "h.0.attn.q_proj.weight", plain(4), plain(4));
    add(block, "h.0.attn.k_proj.weight", plain(2), plain(4));
    add(block, "h.0.attn.v_proj.weight", plain(2), plain(4));
  }
  add(block, "h.0.attn.c_proj.weight", plain(4), plain(4));
  add_norm(block, "h.0.ln_2.weight");
  add(block, "h.0.mlp.gate_proj.weight", plain(6), plain(4));
  add(block, "h.0.mlp.c_fc.weight", plain(6), plain(4));
  add(block, "h.0.mlp.c_proj.weight", plain(4), plain(6));
  add_norm(head, "ln_f.weight");
  return std::make_shared<const Layout>(l);
}

/// Hugging Face's names, with the shapes of llama_layout(), and where values begin.
std::vector<NamedTensor> llama_file(bool fused) {
  const std::int64_t keys = fused ? 4 : 2;
  const std::string layer = "model.layers.0.";
  return {counted("model.embed_tokens.weight", {5, 4}, 100),
          counted(layer + "input_layernorm.weight", {4}, 200),
          counted(layer + "self_attn.q_proj.weight", {4, 4}, 300),
          counted(layer + "self_attn.k_proj.weight", {keys, 4}, 400),
          counted(layer + "self_attn.v_proj.weight", {keys, 4}, 500),
          counted(layer + "self_attn.o_proj.weight", {4, 4}, 600),
          counted(layer + "post_attention_layernorm.weight", {4}, 700),
          counted(layer + "mlp.gate_proj.weight", {6, 4}, 800),
          counted(layer + "mlp.up_proj.weight", {6, 4}, 900),
          counted(layer + "mlp.down_proj.weight", {4, 6}, 1000),
          counted("model.norm.weight", {4}, 1100)};
}

std::vector<float> all_values(const NamedTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.count()));
  tensor.read_all(values.data());
  return values;
}

TEST(Weights, LlamasNamesAreReadAndWritten) {
  for (const bool fused : {false, true}) {
    std::vector<NamedTensor> file = llama_file(fused);
    Parameters model = zeros(llama_layout(fused));
    std::vector<NamedTensor> stored = file;
    stored.push_back(counted("model.layers.0.self_attn.rotary_emb.inv_freq", {1}, 0));
    EXPECT_EQ(place_weights(stored, "the file", false, model),
              std::vector<bool>(model.buffer_layout().layout().entries.size(), true));
    EXPECT_EQ(entry(model, "h.0.mlp.c_fc.weight").front(), 900);
    EXPECT_EQ(entry(model, "h.0.mlp.c_proj.weight").front(), 1000);
    EXPECT_EQ(entry(model, "ln_f.weight").front(), 1100);
    if (fused) {
      EXPECT_EQ(entry(model, "h.0.attn.c_attn.weight")[2 * 16], 500);
    }
    const std::vector<NamedTensor> back = llama_tensors(model);
    ASSERT_EQ(back.size(), file.size());
    for (std::size_t i = 0; i < file.size(); ++i) {
      EXPECT_EQ(back[i].name, file[i].name);
      EXPECT_EQ(back[i].shape, file[i].shape);
      EXPECT_EQ(all_values(back[i]), all_values(file[i]));
    }
    // The third of a fused projection is read from within.
    float two[2];
    back[4].read(1, 2, two);
    EXPECT_EQ(two[0], 501);
    EXPECT_EQ(two[1], 502);
  }
}

TEST(Weights, AnOutputLayerBesideATiedEmbeddingMustEqualIt) {
  Parameters model = zeros(llama_layout(false));
  std::vector<NamedTensor> file = llama_file(false);
  file.push_back(counted("lm_head.weight", {5, 4}, 100));
  place_weights(file, "the file", false, model);
  file.back() = counted("lm_head.weight", {5, 4}, 101);
  EXPECT_NE(refused(file, model).find("set model.tied = false"), std::string::npos);
}

TEST(Weights, EntriesWithoutATensorAreTheOnesToDraw) {
  Parameters model = zeros(gpt_layout());
  std::vector<NamedTensor> tensors = gpt_tensors("");
  tensors.erase(tensors.begin() + 1);
  const std::vector<bool> placed = place_weights(tensors, "the file", true, model);
  EXPECT_EQ(placed, (std::vector<bool>{true, false, true, true}));
}

TEST(Weights, ALongerTableOfPositionsGivesItsFirstRows) {
  Layout l;
  l.add_entry({"wpe.weight", Kind::trainable, l.add_block("stem"), {plain(2), plain(3)}, {}});
  const auto layout = std::make_shared<const Layout>(l);
  Parameters model = zeros(layout);
  place_weights({counted("wpe.weight", {4, 3}, 0)}, "the file", false, model);
  EXPECT_EQ(entry(model, "wpe.weight"), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_NE(refused({counted("wpe.weight", {1, 3}, 0)}, model).find("instead of [2, 3]"),
            std::string::npos);
}

TEST(Weights, TensorsThatDoNotFitAreNamed) {
  Parameters model = zeros(gpt_layout());
  std::vector<NamedTensor> tensors = gpt_tensors("");
  tensors.erase(tensors.begin() + 2);
  tensors[0].shape = {2, 5};  // no linear layer: it is not turned
  tensors.push_back(counted("h.1.attn.c_attn.weight", {6, 2}, 0));
  EXPECT_EQ(refused(tensors, model),
            "the file does not fit the model: it lacks h.0.attn.c_attn.bias; it has wte.weight "
            "[2, 5] instead of [5, 2]; the model has no h.1.attn.c_attn.weight; "
            "model.init_partial = true loads the rest");
  EXPECT_EQ(entry(model, "h.0.attn.c_proj.weight"), (std::vector<float>{0, 0, 0, 0}));

  place_weights(tensors, "the file", true, model);
  EXPECT_EQ(entry(model, "wte.weight"), std::vector<float>(10, 0));
  EXPECT_EQ(entry(model, "h.0.attn.c_attn.bias"), std::vector<float>(6, 0));
  EXPECT_EQ(entry(model, "h.0.attn.c_proj.weight"), (std::vector<float>{400, 401, 402, 403}));
}

TEST(Weights, AFileOfAnotherModelIsRefusedEvenInPart) {
  Parameters model = zeros(vit_layout());
  EXPECT_NE(refused(gpt_tensors(""), model, true).find("no tensor in it fits"), std::string::npos);
}

TEST(Weights, TheSameWeightsTwiceAreRefused) {
  Parameters model = zeros(gpt_layout());
  std::vector<NamedTensor> tensors = gpt_tensors("");
  tensors.push_back(counted("module.wte.weight", {5, 2}, 0));
  EXPECT_EQ(refused(tensors, model, true),
            "the file has both wte.weight and module.wte.weight, which are the same weights");
}

TEST(Weights, ValuesThatAreNotFiniteAreRefused) {
  Parameters model = zeros(gpt_layout());
  std::vector<NamedTensor> tensors = gpt_tensors("");
  tensors[0].read = [](std::int64_t, std::int64_t count, float* to) {
    std::fill_n(to, count, 1.0f);
    to[count - 1] = std::numeric_limits<float>::quiet_NaN();
  };
  EXPECT_EQ(refused(tensors, model), "wte.weight of the file has a value that is not finite");
}

TEST(Weights, EveryEntryIsExportedByItsName) {
  Parameters model = zeros(vit_layout());
  std::iota(model.data(), model.data() + model.buffer_layout().size(), 1.0f);
  Parameters copy = zeros(vit_layout());
  place_weights(named_tensors(model), "itself", false, copy);
  for (const Entry& e : model.buffer_layout().layout().entries) {
    EXPECT_EQ(entry(copy, e.name), entry(model, e.name)) << e.name;
  }
}

TEST(Weights, StatisticsAreTakenOnlyIfComplete) {
  Layout l;
  const int block = l.add_block("block");
  for (const char* norm : {"norm1", "norm2"}) {
    l.add_entry({formatted("{}.weight", norm), Kind::trainable, block, {plain(2)}, {}});
    l.add_entry({formatted("{}.running_mean", norm), Kind::statistic, block, {plain(2)}, {}});
    l.add_entry({formatted("{}.running_var", norm), Kind::statistic, block, {plain(2)}, {}});
  }
  const auto layout = std::make_shared<const Layout>(l);
  std::vector<NamedTensor> tensors{
      counted("norm1.weight", {2}, 1),       counted("norm1.running_mean", {2}, 3),
      counted("norm1.running_var", {2}, 5),  counted("norm2.weight", {2}, 7),
      counted("norm2.running_mean", {2}, 9), counted("norm2.running_var", {2}, 11)};
  Parameters model = zeros(layout);
  place_weights(tensors, "the file", false, model);
  EXPECT_EQ(entry(model, "norm2.running_var"), (std::vector<float>{11, 12}));

  tensors.pop_back();
  place_weights(tensors, "the file", false, model);
  EXPECT_TRUE(lacks_statistics(model)) << "those of some norms alone are of no use";
  EXPECT_EQ(entry(model, "norm2.weight"), (std::vector<float>{7, 8}));
}

// A checkpoint of a run with the data `data`, or of a release that stored no data format.
class StoredModels : public ::testing::Test {
 protected:
  StoredModels() {
    declare_data_options(table_);
    declare_model_options(table_);
  }
  ~StoredModels() override { std::filesystem::remove(path_); }

  void write(const std::string& config, std::int64_t inputs, std::int64_t classes,
             bool has_format) {
    write_checkpoint(path_, config, [&](Archive& archive) {
      archive.open("model");
      for (const auto& [name, count] :
           {std::pair("fc1.weight", 2 * inputs), std::pair("fc1.bias", std::int64_t{2}),
            std::pair("fc2.weight", 2 * classes), std::pair("fc2.bias", classes)}) {
        std::vector<float> values(static_cast<std::size_t>(count), 0.5f);
        archive.value(name, std::span<float>(values));
      }
      archive.close();
      if (!has_format) return;
      Dataset data;
      data.shape = {{inputs}, classes};
      data.normalisation = {{1, 2}, {3, 4}, 1};
      archive.open("data");
      archive_format(archive, data);
      archive.close();
    });
  }

  OptionTable table_;
  std::filesystem::path path_ = formatted("{}/stored_models.h5", ::testing::TempDir());
};

TEST_F(StoredModels, HaveTheShapeOfTheCheckpoint) {
  write("[data]\nname = csv\n[model]\nname = mlp\nhidden = 2\n", 5, 3, true);
  const StoredModel stored = read_stored_model(path_, table_);
  EXPECT_EQ(stored.data.shape.sample, (std::vector<std::int64_t>{5}));
  EXPECT_EQ(stored.data.normalisation.deviation, (std::vector<double>{3, 4}));
  EXPECT_EQ(entry(stored.values, "fc1.weight"), std::vector<float>(10, 0.5f));
}

TEST_F(StoredModels, OfOldCheckpointsHaveTheDeclaredShape) {
  const std::string model = "[model]\nname = mlp\nhidden = 2\n";
  write("[data]\nname = digits\n" + model, 784, 10, false);
  EXPECT_EQ(entry(read_stored_model(path_, table_).values, "fc1.weight").size(), 2 * 784u);
  write("[data]\nname = csv\n" + model, 5, 3, false);
  EXPECT_THROW(read_stored_model(path_, table_), DataError);
}

}  // namespace
}  // namespace espalier
