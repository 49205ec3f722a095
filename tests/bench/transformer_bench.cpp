// One training step of the transformer families against the same models in torch::nn with
// torch::optim::SGD, batch 8, one thread: a ViT (embed 192, depth 6, 32x32 images in patches of 4)
// and a GPT (embed 256, depth 4, context 128, 65 tokens), the GPT also with adapters of rank 8
// beside frozen weights. Prints as step_bench does.

#include <torch/torch.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "espalier/model/model.h"
#include "pairs.h"

namespace {

using espalier::Context;
using espalier::Model;
using espalier::Parameters;
using espalier::report;
using espalier::Submodel;
using espalier::time_ratio;

constexpr std::int64_t kBatch = 8;
constexpr double kRate = 0.01;

/// A linear layer; with a rank above 0 its weights are frozen, and an adapter is trained.
struct AdaptedImpl : torch::nn::Module {
  torch::nn::Linear linear;
  torch::Tensor down, up;
  AdaptedImpl(std::int64_t in, std::int64_t out, std::int64_t rank) : linear(in, out) {
    register_module("linear", linear);
    if (rank == 0) return;
    for (const torch::Tensor& p : linear->parameters()) p.set_requires_grad(false);
    down = register_parameter("down", torch::randn({rank, in}) * 0.02);
    up = register_parameter("up", torch::randn({out, rank}) * 0.02);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor y = linear(x);
    return down.defined() ? y + torch::linear(torch::linear(x, down), up) * 2 : y;
  }
};
TORCH_MODULE(Adapted);

struct BlockImpl : torch::nn::Module {
  std::int64_t heads;
  bool causal;
  torch::nn::LayerNorm norm1, norm2;
  Adapted qkv, proj, fc1, fc2;
  torch::nn::GELU gelu;
  BlockImpl(std::int64_t embed, std::int64_t heads, bool causal, std::int64_t rank = 0)
      : heads(heads),
        causal(causal),
        norm1(torch::nn::LayerNormOptions({embed})),
        norm2(torch::nn::LayerNormOptions({embed})),
        qkv(embed, 3 * embed, rank),
        proj(embed, embed, rank),
        fc1(embed, 4 * embed, rank),
        fc2(4 * embed, embed, rank),
        gelu(torch::nn::GELUOptions().approximate(causal ? "tanh" : "none")) {
    register_module("norm1", norm1);
    register_module("norm2", norm2);
    register_module("qkv", qkv);
    register_module("proj", proj);
    register_module("fc1", fc1);
    register_module("fc2", fc2);
    if (rank == 0) return;
    for (const auto& norm : {norm1, norm2}) {
      for (const torch::Tensor& p : norm->parameters()) p.set_requires_grad(false);
    }
  }
  torch::Tensor forward(torch::Tensor x) {
    const std::int64_t b = x.size(0), t = x.size(1);
    const auto parts = qkv(norm1(x)).view({b, t, 3, heads, -1}).unbind(2);
    const torch::Tensor y =
        at::scaled_dot_product_attention(parts[0].transpose(1, 2), parts[1].transpose(1, 2),
                                         parts[2].transpose(1, 2), {}, 0.0, causal);
    x = x + proj(y.transpose(1, 2).reshape({b, t, -1}));
    return x + fc2(gelu(fc1(norm2(x))));
  }
};
TORCH_MODULE(Block);

struct VitImpl : torch::nn::Module {
  torch::nn::Conv2d patches{torch::nn::Conv2dOptions(3, 192, 4).stride(4)};
  torch::Tensor cls, places;
  torch::nn::Sequential blocks;
  torch::nn::LayerNorm norm{torch::nn::LayerNormOptions({192})};
  torch::nn::Linear head{192, 10};
  VitImpl() {
    register_module("patches", patches);
    register_module("blocks", blocks);
    register_module("norm", norm);
    register_module("head", head);
    cls = register_parameter("cls", torch::randn({1, 1, 192}) * 0.02);
    places = register_parameter("places", torch::randn({1, 65, 192}) * 0.02);
    for (int i = 0; i < 6; ++i) blocks->push_back(Block(192, 3, false));
  }
  torch::Tensor forward(torch::Tensor x) {
    x = patches(x).flatten(2).transpose(1, 2);
    x = torch::cat({cls.expand({x.size(0), -1, -1}), x}, 1) + places;
    return head(norm(blocks->forward(x)).select(1, 0));
  }
};
TORCH_MODULE(Vit);

struct GptImpl : torch::nn::Module {
  torch::nn::Embedding wte{65, 256}, wpe{128, 256};
  torch::nn::Sequential blocks;
  torch::nn::LayerNorm norm{torch::nn::LayerNormOptions({256})};
  torch::Tensor places = torch::arange(128);
  explicit GptImpl(std::int64_t rank = 0) {
    register_module("wte", wte);
    register_module("wpe", wpe);
    register_module("blocks", blocks);
    register_module("norm", norm);
    for (int i = 0; i < 4; ++i) blocks->push_back(Block(256, 4, true, rank));
    if (rank == 0) return;
    for (const torch::Tensor& p : {wte->weight, wpe->weight, norm->weight, norm->bias}) {
      p.set_requires_grad(false);
    }
  }
  torch::Tensor forward(torch::Tensor x) {
    return torch::linear(norm(blocks->forward(wte(x) + wpe(places))), wte->weight);
  }
};
TORCH_MODULE(Gpt);

class Engine {
 public:
  Engine(const std::map<std::string, std::string>& options, const espalier::DataShape& shape,
         const std::function<Submodel(const Model&)>& cut = {}) {
    espalier::OptionTable table;
    espalier::declare_model_options(table);
    espalier::Config config(std::move(table));
    for (const auto& [key, value] : options) config.set("model." + key, value, "bench");
    model_ = espalier::build_model(config, shape);
    if (!model_.layout->adapters.empty()) freeze_all_but_adapters();
    parameters_ = Parameters(std::make_shared<const espalier::BufferLayout>(
        model_.layout, cut ? cut(model_) : Submodel::full(*model_.layout),
        espalier::Packing::aligned));
    at::NoGradGuard no_grad;
    parameters_.flat().normal_(0, 0.02);
    parameters_.attach_gradients();
  }
  void step(const at::Tensor& x, const at::Tensor& y) {
    Context context;
    context.mode = espalier::Mode::train;
    parameters_.zero_gradients();
    at::cross_entropy_loss(forward(model_, parameters_, x, context).flatten(0, -2), y).backward();
    c10::NoGradGuard no_grad;
    parameters_.trainable().add_(parameters_.gradients(), -kRate);
  }

 private:
  void freeze_all_but_adapters() {
    auto layout = std::make_shared<espalier::Layout>(*model_.layout);
    for (espalier::Entry& entry : layout->entries) {
      if (!entry.adapter) entry.kind = espalier::Kind::frozen;
    }
    model_.layout = layout;
  }

  Model model_;
  Parameters parameters_;
};

using Step = std::function<void()>;

void compare(const char* label, const Step& ours, const Step& theirs, int steps, double bar) {
  report(label, time_ratio(label, ours, theirs, steps), bar);
}

template <class Net>
Step torch_step(Net net, const at::Tensor& x, const at::Tensor& y) {
  std::vector<torch::Tensor> trained;
  for (const torch::Tensor& p : net->parameters()) {
    if (p.requires_grad()) trained.push_back(p);
  }
  auto optimizer = std::make_shared<torch::optim::SGD>(trained, kRate);
  return [=]() mutable {
    optimizer->zero_grad();
    torch::nn::functional::cross_entropy(net(x).flatten(0, -2), y).backward();
    optimizer->step();
  };
}

/// Half of each block's heads, neurons and output positions, spread evenly.
Submodel half_blocks(const Model& model) {
  Submodel submodel = Submodel::full(*model.layout);
  for (const espalier::TransformerAxes& axes : model.transformer)
    for (const int axis : {axes.heads, axes.attention_rows, axes.hidden, axes.mlp_rows}) {
      std::vector<std::int64_t> units;
      for (std::int64_t u = 0; u < submodel.full_width(axis); u += 2) units.push_back(u);
      submodel.keep(axis, units);
    }
  return submodel;
}

}  // namespace

int main() {
  at::set_num_threads(1);
  {
    const espalier::DataShape shape{{3, 32, 32}, 10};
    const std::map<std::string, std::string> options{
        {"name", "vit"}, {"embed", "192"}, {"depth", "6"}, {"heads", "3"}, {"patch", "4"}};
    Engine full(options, shape);
    const at::Tensor x = at::rand({kBatch, 3, 32, 32});
    const at::Tensor y = at::randint(10, {kBatch}, at::kLong);
    const Step step = [&] { full.step(x, y); };
    compare("step, ViT, against torch::nn", step, torch_step(Vit(), x, y), 5, 1.00);
    // In each block 0.40 of the FLOPs of the matrix products remain, and two of three heads.
    Engine half(options, shape, half_blocks);
    compare(
        "step, ViT, half of each block's units, against the whole", [&] { half.step(x, y); }, step,
        5, 0.60);
  }
  {
    const espalier::DataShape shape{{128}, 65, 65, true};
    Engine full({{"name", "gpt"}, {"embed", "256"}, {"depth", "4"}, {"heads", "4"}}, shape);
    const at::Tensor x = at::randint(65, {kBatch, 128}, at::kLong);
    const at::Tensor y = at::randint(65, {kBatch * 128}, at::kLong);
    compare(
        "step, GPT, against torch::nn", [&] { full.step(x, y); }, torch_step(Gpt(), x, y), 3, 1.00);
    Engine lora({{"name", "gpt"},
                 {"embed", "256"},
                 {"depth", "4"},
                 {"heads", "4"},
                 {"adapter_rank", "8"},
                 {"adapter_alpha", "16"}},
                shape);
    compare(
        "step, GPT, adapters beside frozen weights, against torch::nn", [&] { lora.step(x, y); },
        torch_step(Gpt(8), x, y), 3, 1.05);
  }
  return 0;
}
