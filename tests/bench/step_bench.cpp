// One training step of the engine against the same model in torch::nn with torch::optim::SGD: LeNet
// (61,706 parameters) and the CNN (1,663,370), batch 20, one thread. Medians of alternating pairs
// within one run; prints `name<TAB>measured<TAB>bar<TAB>pass|miss` a line, measured = engine /
// torch::nn.

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "espalier/model/model.h"

namespace {

using espalier::Config;
using espalier::Context;
using espalier::Model;
using espalier::Parameters;

constexpr std::int64_t kBatch = 20;
constexpr double kRate = 0.05;
constexpr int kPairs = 9;

struct LeNetImpl : torch::nn::Module {
  torch::nn::Conv2d conv1{torch::nn::Conv2dOptions(1, 6, 5).padding(2)};
  torch::nn::Conv2d conv2{torch::nn::Conv2dOptions(6, 16, 5)};
  torch::nn::Linear fc1{400, 120}, fc2{120, 84}, fc3{84, 10};
  LeNetImpl() {
    register_module("conv1", conv1);
    register_module("conv2", conv2);
    register_module("fc1", fc1);
    register_module("fc2", fc2);
    register_module("fc3", fc3);
  }
  torch::Tensor forward(torch::Tensor x) {
    x = torch::max_pool2d(torch::relu(conv1(x)), 2);
    x = torch::max_pool2d(torch::relu(conv2(x)), 2);
    x = torch::relu(fc1(x.flatten(1)));
    return fc3(torch::relu(fc2(x)));
  }
};
TORCH_MODULE(LeNet);

struct CnnImpl : torch::nn::Module {
  torch::nn::Conv2d conv1{torch::nn::Conv2dOptions(1, 32, 5).padding(2)};
  torch::nn::Conv2d conv2{torch::nn::Conv2dOptions(32, 64, 5).padding(2)};
  torch::nn::Linear fc1{3136, 512}, fc2{512, 10};
  CnnImpl() {
    register_module("conv1", conv1);
    register_module("conv2", conv2);
    register_module("fc1", fc1);
    register_module("fc2", fc2);
  }
  torch::Tensor forward(torch::Tensor x) {
    x = torch::max_pool2d(torch::relu(conv1(x)), 2);
    x = torch::max_pool2d(torch::relu(conv2(x)), 2);
    return fc2(torch::relu(fc1(x.flatten(1))));
  }
};
TORCH_MODULE(Cnn);

class Engine {
 public:
  explicit Engine(const char* name) {
    espalier::OptionTable table;
    espalier::declare_model_options(table);
    Config config(std::move(table));
    config.set("model.name", name, "step_bench");
    model_ = espalier::build_model(config, {{1, 28, 28}, 10});
    parameters_ = Parameters(std::make_shared<const espalier::Geometry>(
        model_.layout, espalier::Submodel::full(*model_.layout), espalier::Packing::aligned));
    espalier::initialise(parameters_, 1);
    parameters_.attach_gradients();
  }
  void step(const at::Tensor& x, const at::Tensor& y) {
    Context context;
    context.mode = espalier::Mode::train;
    parameters_.zero_gradients();
    at::cross_entropy_loss(forward(model_, parameters_, x, context), y).backward();
    c10::NoGradGuard no_grad;
    parameters_.trainable().add_(parameters_.gradients(), -kRate);
  }

 private:
  Model model_;
  Parameters parameters_;
};

double seconds(const std::function<void()>& step, int steps) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < steps; ++i) step();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / steps;
}

template <class Net>
void compare(const char* label, const char* name, Net net, int steps, double bar) {
  Engine engine(name);
  torch::optim::SGD optimizer(net->parameters(), kRate);
  const at::Tensor x = at::rand({kBatch, 1, 28, 28});
  const at::Tensor y = at::randint(10, {kBatch}, at::kLong);
  const auto ours = [&] { engine.step(x, y); };
  const auto theirs = [&] {
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(net(x), y).backward();
    optimizer.step();
  };
  seconds(ours, steps);
  seconds(theirs, steps);
  std::vector<double> ratios, own, other;
  for (int pair = 0; pair < kPairs; ++pair) {
    own.push_back(seconds(ours, steps));
    other.push_back(seconds(theirs, steps));
    ratios.push_back(own.back() / other.back());
  }
  const auto median = [](std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
  };
  const double ratio = median(ratios);
  std::printf("%s\t%.3f\t%.2f\t%s\n", label, ratio, bar, ratio <= bar ? "pass" : "miss");
  std::fprintf(stderr, "%s: engine %.3f ms, torch::nn %.3f ms\n", label, 1e3 * median(own),
               1e3 * median(other));
}

}  // namespace

int main() {
  at::set_num_threads(1);
  compare("step, LeNet, against torch::nn", "lenet", LeNet(), 100, 0.75);
  compare("step, CNN, against torch::nn", "cnn", Cnn(), 20, 0.85);
  return 0;
}
