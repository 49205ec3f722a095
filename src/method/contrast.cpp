#include "espalier/method/contrast.h"

#include <c10/core/GradMode.h>

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/model/cost.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

// As in PyTorch's cosine similarity.
constexpr double kLeastNorm = 1e-8;
constexpr std::int64_t kFloatBytes = sizeof(float);

at::Tensor unit_rows(const at::Tensor& z) {
  return z / z.norm(2, {1}, /*keepdim=*/true).clamp_min(kLeastNorm);
}

/// True if every width of `submodel` is at most that of `other`, and every block of it is in
/// `other`: it then needs no more memory.
bool is_no_larger(const Submodel& submodel, const Submodel& other) {
  for (int axis = 0; axis < submodel.axes(); ++axis) {
    if (submodel.width(axis) > other.width(axis)) return false;
  }
  for (int block = 0; block < submodel.blocks(); ++block) {
    if (submodel.has_block(block) && !other.has_block(block)) return false;
  }
  return true;
}

enum class Negatives { previous, batch };

class Contrastive : public LocalObjective {
 public:
  explicit Contrastive(const RuleContext& context)
      : weight_(context.config.real("method.contrast")),
        temperature_(context.config.real("method.temperature")),
        negatives_(context.config.text("method.negatives") == "batch" ? Negatives::batch
                                                                      : Negatives::previous),
        scaler_(context.config.boolean("method.scaler")) {
    if (!(temperature_ > 0)) {
      throw InputError("method.temperature is 0; set it above 0, e.g. to 0.5");
    }
  }

  void begin(const LocalView& view) override {
    if (weight_ == 0) return;
    if (negatives_ == Negatives::previous && !take_previous(view)) return;
    received_ = view.parameters.copy();
  }

  void prepare(const LocalView&, Context& context) override {
    context.scaler = scaler_;
    if (received_.flat().defined()) context.projected = &projected_;
  }

  at::Tensor loss(const LocalView& view, const Batch& batch, const Outputs& outputs) override {
    if (!received_.flat().defined()) return LocalObjective::loss(view, batch, outputs);
    const at::Tensor own = std::exchange(projected_, at::Tensor());
    const at::Tensor z = rows(own.defined() ? own : outputs.logits);
    const at::Tensor anchors = representation(view, received_, batch);
    const at::Tensor contrast =
        negatives_ == Negatives::batch
            ? contrast_within(z, anchors, temperature_)
            : contrast_to(z, anchors, representation(view, previous_, batch), temperature_);
    return LocalObjective::loss(view, batch, outputs) + contrast * weight_;
  }

  void end(const LocalView& view) override {
    if (!keeps_model()) return;
    PlanCache& plans = *view.experiment.plans;
    const BufferLayout& own = view.parameters.buffer_layout();
    const auto dense = plans.buffer_layout(own.submodel(), Packing::dense);
    code_ = own.submodel().encode();
    values_.resize(static_cast<std::size_t>(dense->kind_range(Kind::trainable).size()));
    plans.plan(own, *dense, nullptr, kTrained)->copy(view.parameters.data(), values_.data());
  }

  void archive(Archive& archive) override {
    if (!keeps_model()) return;
    archive.value("submodel", code_);
    archive_floats(archive, "model", values_);
  }

  std::int64_t extra_bytes(const Experiment& experiment, const Submodel& submodel,
                           std::int64_t batch) const override {
    if (weight_ == 0) return 0;
    const Model& model = experiment.model;
    const TrainingCost own = training_cost(model, submodel, batch, 0);
    const TrainingCost frozen = forward_cost(model, submodel, batch);
    std::int64_t saved = 0;
    for (const BlockCost& block : own.blocks) saved += block.saved_bytes;
    // The frozen passes run while the graph of the own pass exists, and then the similarities.
    const std::int64_t z = representation_bytes(model, batch);
    const std::int64_t passing =
        saved + own.output_bytes + models() * z +
        std::max(frozen.activation_bytes - frozen.input_bytes, similarity_bytes(model, batch, z)) -
        own.activation_bytes;
    // The previous model may have other units, and so frozen values of its own.
    const std::int64_t previous = keeps_model() ? frozen_bytes(experiment, submodel) : 0;
    return models() * weight_bytes(experiment, submodel) + previous +
           std::max<std::int64_t>(0, passing);
  }

  // Whether the client has a previous model is not known here, unless this is its first task.
  std::vector<SubmodelPasses> passes(const Experiment& experiment, const LocalTask& task,
                                     const Submodel& trained,
                                     const Workload& batches) const override {
    std::vector<SubmodelPasses> made = LocalObjective::passes(experiment, task, trained, batches);
    if (weight_ == 0 || (keeps_model() && task.nth_task == 0)) return made;
    for (const Workload::Passes& passes : batches.passes) {
      made.push_back({trained, {passes.size, models() * passes.count}, /*forward_only=*/true});
    }
    return made;
  }

 private:
  bool keeps_model() const { return weight_ != 0 && negatives_ == Negatives::previous; }
  /// Frozen models beside the trained one.
  std::int64_t models() const { return negatives_ == Negatives::previous ? 2 : 1; }

  /// Sets previous_ from the client's state; false if there is none, or if it is larger than the
  /// submodel that is trained: the memory that was charged is that of two copies of this one.
  bool take_previous(const LocalView& view) {
    if (code_.empty()) return false;
    const Experiment& e = view.experiment;
    const Submodel submodel = Submodel::decode(*e.model.layout, code_);
    if (!is_no_larger(submodel, view.parameters.submodel())) return false;
    const auto dense = e.plans->buffer_layout(submodel, Packing::dense);
    const auto aligned = e.plans->buffer_layout(submodel, Packing::aligned);
    previous_ = e.allocate(aligned);
    e.plans->plan(*dense, *aligned, nullptr, kTrained)->copy(values_.data(), previous_.data());
    return true;
  }

  /// [rows, size]: one row for each sample, or for each position of a text.
  static at::Tensor rows(const at::Tensor& z) { return z.flatten(0, -2); }

  at::Tensor representation(const LocalView& view, const Parameters& frozen,
                            const Batch& batch) const {
    c10::NoGradGuard no_grad;
    at::Tensor projected;
    Context context;
    context.mode = Mode::train;
    context.scaler = scaler_;
    context.projected = &projected;
    const at::Tensor logits = forward(view.experiment.model, frozen, batch.inputs, context);
    return rows(projected.defined() ? projected : logits);
  }

  static std::int64_t representation_bytes(const Model& model, std::int64_t batch) {
    std::int64_t size = model.shape.classes;
    if (model.projection >= 0) {
      for (const Entry& entry : model.layout->entries) {
        if (entry.block == model.projection && entry.dimensions.size() == 1) {  // the last bias
          size = model.layout->axes[static_cast<std::size_t>(entry.dimensions[0][0].axis)].size;
        }
      }
    }
    return kFloatBytes * batch * model.shape.targets() * size;
  }

  /// The unit vectors, their products, the cosines and their softmax; z: bytes of a representation.
  std::int64_t similarity_bytes(const Model& model, std::int64_t batch, std::int64_t z) const {
    const std::int64_t rows = batch * model.shape.targets();
    return negatives_ == Negatives::batch ? 5 * z + 3 * kFloatBytes * rows * rows
                                          : 6 * z + 8 * kFloatBytes * rows;
  }

  double weight_;
  double temperature_;
  Negatives negatives_;
  bool scaler_;
  // Of the present task; undefined if it has no contrast:
  Parameters received_;
  Parameters previous_;
  at::Tensor projected_;
  // The client's model after its last task, dense, and the code of its submodel; empty before.
  std::vector<std::int64_t> code_;
  std::vector<float> values_;
};

}  // namespace

at::Tensor contrast_to(const at::Tensor& z, const at::Tensor& positive, const at::Tensor& negative,
                       double temperature) {
  const at::Tensor units = unit_rows(z);
  const at::Tensor similarities =
      at::stack({(units * unit_rows(positive)).sum(1), (units * unit_rows(negative)).sum(1)}, 1);
  return -at::log_softmax(similarities / temperature, 1).select(1, 0).mean();
}

at::Tensor contrast_within(const at::Tensor& z, const at::Tensor& anchors, double temperature) {
  const at::Tensor similarities = at::mm(unit_rows(z), unit_rows(anchors).t());
  return -at::log_softmax(similarities / temperature, 1).diagonal().mean();
}

void add_contrast(Catalogue& c) {
  c.options.add({"method.contrast", OptionType::real, "1",
                 "objective contrastive: weight of the contrastive term; 0 = none", "", 0, 1e6});
  c.options.add({"method.temperature", OptionType::real, "0.5",
                 "objective contrastive: divides the cosines", "", 0, 1e6});
  c.options.add_choice(
      "method.negatives", "previous",
      "objective contrastive: what a sample's representation is drawn away from: that of the "
      "client's model after its previous task, or the received model's of the batch's other "
      "samples",
      {"previous", "batch"});
  c.objectives.add("contrastive",
                   "cross-entropy, and the received model as a positive against a negative",
                   make_rule<Contrastive>);
}

}  // namespace espalier::rounds
