#include "espalier/method/masks.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "espalier/model/unit_order.h"
#include "espalier/model/unit_window.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

const Purpose kFirst = register_purpose("masks.first");
const Purpose kGates = register_purpose("masks.gates");
const Purpose kChoice = register_purpose("masks.choice");

enum class MaskKind { learned, random, magnitude };

struct MaskSettings {
  MaskKind kind = MaskKind::learned;
  bool sampled = false;
  std::int64_t epochs = 0;
  std::int64_t steps = 0;
  double ratio = 0;
  double lr = 0;
  double penalty = 0;
};

MaskSettings mask_settings(const Config& config) {
  const std::string kind = config.text("method.masks");
  MaskSettings s;
  s.kind = kind == "random"      ? MaskKind::random
           : kind == "magnitude" ? MaskKind::magnitude
                                 : MaskKind::learned;
  if (s.kind != MaskKind::learned) return s;
  s.sampled = config.text("method.mask_choice") == "sampled";
  s.epochs = config.integer("method.mask_epochs");
  s.steps = config.integer("method.mask_steps");
  s.ratio = config.real("method.mask_ratio");
  s.lr = config.real("method.mask_lr");
  s.penalty = config.real("method.mask_penalty");
  return s;
}

std::vector<MaskedAxis> kept_axes(const Model& model, const Submodel& submodel) {
  std::vector<MaskedAxis> axes;
  std::ranges::copy_if(model.masked, std::back_inserter(axes),
                       [&](const MaskedAxis& masked) { return submodel.has_block(masked.block); });
  return axes;
}

std::int64_t unit_count(const std::vector<MaskedAxis>& axes, const Submodel& submodel) {
  std::int64_t units = 0;
  for (const MaskedAxis& masked : axes) units += submodel.width(masked.axis);
  return units;
}

/// Whether the entry's outputs are units of the axis: a weight of a layer that masks narrow.
bool makes_units_of(const Entry& entry, int axis) {
  return entry.dimensions.size() > 1 &&
         std::ranges::any_of(entry.dimensions.front(),
                             [&](const Factor& factor) { return factor.axis == axis; });
}

/// The layout of the search: the weights and biases of layers that masks narrow are frozen, and all
/// classifiers except the deepest.
std::shared_ptr<const Layout> frozen_layout(const Model& model, const Submodel& sent) {
  auto layout = std::make_shared<Layout>(*model.layout);
  std::set<std::string> frozen;
  for (const MaskedAxis& masked : model.masked) {
    for (const Entry& entry : layout->entries) {
      if (entry.block != masked.block || !makes_units_of(entry, masked.axis)) continue;
      frozen.insert(entry.name);
      frozen.insert(entry.name.substr(0, entry.name.rfind('.')) + ".bias");
    }
  }
  const int answer = model.answer(sent);
  for (Entry& entry : layout->entries) {
    const bool idle = model.is_exit(entry.block) && entry.block != answer;
    if (entry.kind == Kind::trainable && (idle || frozen.contains(entry.name))) {
      entry.kind = Kind::frozen;
    }
  }
  return layout;
}

double sigmoid(float logit) { return 1 / (1 + std::exp(-static_cast<double>(logit))); }

class Masks final : public SubmodelSearch {
 public:
  explicit Masks(const RuleContext& context) : settings_(mask_settings(context.config)) {
    if (context.experiment.model.is_ensemble) {
      throw InputError(
          "method.search = masks selects units of one network, not of members: set method.submodel "
          "to a rule without a search, or model.members = 1");
    }
  }

  Workload workload(const Experiment& e, std::int64_t client) const override {
    TrainSettings own = e.train;
    own.epochs = settings_.epochs;
    own.steps = settings_.steps;
    return espalier::workload(own, e.batch_of(client), e.samples_of(client));
  }
  Workload training(const Experiment& e, std::int64_t client) const override {
    const auto remaining = [&](std::int64_t all) {
      return all - static_cast<std::int64_t>(settings_.ratio * static_cast<double>(all));
    };
    TrainSettings own = e.train;
    own.epochs = remaining(own.epochs);
    own.steps = remaining(own.steps);
    return espalier::workload(own, e.batch_of(client), e.samples_of(client));
  }

  Stage stage(const Model& model, const Submodel& sent) const override {
    const std::vector<MaskedAxis> axes = kept_axes(model, sent);
    Stage stage{frozen_layout(model, sent), std::vector<bool>(model.layout->axes.size(), false), 0};
    for (const MaskedAxis& masked : axes) stage.gated[static_cast<std::size_t>(masked.axis)] = true;
    // Per unit: a logit, its gradient and at most four buffers of the optimiser; a gate and its
    // gradient.
    constexpr std::int64_t kPerUnit = 8 * sizeof(float);
    stage.extra_bytes = kPerUnit * unit_count(axes, sent) + kSmallTensors;
    return stage;
  }

  Submodel expected(const Model& model, const Submodel& sent, double fraction) const override {
    Submodel least = sent;
    for (const MaskedAxis& masked : kept_axes(model, sent)) {
      const std::int64_t width = sent.width(masked.axis);
      std::vector<std::int64_t> first(
          static_cast<std::size_t>(settings_.sampled ? 1 : kept_units(fraction, width)));
      for (std::size_t i = 0; i < first.size(); ++i) {
        first[i] = unit_of(sent, masked.axis, static_cast<std::int64_t>(i));
      }
      least.keep(masked.axis, std::move(first));
    }
    return least;
  }
  bool size_is_known() const override { return !settings_.sampled; }

  /// One bit for each unit.
  std::int64_t answer_bytes(const Model& model, const Submodel& sent) const override {
    return (unit_count(kept_axes(model, sent), sent) + 7) / 8;
  }

  void begin(const LocalView& view) override {
    const Submodel& sent = view.parameters.submodel();
    axes_ = kept_axes(view.experiment.model, sent);
    units_ = unit_count(axes_, sent);
    if (settings_.kind != MaskKind::learned) return;
    const TrainSettings& train = view.experiment.train;
    lr_ = settings_.lr > 0 ? settings_.lr : learning_rate(train, view.task.base_version);
    // An adaptive optimiser normalises the gradient. Plain SGD needs the gradient of a sum, not of
    // a mean, over the units.
    penalty_ = settings_.penalty *
               (train.optimizer == OptimizerKind::sgd ? static_cast<double>(units_) : 1.0);
    logits_ = at::zeros({units_}, at::kFloat);
    gradient_ = at::zeros({units_}, at::kFloat);
    optimizer_.emplace(train, units_);
    gates_.assign(view.experiment.model.layout->axes.size(), at::Tensor());
    float* next = logits_.data_ptr<float>();
    for (const MaskedAxis& masked : axes_) {
      const std::int64_t width = sent.width(masked.axis);
      recall(view, masked.axis, std::span<float>(next, static_cast<std::size_t>(width)));
      gates_[static_cast<std::size_t>(masked.axis)] = at::zeros({width}, at::kFloat);
      next += width;
    }
  }

  /// Draws the gates of a batch.
  void prepare(const LocalView& view, Context& context) override {
    Stream stream(view.experiment.seed, kGates, view.task.client, view.task.nth_task, batch_++);
    const float* logit = logits_.const_data_ptr<float>();
    std::int64_t open = 0;  // gates of the penalty that are on; these are drawn separately
    for (const MaskedAxis& masked : axes_) {
      at::Tensor& gates = gates_[static_cast<std::size_t>(masked.axis)];
      gates.set_requires_grad(false);
      gates.mutable_grad() = at::Tensor();
      float* const gate = gates.data_ptr<float>();
      for (std::int64_t i = 0; i < gates.size(0); ++i) {
        const double keep = sigmoid(*logit++);
        gate[i] = stream.uniform() < keep ? 1.0F : 0.0F;
        open += stream.uniform() < keep ? 1 : 0;
      }
      gates.set_requires_grad(true);
    }
    excess_ = static_cast<double>(open) / static_cast<double>(units_) - view.task.search;
    context.gates = &gates_;
  }

  at::Tensor loss(const LocalView& view, const Batch& batch, const Outputs& outputs) override {
    return cross_entropy(outputs.logits, batch.labels, view.experiment.train.label_smoothing);
  }

  /// d/ds = (dL/dg p) sigma'(s), for the loss plus penalty |mean g - fraction|; then a step.
  void after_backward(const LocalView&) override {
    const double sign = excess_ > 0 ? 1 : excess_ < 0 ? -1 : 0;
    const double push = penalty_ * sign / static_cast<double>(units_);
    const float* logit = logits_.const_data_ptr<float>();
    float* slope = gradient_.data_ptr<float>();
    for (const MaskedAxis& masked : axes_) {
      const at::Tensor& gates = gates_[static_cast<std::size_t>(masked.axis)];
      const float* const of_gate = gates.grad().const_data_ptr<float>();
      for (std::int64_t i = 0; i < gates.size(0); ++i) {
        const double keep = sigmoid(*logit++);
        *slope++ =
            static_cast<float>((static_cast<double>(of_gate[i]) + push) * keep * keep * (1 - keep));
      }
    }
    optimizer_->step(logits_, gradient_, lr_);
  }

  Submodel found(const LocalView& view) override {
    Submodel found = view.parameters.submodel();
    const Submodel& sent = view.parameters.submodel();
    const float* logit =
        settings_.kind == MaskKind::learned ? logits_.const_data_ptr<float>() : nullptr;
    for (const MaskedAxis& masked : axes_) {
      const std::int64_t width = sent.width(masked.axis);
      std::span<const float> logits(logit, logit == nullptr ? 0 : static_cast<std::size_t>(width));
      if (logit != nullptr) logit += width;
      std::vector<std::int64_t> units = chosen(view, masked.axis, logits);
      for (std::int64_t& unit : units) unit = unit_of(sent, masked.axis, unit);
      remember(sent, masked.axis, logits);
      found.keep(masked.axis, std::move(units));
    }
    logits_ = gradient_ = at::Tensor();
    gates_.clear();
    optimizer_.reset();
    return found;
  }

  void archive(Archive& archive) override {
    std::vector<std::int64_t> axes;
    for (const auto& [axis, logits] : state_) axes.push_back(axis);
    archive.value("axes", axes);
    for (const std::int64_t axis : axes) {
      archive_floats(archive, "logits_" + std::to_string(axis), state_[static_cast<int>(axis)]);
    }
  }

 private:
  static std::int64_t unit_of(const Submodel& submodel, int axis, std::int64_t position) {
    return submodel.is_full(axis) ? position
                                  : submodel.units(axis)[static_cast<std::size_t>(position)];
  }

  /// Sets the logits of the axis's kept units: from the client's last search, else to first values
  /// with variance 2 / width.
  void recall(const LocalView& view, int axis, std::span<float> logits) {
    const Submodel& sent = view.parameters.submodel();
    std::vector<float>& stored = state_[axis];
    if (stored.empty()) {
      const std::int64_t full = sent.full_width(axis);
      Stream stream(view.experiment.seed, kFirst, view.task.client, axis);
      for (std::int64_t i = 0; i < full; ++i) {
        stored.push_back(
            static_cast<float>(std::sqrt(2 / static_cast<double>(full)) * stream.normal()));
      }
    }
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits[i] =
          stored[static_cast<std::size_t>(unit_of(sent, axis, static_cast<std::int64_t>(i)))];
    }
  }
  void remember(const Submodel& sent, int axis, std::span<const float> logits) {
    for (std::size_t i = 0; i < logits.size(); ++i) {
      state_[axis][static_cast<std::size_t>(unit_of(sent, axis, static_cast<std::int64_t>(i)))] =
          logits[i];
    }
  }

  /// Positions of the units to keep, ascending.
  std::vector<std::int64_t> chosen(const LocalView& view, int axis,
                                   std::span<const float> logits) const {
    const std::int64_t width = view.parameters.submodel().width(axis);
    const std::int64_t count = kept_units(view.task.search, width);
    Stream stream(view.experiment.seed, kChoice, view.task.client, view.task.nth_task, axis);
    switch (settings_.kind) {
      case MaskKind::random:
        return stream.choose(count, width);
      case MaskKind::magnitude:
        return largest(magnitudes(view, axis), count);
      case MaskKind::learned:
        break;
    }
    if (!settings_.sampled) return largest({logits.begin(), logits.end()}, count);
    std::vector<std::int64_t> units;
    while (units.empty()) {  // each layer keeps at least one
      for (std::int64_t i = 0; i < width; ++i) {
        if (stream.uniform() < sigmoid(logits[static_cast<std::size_t>(i)])) units.push_back(i);
      }
    }
    return units;
  }

  static std::vector<std::int64_t> largest(const std::vector<double>& scores, std::int64_t count) {
    std::vector<std::int64_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](std::int64_t a, std::int64_t b) {
      return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
    });
    order.resize(static_cast<std::size_t>(count));
    std::ranges::sort(order);
    return order;
  }

  /// Sum of the absolute incoming weights of each unit. Allocates no tensor.
  static std::vector<double> magnitudes(const LocalView& view, int axis) {
    const std::int64_t units = view.parameters.submodel().width(axis);
    std::vector<double> sums(static_cast<std::size_t>(units), 0.0);
    for (const UnitPlaces& p : incoming_weights(view.parameters.buffer_layout(), axis)) {
      const float* value = view.parameters.data() + p.offset;
      for (std::int64_t o = 0; o < p.outer; ++o) {
        for (double& sum : sums) {
          for (std::int64_t i = 0; i < p.inner; ++i) sum += std::abs(static_cast<double>(*value++));
        }
      }
    }
    return sums;
  }

  MaskSettings settings_;
  std::map<int, std::vector<float>> state_;  // the client's state: logits of whole axes
  // Of the present search:
  std::vector<MaskedAxis> axes_;
  std::int64_t units_ = 0;
  std::int64_t batch_ = 0;
  double lr_ = 0;
  double penalty_ = 0;
  double excess_ = 0;  // fraction of open gates minus the fraction to keep
  at::Tensor logits_;  // of all axes, one after the other
  at::Tensor gradient_;
  std::vector<at::Tensor> gates_;  // by axis
  std::optional<Optimizer> optimizer_;
};

}  // namespace

void register_masks(Catalogue& c) {
  c.options.add_choice(
      "method.masks", "learned",
      "kind of masks: learned on the client's data, drawn at random, or by the magnitude of the "
      "units' weights; all of the same size",
      {"learned", "random", "magnitude"});
  c.options.add_choice(
      "method.mask_choice", "top",
      "choice of units by learned masks: top, the most likely units of each layer up to the "
      "client's width; sampled, each unit by its own probability",
      {"top", "sampled"});
  c.options.add({"method.mask_epochs", OptionType::integer, "20",
                 "passes over a client's samples in one search", "", 0, 1e6});
  c.options.add({"method.mask_steps", OptionType::integer, "0",
                 "batches in one search; above 0 they replace method.mask_epochs", "", 0, 1e9});
  c.options.add({"method.mask_ratio", OptionType::real, "0.5",
                 "fraction of its local epochs (or steps) that a task with a search skips", "", 0,
                 1});
  c.options.add({"method.mask_lr", OptionType::real, "0",
                 "learning rate of the logits; 0 = learning rate of the weights", "", 0, 1e3});
  c.options.add({"method.mask_penalty", OptionType::real, "1",
                 "weight of |fraction of units that are on - client's width|; with sgd it is "
                 "multiplied by the number of units",
                 "", 0, 1e6});
  c.searches.add("masks", "selection of units by masks that each client learns", make_rule<Masks>);
}

}  // namespace espalier::rounds
