#include "espalier/method/asynchronous.h"

#include <algorithm>

#include "espalier/protocol/rounds/merge.h"
#include "espalier/protocol/rounds/server_optimizer.h"
#include "espalier/protocol/rounds/window.h"

namespace espalier::rounds {
namespace {

/// FedAsync (Xie et al. 2019; docs/methods/fedasync.md): w <- (1 - a) w + a w_client, with
/// a = alpha s(staleness) for each update.
class Mix : public MergeRule {
 public:
  explicit Mix(const RuleContext& context)
      : alpha_(context.config.real("method.alpha")), staleness_(context.config) {}

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    for (Update& update : updates) {
      const double a = alpha_ * staleness_(update.staleness);
      update.weight = a;
      change_held(experiment, model, update, [a](double value, double trained, double, auto) {
        return (1 - a) * value + a * trained;
      });
    }
  }

 private:
  double alpha_;
  StalenessWeight staleness_;
};

/// FedBuff (Nguyen et al. 2022; docs/methods/fedbuff.md): w <- w - server_lr v, v <- momentum v +
/// mean over the holders of s(staleness) (sent - trained). Computed as w - server_lr (mean sent) +
/// server_lr (mean trained), so that fresh updates at server_lr 1 give exactly their mean.
class BufferedDifferences : public MergeRule {
 public:
  /// A server optimiser makes the step with rate and momentum, so the rule's own is the plain one.
  explicit BufferedDifferences(const RuleContext& context) : staleness_(context.config) {
    if (has_server_optimizer(context.config)) return;
    rate_ = context.config.real("method.server_lr");
    momentum_ = context.config.real("method.server_momentum");
  }

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    std::vector<Holding> trained, sent;
    for (Update& update : updates) {
      update.weight = staleness_(update.staleness);
      const auto [after, before] = holdings_of(experiment, model, update);
      trained.push_back(after);
      sent.push_back(before);
    }
    std::vector<Holding> counted = sent;
    for (Holding& holding : counted) holding.weight = 1;
    if (momentum_ > 0)
      velocity_.resize(static_cast<std::size_t>(model.buffer_layout().size_without_frozen()), 0.0f);
    auto after = std::make_unique<BlockSums>();
    auto before = std::make_unique<BlockSums>();
    auto holders = std::make_unique<BlockSums>();
    float* values = model.data();
    for_each_block(model, [&](Range range) {
      after->sum(range, trained);
      before->sum(range, sent);
      holders->sum(range, counted);
      for (std::size_t i = 0; i < static_cast<std::size_t>(range.size()); ++i) {
        const double count = holders->denominator[i];
        if (!(count > 0)) continue;
        const std::size_t j = static_cast<std::size_t>(range.begin) + i;
        const double from = before->numerator[i] / count;
        const double to = after->numerator[i] / count;
        if (momentum_ > 0) {
          const double v = momentum_ * velocity_[j] + (from - to);
          velocity_[j] = static_cast<float>(v);
          values[j] = static_cast<float>(values[j] - rate_ * v);
        } else {
          values[j] = static_cast<float>((values[j] - rate_ * from) + rate_ * to);
        }
      }
    });
  }

  void archive(Archive& archive) override { archive_floats(archive, "velocity", velocity_); }

 private:
  double rate_ = 1;
  double momentum_ = 0;
  StalenessWeight staleness_;
  std::vector<float> velocity_;
};

/// SSP (Ho et al. 2013; docs/methods/ssp.md): w <- w + p (trained - sent), with p the client's
/// fraction of all samples, or 1 / number of clients.
class AddDifference : public MergeRule {
 public:
  explicit AddDifference(const RuleContext& context)
      : by_samples_(context.config.text("method.weighting") == "samples") {
    clients_ = context.experiment.fleet->size();
    if (!by_samples_ || !context.experiment.partition) return;
    for (std::int64_t client = 0; client < clients_; ++client) {
      samples_ += context.experiment.samples_of(client);
    }
  }

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    for (Update& update : updates) {
      const double p = by_samples_
                           ? static_cast<double>(update.samples) / static_cast<double>(samples_)
                           : 1.0 / static_cast<double>(clients_);
      update.weight = p;
      change_held(experiment, model, update, [p](double value, double trained, double sent, auto) {
        return value + p * (trained - sent);
      });
    }
  }

 private:
  bool by_samples_;
  std::int64_t clients_ = 0;
  std::int64_t samples_ = 0;
};

void register_windows(Catalogue& c) {
  c.windows.add("asynchronous", "merge every update when it arrives", [](const Config&) {
    return Defaults{{"window.min_updates", "1"}, {"window.release", "merged"}};
  });
  c.windows.add(
      "buffered",
      "merge every 10 updates, or fewer if fewer clients work at the same time; no client waits",
      [](const Config& config) {
        const std::int64_t k = std::min<std::int64_t>(10, clients_at_once(config));
        return Defaults{{"window.min_updates", std::to_string(k)}, {"window.release", "arrival"}};
      });
  c.windows.add(
      "semi_async", "merge the updates of the first half of the clients", [](const Config& config) {
        const std::int64_t k = (clients_at_once(config) + 1) / 2;
        return Defaults{{"window.min_updates", std::to_string(k)}, {"window.release", "merged"}};
      });
  c.windows.add("bounded",
                "merge every update when it arrives; no client is more than one task ahead of the "
                "slowest",
                [](const Config&) {
                  return Defaults{{"window.min_updates", "1"},
                                  {"window.release", "merged"},
                                  {"window.max_spread", "1"}};
                });
}

}  // namespace

void register_asynchronous(Catalogue& c) {
  declare_average_options(c.options);
  c.options.add({"method.alpha", OptionType::real, "0.6",
                 "merge mix: weight of a fresh update in the next version", "", 0, 1});
  declare_server_options(c.options);
  register_windows(c);
  c.merges.add("mix", "(1 - a) model + a update, one update after the other", make_rule<Mix>);
  c.merges.add("buffered_differences", "server step along the mean difference of the updates",
               make_rule<BufferedDifferences>);
  c.merges.add("add_difference",
               "sum of the updates' differences, weighted by their fractions of the samples",
               make_rule<AddDifference>);

  Method fedasync;
  fedasync.window = "asynchronous";
  fedasync.merge = "mix";
  fedasync.objective = "proximal";
  fedasync.defaults = {{"method.mu", "0.005"}, {"method.staleness_power", "0.5"}};
  c.methods.add("fedasync", "mixture of the model with each arriving update (Xie et al. 2019)",
                fedasync);

  Method fedbuff;
  fedbuff.window = "buffered";
  fedbuff.merge = "buffered_differences";
  fedbuff.defaults = {{"method.staleness_power", "0.5"}};
  c.methods.add("fedbuff", "mean of the differences of K updates (Nguyen et al. 2022)", fedbuff);

  Method ssp;
  ssp.window = "bounded";
  ssp.merge = "add_difference";
  c.methods.add("ssp", "sum of the differences; bounded lead of a client (Ho et al. 2013)", ssp);

  Method semi_async;
  semi_async.window = "semi_async";
  semi_async.defaults = {{"method.staleness_power", "0.5"}};
  c.methods.add("semi_async", "mean of the first updates, weighted by staleness", semi_async);
}

}  // namespace espalier::rounds
