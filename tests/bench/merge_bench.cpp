// The server's work for a round of two updates of a whole model, in copies of the model: packing
// the payload, looking for values that are not finite, merging. On the layout of an MLP of 25
// million parameters, which no cache holds.

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "espalier/base/wide_sums.h"
#include "espalier/protocol/rounds/merge.h"
#include "espalier/train/trainer.h"
#include "pairs.h"

int main() {
  using namespace espalier;
  constexpr int kRepeats = 3;
  auto layout = std::make_shared<Layout>();
  const int in = layout->add_axis("in", 784, false), first = layout->add_axis("first", 4500),
            second = layout->add_axis("second", 4800);
  const int block = layout->add_block("all");
  const auto add = [&](const char* name, std::vector<Dimension> dimensions) {
    layout->add_entry({name, Kind::trainable, block, std::move(dimensions), {}});
  };
  add("a.weight", {layout->along(first), layout->along(in)});
  add("a.bias", {layout->along(first)});
  add("b.weight", {layout->along(second), layout->along(first)});
  add("b.bias", {layout->along(second)});
  PlanCache plans(layout);
  const auto submodel = Submodel::full(*layout);
  const auto dense = plans.buffer_layout(submodel, Packing::shared);
  Parameters model(plans.buffer_layout(submodel, Packing::aligned));
  initialise(model, 1);
  const auto plan = plans.plan(*dense, model.buffer_layout(), nullptr, kTrained);
  const SharedBytes one = pack_payload(plans, model, *dense);
  const SharedBytes other = pack_payload(plans, model, *dense);
  const auto work = [&] {
    const SharedBytes payload = pack_payload(plans, model, *dense);
    std::vector<rounds::Holding> holdings;
    for (const SharedBytes& update : {one, other}) {
      if (!all_finite(floats_of(*update))) std::abort();
      holdings.push_back({plan, floats_of(*update).data(), 1.0 + 0.3 * holdings.size()});
    }
    rounds::weighted_mean(model, holdings);
  };
  std::vector<float> from(model.data(), model.data() + model.buffer_layout().size()), to(from);
  const auto copy = [&] { std::memcpy(to.data(), from.data(), from.size() * sizeof(float)); };
  const double ratio = time_ratio("server's work a round", work, copy, kRepeats);
  return report("server's work a round with two updates, in copies of the model", ratio, 6) ? 0 : 1;
}
