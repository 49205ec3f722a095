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

/// ||B A||_F of a client's values: the root of the sum of (B^T B)[a, b] (A A^T)[a, b].
double product_norm(const Update& update, const Adapter& adapter) {
  const BufferLayout::Place& up = update.buffer_layout->place(adapter.up);
  const BufferLayout::Place& down = update.buffer_layout->place(adapter.down);
  const float* const values = floats_of(*update.values).data();
  const std::int64_t r = down.shape[0];
  const std::int64_t in = down.count / r;
  const std::vector<double> b = gram(values + up.offset, up.count / r, r, r, 1);
  const std::vector<double> a = gram(values + down.offset, in, r, 1, in);
  double square = 0;
  for (std::size_t i = 0; i < a.size(); ++i) square += a[i] * b[i];
  return std::sqrt(std::max(0.0, square));
}

/// Each adapter is the mean of the clients' adapters, padded with zeros, with weights in proportion
/// to ||B A||_F; all else is averaged as usual.
class AdapterNorms : public AverageMerge {
 public:
  explicit AdapterNorms(const RuleContext& context) : AverageMerge(context) {
    refuse_without_adapters(context.experiment);
  }

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    AverageMerge::merge(experiment, model, updates);
    for (const Adapter& adapter : experiment.model.layout->adapters) {
      const std::vector<double> weights = weights_of(updates, adapter);
      double total = 0;
      for (const double weight : weights) total += weight;
      if (total == 0) continue;  // no client has the adapter, or all products are zero
      for (const int entry : {adapter.down, adapter.up}) {
        merge_entry(experiment, model, updates, weights, total, entry);
      }
    }
  }

 private:
  std::vector<double> weights_of(std::span<const Update> updates, const Adapter& adapter) const {
    std::vector<double> weights;
    for (const Update& update : updates) {
      const bool has = update.buffer_layout->place(adapter.up).present;
      weights.push_back(has ? product_norm(update, adapter) * staleness_weight(update) : 0);
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
