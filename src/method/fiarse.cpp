#include "espalier/method/fiarse.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "espalier/method/widths.h"
#include "espalier/model/unit_window.h"
#include "espalier/protocol/rounds/merge.h"

namespace espalier::rounds {
namespace {

/// A client's weights of which one threshold decides, as ranges of the parameters' flat buffer.
struct Ranked {
  std::vector<Range> ranges;
  float threshold = 0;
};

/// "conv1" of "conv1.weight".
std::string layer_of(const Entry& entry) { return entry.name.substr(0, entry.name.rfind('.')); }

/// The weights and biases of layers that have a weight matrix, so not of norms: in one group, or
/// one for each layer.
std::vector<Ranked> ranked_weights(const BufferLayout& buffer_layout, bool by_layer) {
  const std::vector<Entry>& entries = buffer_layout.layout().entries;
  std::set<std::string> with_matrix;
  for (const Entry& entry : entries) {
    if (entry.dimensions.size() > 1) with_matrix.insert(layer_of(entry));
  }
  std::vector<Ranked> groups;
  std::map<std::string, std::size_t> group_of;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const BufferLayout::Place& place = buffer_layout.place(static_cast<int>(i));
    const std::string layer = layer_of(entries[i]);
    if (entries[i].kind != Kind::trainable || !place.present || !with_matrix.contains(layer)) {
      continue;
    }
    const auto [group, added] = group_of.try_emplace(by_layer ? layer : "", groups.size());
    if (added) groups.emplace_back();
    groups[group->second].ranges.push_back({place.offset, place.offset + place.count});
  }
  return groups;
}

/// The count-th largest magnitude; 0, so that all are kept, if that is the smallest one. `scratch`
/// has room for all.
float magnitude_at(const float* values, const Ranked& group, double share, float* scratch) {
  float* end = scratch;
  for (const Range& range : group.ranges) {
    for (std::int64_t i = range.begin; i < range.end; ++i) *end++ = std::abs(values[i]);
  }
  const std::int64_t count = kept_units(share, end - scratch);
  if (count == end - scratch) return 0;
  float* const last = scratch + count - 1;
  std::nth_element(scratch, last, end, std::greater<>());
  return *last;
}

/// Cross-entropy of the network in which weights below the threshold are zero. The threshold is
/// that of the received weights, and stays during the task; the mask follows the weights. A weight
/// gets its gradient times m (1 + 2 t |x| / (|x| + t)^2), which differentiates the mask m = 1[|x|
/// >= t] too. A weight outside the mask keeps its value, whatever the optimiser does.
class ImportantWeights : public LocalObjective {
 public:
  explicit ImportantWeights(const RuleContext& context)
      : levels_(refuse_fitted(context)),
        by_layer_(context.config.text("method.importance_scope") == "layer"),
        differentiates_(context.config.boolean("method.importance_gradient")) {}

  void begin(const LocalView& view) override {
    const at::Tensor trained = view.parameters.trainable();
    ESPALIER_CHECK(view.parameters.buffer_layout().kind_range(Kind::trainable).begin == 0);
    saved_ = at::empty_like(trained);
    groups_ = ranked_weights(view.parameters.buffer_layout(), by_layer_);
    const double share = levels_.width({view.task.client, view.task.nth_task});
    for (Ranked& group : groups_) {
      group.threshold =
          magnitude_at(view.parameters.data(), group, share, saved_.data_ptr<float>());
    }
    has_saved_ = false;
  }

  void prepare(const LocalView& view, Context&) override {
    restore(view);
    float* const values = view.parameters.data();
    for_each([&](std::int64_t i, float threshold, float& saved) {
      saved = values[i];
      if (std::abs(saved) < threshold) values[i] = 0;
    });
    has_saved_ = true;
  }

  void after_backward(const LocalView& view) override {
    float* const values = view.parameters.data();
    float* const gradients = view.parameters.gradients().data_ptr<float>();
    for_each([&](std::int64_t i, float t, float saved) {
      const float size = std::abs(saved);
      if (size < t) {
        gradients[i] = 0;
      } else if (differentiates_ && t > 0) {
        gradients[i] *= 1 + 2 * t * size / ((size + t) * (size + t));
      }
      values[i] = saved;
    });
  }

  void end(const LocalView& view) override { restore(view); }

  /// The saved weights.
  std::int64_t extra_bytes(const Experiment& experiment, const Submodel& submodel,
                           std::int64_t) const override {
    return weight_bytes(experiment, submodel);
  }

 private:
  static const RuleContext& refuse_fitted(const RuleContext& context) {
    for (const char* key : {"clients.memory_fit", "clients.time_fit"}) {
      if (context.config.text(key) != "width") continue;
      throw InputError(formatted(
          "{} = width: the masks of the objective important_weights save no memory and no "
          "time; set {} = off, or set method.objective = cross_entropy",
          key, key));
    }
    return context;
  }

  /// Undoes the last step for weights outside the mask: weight decay and momentum.
  void restore(const LocalView& view) {
    if (!has_saved_) return;
    float* const values = view.parameters.data();
    for_each([&](std::int64_t i, float threshold, float saved) {
      if (std::abs(saved) < threshold) values[i] = saved;
    });
  }

  /// Calls work(place in the flat buffer, threshold, saved value) for each ranked weight; for none
  /// of a group of which all are kept.
  template <class Work>
  void for_each(const Work& work) {
    float* const saved = saved_.data_ptr<float>();
    for (const Ranked& group : groups_) {
      if (group.threshold == 0) continue;
      for (const Range& range : group.ranges) {
        for (std::int64_t i = range.begin; i < range.end; ++i) work(i, group.threshold, saved[i]);
      }
    }
  }

  WidthLevels levels_;
  bool by_layer_;
  bool differentiates_;
  // Of the present task:
  std::vector<Ranked> groups_;
  at::Tensor saved_;  // the weights before the mask
  bool has_saved_ = false;
};

/// The whole model, with the share of the client's level for the record.
class WholeModel : public SubmodelRule {
 public:
  explicit WholeModel(const RuleContext& context) : levels_(context) {
    refuse_fitted_widths(context.config);
    note_unstructured("masked");
  }
  Assignment choose(const Experiment& experiment, const SendMoment& moment) override {
    return {Submodel::full(*experiment.model.layout), levels_.width(moment)};
  }

 private:
  WidthLevels levels_;
};

/// x <- x + the weighted mean of the differences to the sent values, over the updates whose
/// difference is not zero.
class ChangedMean : public AverageMerge {
 public:
  using AverageMerge::AverageMerge;

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    const auto size = static_cast<std::size_t>(model.buffer_layout().size_without_frozen());
    std::vector<double> sums(size, 0.0), weights(size, 0.0);
    float* const values = model.data();
    for (Update& update : updates) {
      update.weight = weight_of(update);
      // Divided by the first weight, so that equal weights are exactly 1.
      const double weight = update.weight / updates.front().weight;
      const auto [trained, sent] = holdings_of(experiment, model, update);
      trained.plan->for_each_value([&](std::int64_t source, std::int64_t destination) {
        const double difference = static_cast<double>(trained.values[source]) - sent.values[source];
        if (difference == 0) return;
        // A sum of values: without staleness it is FedAvg's, term by term.
        sums[static_cast<std::size_t>(destination)] += weight * (values[destination] + difference);
        weights[static_cast<std::size_t>(destination)] += weight;
      });
    }
    for (std::size_t i = 0; i < size; ++i) {
      if (weights[i] > 0) values[i] = static_cast<float>(sums[i] / weights[i]);
    }
  }
};

}  // namespace

void register_fiarse(Catalogue& c) {
  declare_width_options(c.options);
  declare_average_options(c.options);
  c.options.add_choice("method.importance_scope", "model",
                       "objective important_weights: rank the magnitudes of all layers together, "
                       "or keep the same share of each layer",
                       {"model", "layer"});
  c.options.add({"method.importance_gradient", OptionType::boolean, "true",
                 "objective important_weights: differentiate the mask too"});
  c.submodels.add("whole",
                  "the whole model; the client's level is a share of its weights, which an "
                  "objective masks (unstructured: no smaller in memory, time or bytes)",
                  {make_rule<WholeModel>});
  c.objectives.add("important_weights",
                   "cross-entropy of the weights of largest magnitude, a share of all by the "
                   "client's level; the others are zero (unstructured)",
                   make_rule<ImportantWeights>);
  c.merges.add("changed_mean", "mean of each value's differences over the updates that changed it",
               make_rule<ChangedMean>);
  Method method;
  method.submodel = "whole";
  method.merge = "changed_mean";
  method.objective = "important_weights";
  method.defaults = {{"method.widths", "1, 0.25, 0.0625, 0.015625"},
                     {"method.weighting", "uniform"}};
  c.methods.add("fiarse",
                "weights of largest magnitude; unstructured, charged in full (Wu et al. 2024)",
                method);
}

}  // namespace espalier::rounds
