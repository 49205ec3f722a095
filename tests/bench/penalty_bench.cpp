// Training steps with both penalties (train.group_lasso, train.scale_l1) against steps without,
// for batches of 20 images of 3x32x32, batch norm, one thread. Prints lines
// `name<TAB>measured<TAB>bar<TAB>pass|miss`; measured is the ratio of times.

#include <ATen/Parallel.h>

#include <memory>
#include <string>

#include "espalier/app/options.h"
#include "espalier/train/trainer.h"
#include "pairs.h"

namespace {

using namespace espalier;

class Training {
 public:
  Training(const std::string& model, const std::string& penalties)
      : experiment_(experiment_of(model, penalties)), trainer_(experiment_, 0, 0, 0) {
    const Layout& layout = *experiment_.model.layout;
    task_.submodel = Submodel::full(layout);
    Parameters first(experiment_.plans->buffer_layout(task_.submodel, Packing::aligned));
    initialise(first, 1);
    const auto dense = experiment_.plans->buffer_layout(task_.submodel, Packing::dense);
    trainer_.place(experiment_.model.layout, task_.submodel,
                   *pack_payload(*experiment_.plans, first, *dense));
    trainer_.attach_optimizer();
  }
  void step() { trainer_.train_batch(objective_, task_); }

 private:
  static Experiment experiment_of(const std::string& model, const std::string& penalties) {
    Config config(all_options({}));
    config.read_text(
        "[data]\nname = synthetic\nsynthetic_shape = 3, 32, 32\nsynthetic_samples = 200\n"
        "[clients]\ncount = 1\n[train]\nbatch = 20\n" +
            penalties + "[model]\nnorm = batch\n" + model,
        "penalty_bench");
    return build_experiment(config);
  }

  Experiment experiment_;
  LocalTask task_;
  LocalObjective objective_;
  Trainer trainer_;
};

bool compare(const std::string& name, const std::string& model, int steps) {
  constexpr double kBar = 1.05;
  Training sparse(model, "group_lasso = 1e-4\nscale_l1 = 1e-4\n");
  Training plain(model, "");
  const std::string label = "penalties, " + name;
  return report(label,
                time_ratio(
                    label, [&] { sparse.step(); }, [&] { plain.step(); }, steps),
                kBar);
}

}  // namespace

int main() {
  at::set_num_threads(1);
  bool all = compare("CNN", "name = cnn\n", 20);
  all &=
      compare("CNN of 3x3", "name = cnn\nkernel = 3\nchannels = 32, 64, 64\nfeatures = 128\n", 20);
  all &= compare("VGG-11, width 16", "name = vgg\nwidth = 16\n", 10);
  all &= compare("ResNet-18, width 16", "name = resnet\nwidth = 16\n", 10);
  return all ? 0 : 1;
}
