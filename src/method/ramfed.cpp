#include "espalier/method/ramfed.h"

#include <algorithm>
#include <map>

#include "espalier/method/widths.h"
#include "espalier/model/unit_window.h"
#include "espalier/protocol/rounds/merge.h"

namespace espalier::rounds {
namespace {

/// Of an axis of n units client i of N keeps the window of ceil(mu n) from floor(i n / N) on; with
/// method.stagger_roll it moves on by one unit a round.
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

/// w <- w + (1 / N) sum over all clients of their last known difference, parameter by parameter.
class LastKnownDifferences : public MergeRule {
 public:
  explicit LastKnownDifferences(const RuleContext& context)
      : clients_(context.experiment.fleet->size()) {}

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    const auto size = static_cast<std::size_t>(model.buffer_layout().size());
    for (Update& update : updates) {
      update.weight = 1 / static_cast<double>(clients_);
      std::vector<float>& known = known_[update.client];
      known.resize(size, 0.0F);
      const auto plan =
          experiment.plans->plan(*update.buffer_layout, model.buffer_layout(), nullptr, kTrained);
      const std::span<const float> trained = floats_of(*update.values);
      const std::span<const float> sent = floats_of(*update.sent);
      for (const Plan::Run& run : plan->runs()) {
        for (std::int64_t i = 0; i < run.length; ++i) {
          known[static_cast<std::size_t>(run.destination + i)] =
              trained[run.source + i] - sent[run.source + i];
        }
      }
    }
    const Range range = model.buffer_layout().kind_range(Kind::trainable);
    float* const values = model.data();
    for (std::int64_t j = range.begin; j < range.end; ++j) {
      double sum = 0;
      for (const auto& [client, known] : known_) sum += known[static_cast<std::size_t>(j)];
      values[j] = static_cast<float>(values[j] + sum / static_cast<double>(clients_));
    }
  }

  void archive(Archive& archive) override {
    std::vector<std::int64_t> clients;
    for (const auto& [client, known] : known_) clients.push_back(client);
    archive.value("clients", clients);
    for (const std::int64_t client : clients) {
      archive_floats(archive, "known_" + std::to_string(client), known_[client]);
    }
  }

 private:
  std::int64_t clients_;
  std::map<std::int64_t, std::vector<float>> known_;  // by client, over the whole model
};

}  // namespace

void register_ramfed(Catalogue& c) {
  declare_average_options(c.options);
  declare_width_options(c.options);
  c.options.add({"method.stagger_roll", OptionType::boolean, "false",
                 "submodel staggered: the windows move on by one unit each round"});
  c.submodels.add("staggered", "a window of units that begins at a place of the client's own",
                  {make_rule<StaggeredWindows>});
  c.merges.add(
      "last_known",
      "mean over all clients of their last known differences (server memory: one model each)",
      make_rule<LastKnownDifferences>);
  Method method;
  method.submodel = "staggered";
  c.methods.add("ramfed", "staggered windows, mean over holders (after Wang et al. 2023)", method);
}

}  // namespace espalier::rounds
