// Texts that are read in parts with a cache: the same bits however they are cut, and the values of
// the pass without a cache within rounding.

#include "espalier/model/key_value_cache.h"

#include <ATen/Parallel.h>

#include <numeric>

#include "family_fixture.h"

namespace espalier {
namespace {

constexpr std::int64_t kPositions = 24;
const DataShape kText{{kPositions}, 29, 29, true};

Settings gpt(const Settings& more = {}) {
  Settings settings{
      {"name", "gpt"}, {"depth", "3"}, {"embed", "36"}, {"heads", "2"}, {"mlp", "40"}};
  for (const auto& [key, value] : more) settings[key] = value;
  return settings;
}

const Settings kLlama = gpt({{"positions", "rotary"},
                             {"rotary_base", "100"},
                             {"heads", "6"},
                             {"kv_heads", "2"},
                             {"fused_qkv", "false"},
                             {"qkv_bias", "false"},
                             {"rms_norm", "true"},
                             {"activation", "swiglu"}});

/// Llama with adapters beside some of its layers.
Settings adapted_llama() {
  Settings settings = kLlama;
  settings["adapter_rank"] = "3";
  settings["adapter_alpha"] = "5";
  settings["adapter_modules"] = "*.q_proj, *.v_proj, *.mlp.*";
  return settings;
}

std::vector<Settings> architectures() {
  return {gpt(), kLlama, gpt({{"positions", "rotary"}, {"tied", "false"}}),
          gpt({{"heads", "6"}, {"kv_heads", "1"}, {"fused_qkv", "false"}}), adapted_llama()};
}

/// Values with which all parts have an effect, and no token is far ahead of the others.
Parameters lively_values(const Model& model) {
  Parameters p = values_of(model, Submodel::full(*model.layout));
  for (std::size_t e = 0; e < model.layout->entries.size(); ++e) {
    const BufferLayout::Place& place = p.buffer_layout().place(static_cast<int>(e));
    const double centre = model.layout->entries[e].init.rule == Init::Rule::ones ? 1 : 0;
    const double scale =
        place.shape.size() == 2 ? 1 / std::sqrt(static_cast<double>(place.shape[1])) : 0.3;
    Stream stream(8, kTest, static_cast<std::int64_t>(e));
    for (std::int64_t i = 0; i < place.count; ++i) {
      p.data()[place.offset + i] = static_cast<float>(centre + scale * stream.normal());
    }
  }
  return p;
}

at::Tensor tokens(std::int64_t batch, std::int64_t count = kPositions) {
  Stream stream(4, kTest, batch);
  at::Tensor x = at::empty({batch, count}, at::kLong);
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    x.data_ptr<std::int64_t>()[i] = stream.below(kText.vocabulary);
  }
  return x;
}

at::Tensor read(const Model& model, const Parameters& p, KeyValueCache& cache, const at::Tensor& x,
                bool last_position = false) {
  c10::NoGradGuard no_grad;
  Context context;
  context.cache = &cache;
  context.last_position = last_position;
  return forward(model, p, x, context);
}

/// The logits of all positions of x, read in parts of these sizes.
at::Tensor read_in_parts(const Model& model, const Parameters& p, const at::Tensor& x,
                         const std::vector<std::int64_t>& sizes) {
  KeyValueCache cache(x.size(0), x.size(1));
  std::vector<at::Tensor> parts;
  for (const std::int64_t size : sizes) {
    parts.push_back(read(model, p, cache, x.narrow(1, cache.length(), size)));
  }
  EXPECT_EQ(cache.length(), x.size(1));
  return at::cat(parts, 1);
}

/// The full model and three cut ones.
std::vector<Submodel> submodels(const Model& model) {
  Submodel shallow = select(*model.layout, 0.7, Choice::rolling);
  shallow.keep_block(model.depth[1], false);
  return {Submodel::full(*model.layout), select(*model.layout, 0.6, Choice::random),
          select(*model.layout, 0, Choice::smallest), shallow};
}

TEST(KeyValueCache, EveryCutOfATextGivesTheSameBits) {
  for (const Settings& settings : architectures()) {
    const Model model = make(settings, kText);
    const Parameters full = lively_values(model);
    for (const Submodel& submodel : submodels(model)) {
      const Parameters p = sliced(model, full, submodel);
      const at::Tensor x = tokens(1);
      const at::Tensor whole = read_in_parts(model, p, x, {kPositions});
      EXPECT_TRUE(
          same_bits(whole, read_in_parts(model, p, x, std::vector<std::int64_t>(kPositions, 1))));
      EXPECT_TRUE(same_bits(whole, read_in_parts(model, p, x, {7, 1, 1, 5, 10})));
      EXPECT_TRUE(same_bits(whole, read_in_parts(model, p, x, {2, 21, 1})));
    }
  }
}

TEST(KeyValueCache, TheValuesAreThoseOfThePassWithoutACache) {
  for (const Settings& settings : architectures()) {
    const Model model = make(settings, kText);
    const Parameters full = lively_values(model);
    for (const Submodel& submodel : submodels(model)) {
      const Parameters p = sliced(model, full, submodel);
      const at::Tensor x = tokens(3);
      expect_close(read_in_parts(model, p, x, {10, 14}), run(model, p, x));
    }
  }
}

TEST(KeyValueCache, GreedyTokensAreThoseOfThePassWithoutACache) {
  for (const Settings& settings : architectures()) {
    const Model model = make(settings, kText);
    const Parameters p = lively_values(model);
    const at::Tensor prompt = tokens(1, 4);
    KeyValueCache cache(1, kPositions);
    at::Tensor next = read(model, p, cache, prompt, true).argmax(-1);
    at::Tensor text = at::cat({prompt, next}, 1);
    while (text.size(1) < kPositions) {
      next = read(model, p, cache, next, true).argmax(-1);
      text = at::cat({text, next}, 1);
    }
    for (std::int64_t length = 4; length < kPositions; ++length) {
      const at::Tensor logits = run(model, p, text.narrow(1, 0, length));
      EXPECT_EQ(logits[0][length - 1].argmax().item<std::int64_t>(),
                text[0][length].item<std::int64_t>());
    }
  }
}

TEST(KeyValueCache, ATruncationForgets) {
  const Model model = make(kLlama, kText);
  const Parameters p = lively_values(model);
  const at::Tensor x = tokens(1);
  const at::Tensor whole = read_in_parts(model, p, x, {kPositions});
  KeyValueCache cache(1, kPositions);
  read(model, p, cache, x.narrow(1, 0, 9));
  const at::Tensor drafts = (x.narrow(1, 9, 4) + 1).remainder(kText.vocabulary);
  EXPECT_FALSE(same_bits(read(model, p, cache, drafts), whole.narrow(1, 9, 4)));
  cache.truncate(9);
  EXPECT_EQ(cache.length(), 9);
  EXPECT_TRUE(same_bits(read(model, p, cache, x.narrow(1, 9, 15)), whole.narrow(1, 9, 15)));
  cache.truncate(0);
  EXPECT_TRUE(same_bits(read(model, p, cache, x), whole));
}

TEST(KeyValueCache, TextsOfOneBatchAndThreadsChangeNoBit) {
  const Model model = make(kLlama, kText);
  const Parameters p = lively_values(model);
  const at::Tensor x = tokens(3);
  const at::Tensor together = read_in_parts(model, p, x, {20, 4});
  for (std::int64_t i = 0; i < 3; ++i) {
    const at::Tensor alone = read_in_parts(model, p, x.narrow(0, i, 1), {kPositions});
    EXPECT_TRUE(same_bits(together.narrow(0, i, 1).contiguous(), alone));
  }
  // Wide enough that several threads share each layer.
  const Model wide = make(gpt({{"embed", "256"}, {"mlp", "1024"}, {"depth", "1"}}), kText);
  const Parameters q = lively_values(wide);
  const at::Tensor alone = read_in_parts(wide, q, x, {kPositions});
  at::set_num_threads(3);
  const at::Tensor shared = read_in_parts(wide, q, x, {kPositions});
  at::set_num_threads(1);
  EXPECT_TRUE(same_bits(alone, shared));
}

TEST(KeyValueCache, LogitsOfTheLastPositionAlone) {
  const Model model = make(gpt(), kText);
  const Parameters p = lively_values(model);
  const at::Tensor x = tokens(2);
  KeyValueCache cache(2, kPositions);
  const at::Tensor last = read(model, p, cache, x, true);
  EXPECT_EQ(last.sizes(), (std::vector<std::int64_t>{2, 1, kText.vocabulary}));
  const at::Tensor whole = read_in_parts(model, p, x, {kPositions});
  EXPECT_TRUE(same_bits(last, whole.narrow(1, kPositions - 1, 1).contiguous()));
}

TEST(KeyValueCache, PartsOfAModelHaveCachesOfTheirOwn) {
  Settings settings = kLlama;
  settings["tied"] = "false";  // a head with the embedding's weights needs the first block
  const Model model = make(settings, kText);
  const Parameters full = lively_values(model);
  const Submodel all = Submodel::full(*model.layout);
  const Submodel bottom = part_of(model, all, 0, 2);
  const Submodel top = part_of(model, all, 2, all.blocks());
  const Parameters low = sliced(model, full, bottom);
  const Parameters high = sliced(model, full, top);
  KeyValueCache of_bottom(1, kPositions);
  KeyValueCache of_top(1, kPositions);
  const at::Tensor x = tokens(1);
  std::vector<at::Tensor> parts;
  for (const std::int64_t size : {11, 1, 12}) {
    const at::Tensor stream = read(model, low, of_bottom, x.narrow(1, of_bottom.length(), size));
    parts.push_back(read(model, high, of_top, stream));
  }
  EXPECT_TRUE(same_bits(at::cat(parts, 1), read_in_parts(model, full, x, {kPositions})));
  EXPECT_EQ(of_bottom.bytes(), cache_bytes(model, bottom, 1, kPositions));
  EXPECT_EQ(of_top.bytes(), cache_bytes(model, top, 1, kPositions));
}

TEST(KeyValueCache, BytesByHand) {
  const Model model = make(kLlama, kText);
  const Submodel all = Submodel::full(*model.layout);
  // Three blocks with two heads of 6 columns, for keys and for values.
  EXPECT_EQ(cache_bytes(model, all, 2, 10), 3 * 2 * 6 * 2 * 2 * 10 * 4);
  const Submodel half = select(*model.layout, 0.5, Choice::leading);
  const Parameters p = sliced(model, lively_values(model), half);
  KeyValueCache cache(2, 10);
  EXPECT_EQ(cache.bytes(), 0);
  read(model, p, cache, tokens(2, 1));
  EXPECT_EQ(cache.bytes(), cache_bytes(model, half, 2, 10));
  // Pairs of columns are cut from 3 to 2, columns of values from 6 to 3; both heads stay.
  EXPECT_EQ(cache.bytes(), 3 * 2 * (4 + 3) * 2 * 10 * 4);
}

TEST(KeyValueCache, OnlyModelsThatPredictTheNextTokenByAttention) {
  EXPECT_TRUE(takes_cache(make(gpt(), kText)));
  EXPECT_FALSE(takes_cache(make({{"name", "lstm"}}, kText)));
  const Model encoder = make({{"name", "encoder"}}, {{9}, 4, 29, false});
  EXPECT_FALSE(takes_cache(encoder));
  KeyValueCache cache(1, 9);
  EXPECT_THROW(read(encoder, lively_values(encoder), cache, tokens(1, 9)), std::runtime_error);
}

TEST(KeyValueCache, NoPlaceBeyondTheCapacity) {
  const Model model = make(gpt(), kText);
  const Parameters p = lively_values(model);
  KeyValueCache cache(1, 5);
  EXPECT_THROW(read(model, p, cache, tokens(1, 6)), std::runtime_error);
  KeyValueCache longer(1, kPositions + 5);
  EXPECT_THROW(read(model, p, longer, tokens(1, kPositions + 1)), std::runtime_error);
}

}  // namespace
}  // namespace espalier
