// One step of each optimiser on flat buffers, one thread: nanoseconds per value, the bytes that it
// must move, its time divided by the time of a memcpy of the same bytes, and the time of the same
// optimiser of PyTorch (torch::optim, or ATen's fused kernel if there is one). The shortest of many
// runs counts. Prints lines `name<TAB>measured<TAB>bar<TAB>pass|miss`; measured is the ratio.

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "espalier/train/optimizer.h"
#include "pairs.h"

namespace {

using espalier::Optimizer;
using espalier::OptimizerKind;
using espalier::TrainSettings;

constexpr std::int64_t kValues = 16 << 20;  // 64 MB a buffer: past every cache
constexpr int kRepeats = 15;
constexpr double kBar = 1.25;

double seconds(const std::function<void()>& work) {
  work();
  double shortest = 1e9;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    shortest = std::min(shortest, time.count());
  }
  return shortest;
}

TrainSettings settings(OptimizerKind kind, double momentum) {
  TrainSettings s;
  s.optimizer = kind;
  s.momentum = momentum;
  s.beta1 = 0.9;
  s.beta2 = 0.95;
  s.beta3 = 0.99;
  s.alpha = 0.99;
  s.epsilon = 1e-8;
  return s;
}

}  // namespace

int main() {
  at::set_num_threads(1);
  at::Tensor weights = at::rand({kValues});
  at::Tensor gradients = at::rand({kValues}) - 0.5;
  at::Tensor from = at::rand({kValues}), to = at::rand({kValues});
  // Bytes read and written.
  const double copy_rate =
      2.0 * sizeof(float) * kValues / seconds([&] {
        std::memcpy(to.data_ptr<float>(), from.data_ptr<float>(), kValues * sizeof(float));
      });
  std::printf("# memcpy: %.1f GB/s, read and written\n", copy_rate * 1e-9);

  struct Case {
    const char* name;
    OptimizerKind kind;
    double momentum;
    std::function<void()> torch;  // one step of PyTorch's
  };
  at::Tensor w = at::rand({kValues}).set_requires_grad(true);
  w.mutable_grad() = gradients;
  const std::vector<at::Tensor> list{w};
  torch::optim::SGD sgd(list, torch::optim::SGDOptions(1e-3));
  torch::optim::SGD momentum(list, torch::optim::SGDOptions(1e-3).momentum(0.9));
  torch::optim::RMSprop rmsprop(list, torch::optim::RMSpropOptions(1e-3));
  const at::Tensor plain = at::rand({kValues});
  const at::Tensor mean = at::zeros({kValues}), square = at::zeros({kValues});
  const at::Tensor steps = at::zeros({});
  const auto fused = [&](bool decoupled) {
    c10::NoGradGuard no_grad;
    if (decoupled) {
      at::_fused_adamw_({plain}, {gradients}, {mean}, {square}, {}, {steps}, 1e-3, 0.9, 0.95, 0,
                        1e-8, false, false);
    } else {
      at::_fused_adam_({plain}, {gradients}, {mean}, {square}, {}, {steps}, 1e-3, 0.9, 0.95, 0,
                       1e-8, false, false);
    }
  };
  const std::vector<Case> cases{{"sgd", OptimizerKind::sgd, 0, [&] { sgd.step(); }},
                                {"sgd-momentum", OptimizerKind::sgd, 0.9, [&] { momentum.step(); }},
                                {"adam", OptimizerKind::adam, 0, [&] { fused(false); }},
                                {"adamw", OptimizerKind::adamw, 0, [&] { fused(true); }},
                                {"adan", OptimizerKind::adan, 0, nullptr},
                                {"rmsprop", OptimizerKind::rmsprop, 0, [&] { rmsprop.step(); }},
                                {"rmsprop-momentum", OptimizerKind::rmsprop, 0.9, nullptr}};
  bool all = true;
  std::printf("# %-18s %8s %8s %10s %12s\n", "", "ns/value", "bytes", "x memcpy", "PyTorch's ns");
  for (const Case& c : cases) {
    const TrainSettings s = settings(c.kind, c.momentum);
    Optimizer optimizer(s, kValues);
    const double time = seconds([&] { optimizer.step(weights, gradients, 1e-3); });
    // Weights and each buffer are read and written, the gradient is read.
    const double bytes = sizeof(float) * (3.0 + 2 * Optimizer::copies(s));
    const double factor = time / (bytes * kValues / copy_rate);
    const double torch_time = c.torch ? seconds(c.torch) : 0;
    std::printf("# %-18s %8.3f %8.0f %10.2f %12.3f\n", c.name, time / kValues * 1e9, bytes, factor,
                torch_time / kValues * 1e9);
    all &= espalier::report(std::string("optimizer-") + c.name, factor, kBar);
  }
  return all ? 0 : 1;
}
