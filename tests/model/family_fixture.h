#pragma once
// Common parts of the tests of model families: models from settings, parameters by name, inputs,
// selections of units.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "espalier/model/model.h"
#include "espalier/model/plan.h"
#include "purpose.h"
#include "same_bits.h"

namespace espalier {

/// One thread, the default of runs: on a busy machine several threads spend their time waiting.
class OneThread : public ::testing::Environment {
  void SetUp() override { at::set_num_threads(1); }
};
inline ::testing::Environment* const one_thread =
    ::testing::AddGlobalTestEnvironment(new OneThread);

using Settings = std::map<std::string, std::string>;

inline bool takes_signals(const Settings& settings) { return settings.at("name") == "cnn1d"; }

/// The shape of data for a test that has no other wish.
inline DataShape usual_shape(const Settings& settings) {
  return takes_signals(settings) ? DataShape{{3, 60}, 10} : DataShape{{1, 28, 28}, 10};
}

inline Model make(const Settings& settings, const DataShape& shape) {
  OptionTable table;
  declare_model_options(table);
  Config config(std::move(table));
  for (const auto& [key, value] : settings) config.set("model." + key, value, "test");
  return build_model(config, shape);
}

inline Model make(const Settings& settings) { return make(settings, usual_shape(settings)); }

inline Parameters values_of(const Model& model, const Submodel& submodel) {
  return Parameters(std::make_shared<const BufferLayout>(model.layout, submodel, Packing::aligned));
}

/// A full model with PyTorch's first values.
inline Parameters full_values(const Model& model) {
  Parameters p = values_of(model, Submodel::full(*model.layout));
  initialise(p, 7);
  return p;
}

inline int entry_named(const Model& model, const std::string& name) {
  for (std::size_t i = 0; i < model.layout->entries.size(); ++i) {
    if (model.layout->entries[i].name == name) return static_cast<int>(i);
  }
  ADD_FAILURE() << "no entry " << name;
  return 0;
}

/// Parameters by name.
class Named {
 public:
  Named(const Model& model, const Parameters& parameters)
      : model_(model), parameters_(parameters) {}
  const at::Tensor& operator[](const std::string& name) const {
    return parameters_[entry_named(model_, name)];
  }

 private:
  const Model& model_;
  const Parameters& parameters_;
};

inline at::Tensor images(std::int64_t batch, std::vector<std::int64_t> shape,
                         std::uint64_t key = 0) {
  Stream stream(11, kTest, key);
  shape.insert(shape.begin(), batch);
  at::Tensor x = at::empty(shape);
  float* data = x.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < x.numel(); ++i) data[i] = static_cast<float>(stream.normal());
  return x;
}

inline at::Tensor run(const Model& model, const Parameters& p, const at::Tensor& x,
                      Mode mode = Mode::evaluate, std::vector<at::Tensor>* statistics = nullptr,
                      bool scaler = false) {
  c10::NoGradGuard no_grad;
  Context context;
  context.mode = mode;
  context.statistics = statistics;
  context.scaler = scaler;
  return forward(model, p, x, context);
}

enum class Choice { leading, rolling, random, smallest };

/// Keeps ceil(fraction x width) units of every axis that can be cut.
inline Submodel select(const Layout& layout, double fraction, Choice choice) {
  Submodel submodel = Submodel::full(layout);
  for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
    if (!layout.axes[axis].cuttable) continue;
    const std::int64_t size = layout.axes[axis].size;
    const std::int64_t kept =
        choice == Choice::smallest
            ? 1
            : static_cast<std::int64_t>(std::ceil(fraction * static_cast<double>(size)));
    std::vector<std::int64_t> units(static_cast<std::size_t>(kept));
    if (choice == Choice::random) {
      units = Stream(3, kTest, axis).choose(kept, size);
    } else {
      const std::int64_t start = choice == Choice::rolling ? size - (kept + 1) / 2 : 0;
      for (std::int64_t k = 0; k < kept; ++k)
        units[static_cast<std::size_t>(k)] = (start + k) % size;
      std::sort(units.begin(), units.end());
    }
    submodel.keep(static_cast<int>(axis), units);
  }
  return submodel;
}

inline Parameters sliced(const Model& model, const Parameters& full, const Submodel& submodel) {
  Parameters small = values_of(model, submodel);
  Plan(full.buffer_layout(), small.buffer_layout()).copy(full.data(), small.data());
  return small;
}

// Different kernels add the same terms in another order: at most n = 3136 terms a sum here, each
// result within about sqrt(n) x 2^-24 of its terms' size; relative to the largest value, or to 1.
constexpr double kTolerance = 2e-5;

inline void expect_close(const at::Tensor& a, const at::Tensor& b, double tolerance = kTolerance) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LE((a - b).abs().max().item<double>(),
            tolerance * std::max(1.0, b.abs().max().item<double>()));
  EXPECT_TRUE(a.isfinite().all().item<bool>());
}

inline std::int64_t trainable_count(const Model& model) {
  return BufferLayout(model.layout, Submodel::full(*model.layout), Packing::dense)
      .count(Kind::trainable);
}

}  // namespace espalier
