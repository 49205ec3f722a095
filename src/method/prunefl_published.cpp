#include "espalier/method/prunefl_published.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "espalier/method/pruning.h"
#include "espalier/method/widths.h"
#include "espalier/protocol/rounds/merge.h"
#include "espalier/protocol/rounds/task_costs.h"

namespace espalier::rounds {
namespace {

// The global model itself shows the mask: a weight is pruned if its value is zero. So evaluations
// and payloads are those of the masked network, and clients read the mask from what they receive.

/// The places of the weight matrices, which alone are pruned, in the parameters' flat buffer.
std::vector<Range> matrices_of(const BufferLayout& buffer_layout) {
  std::vector<Range> matrices;
  const std::vector<Entry>& entries = buffer_layout.layout().entries;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const BufferLayout::Place& place = buffer_layout.place(static_cast<int>(i));
    const bool is_matrix = entries[i].kind == Kind::trainable && entries[i].dimensions.size() > 1;
    if (is_matrix && place.present) matrices.push_back({place.offset, place.offset + place.count});
  }
  return matrices;
}

/// A kept weight is never exactly zero.
float kept_value(float value) { return value == 0 ? std::numeric_limits<float>::min() : value; }

/// Cross-entropy of the received mask's network. A pruned weight is zero in it and gets a gradient
/// all the same. The client sends back minus the learning rate times the sum of these gradients, as
/// if the weight were trained, so that the server can read every gradient from the update.
class PrunedWeights : public LocalObjective {
 public:
  explicit PrunedWeights(const RuleContext& context)
      : prunes_(context.config.integer("method.adjust_every") > 0) {}

  void begin(const LocalView& view) override {
    ESPALIER_CHECK(view.parameters.buffer_layout().kind_range(Kind::trainable).begin == 0);
    sums_ = at::zeros_like(view.parameters.trainable());
    pruned_.clear();
    if (!prunes_) return;
    const float* const values = view.parameters.data();
    for (const Range& matrix : matrices_of(view.parameters.buffer_layout())) {
      for (std::int64_t i = matrix.begin; i < matrix.end; ++i) {
        if (values[i] == 0) pruned_.push_back(i);
      }
    }
  }

  void after_backward(const LocalView& view) override {
    float* const gradients = view.parameters.gradients().data_ptr<float>();
    float* const sums = sums_.data_ptr<float>();
    for (const std::int64_t i : pruned_) {
      sums[i] += gradients[i];
      gradients[i] = 0;
    }
  }

  void end(const LocalView& view) override {
    const auto lr =
        static_cast<float>(learning_rate(view.experiment.train, view.task.base_version));
    float* const values = view.parameters.data();
    const float* const sums = sums_.const_data_ptr<float>();
    for (const std::int64_t i : pruned_) values[i] = -lr * sums[i];
  }

  /// The sums of gradients, and the list of pruned weights.
  std::int64_t extra_bytes(const Experiment& experiment, const Submodel& submodel,
                           std::int64_t) const override {
    return weight_bytes(experiment, submodel);
  }

 private:
  bool prunes_;
  // Of the present task:
  std::vector<std::int64_t> pruned_;  // places in the flat buffer
  at::Tensor sums_;
};

/// The whole model, with the share of weights in the mask for the record.
class CommonMask : public SubmodelRule {
 public:
  explicit CommonMask(const RuleContext& context) {
    refuse_fitted_widths(context.config);
    note_unstructured("pruned");
  }
  Assignment choose(const Experiment& experiment, const SendMoment&) override {
    return {Submodel::full(*experiment.model.layout), density_};
  }
  void merged(const Experiment&, const NewVersion& version) override {
    std::int64_t all = 0, kept = 0;
    const float* const values = version.model.data();
    for (const Range& matrix : matrices_of(version.model.buffer_layout())) {
      all += matrix.size();
      for (std::int64_t i = matrix.begin; i < matrix.end; ++i) kept += values[i] != 0;
    }
    density_ = all == 0 ? 1 : static_cast<double>(kept) / static_cast<double>(all);
  }
  void archive(Archive& archive) override { archive.value("density", density_); }

 private:
  double density_ = 1;
};

/// The time of a round as a function of the kept weights, a + b x weights, as the mean over all
/// clients: the links' time for a weight both ways, and all the rest.
struct RoundTime {
  double constant_s = 0;
  double weight_s = 0;
};

/// `time`: the settings, 0 where the fleet decides.
RoundTime round_time(const Experiment& e, RoundTime time) {
  if (time.constant_s > 0 && time.weight_s > 0) return time;
  const Submodel full = Submodel::full(*e.model.layout);
  const double weights =
      static_cast<double>(e.plans->buffer_layout(full, Packing::dense)->count(Kind::trainable));
  const auto objective = std::make_shared<LocalObjective>();
  TaskCosts costs(e, {objective, nullptr});
  double whole = 0, links = 0;
  for (std::int64_t client = 0; client < e.fleet->size(); ++client) {
    const DeviceClass& device = e.fleet->device(client);
    const auto link = [&](double mbps, std::int64_t bytes) {
      return static_cast<double>(transfer_time(mbps, device.latency_ms, bytes));
    };
    const auto bytes = static_cast<std::int64_t>(sizeof(float) * weights);
    for (const double mbps : {device.down_mbps, device.up_mbps}) {
      links += link(mbps, bytes) - link(mbps, 0);
    }
    whole += static_cast<double>(costs.update_time(Assignment{full}, client));
  }
  const double clients_s = 1e9 * static_cast<double>(e.fleet->size());
  if (time.weight_s == 0) time.weight_s = links / clients_s / weights;
  if (time.constant_s == 0) time.constant_s = std::max(0.0, whole - links) / clients_s;
  return time;
}

/// x <- x + the weighted mean of the differences to the sent values; pruned weights stay zero, and
/// the values that they had are kept for their return. Every `method.adjust_every` versions the
/// mask is adjusted.
class PrunedMean : public AverageMerge {
 public:
  explicit PrunedMean(const RuleContext& context)
      : AverageMerge(context),
        every_(context.config.integer("method.adjust_every")),
        drop_(context.config.real("method.adjust_drop")),
        half_life_(context.config.real("method.adjust_half_life")),
        time_{context.config.real("method.adjust_constant_s"),
              context.config.real("method.adjust_weight_s")} {
    // The zeros of the global model are the mask, and gradients come back in place of weights.
    if (context.config.text("method.server_optimizer") != "none") {
      throw InputError(
          "method.merge = pruned_mean sets pruned weights to zero at once, and a server optimiser "
          "moves them part of the way: set method.server_optimizer = none");
    }
    if (std::ranges::any_of(context.experiment.model.layout->entries, &Entry::personal)) {
      throw InputError(
          "method.merge = pruned_mean needs the gradients of all weights, and personal ones are in "
          "no message: leave method.personal out");
    }
  }

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    const auto size = static_cast<std::size_t>(model.buffer_layout().size_without_frozen());
    const std::vector<Range> matrices = matrices_of(model.buffer_layout());
    std::vector<std::uint8_t> is_weight(size, 0);
    for (const Range& matrix : matrices) {
      std::fill(is_weight.begin() + matrix.begin, is_weight.begin() + matrix.end, 1);
    }
    if (every_ > 0) {
      squares_.resize(size, 0.0);
      dormant_.resize(size, 0.0F);
    }
    std::vector<double> sums(size, 0.0), weights(size, 0.0);
    float* const values = model.data();
    for (Update& update : updates) {
      update.weight = weight_of(update);
      const double weight = update.weight / updates.front().weight;
      const auto [trained, sent] = holdings_of(experiment, model, update);
      trained.plan->for_each_value([&](std::int64_t source, std::int64_t destination) {
        const auto at = static_cast<std::size_t>(destination);
        const double difference = static_cast<double>(trained.values[source]) - sent.values[source];
        if (every_ > 0) {
          if (update.lr > 0) {
            const double gradient = difference / update.lr;
            squares_[at] += gradient * gradient * static_cast<double>(update.samples);
          }
          // Pruned now, or when the client received it.
          if (is_weight[at] != 0 && (values[at] == 0 || sent.values[source] == 0)) return;
        }
        // A sum of values: without staleness it is FedAvg's, term by term.
        sums[at] += weight * (values[at] + difference);
        weights[at] += weight;
      });
    }
    for (std::size_t i = 0; i < size; ++i) {
      if (weights[i] == 0) continue;
      values[i] = static_cast<float>(sums[i] / weights[i]);
      if (every_ > 0 && is_weight[i] != 0) values[i] = kept_value(values[i]);
    }
    ++merges_;
    if (every_ > 0 && merges_ % every_ == 0) {
      adjust(values, matrices, is_weight, round_time(experiment, time_));
    }
  }

  void archive(Archive& archive) override {
    archive.value("merges", merges_);
    archive.value("squares", squares_);
    archive_floats(archive, "dormant", dormant_);
  }

 private:
  void adjust(float* values, const std::vector<Range>& matrices,
              const std::vector<std::uint8_t>& is_weight, const RoundTime& time) {
    std::vector<PrunableLayer> layers;
    for (const Range& matrix : matrices) {
      PrunableLayer layer;
      layer.time_s = time.weight_s;
      layer.squares.assign(squares_.begin() + matrix.begin, squares_.begin() + matrix.end);
      for (std::int64_t i = matrix.begin; i < matrix.end; ++i) {
        layer.magnitudes.push_back(std::abs(values[i]));
        layer.kept.push_back(values[i] != 0 ? 1 : 0);
      }
      layers.push_back(std::move(layer));
    }
    double others = 0;
    for (std::size_t i = 0; i < squares_.size(); ++i) {
      if (is_weight[i] == 0) others += squares_[i];
    }
    const double drop = drop_ * std::exp2(-static_cast<double>(merges_) / half_life_);
    adjust_masks(layers, drop, others, time.constant_s);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      for (std::int64_t i = matrices[l].begin; i < matrices[l].end; ++i) {
        const bool keeps = layers[l].kept[static_cast<std::size_t>(i - matrices[l].begin)] != 0;
        float& dormant = dormant_[static_cast<std::size_t>(i)];
        if (keeps && values[i] == 0) values[i] = kept_value(dormant);
        if (!keeps && values[i] != 0) {
          dormant = values[i];
          values[i] = 0;
        }
      }
    }
    std::ranges::fill(squares_, 0.0);
  }

  std::int64_t every_;
  double drop_;
  double half_life_;
  RoundTime time_;
  std::int64_t merges_ = 0;
  std::vector<double> squares_;  // since the last adjustment; by place in the model's buffer
  std::vector<float> dormant_;   // values of pruned weights before they were pruned
};

}  // namespace

void register_prunefl_published(Catalogue& c) {
  declare_average_options(c.options);
  declare_width_options(c.options);
  c.options.add({"method.adjust_every", OptionType::integer, "50",
                 "merge pruned_mean, objective pruned_weights: versions between two adjustments of "
                 "the mask; 0 = nothing is pruned",
                 "versions", 0, 1e9});
  c.options.add({"method.adjust_drop", OptionType::real, "0.3",
                 "merge pruned_mean: largest fraction of a layer's kept weights that an adjustment "
                 "drops at first",
                 "", 0, 1});
  c.options.add({"method.adjust_half_life", OptionType::real, "10000",
                 "merge pruned_mean: versions after which that fraction is halved", "versions", 1,
                 1e12});
  c.options.add(
      {"method.adjust_constant_s", OptionType::real, "0",
       "merge pruned_mean: time of a round without any weight; 0 = of the fleet: training "
       "and latency",
       "s", 0, 1e9});
  c.options.add({"method.adjust_weight_s", OptionType::real, "0",
                 "merge pruned_mean: time of a round for each kept weight; 0 = of the fleet: both "
                 "ways of its links",
                 "s", 0, 1e6});
  c.submodels.add("common_mask",
                  "the whole model; an objective masks its weights (unstructured: no smaller in "
                  "memory, time or bytes)",
                  {make_rule<CommonMask>});
  c.objectives.add("pruned_weights",
                   "cross-entropy of the weights that are not zero; sends the gradients of the "
                   "others too (unstructured)",
                   make_rule<PrunedWeights>);
  c.merges.add(
      "pruned_mean",
      "weighted mean of differences, with a mask that is adjusted by squared gradients over "
      "time",
      make_rule<PrunedMean>);
  Method method;
  method.submodel = "common_mask";
  method.merge = "pruned_mean";
  method.objective = "pruned_weights";
  c.methods.add("prunefl_published",
                "one mask of single weights for all; unstructured, charged in full (Jiang et al. "
                "2022)",
                method);
}

}  // namespace espalier::rounds
