// Frozen entries: which they are, one copy on a rank, tasks that train beside them; and adapters
// beside frozen weights against the same training written with ATen.

#include "espalier/train/frozen.h"

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <set>

#include "espalier/data/partition.h"
#include "espalier/model/unit_window.h"
#include "espalier/protocol/rounds/clients.h"
#include "fixture.h"

namespace espalier::rounds {
namespace {

const char* const kModel =
    "[data]\nsynthetic_samples = 60\n[model]\nname = mlp\nhidden = 24, 12\n[train]\nbatch = 20\n"
    "lr = 0.1\nepochs = 2\n";

std::set<std::string> trained_names(const Setting& s) {
  std::set<std::string> names;
  for (const Entry& entry : s.experiment.model.layout->entries) {
    if (entry.kind == Kind::trainable) names.insert(entry.name);
  }
  return names;
}

Parameters first_values(const Experiment& e) {
  Parameters model(e.plans->buffer_layout(Submodel::full(*e.model.layout), Packing::aligned));
  initialise(model, e.seed);
  if (e.frozen) e.frozen->share(model);
  return model;
}

TrainedTask train_shared(const Setting& s, const Submodel& submodel) {
  const Experiment& e = s.experiment;
  return train_from(
      s, submodel,
      pack_payload(*e.plans, first_values(e), *e.plans->buffer_layout(submodel, Packing::shared)));
}

TEST(Frozen, NamesWhatIsFrozenOrTheRest) {
  using Names = std::set<std::string>;
  const auto names = [](const char* text) { return trained_names(*make_setting(kModel, text)); };
  EXPECT_EQ(names("[train]\nfreeze = fc1.*, fc2.bias\n"),
            (Names{"fc2.weight", "fc3.weight", "fc3.bias"}));
  EXPECT_EQ(names("[train]\nonly = head\n"), (Names{"fc3.weight", "fc3.bias"}));
  EXPECT_EQ(names("[train]\nonly = head\nfreeze = *.bias\n"), (Names{"fc3.weight"}));
  EXPECT_EQ(names("[train]\nonly = norms\n[model]\nnorm = layer\n"),
            (Names{"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"}));
  EXPECT_EQ(names("[train]\nonly = adapters\n[model]\nadapter_rank = 2\nadapter_modules = fc2\n"),
            (Names{"fc2.lora_A.weight", "fc2.lora_B.weight"}));
}

TEST(Frozen, RefusesPatternsOfNothingAndOfEverything) {
  for (const char* text :
       {"[train]\nonly = haed\n", "[train]\nfreeze = *\n", "[train]\nonly = head\nfreeze = head\n",
        "[train]\nonly = adapters\n", "[train]\nonly = norms\n",
        "[model]\nadapter_rank = 2\nadapter_modules = fc7\n"}) {
    EXPECT_THROW(make_setting(kModel, text), InputError) << text;
  }
}

TEST(Frozen, NothingFrozenIsAsBefore) {
  const auto s = make_setting(kModel, "");
  EXPECT_FALSE(s->experiment.frozen);
}

TEST(Frozen, WholeValuesAreTheRanksOwnAndCutOnesCopies) {
  const auto s = make_setting(kModel, "[train]\nonly = head\n");
  const Experiment& e = s->experiment;
  const Parameters model = first_values(e);
  auto account = MemoryAccount::create(0);
  const MemoryScope scope(account);
  const Submodel full = Submodel::full(*e.model.layout);
  const auto whole = e.plans->buffer_layout(full, Packing::aligned);
  {
    const Parameters own = e.allocate(whole);
    EXPECT_EQ(own[0].const_data_ptr<float>(), model[0].const_data_ptr<float>());
    EXPECT_EQ(account->held_bytes(), whole->size() * 4) << "they are charged all the same";
    const Parameters copy = own.copy();
    EXPECT_EQ(copy[0].const_data_ptr<float>(), model[0].const_data_ptr<float>());
    EXPECT_EQ(account->held_bytes(), (whole->size() + whole->size_without_frozen()) * 4);
  }
  EXPECT_EQ(account->held_bytes(), 0);
  const Submodel half = window_submodel(*e.model.layout, 0.5, 3);
  const Parameters cut = e.allocate(e.plans->buffer_layout(half, Packing::aligned));
  const auto rows = half.units(1);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_TRUE(at::equal(cut[0][static_cast<std::int64_t>(i)], model[0][rows[i]]));
  }
}

TEST(Frozen, ATaskSendsAndTrainsTheRestAlone) {
  const auto s = make_setting(kModel, "[train]\nonly = head\noptimizer = adam\n");
  const Experiment& e = s->experiment;
  for (const double width : {1.0, 0.5}) {
    const Submodel submodel = window_submodel(*e.model.layout, width, 0);
    const TrainedTask task = train_shared(*s, submodel);
    const std::int64_t units = submodel.width(2);  // of the last hidden layer
    EXPECT_EQ(std::ssize(task.sent), 10 * units + 10);
    EXPECT_NE(task.sent, task.values);
    const std::int64_t bound = task_cost(e, LocalObjective(), submodel, e.train.batch).peak_bytes;
    EXPECT_LE(task.result.peak_bytes, bound);
    EXPECT_GE(1.25 * static_cast<double>(task.result.peak_bytes), static_cast<double>(bound));
  }
}

TEST(Frozen, ASubmodelWithoutTrainedEntriesIsLeftAsItIs) {
  const auto s = make_setting("[model]\nname = vit\nembed = 8\nheads = 2\ndepth = 2\n",
                              "[train]\nonly = blocks.1\n");
  const TrainedTask task = train_shared(*s, cut_depth(s->experiment.model, 1));
  EXPECT_EQ(task.sent, task.values);
  EXPECT_GT(task.result.train_loss, 0);
}

/// Centralised training of the adapters of an mlp with two hidden layers, in ATen.
struct Centralised {
  std::vector<at::Tensor> w, b, down, up;
  double scale, lr;

  Centralised(const Parameters& model, double scale, double lr) : scale(scale), lr(lr) {
    const Layout& layout = model.buffer_layout().layout();
    for (std::size_t i = 0; i < layout.entries.size(); ++i) {
      const std::string& name = layout.entries[i].name;
      auto& list = name.ends_with("lora_A.weight")   ? down
                   : name.ends_with("lora_B.weight") ? up
                   : name.ends_with(".bias")         ? b
                                                     : w;
      list.push_back(model[static_cast<int>(i)].clone());
    }
    for (auto* factors : {&down, &up}) {
      for (at::Tensor& factor : *factors) factor.set_requires_grad(true);
    }
  }

  void step(const Batch& batch) {
    at::Tensor x = batch.inputs.flatten(1);
    for (std::size_t layer = 0; layer < w.size(); ++layer) {
      if (layer > 0) x = at::relu(x);
      x = at::addmm(at::linear(x, w[layer], b[layer]), at::linear(x, down[layer]), up[layer].t(), 1,
                    scale);
    }
    at::cross_entropy_loss(x, batch.labels).backward();
    const c10::NoGradGuard no_grad;
    for (auto* factors : {&down, &up}) {
      for (at::Tensor& factor : *factors) {
        factor.add_(factor.grad(), -lr);
        factor.mutable_grad() = at::Tensor();
      }
    }
  }
};

TEST(Lora, OneClientEqualsCentralisedTrainingWithATen) {
  const auto s = make_setting(
      kModel, "[model]\nadapter_rank = 4\nadapter_alpha = 8\n[train]\nonly = adapters\n");
  const Experiment& e = s->experiment;
  const Parameters model = first_values(e);
  Centralised reference(model, 2, e.train.lr);
  for (std::int64_t epoch = 0; epoch < e.train.epochs; ++epoch) {
    const auto order = epoch_order(e.seed, 0, 0, epoch, e.partition->samples(0));
    for (std::size_t first = 0; first < order.size(); first += 20) {
      reference.step(e.data.train->batch(std::span(order).subspan(first, 20)));
    }
  }
  const Submodel full = Submodel::full(*e.model.layout);
  const TrainedTask task = train_shared(*s, full);
  const auto shared = e.plans->buffer_layout(full, Packing::shared);
  std::size_t layer = 0;
  for (const Adapter& adapter : e.model.layout->adapters) {
    for (const int entry : {adapter.down, adapter.up}) {
      const at::Tensor& expected =
          entry == adapter.down ? reference.down[layer] : reference.up[layer];
      const at::Tensor trained =
          at::tensor(at::ArrayRef<float>(task.values.data() + shared->place(entry).offset,
                                         static_cast<std::size_t>(shared->place(entry).count)))
              .view(expected.sizes());
      EXPECT_TRUE(at::equal(trained, expected.detach()))
          << (trained - expected.detach()).abs().max().item<float>() << " in entry " << entry;
      EXPECT_FALSE(at::equal(trained, model[entry]));
    }
    ++layer;
  }
  EXPECT_EQ(layer, 3u);
  EXPECT_EQ(std::ssize(task.values), shared->count());
}

}  // namespace
}  // namespace espalier::rounds
