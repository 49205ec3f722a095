#include "espalier/method/hetlora.h"

#include <cmath>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/method/widths.h"
#include "espalier/model/unit_window.h"
#include "espalier/protocol/rounds/merge.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

void refuse_without_adapters(const Experiment& experiment) {
  if (!experiment.model.layout->adapters.empty()) return;
  throw InputError(
      "method.submodel = ranks and method.merge = adapter_norms need adapters; take other rules, "
      "or set model.adapter_rank");
}

/// The leading ranks of every adapter, as many as the client's width gives; all else is whole.
class LeadingRanks : public SubmodelRule {
 public:
  explicit LeadingRanks(const RuleContext& context)
      : levels_(context, [&](double width) { return assignment(context.experiment, width); }) {
    refuse_without_adapters(context.experiment);
  }
  Assignment choose(const Experiment& experiment, const SendMoment& moment) override {
    return assignment(experiment, levels_.width(moment));
  }

 private:
  static Assignment assignment(const Experiment& experiment, double width) {
    const Layout& layout = *experiment.model.layout;
    Submodel submodel = Submodel::full(layout);
    for (const Adapter& adapter : layout.adapters) {
      submodel.keep(adapter.rank, window_units(width, submodel.full_width(adapter.rank), 0));
    }
    return {std::move(submodel), width};
  }

  WidthLevels levels_;
};

/// The r x r sums over i of m[i, a] m[i, b], where m [count, r] has the given strides.
std::vector<double> gram(const float* m, std::int64_t count, std::int64_t r, std::int64_t stride,
                         std::int64_t rank_stride) {
  std::vector<double> sums(static_cast<std::size_t>(r * r), 0.0);
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t a = 0; a < r; ++a) {
      const double value = m[i * stride + a * rank_stride];
      for (std::int64_t b = 0; b < r; ++b) {
        sums[static_cast<std::size_t>(a * r + b)] += value * m[i * stride + b * rank_stride];
      }
    }
  }
  return sums;
}

/// A factor of an adapter in a client's shape; no values if the client lacks the adapter.
struct FactorValues {
  std::vector<float> frozen;  ///< a copy; empty if the client sent the factor
  const float* data = nullptr;
  std::vector<std::int64_t> shape;
};

/// As the client sent it. A frozen one is in no update, but the server has it. Only its own range
/// is gathered: the other frozen values may be most of a large model.
FactorValues factor_values(const Experiment& experiment, const Update& update, int entry) {
  const BufferLayout::Place& sent = update.buffer_layout->place(entry);
  FactorValues factor;
  if (sent.present) {
    factor.shape = sent.shape;
    factor.data = floats_of(*update.values).data() + sent.offset;
    return factor;
  }
  PlanCache& plans = *experiment.plans;
  const auto all = plans.buffer_layout(Submodel::full(*experiment.model.layout), Packing::frozen);
  const auto own = plans.buffer_layout(update.buffer_layout->submodel(), Packing::frozen);
  const BufferLayout::Place& place = own->place(entry);
  if (!place.present) return factor;
  std::vector<double> values(static_cast<std::size_t>(place.count), 0.0);
  std::vector<double> holders(values.size(), 0.0);
  plans.plan(*all, *own, nullptr, kFrozen)
      ->accumulate({place.offset, place.offset + place.count},
                   experiment.frozen->buffer().const_data_ptr<float>(), 1, values.data(),
                   holders.data());
  factor.shape = place.shape;
  factor.frozen.assign(values.begin(), values.end());
  factor.data = factor.frozen.data();
  return factor;
}

/// ||B A||_F of a client: the root of the sum of (B^T B)[a, b] (A A^T)[a, b]; 0 if it lacks one.
double product_norm(const Experiment& experiment, const Update& update, const Adapter& adapter) {
  const FactorValues up = factor_values(experiment, update, adapter.up);
  const FactorValues down = factor_values(experiment, update, adapter.down);
  if (up.data == nullptr || down.data == nullptr) return 0;
  const std::int64_t r = down.shape[0];
  const std::int64_t out = up.shape[0], in = down.shape[1];
  const std::vector<double> b = gram(up.data, out, r, r, 1);
  const std::vector<double> a = gram(down.data, in, r, 1, in);
  double square = 0;
  for (std::size_t i = 0; i < a.size(); ++i) square += a[i] * b[i];
  return std::sqrt(std::max(0.0, square));
}

/// A client keeps its personal values, so the server could not compute the norms.
void refuse_half_personal(const Layout& layout) {
  for (const Adapter& adapter : layout.adapters) {
    const Entry& down = layout.entries[static_cast<std::size_t>(adapter.down)];
    const Entry& up = layout.entries[static_cast<std::size_t>(adapter.up)];
    const auto is_merged = [](const Entry& entry) {
      return !entry.personal && entry.kind == Kind::trainable;
    };
    if ((!down.personal || !is_merged(up)) && (!up.personal || !is_merged(down))) continue;
    throw InputError(
        formatted("method.merge = adapter_norms weighs {} by its product with {}, which "
                  "method.personal keeps from the server: name both there, or set "
                  "method.merge = average",
                  down.personal ? up.name : down.name, down.personal ? down.name : up.name));
  }
}

/// Each adapter is the mean of the clients' adapters, padded with zeros, with weights in proportion
/// to ||B A||_F; all else is averaged as usual.
class AdapterNorms : public AverageMerge {
 public:
  explicit AdapterNorms(const RuleContext& context) : AverageMerge(context) {
    refuse_without_adapters(context.experiment);
    refuse_half_personal(*context.experiment.model.layout);
  }

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    AverageMerge::merge(experiment, model, updates);
    for (const Adapter& adapter : experiment.model.layout->adapters) {
      const std::vector<double> weights = weights_of(experiment, updates, adapter);
      double total = 0;
      for (const double weight : weights) total += weight;
      if (total == 0) continue;  // no client has the adapter, or all products are zero
      for (const int entry : {adapter.down, adapter.up}) {
        const Kind kind = experiment.model.layout->entries[static_cast<std::size_t>(entry)].kind;
        if (kind == Kind::frozen) continue;
        merge_entry(experiment, model, updates, weights, total, entry);
      }
    }
  }

 private:
  std::vector<double> weights_of(const Experiment& experiment, std::span<const Update> updates,
                                 const Adapter& adapter) const {
    std::vector<double> weights;
    for (const Update& update : updates) {
      weights.push_back(product_norm(experiment, update, adapter) * staleness_weight(update));
    }
    return weights;
  }

  /// Values that no client has stay as they are.
  static void merge_entry(const Experiment& experiment, Parameters& model,
                          std::span<const Update> updates, const std::vector<double>& weights,
                          double total, int entry) {
    const BufferLayout::Place& place = model.buffer_layout().place(entry);
    const Range range{place.offset, place.offset + place.count};
    std::vector<double> sums(static_cast<std::size_t>(place.count), 0.0);
    std::vector<double> holders(sums.size(), 0.0);
    for (std::size_t i = 0; i < updates.size(); ++i) {
      if (weights[i] == 0) continue;
      experiment.plans->plan(*updates[i].buffer_layout, model.buffer_layout(), nullptr, kTrained)
          ->accumulate(range, floats_of(*updates[i].values).data(), weights[i], sums.data(),
                       holders.data());
    }
    float* const values = model.data() + place.offset;
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (holders[i] > 0) values[i] = static_cast<float>(sums[i] / total);
    }
  }
};

}  // namespace

void register_hetlora(Catalogue& c) {
  declare_width_options(c.options);
  c.submodels.add("ranks", "leading ranks of every adapter, by the client's width",
                  {make_rule<LeadingRanks>});
  c.merges.add("adapter_norms",
               "adapters padded with zeros and weighted by the norms of their products",
               make_rule<AdapterNorms>);
  Method method;
  method.submodel = "ranks";
  method.merge = "adapter_norms";
  method.defaults = {{"train.only", "adapters"}, {"model.adapter_rank", "8"}};
  c.methods.add("hetlora", "adapters with a rank for each client (Cho et al. 2024)", method);
}

}  // namespace espalier::rounds
