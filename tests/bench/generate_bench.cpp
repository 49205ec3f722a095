// Generation with a model of the sizes of SmolLM2-135M (random weights), one thread: a decoded
// token against reading the weights once, and a prompt against LibTorch's kernels. Prints as
// step_bench does.

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <map>
#include <string>
#include <vector>

#include "espalier/base/wide.h"
#include "espalier/model/key_value_cache.h"
#include "espalier/model/model.h"
#include "pairs.h"

namespace {

using espalier::Context;
using espalier::KeyValueCache;
using espalier::Model;
using espalier::Parameters;

constexpr std::int64_t kContext = 256;
constexpr std::int64_t kVocabulary = 49152;

Model smollm2() {
  const std::map<std::string, std::string> options{
      {"name", "gpt"},        {"depth", "30"},          {"embed", "576"},
      {"heads", "9"},         {"kv_heads", "3"},        {"mlp", "1536"},
      {"rms_norm", "true"},   {"activation", "swiglu"}, {"qkv_bias", "false"},
      {"fused_qkv", "false"}, {"positions", "rotary"},  {"rotary_base", "100000"}};
  espalier::OptionTable table;
  espalier::declare_model_options(table);
  espalier::Config config(std::move(table));
  for (const auto& [key, value] : options) config.set("model." + key, value, "bench");
  return espalier::build_model(config, {{kContext}, kVocabulary, kVocabulary, true});
}

/// As fast as one core reads: four sums of 16 lanes, so that no addition waits for the one before.
ESPALIER_WIDEST float sum_of(const float* values, std::int64_t count) {
  using Lanes = float __attribute__((vector_size(64), aligned(4), may_alias));
  const auto* from = reinterpret_cast<const Lanes*>(values);
  Lanes a{}, b{}, c{}, d{};
  for (std::int64_t i = 0; i + 4 <= count / 16; i += 4) {
    a += from[i];
    b += from[i + 1];
    c += from[i + 2];
    d += from[i + 3];
  }
  const Lanes sums = (a + b) + (c + d);
  float total = 0;
  for (int lane = 0; lane < 16; ++lane) total += sums[lane];
  return total;
}

}  // namespace

int main() {
  at::set_num_threads(1);
  c10::NoGradGuard no_gradients;
  const Model model = smollm2();
  Parameters values(std::make_shared<const espalier::BufferLayout>(
      model.layout, espalier::Submodel::full(*model.layout), espalier::Packing::aligned));
  values.flat().normal_(0, 0.02);

  KeyValueCache cache(1, kContext);
  const at::Tensor prompt = at::randint(kVocabulary, {1, 128}, at::kLong);
  const auto read = [&](const at::Tensor& x) {
    Context context;
    context.cache = &cache;
    context.last_position = true;
    return forward(model, values, x, context);
  };
  volatile float sink = 0;
  const auto read_weights = [&] { sink = sum_of(values.data(), values.flat().numel()); };
  read(prompt);
  const at::Tensor token = prompt.narrow(1, 0, 1).contiguous();
  const auto decode = [&] {
    cache.truncate(128);
    read(token);
  };
  espalier::report("decoding, SmolLM2's sizes: rate of weights against a plain read of as many",
                   espalier::time_ratio("reading the weights, decoding", read_weights, decode, 2),
                   0.80, /*at_least=*/true);
  const auto prefill = [&] {
    cache.truncate(0);
    read(prompt);
  };
  const auto plain = [&] {
    Context context;
    forward(model, values, prompt, context);
  };
  // The plain pass computes logits of all positions, the prompt's only those of the last.
  espalier::report("prompt of 128 tokens, against the pass without a cache",
                   espalier::time_ratio("prompt, pass without a cache", prefill, plain, 1), 1.00);
  return 0;
}
