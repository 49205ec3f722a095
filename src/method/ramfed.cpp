#include "espalier/method/ramfed.h"

#include <algorithm>
#include <map>

#include "espalier/method/widths.h"
#include "espalier/model/unit_window.h"
#include "espalier/protocol/rounds/merge.h"

namespace espalier::rounds {
namespace {

/// Client i of N keeps ceil(mu n) units of an axis of n units, from unit floor(i n / N) on; with
/// method.stagger_roll the window moves by one unit each round.
class StaggeredWindows : public SubmodelRule {
 public:
  explicit StaggeredWindows(const RuleContext& context)
      : levels_(context), rolls_(context.config.boolean("method.stagger_roll")) {}

  Assignment choose(const Experiment& experiment, const SendMoment& moment) override {
    const Layout& layout = *experiment.model.layout;
    const double width = levels_.width(moment);
    const std::int64_t clients = experiment.fleet->size();
    Submodel submodel = Submodel::full(layout);
    for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
      if (!layout.axes[axis].cuttable) continue;
      const std::int64_t size = layout.axes[axis].size;
      const std::int64_t begin = moment.client * size / clients + (rolls_ ? moment.version : 0);
      submodel.keep(static_cast<int>(axis), window_units(width, size, begin));
    }
    return {std::move(submodel), width};
  }

 private:
  WidthLevels levels_;
  bool rolls_;
};

/// w <- w + (1 / N) sum over all clients of their last difference, for each parameter.
class LastKnownDifferences : public MergeRule {
 public:
  explicit LastKnownDifferences(const RuleContext& context)
      : clients_(context.experiment.fleet->size()) {}

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    const auto size = static_cast<std::size_t>(model.buffer_layout().size_without_frozen());
    for (Update& update : updates) {
      update.weight = 1 / static_cast<double>(clients_);
      std::vector<float>& last = last_[update.client];
      last.resize(size, 0.0F);
      const auto plan =
          experiment.plans->plan(*update.buffer_layout, model.buffer_layout(), nullptr, kTrained);
      const std::span<const float> trained = floats_of(*update.values);
      const std::span<const float> sent = floats_of(*update.sent);
      plan->for_each_value([&](std::int64_t source, std::int64_t destination) {
        last[static_cast<std::size_t>(destination)] = trained[source] - sent[source];
      });
    }
    const Range range = model.buffer_layout().kind_range(Kind::trainable);
    float* const values = model.data();
    for (std::int64_t j = range.begin; j < range.end; ++j) {
      double sum = 0;
      for (const auto& [client, last] : last_) sum += last[static_cast<std::size_t>(j)];
      values[j] = static_cast<float>(values[j] + sum / static_cast<double>(clients_));
    }
  }

  void archive(Archive& archive) override {
    std::vector<std::int64_t> clients;
    for (const auto& [client, last] : last_) clients.push_back(client);
    archive.value("clients", clients);
    for (const std::int64_t client : clients) {
      archive_floats(archive, "known_" + std::to_string(client), last_[client]);
    }
  }

 private:
  std::int64_t clients_;
  std::map<std::int64_t, std::vector<float>> last_;  // differences by client, over the whole model
};

}  // namespace

void register_ramfed(Catalogue& c) {
  declare_average_options(c.options);
  declare_width_options(c.options);
  c.options.add({"method.stagger_roll", OptionType::boolean, "false",
                 "submodel staggered: move the windows by one unit each round"});
  c.submodels.add("staggered", "window of units with a different begin for each client",
                  {make_rule<StaggeredWindows>});
  c.merges.add(
      "last_known",
      "mean of the last differences of all clients (server memory: one model for each client)",
      make_rule<LastKnownDifferences>);
  Method method;
  method.submodel = "staggered";
  c.methods.add("ramfed", "staggered windows, mean over holders (after Wang et al. 2023)", method);
}

}  // namespace espalier::rounds
