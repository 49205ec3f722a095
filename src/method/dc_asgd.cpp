#include "espalier/method/dc_asgd.h"

#include <cmath>
#include <map>

#include "espalier/protocol/rounds/merge.h"

namespace espalier::rounds {
namespace {

class CompensateDelay : public MergeRule {
 public:
  explicit CompensateDelay(const RuleContext& context)
      : lambda_(context.config.real("method.lambda")),
        adaptive_(context.config.boolean("method.adaptive")),
        decay_(context.config.real("method.square_decay")),
        epsilon_(context.config.real("method.square_epsilon")) {}

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    for (Update& update : updates) {
      update.weight = 1;
      const double eta = update.lr * static_cast<double>(update.steps);
      if (!(eta > 0)) continue;  // nothing was trained
      std::vector<float>* squares = nullptr;
      if (adaptive_) {
        squares = &squares_[update.client];
        squares->resize(static_cast<std::size_t>(model.buffer_layout().size_without_frozen()),
                        0.0f);
      }
      change_held(experiment, model, update,
                  [&](double value, double trained, double sent, std::int64_t index) {
                    const double g = (sent - trained) / eta;
                    double lambda = lambda_;
                    if (squares != nullptr) {
                      float& mean = (*squares)[static_cast<std::size_t>(index)];
                      mean = static_cast<float>(decay_ * mean + (1 - decay_) * g * g);
                      lambda /= std::sqrt(mean + epsilon_);
                    }
                    return value + (trained - sent) - eta * lambda * g * g * (value - sent);
                  });
    }
  }

  void archive(Archive& archive) override {
    std::vector<std::int64_t> clients;
    for (const auto& [client, squares] : squares_) clients.push_back(client);
    archive.value("clients", clients);
    for (const std::int64_t client : clients) {
      archive_floats(archive, "squares_" + std::to_string(client), squares_[client]);
    }
  }

 private:
  double lambda_;
  bool adaptive_;
  double decay_;
  double epsilon_;
  std::map<std::int64_t, std::vector<float>> squares_;  // by client, with the model's buffer layout
};

}  // namespace

void register_dc_asgd(Catalogue& c) {
  c.options.add({"method.lambda", OptionType::real, "0.04",
                 "merge compensate_delay: strength of the correction (usually 2 if adaptive)", "",
                 0, 1e6});
  c.options.add({"method.adaptive", OptionType::boolean, "false",
                 "merge compensate_delay: divide the strength by the root of the mean square"});
  c.options.add({"method.square_decay", OptionType::real, "0.95",
                 "merge compensate_delay, adaptive: decay of the mean square", "", 0, 1});
  c.options.add({"method.square_epsilon", OptionType::real, "1e-7",
                 "merge compensate_delay, adaptive: term added to the mean square", "", 0, 1});
  c.merges.add("compensate_delay", "sum of the differences, corrected for the updates in between",
               make_rule<CompensateDelay>);
  Method method;
  method.window = "asynchronous";
  method.merge = "compensate_delay";
  c.methods.add("dc_asgd", "asynchronous SGD with delay compensation (Zheng et al. 2017)", method);
}

}  // namespace espalier::rounds
