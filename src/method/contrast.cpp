#include "espalier/method/contrast.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/config/choice.h"
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

enum class Negatives { previous, peers, batch };
constexpr const char* kNegatives[] = {"previous", "peers", "batch"};

class Contrastive : public LocalObjective {
 public:
  explicit Contrastive(const RuleContext& context)
      : weight_(context.config.real("method.contrast")),
        temperature_(context.config.real("method.temperature")),
        negatives_(choice<Negatives>(context.config, "method.negatives", kNegatives)),
        peers_(negatives_ == Negatives::peers ? context.config.integer("method.peers") : 0),
        scaler_(context.config.boolean("method.scaler")) {
    if (negatives_ != Negatives::peers) return;
    if (!context.config.text("method.personal").empty()) {
      throw InputError(
          "method.negatives = peers needs the whole models of other clients, but their "
          "method.personal values stay with them; choose other negatives");
    }
    if (context.config.text("method.exchange") == "peers") {
      throw InputError(
          "with method.exchange = peers no client gets the whole model of another one, which "
          "method.negatives = peers needs; set method.exchange = served, or choose other "
          "negatives");
    }
  }

  void begin(const LocalView& view) override {
    if (weight_ == 0) return;
    if (keeps_model()) take_previous(view);
    for (const PeerModel& peer : view.task.peers) {
      const auto shared = view.experiment.plans->buffer_layout(peer.submodel, Packing::shared);
      take_negative(view, *shared, floats_of(*peer.values).data());
    }
    if (negative_models_.empty() && negatives_ != Negatives::batch) return;
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
    at::Tensor contrast;
    if (negatives_ == Negatives::batch) {
      contrast = contrast_within(z, anchors, temperature_);
    } else {
      std::vector<at::Tensor> negatives;
      for (const Parameters& model : negative_models_) {
        negatives.push_back(representation(view, model, batch));
      }
      contrast = contrast_to(z, anchors, negatives, temperature_);
    }
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
    // Models of other tasks may have other units, and so frozen values of their own.
    return models() * weight_bytes(experiment, submodel) +
           (models() - 1) * frozen_bytes(experiment, submodel) +
           peers_ * peer_bytes(experiment, submodel) + std::max<std::int64_t>(0, passing);
  }

  std::int64_t peers() const override { return weight_ == 0 ? 0 : peers_; }

  // Whether the client has a previous model is not known here, unless this is its first task.
  std::vector<SubmodelPasses> passes(const Experiment& experiment, const LocalTask& task,
                                     const Submodel& trained,
                                     const Workload& batches) const override {
    std::vector<SubmodelPasses> made = LocalObjective::passes(experiment, task, trained, batches);
    const bool has_previous = keeps_model() && task.nth_task > 0;
    if (weight_ == 0 || (negatives_ != Negatives::batch && !has_previous && task.peers.empty())) {
      return made;
    }
    for (const Workload::Passes& passes : batches.passes) {
      const auto add = [&](const Submodel& submodel, std::int64_t models) {
        made.push_back({submodel, {passes.size, models * passes.count}, /*forward_only=*/true});
      };
      add(trained, has_previous ? 2 : 1);
      for (const PeerModel& peer : task.peers) add(peer.submodel, 1);
    }
    return made;
  }

 private:
  bool keeps_model() const { return weight_ != 0 && negatives_ != Negatives::batch; }
  /// Frozen models beside the trained one, at most.
  std::int64_t models() const { return (keeps_model() ? 2 : 1) + peers_; }

  /// Adds the model of the client's state to the negatives, unless it is larger than the submodel
  /// that is trained: the memory that was charged is that of copies of this one.
  void take_previous(const LocalView& view) {
    if (code_.empty()) return;
    const Experiment& e = view.experiment;
    const Submodel submodel = Submodel::decode(*e.model.layout, code_);
    if (!submodel.is_no_larger(view.parameters.submodel())) return;
    take_negative(view, *e.plans->buffer_layout(submodel, Packing::dense), values_.data());
  }

  void take_negative(const LocalView& view, const BufferLayout& dense, const float* values) {
    PlanCache& plans = *view.experiment.plans;
    const auto aligned = plans.buffer_layout(dense.submodel(), Packing::aligned);
    Parameters& model = negative_models_.emplace_back(view.experiment.allocate(aligned));
    plans.plan(dense, *aligned, nullptr, kTrained)->copy(values, model.data());
  }

  /// Of a peer's model in the message: values and units. Its windows may have a run more in each
  /// axis than those of the client's submodel.
  static std::int64_t peer_bytes(const Experiment& experiment, const Submodel& submodel) {
    const auto code = std::ssize(submodel.encode()) + 2 * submodel.axes();
    return payload_bytes(*experiment.plans->buffer_layout(submodel, Packing::shared)) +
           static_cast<std::int64_t>(sizeof(std::int64_t)) * code;
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
                                          : (4 + models()) * z + 4 * models() * kFloatBytes * rows;
  }

  double weight_;
  double temperature_;
  Negatives negatives_;
  std::int64_t peers_;
  bool scaler_;
  // Of the present task; undefined if it has no contrast:
  Parameters received_;
  std::vector<Parameters> negative_models_;
  at::Tensor projected_;
  // The client's model after its last task, dense, and the code of its submodel; empty before.
  std::vector<std::int64_t> code_;
  std::vector<float> values_;
};

}  // namespace

at::Tensor contrast_to(const at::Tensor& z, const at::Tensor& positive,
                       const std::vector<at::Tensor>& negatives, double temperature) {
  const at::Tensor units = unit_rows(z);
  std::vector<at::Tensor> columns{(units * unit_rows(positive)).sum(1)};
  for (const at::Tensor& negative : negatives) {
    columns.push_back((units * unit_rows(negative)).sum(1));
  }
  const at::Tensor similarities = at::stack(columns, 1);
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
                 "objective contrastive: divides the cosines", "", 1e-3, 1e6});
  c.options.add_choice(
      "method.negatives", "previous",
      "objective contrastive: what a sample's representation is drawn away from: that of the "
      "client's model after its previous task; of this and of other clients' models after theirs; "
      "or the received model's of the batch's other samples",
      {std::begin(kNegatives), std::end(kNegatives)});
  c.options.add({"method.peers", OptionType::integer, "1",
                 "objective contrastive, method.negatives = peers: number of other clients' models "
                 "that each client gets",
                 "models", 1, 1000});
  c.objectives.add("contrastive",
                   "cross-entropy, and the received model as a positive against a negative",
                   make_rule<Contrastive>);
}

}  // namespace espalier::rounds
