#include "espalier/method/scaffold.h"

#include <c10/core/GradMode.h>

#include "espalier/protocol/rounds/merge.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

constexpr const char* kControlVariates = "control_variates";

std::int64_t values_in(const BufferLayout& layout) {
  return layout.kind_range(Kind::trainable).size();
}

/// Steps y <- y - lr (g(y) - c_i + c). After K of them c_i <- c_i - c + (x - y) / (K lr), where x
/// and c came with the task. c_i begins at zero and is the client's state. Personal parameters have
/// no control variates.
class ControlledSteps : public LocalObjective {
 public:
  explicit ControlledSteps(const RuleContext& context) {
    const TrainSettings& train = context.experiment.train;
    if (train.optimizer == OptimizerKind::sgd && train.momentum == 0) return;
    throw InputError(
        formatted("method.objective = {} takes a client's difference to be the sum of its "
                  "gradients, as plain "
                  "SGD makes it; use train.optimizer = sgd and train.momentum = 0",
                  kControlVariates));
  }

  std::string companion_rule() const override { return kControlVariates; }

  void begin(const LocalView& view) override {
    c10::NoGradGuard no_grad;
    const BufferLayout& own = view.parameters.buffer_layout();
    PlanCache& plans = *view.experiment.plans;
    sent_ = view.parameters.trainable().clone();
    correction_ = at::zeros_like(sent_);
    float* const correction = correction_.data_ptr<float>();
    if (view.task.companion) {
      const auto shared = plans.buffer_layout(own.submodel(), Packing::shared);
      plans.plan(*shared, own, nullptr, kTrained)
          ->copy(floats_of(*view.task.companion).data(), correction);
    }
    if (code_.empty()) return;
    plans.plan(*stored_layout(view), own, nullptr, kTrained)
        ->for_each_value([&](std::int64_t from, std::int64_t to) {
          correction[to] -= control_[static_cast<std::size_t>(from)];
        });
  }

  void after_backward(const LocalView& view) override {
    c10::NoGradGuard no_grad;
    view.parameters.gradients().add_(correction_);
    ++steps_;
  }

  void end(const LocalView& view) override {
    c10::NoGradGuard no_grad;
    const double lr = learning_rate(view.experiment.train, view.task.base_version);
    if (steps_ == 0 || lr == 0) return;
    sent_.sub_(view.parameters.trainable());
    correction_.neg_().add_(sent_, 1 / (static_cast<double>(steps_) * lr));
    make_room(view);
    const BufferLayout& own = view.parameters.buffer_layout();
    view.experiment.plans->plan(own, *stored_layout(view), nullptr, kTrained)
        ->copy(correction_.data_ptr<float>(), control_.data());
  }

  std::int64_t extra_bytes(const Experiment& experiment, const Submodel& submodel,
                           std::int64_t) const override {
    return 2 * weight_bytes(experiment, submodel);
  }

  void archive(Archive& archive) override {
    archive.value("submodel", code_);
    archive_floats(archive, "control", control_);
  }

 private:
  std::shared_ptr<const BufferLayout> stored_layout(const LocalView& view) const {
    const Submodel stored = Submodel::decode(*view.experiment.model.layout, code_);
    return view.experiment.plans->buffer_layout(stored, Packing::shared);
  }

  /// A client whose submodel changes keeps c_i of the whole model, because the server's c goes on
  /// counting the values that the present submodel lacks.
  void make_room(const LocalView& view) {
    const Submodel& own = view.parameters.submodel();
    if (code_ == own.encode()) return;
    const Submodel full = Submodel::full(*view.experiment.model.layout);
    if (code_ == full.encode()) return;
    const bool is_first = code_.empty();
    const auto old_layout = is_first ? nullptr : stored_layout(view);
    const std::vector<float> old = std::move(control_);
    code_ = (is_first ? own : full).encode();
    const auto layout = stored_layout(view);
    control_.assign(static_cast<std::size_t>(values_in(*layout)), 0.0F);
    if (is_first) return;
    view.experiment.plans->plan(*old_layout, *layout, nullptr, kTrained)
        ->copy(old.data(), control_.data());
  }

  at::Tensor sent_;        // x, flat, with the buffer layout of the trained model
  at::Tensor correction_;  // c - c_i, with the same layout
  std::int64_t steps_ = 0;
  // c_i: the submodel's code, and the values with its shared layout; empty before the first task.
  std::vector<std::int64_t> code_;
  std::vector<float> control_;
};

/// The mean of the models, and c <- c + (1 / N) sum_i (c_i+ - c_i) over the holders of each
/// parameter, with N the number of all clients. By the rule of ControlledSteps c_i+ - c_i is
/// (x - y_i) / (K lr) - c with the c that was sent, so the server computes it.
class ControlledAverage : public AverageMerge {
 public:
  explicit ControlledAverage(const RuleContext& context)
      : AverageMerge(context),
        clients_(static_cast<double>(context.experiment.fleet->size())),
        control_(context.experiment.plans->buffer_layout(
            Submodel::full(*context.experiment.model.layout), Packing::aligned)) {}

  const Parameters* companion() const override { return &control_; }

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    AverageMerge::merge(experiment, model, updates);
    std::vector<Holding> ends, starts, controls;
    for (const Update& update : updates) {
      const double sum = update.lr * static_cast<double>(update.steps);
      if (!(sum > 0)) continue;  // nothing was trained
      auto [end, start] = holdings_of(experiment, model, update);
      const std::int64_t values = values_in(*update.buffer_layout);
      ESPALIER_CHECK(std::ssize(floats_of(*update.sent)) == 2 * values,
                     "the payload of client {} has no control variates", update.client);
      end.weight = start.weight = 1 / sum;
      ends.push_back(end);
      starts.push_back(start);
      start.values += values;
      start.weight = 1;
      controls.push_back(start);
    }
    if (ends.empty()) return;
    auto trained = std::make_unique<BlockSums>();
    auto sent = std::make_unique<BlockSums>();
    auto known = std::make_unique<BlockSums>();
    float* const control = control_.data();
    for_each_block(control_, [&](Range range) {
      trained->sum(range, ends);
      sent->sum(range, starts);
      known->sum(range, controls);
      for (std::size_t i = 0; i < static_cast<std::size_t>(range.size()); ++i) {
        if (known->denominator[i] == 0) continue;
        float& c = control[static_cast<std::size_t>(range.begin) + i];
        c = static_cast<float>(
            c + (sent->numerator[i] - trained->numerator[i] - known->numerator[i]) / clients_);
      }
    });
  }

  void archive(Archive& archive) override {
    archive.value("control",
                  std::span<float>(control_.data(),
                                   static_cast<std::size_t>(control_.buffer_layout().size())));
  }

 private:
  double clients_;
  Parameters control_;  // c, over the whole model
};

}  // namespace

void register_scaffold(Catalogue& c) {
  declare_average_options(c.options);
  c.objectives.add(kControlVariates,
                   "cross-entropy; each step is corrected by the control variates of SCAFFOLD",
                   make_rule<ControlledSteps>);
  c.merges.add(kControlVariates, "weighted mean, and the server's control variate of SCAFFOLD",
               make_rule<ControlledAverage>);
  Method method;
  method.merge = kControlVariates;
  method.objective = kControlVariates;
  method.defaults = {{"method.weighting", "uniform"}};
  c.methods.add("scaffold", "control variates on server and clients (Karimireddy et al. 2020)",
                method);
}

}  // namespace espalier::rounds
