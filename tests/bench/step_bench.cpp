// One training step of the program against the same model in torch::nn with torch::optim::SGD:
// LeNet (61,706 parameters) and the CNN (1,663,370), batch 20; VGG-11 and ResNet-18 with batch norm
// for 32x32 images (9,231,114 and 11,173,962), batch 8; one thread. Prints lines
// `name<TAB>measured<TAB>bar<TAB>pass|miss`; measured is our time / torch::nn's.

#include <torch/torch.h>

#include <string>
#include <vector>

#include "espalier/model/model.h"
#include "pairs.h"

namespace {

using espalier::Config;
using espalier::Context;
using espalier::Model;
using espalier::Parameters;
using espalier::report;
using espalier::time_ratio;

constexpr double kRate = 0.05;

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

/// torchvision's convolution, 3x3 or 1x1, without bias.
torch::nn::Conv2d convolution(std::int64_t in, std::int64_t out, std::int64_t kernel,
                              std::int64_t stride) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

struct BasicBlockImpl : torch::nn::Module {
  torch::nn::Conv2d conv1, conv2;
  torch::nn::BatchNorm2d bn1, bn2;
  torch::nn::Sequential downsample;
  BasicBlockImpl(std::int64_t in, std::int64_t out, std::int64_t stride)
      : conv1(convolution(in, out, 3, stride)),
        conv2(convolution(out, out, 3, 1)),
        bn1(out),
        bn2(out) {
    register_module("conv1", conv1);
    register_module("bn1", bn1);
    register_module("conv2", conv2);
    register_module("bn2", bn2);
    if (in != out) {
      downsample->push_back(convolution(in, out, 1, stride));
      downsample->push_back(torch::nn::BatchNorm2d(out));
      register_module("downsample", downsample);
    }
  }
  torch::Tensor forward(const torch::Tensor& x) {
    torch::Tensor y = bn2(conv2(bn1(conv1(x)).relu_()));
    y += downsample->is_empty() ? x : downsample->forward(x);
    return y.relu_();
  }
};
TORCH_MODULE(BasicBlock);

struct ResNet18Impl : torch::nn::Module {
  torch::nn::Conv2d conv1{convolution(3, 64, 3, 1)};
  torch::nn::BatchNorm2d bn1{64};
  torch::nn::Sequential layers;
  torch::nn::Linear fc{512, 10};
  ResNet18Impl() {
    for (std::int64_t out = 64, in = 64; out <= 512; in = out, out *= 2) {
      layers->push_back(BasicBlock(in, out, in == out ? 1 : 2));
      layers->push_back(BasicBlock(out, out, 1));
    }
    register_module("conv1", conv1);
    register_module("bn1", bn1);
    register_module("layers", layers);
    register_module("fc", fc);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor y = layers->forward(bn1(conv1(x)).relu_());
    return fc(torch::adaptive_avg_pool2d(y, {1, 1}).flatten(1));
  }
};
TORCH_MODULE(ResNet18);

struct Vgg11Impl : torch::nn::Module {
  torch::nn::Sequential features;
  torch::nn::Linear classifier{512, 10};
  Vgg11Impl() {
    std::int64_t in = 3;
    for (const std::int64_t out : {64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0}) {
      if (out == 0) {
        features->push_back(torch::nn::MaxPool2d(2));
        continue;
      }
      features->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).padding(1)));
      features->push_back(torch::nn::BatchNorm2d(out));
      features->push_back(torch::nn::ReLU(true));
      in = out;
    }
    register_module("features", features);
    register_module("classifier", classifier);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return classifier(features->forward(x).flatten(1));
  }
};
TORCH_MODULE(Vgg11);

const espalier::DataShape kMnist{{1, 28, 28}, 10};
const espalier::DataShape kCifar{{3, 32, 32}, 10};

class Engine {
 public:
  Engine(const char* name, const espalier::DataShape& shape) {
    espalier::OptionTable table;
    espalier::declare_model_options(table);
    Config config(std::move(table));
    config.set("model.name", name, "step_bench");
    espalier::set_model_defaults(config);
    model_ = espalier::build_model(config, shape);
    parameters_ = Parameters(std::make_shared<const espalier::BufferLayout>(
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

template <class Net>
void compare(const char* label, const char* name, const espalier::DataShape& shape,
             std::int64_t batch, Net net, int steps, double bar) {
  Engine engine(name, shape);
  torch::optim::SGD optimizer(net->parameters(), kRate);
  std::vector<std::int64_t> sizes = shape.sample;
  sizes.insert(sizes.begin(), batch);
  const at::Tensor x = at::rand(sizes);
  const at::Tensor y = at::randint(10, {batch}, at::kLong);
  const auto ours = [&] { engine.step(x, y); };
  const auto theirs = [&] {
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(net(x), y).backward();
    optimizer.step();
  };
  report(label, time_ratio(label, ours, theirs, steps), bar);
}

}  // namespace

int main() {
  at::set_num_threads(1);
  compare("step, LeNet, against torch::nn", "lenet", kMnist, 20, LeNet(), 100, 0.75);
  compare("step, CNN, against torch::nn", "cnn", kMnist, 20, Cnn(), 20, 0.85);
  compare("step, VGG-11, against torch::nn", "vgg", kCifar, 8, Vgg11(), 4, 1.00);
  compare("step, ResNet-18, against torch::nn", "resnet", kCifar, 8, ResNet18(), 2, 1.00);
  return 0;
}
