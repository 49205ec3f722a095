#include "espalier/method/fjord.h"

#include <algorithm>
#include <map>

#include "espalier/model/unit_window.h"
#include "espalier/train/task_cost.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

const Purpose kSubmodel = register_purpose("method.submodel");

/// Draws a width p for every batch, from the widths in method.ordered_widths up to the submodel's
/// own. With distillation the whole submodel has the cross-entropy, and the network of the first
/// ceil(p h) units of each layer learns the soft outputs of the whole, which gets no gradient from
/// this second loss. Both losses have the same weight; if p is the whole, there is no second loss.
/// Without distillation only the first ceil(p h) units are trained, with the cross-entropy.
class OrderedDropout : public LocalObjective {
 public:
  explicit OrderedDropout(const RuleContext& context)
      : distils_(context.config.boolean("method.ordered_distillation")),
        widths_(context.config.reals("method.ordered_widths")) {
    std::ranges::sort(widths_);
    for (const double width : widths_) {
      if (!(width > 0 && width <= 1)) {
        throw InputError(
            formatted("method.ordered_widths has {}; widths are above 0 and at most 1", width));
      }
    }
  }

  void begin(const LocalView& view) override {
    nested_ = narrower(view.experiment, view.task.submodel);
  }

  void prepare(const LocalView& view, Context&) override {
    const std::size_t drawn = draw(view.experiment, view.task, batch_++, nested_.size());
    small_ = Parameters();
    if (drawn == nested_.size()) return;
    const Experiment& e = view.experiment;
    small_ = e.allocate(e.plans->buffer_layout(nested_[drawn], Packing::aligned));
    e.plans->plan(view.parameters.buffer_layout(), small_.buffer_layout(), nullptr, kTrained)
        ->copy(view.parameters.data(), small_.data());
    small_.attach_gradients();
    small_.zero_gradients();
  }

  const Parameters& weights(const LocalView& view) const override {
    return distils_ || !small_.flat().defined() ? view.parameters : small_;
  }

  at::Tensor loss(const LocalView& view, const Batch& batch, const Outputs& outputs) override {
    const at::Tensor own = LocalObjective::loss(view, batch, outputs);
    if (!distils_ || !small_.flat().defined()) return own;
    Context context;
    context.mode = Mode::train;
    const at::Tensor logits = forward(view.experiment.model, small_, batch.inputs, context);
    return own +
           divergence(at::log_softmax(outputs.logits.detach(), -1), at::log_softmax(logits, -1));
  }

  /// Adds the gradients of the narrow network to the gradients of the whole.
  void after_backward(const LocalView& view) override {
    if (!small_.flat().defined()) return;
    const auto plan = view.experiment.plans->plan(
        small_.buffer_layout(), view.parameters.buffer_layout(), nullptr, kTrained);
    const float* const from = small_.gradients().const_data_ptr<float>();
    float* const to = view.parameters.gradients().data_ptr<float>();
    plan->for_each_value(
        [&](std::int64_t source, std::int64_t destination) { to[destination] += from[source]; });
    small_ = Parameters();
  }

  std::int64_t extra_bytes(const Experiment& experiment, const Submodel& submodel,
                           std::int64_t batch) const override {
    const std::vector<Submodel> nested = narrower(experiment, submodel);
    if (nested.empty()) return 0;
    const TrainingCost cost = training_cost(experiment.model, nested.back(), batch, 0);
    if (!distils_) return cost.model_bytes;  // the graph is at most as large as the whole's
    // Both graphs exist at the same time. The passes run one after the other, and the narrow one
    // needs less scratch memory.
    std::int64_t saved = 0;
    for (const BlockCost& block : cost.blocks) saved += block.saved_bytes;
    constexpr std::int64_t kLogits = 8;  // of teacher, student and their divergence
    return cost.model_bytes + saved + kLogits * logits_bytes(experiment, batch);
  }

  std::vector<SubmodelPasses> passes(const Experiment& experiment, const LocalTask& task,
                                     const Submodel& trained,
                                     const Workload& batches) const override {
    const std::vector<Submodel> nested = narrower(experiment, trained);
    const std::int64_t batch = experiment.batch_of(task.client);
    const std::int64_t samples = experiment.samples_of(task.client);
    const std::int64_t per_epoch = (samples + batch - 1) / std::max<std::int64_t>(1, batch);
    // By index of the width (nested.size(): the whole) and by size of the batch.
    std::map<std::pair<std::size_t, std::int64_t>, std::int64_t> counts;
    for (std::int64_t step = 0; step < batches.steps; ++step) {
      const std::size_t drawn = draw(experiment, task, step, nested.size());
      if (drawn == nested.size() && distils_) continue;  // the whole's passes are added below
      const bool last = step % per_epoch == per_epoch - 1 && samples % batch != 0;
      std::int64_t left = last ? samples % batch : batch;
      const std::int64_t part = part_size(experiment.train, batch);
      for (; left > 0; left -= part) ++counts[{drawn, std::min(left, part)}];
    }
    std::vector<SubmodelPasses> made;
    if (distils_) made = LocalObjective::passes(experiment, task, trained, batches);
    for (const auto& [key, count] : counts) {
      const auto& [drawn, size] = key;
      made.push_back({drawn == nested.size() ? trained : nested[drawn], {size, count}});
    }
    return made;
  }

 private:
  /// The nested networks that are smaller than the submodel, by width.
  std::vector<Submodel> narrower(const Experiment& experiment, const Submodel& submodel) const {
    std::vector<Submodel> nested;
    for (const double width : widths_) {
      Submodel candidate = window_submodel(*experiment.model.layout, width, 0);
      if (candidate.inside(submodel) && candidate != submodel)
        nested.push_back(std::move(candidate));
    }
    return nested;
  }

  /// Index of the narrow network for a batch, from 0 to `nested`, with equal probability; `nested`:
  /// none, the batch trains the whole alone.
  static std::size_t draw(const Experiment& experiment, const LocalTask& task, std::int64_t step,
                          std::size_t nested) {
    Stream stream(experiment.seed, kSubmodel, task.client, task.nth_task, step);
    return static_cast<std::size_t>(stream.below(static_cast<std::int64_t>(nested) + 1));
  }

  bool distils_;
  std::vector<double> widths_;
  // Of the present task:
  std::vector<Submodel> nested_;
  std::int64_t batch_ = 0;
  Parameters small_;
};

}  // namespace

void register_fjord(Catalogue& c) {
  c.options.add({"method.ordered_widths", OptionType::real_list, "0.2, 0.4, 0.6, 0.8, 1",
                 "objective ordered_dropout: widths that a batch may train, above 0 and at most 1; "
                 "a client uses those below its own width"});
  c.options.add(
      {"method.ordered_distillation", OptionType::boolean, "true",
       "objective ordered_dropout: train the client's whole network in every batch, as the "
       "teacher of the drawn one; else only the drawn one"});
  c.objectives.add("ordered_dropout",
                   "cross-entropy; the whole network teaches one of a width drawn for each batch",
                   make_rule<OrderedDropout>);
  Method method;
  method.submodel = "static";
  method.objective = "ordered_dropout";
  method.defaults = {{"method.widths", "1, 0.8, 0.6, 0.4, 0.2"}};
  c.methods.add("fjord", "ordered dropout with self-distillation (Horvath et al. 2021)", method);
}

}  // namespace espalier::rounds
