// HetLoRA: submodels of ranks, and the merge against its formula in ATen.

#include "espalier/method/hetlora.h"

#include <gtest/gtest.h>

#include "espalier/protocol/rounds/personal.h"
#include "fixture.h"

namespace espalier::rounds {
namespace {

const char* const kInput =
    "[model]\nname = mlp\nhidden = 6\nadapter_rank = 4\n[method]\nname = hetlora\n"
    "widths = 1, 0.5\n[clients]\ncount = 2\n[train]\nonly = adapters, head\n";

struct Scene {
  std::unique_ptr<Setting> setting;
  const Experiment& e;
  ServerRules rules;
  Parameters model{e.plans->buffer_layout(Submodel::full(*e.model.layout), Packing::aligned)};

  explicit Scene(const std::string& more = "")
      : setting(make_setting(kInput, more)),
        e(setting->experiment),
        rules(build_rules(rounds_catalogue(), rule_names(rounds_catalogue(), setting->config),
                          setting->config, e)) {
    initialise(model, 1);
    e.frozen->share(model);
  }

  /// A client's trained values, in its own shapes.
  Update update(std::int64_t client) {
    const Submodel submodel = rules.submodel->choose(e, {client, 0, 0}).submodel;
    const auto layout = e.plans->buffer_layout(submodel, Packing::shared);
    auto values = std::make_shared<Bytes>(static_cast<std::size_t>(payload_bytes(*layout)));
    float* const v = floats_of(*values).data();
    for (std::int64_t i = 0; i < layout->count(); ++i) {
      v[i] = std::sin(static_cast<float>(i + 1) * static_cast<float>(client + 2));
    }
    return {.client = client,
            .samples = 10 * (client + 1),
            .buffer_layout = layout,
            .values = values,
            .sent = values};
  }

  static at::Tensor values_of(const Update& update, int entry) {
    const BufferLayout::Place& place = update.buffer_layout->place(entry);
    return at::from_blob(const_cast<float*>(floats_of(*update.values).data()) + place.offset,
                         place.shape)
        .to(at::kDouble);
  }
};

TEST(Hetlora, ClientsKeepLeadingRanksAndAllElse) {
  Scene s;
  for (const auto& [client, rank] : {std::pair(0, 4), std::pair(1, 2)}) {
    const Submodel submodel = s.rules.submodel->choose(s.e, {client, 0, 0}).submodel;
    for (int axis = 0; axis < submodel.axes(); ++axis) {
      const bool is_rank =
          s.e.model.layout->axes[static_cast<std::size_t>(axis)].name.ends_with("rank");
      EXPECT_EQ(submodel.width(axis), is_rank ? rank : submodel.full_width(axis));
    }
    EXPECT_EQ(submodel.blocks(), 2);
  }
}

TEST(Hetlora, MergesByTheNormsOfTheProducts) {
  Scene s;
  std::vector<Update> updates{s.update(0), s.update(1)};
  s.rules.merge->merge(s.e, s.model, updates);
  for (const Adapter& adapter : s.e.model.layout->adapters) {
    at::Tensor up = at::zeros(s.model[adapter.up].sizes(), at::kDouble);
    at::Tensor down = at::zeros(s.model[adapter.down].sizes(), at::kDouble);
    double total = 0;
    for (const Update& update : updates) {
      const at::Tensor b = Scene::values_of(update, adapter.up);
      const at::Tensor a = Scene::values_of(update, adapter.down);
      const double norm = at::matmul(b, a).norm().item<double>();
      up.narrow(1, 0, b.size(1)).add_(b, norm);
      down.narrow(0, 0, a.size(0)).add_(a, norm);
      total += norm;
    }
    EXPECT_TRUE(at::allclose(s.model[adapter.up].to(at::kDouble), up / total, 1e-6, 1e-7));
    EXPECT_TRUE(at::allclose(s.model[adapter.down].to(at::kDouble), down / total, 1e-6, 1e-7));
  }
  // The head is averaged by samples.
  const int bias = static_cast<int>(s.e.model.layout->entries.size()) - 3;
  ASSERT_EQ(s.e.model.layout->entries[static_cast<std::size_t>(bias)].name, "fc2.bias");
  const at::Tensor expected =
      (Scene::values_of(updates[0], bias) * 10 + Scene::values_of(updates[1], bias) * 20) / 30;
  EXPECT_TRUE(at::allclose(s.model[bias].to(at::kDouble), expected, 1e-6, 1e-7));
}

TEST(Hetlora, RanksThatNoClientHasStay) {
  Scene s;
  const Parameters before = s.model.copy();
  std::vector<Update> updates{s.update(1)};
  s.rules.merge->merge(s.e, s.model, updates);
  const int down = s.e.model.layout->adapters.front().down;
  EXPECT_TRUE(at::equal(s.model[down].narrow(0, 2, 2), before[down].narrow(0, 2, 2)));
  EXPECT_FALSE(at::equal(s.model[down].narrow(0, 0, 2), before[down].narrow(0, 0, 2)));
}

TEST(Hetlora, FrozenFactorsTakePartInTheNorms) {
  Scene s("[train]\nfreeze = *.lora_A.weight\n");
  const Parameters before = s.model.copy();
  std::vector<Update> updates{s.update(0), s.update(1)};
  s.rules.merge->merge(s.e, s.model, updates);
  for (const Adapter& adapter : s.e.model.layout->adapters) {
    at::Tensor up = at::zeros(s.model[adapter.up].sizes(), at::kDouble);
    double total = 0;
    for (const Update& update : updates) {
      const at::Tensor b = Scene::values_of(update, adapter.up);
      const at::Tensor a = before[adapter.down].narrow(0, 0, b.size(1)).to(at::kDouble);
      const double norm = at::matmul(b, a).norm().item<double>();
      up.narrow(1, 0, b.size(1)).add_(b, norm);
      total += norm;
    }
    EXPECT_TRUE(at::allclose(s.model[adapter.up].to(at::kDouble), up / total, 1e-6, 1e-7));
    EXPECT_TRUE(at::equal(s.model[adapter.down], before[adapter.down]));
  }
}

TEST(Hetlora, RefusesNormsOfFactorsThatStayWithClients) {
  for (const char* const factor : {"*.lora_A.weight", "fc2.lora_B.weight"}) {
    const auto s = make_setting(kInput, formatted("[method]\npersonal = {}\n", factor));
    mark_personal(s->config, s->experiment);
    EXPECT_THROW(build_rules(rounds_catalogue(), rule_names(rounds_catalogue(), s->config),
                             s->config, s->experiment),
                 InputError);
  }
  // Adapters that stay as a whole are in no update, and everything else is averaged.
  const auto s = make_setting(kInput, "[method]\npersonal = adapters\n");
  mark_personal(s->config, s->experiment);
  build_rules(rounds_catalogue(), rule_names(rounds_catalogue(), s->config), s->config,
              s->experiment);
}

TEST(Hetlora, NeedsAdapters) {
  const auto s = make_setting("[model]\nname = mlp\nadapter_rank = 0\n[method]\nname = hetlora\n",
                              "[train]\nonly = head\n");
  EXPECT_THROW(build_rules(rounds_catalogue(), rule_names(rounds_catalogue(), s->config), s->config,
                           s->experiment),
               InputError);
}

}  // namespace
}  // namespace espalier::rounds
