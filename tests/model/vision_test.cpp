// vgg and resnet against an independent implementation in double precision on the same parameters,
// against torchvision's published sizes, and with blocks left out.

#include <set>

#include "family_fixture.h"
#include "purpose.h"

namespace espalier {
namespace {

const DataShape kCifar{{3, 32, 32}, 10};
const DataShape kSmall{{3, 16, 16}, 10};
const DataShape kImageNet{{3, 224, 224}, 1000};

Settings vgg(const std::string& depth, const Settings& more = {}) {
  Settings settings{{"name", "vgg"}, {"depth", depth}, {"norm", "batch"}};
  for (const auto& [key, value] : more) settings[key] = value;
  return settings;
}

Settings resnet(const std::string& depth, const Settings& more = {}) {
  Settings settings{{"name", "resnet"}, {"depth", depth}, {"norm", "batch"}};
  for (const auto& [key, value] : more) settings[key] = value;
  return settings;
}

std::string show(const Settings& settings) {
  std::string text;
  for (const auto& [key, value] : settings) text += key + "=" + value + " ";
  return text;
}

/// One pass by the formulas, in double precision and in one mode. Batch statistics stay with it.
class Plain {
 public:
  Plain(const Model& model, const Parameters& p, Mode mode) : model_(model), p_(p), mode_(mode) {}

  at::Tensor parameter(const std::string& name) {
    used_.insert(name);
    return p_[entry_named(model_, name)].to(at::kDouble);
  }
  bool has(const std::string& name) const {
    for (std::size_t i = 0; i < model_.layout->entries.size(); ++i) {
      const Entry& entry = model_.layout->entries[i];
      if (entry.name == name) return p_.submodel().has_block(entry.block);
    }
    return false;
  }
  at::Tensor convolution(const std::string& name, const at::Tensor& x, std::int64_t stride) {
    const at::Tensor weight = parameter(name + ".weight");
    const std::int64_t padding = weight.size(2) / 2;
    return at::conv2d(x, weight, has(name + ".bias") ? parameter(name + ".bias") : at::Tensor(),
                      {stride, stride}, {padding, padding});
  }
  at::Tensor norm(const std::string& name, const at::Tensor& x) {
    if (!has(name + ".weight")) return x;
    const auto channels = [](const at::Tensor& t) { return t.view({1, -1, 1, 1}); };
    at::Tensor mean, variance;
    const double n = static_cast<double>(x.numel() / x.size(1));
    if (mode_ == Mode::evaluate) {
      mean = parameter(name + ".running_mean");
      variance = parameter(name + ".running_var");
    } else {
      mean = x.sum(at::IntArrayRef{0, 2, 3}) / n;
      variance = (x - channels(mean)).square().sum(at::IntArrayRef{0, 2, 3}) / n;
      statistics[name + ".running_mean"] = mean.detach();
      statistics[name + ".running_var"] = variance.detach() * (n / (n - 1));
    }
    return (x - channels(mean)) / channels((variance + 1e-5).sqrt()) *
               channels(parameter(name + ".weight")) +
           channels(parameter(name + ".bias"));
  }
  at::Tensor linear(const std::string& name, const at::Tensor& x) {
    return at::addmm(parameter(name + ".bias"), x, parameter(name + ".weight").t());
  }

  at::Tensor resnet(const at::Tensor& images, bool imagenet, std::vector<int> blocks) {
    at::Tensor x = norm("bn1", convolution("conv1", images.to(at::kDouble), imagenet ? 2 : 1));
    x = at::relu(x);
    if (imagenet) x = at::max_pool2d(x, {3, 3}, {2, 2}, {1, 1});
    for (std::size_t stage = 0; stage < blocks.size(); ++stage) {
      for (int i = 0; i < blocks[stage]; ++i) {
        const std::string b = "layer" + std::to_string(stage + 1) + "." + std::to_string(i) + ".";
        if (!has(b + "conv1.weight")) continue;
        const bool bottleneck = has(b + "conv3.weight");
        const std::int64_t stride = stage > 0 && i == 0 ? 2 : 1;
        at::Tensor y = norm(b + "bn1", convolution(b + "conv1", x, bottleneck ? 1 : stride));
        y = norm(b + "bn2", convolution(b + "conv2", at::relu(y), bottleneck ? stride : 1));
        if (bottleneck) y = norm(b + "bn3", convolution(b + "conv3", at::relu(y), 1));
        if (has(b + "downsample.0.weight")) {
          x = norm(b + "downsample.1", convolution(b + "downsample.0", x, stride));
        }
        x = at::relu(x + y);
      }
    }
    return linear("fc", x.mean(at::IntArrayRef{2, 3}));
  }

  /// `plan`: C = a convolution with norm and ReLU, M = pooling.
  at::Tensor vgg(const at::Tensor& images, const std::string& plan, bool norms, int hidden) {
    at::Tensor x = images.to(at::kDouble);
    int place = 0;
    for (const char step : plan) {
      if (step == 'M') {
        if (x.size(2) > 1) x = at::max_pool2d(x, 2);
        ++place;
        continue;
      }
      x = convolution("features." + std::to_string(place), x, 1);
      x = at::relu(norm("features." + std::to_string(place + 1), x));
      place += norms ? 3 : 2;
    }
    x = x.flatten(1);
    if (hidden == 0) return linear("classifier", x);
    for (int i = 0; i < hidden; ++i) {
      x = at::relu(linear("classifier." + std::to_string(3 * i), x));
    }
    return linear("classifier." + std::to_string(3 * hidden), x);
  }

  /// Every entry that a pass in this mode must have read.
  void expect_all_used() const {
    for (const Entry& entry : model_.layout->entries) {
      if (entry.kind == Kind::statistic && mode_ != Mode::evaluate) continue;
      EXPECT_EQ(used_.count(entry.name), p_.submodel().has_block(entry.block) ? 1U : 0U)
          << entry.name;
    }
  }

  std::map<std::string, at::Tensor> statistics;

 private:
  const Model& model_;
  const Parameters& p_;
  Mode mode_;
  std::set<std::string> used_;
};

using Pass = std::function<at::Tensor(Plain&, const at::Tensor&)>;

struct Case {
  Settings settings;
  Pass plain;
  DataShape shape = kCifar;
};

std::vector<Case> cases() {
  const auto net = [](bool imagenet, std::vector<int> blocks) {
    return [=](Plain& p, const at::Tensor& x) { return p.resnet(x, imagenet, blocks); };
  };
  const auto plan = [](std::string steps, bool norms, int hidden) {
    return [=](Plain& p, const at::Tensor& x) { return p.vgg(x, steps, norms, hidden); };
  };
  const Settings slim{{"width", "6"}};
  return {
      {resnet("18", slim), net(false, {2, 2, 2, 2})},
      {resnet("34", slim), net(false, {3, 4, 6, 3}), kSmall},
      {resnet("50", slim), net(false, {3, 4, 6, 3}), kSmall},
      {resnet("18", {{"width", "6"}, {"stem", "imagenet"}}), net(true, {2, 2, 2, 2})},
      {resnet("50", {{"width", "6"}, {"stem", "imagenet"}}),
       net(true, {3, 4, 6, 3}),
       {{3, 45, 33}, 7}},
      {resnet("18", {{"width", "6"}, {"norm", "none"}}), net(false, {2, 2, 2, 2})},
      {vgg("11", slim), plan("CMCMCCMCCMCCM", true, 0)},
      {vgg("13", slim), plan("CCMCCMCCMCCMCCM", true, 0)},
      {vgg("16", slim), plan("CCMCCMCCCMCCCMCCCM", true, 0)},
      {vgg("11", {{"width", "6"}, {"norm", "none"}, {"classifier", "20,12"}}),
       plan("CMCMCCMCCMCCM", false, 2),
       {{3, 64, 97}, 7}},
      {vgg("11", slim), plan("CMCMCCMCCMCCM", true, 0), {{1, 28, 28}, 10}},
  };
}

/// First values, but norms that are not the identity.
Parameters random_values(const Model& model) {
  Parameters p = full_values(model);
  for (std::size_t e = 0; e < model.layout->entries.size(); ++e) {
    const Entry& entry = model.layout->entries[e];
    if (entry.dimensions.size() != 1) continue;
    Stream stream(5, kTest, e);
    const bool variance = entry.name.ends_with("running_var");
    const bool weight = entry.name.ends_with(".weight");
    at::Tensor view = p[static_cast<int>(e)];
    for (std::int64_t i = 0; i < view.numel(); ++i) {
      const double u = stream.uniform();
      view[i].fill_(variance ? 0.5 + u : weight ? 0.7 + 0.6 * u : u - 0.5);
    }
  }
  return p;
}

// Float against double. A layer's sums of n <= 700 terms are off by about sqrt(n) x 2^-24 = 1.6e-6
// of their size; batch norm over few values magnifies that layer by layer. Largest measured: 1e-5
// (18 and 34 layers), 4e-4 (50 layers with 24 values a channel at the end). A wrong formula is off
// by more than a hundredth.
constexpr double kAgainstDouble = 1e-3;

double distance(const at::Tensor& ours, const at::Tensor& theirs) {
  const double scale = std::max(theirs.abs().max().item<double>(), 1e-3);
  return (ours.to(at::kDouble) - theirs).abs().max().item<double>() / scale;
}

void expect_near(const at::Tensor& ours, const at::Tensor& theirs, const std::string& what) {
  ASSERT_EQ(ours.sizes(), theirs.sizes()) << what;
  EXPECT_LE(distance(ours, theirs), kAgainstDouble) << what;
}

/// Checks a step's outputs; returns the distance of its gradients from the gradients of the
/// formulas.
double training_distance(const Case& c, std::uint64_t key) {
  const Model model = make(c.settings, c.shape);
  Parameters p = random_values(model);
  p.attach_gradients();
  const at::Tensor x = images(6, c.shape.sample, key);
  const at::Tensor y = at::arange(6, at::kLong).remainder(c.shape.classes);
  Context context;
  context.mode = Mode::train;
  const at::Tensor ours = forward(model, p, x, context);
  at::cross_entropy_loss(ours, y).backward();
  const at::Tensor gradients = p.gradients().clone();

  p.zero_gradients();
  Plain plain(model, p, Mode::train);
  const at::Tensor theirs = c.plain(plain, x);
  at::cross_entropy_loss(theirs, y).backward();
  plain.expect_all_used();
  expect_near(ours.detach(), theirs.detach(), show(c.settings));
  EXPECT_GT(gradients.abs().max().item<double>(), 1e-2) << show(c.settings);
  return distance(gradients, p.gradients().to(at::kDouble));
}

// A value within rounding of zero may be cut by one ReLU and pass the other, which changes a
// gradient by a hundredth; it happens to one batch in ten. So one of four batches must agree.
TEST(Vision, TrainingEqualsTheFormulasForwardAndBack) {
  for (const Case& c : cases()) {
    double least = 1;
    for (std::uint64_t key = 0; key < 4 && least > kAgainstDouble; ++key) {
      least = std::min(least, training_distance(c, key));
    }
    EXPECT_LE(least, kAgainstDouble) << show(c.settings);
  }
}

TEST(Vision, EvaluationEqualsTheFormulas) {
  for (const Case& c : cases()) {
    const Model model = make(c.settings, c.shape);
    const Parameters p = random_values(model);
    const at::Tensor x = images(3, c.shape.sample);
    Plain plain(model, p, Mode::evaluate);
    expect_near(run(model, p, x), c.plain(plain, x), show(c.settings));
    plain.expect_all_used();
  }
}

TEST(Vision, CalibrationHandsOutEachNormsMeanAndUnbiasedVariance) {
  for (const Case& c : cases()) {
    if (c.settings.at("norm") != "batch") continue;
    const Model model = make(c.settings, c.shape);
    const Parameters p = random_values(model);
    const at::Tensor x = images(6, c.shape.sample);
    std::vector<at::Tensor> statistics(model.layout->entries.size());
    Plain plain(model, p, Mode::calibrate);
    expect_near(run(model, p, x, Mode::calibrate, &statistics), c.plain(plain, x),
                show(c.settings));
    for (std::size_t e = 0; e < statistics.size(); ++e) {
      const Entry& entry = model.layout->entries[e];
      if (entry.kind != Kind::statistic) continue;
      expect_near(statistics[e], plain.statistics.at(entry.name), show(c.settings) + entry.name);
    }
  }
}

TEST(Vision, HaveTorchvisionsParametersToTheUnit) {
  EXPECT_EQ(trainable_count(make(resnet("18", {{"stem", "imagenet"}}), kImageNet)), 11689512);
  EXPECT_EQ(trainable_count(make(resnet("34", {{"stem", "imagenet"}}), kImageNet)), 21797672);
  EXPECT_EQ(trainable_count(make(resnet("50", {{"stem", "imagenet"}}), kImageNet)), 25557032);
  EXPECT_EQ(trainable_count(make(resnet("18"), kCifar)), 11173962);
  const Settings original{{"classifier", "4096,4096"}};
  EXPECT_EQ(trainable_count(make(vgg("11", original), kImageNet)), 132868840);
  EXPECT_EQ(trainable_count(make(vgg("13", original), kImageNet)), 133053736);
  EXPECT_EQ(trainable_count(make(vgg("16", original), kImageNet)), 138365992);
  const Settings plain{{"classifier", "4096,4096"}, {"norm", "none"}};
  EXPECT_EQ(trainable_count(make(vgg("11", plain), kImageNet)), 132863336);
  EXPECT_EQ(trainable_count(make(vgg("13", plain), kImageNet)), 133047848);
  EXPECT_EQ(trainable_count(make(vgg("16", plain), kImageNet)), 138357544);
  // The usual forms for CIFAR-10, with one linear layer on 512 features.
  EXPECT_EQ(trainable_count(make(vgg("11"), kCifar)), 9231114);
  EXPECT_EQ(trainable_count(make(vgg("16"), kCifar)), 14728266);
}

TEST(Vision, HaveTorchvisionsNamesAndShapes) {
  const auto shape = [](const Model& model, const std::string& name) {
    return BufferLayout(model.layout, Submodel::full(*model.layout), Packing::dense)
        .place(entry_named(model, name))
        .shape;
  };
  using Sizes = std::vector<std::int64_t>;
  const Model r18 = make(resnet("18"), kCifar);
  // conv1, bn1; 8 blocks of two convolutions and norms; 3 shortcuts; fc. A norm has 4 entries.
  EXPECT_EQ(r18.layout->entries.size(), 5U + 8 * 10 + 3 * 5 + 2);
  EXPECT_EQ(shape(r18, "layer1.0.conv1.weight"), (Sizes{64, 64, 3, 3}));
  EXPECT_EQ(shape(r18, "layer2.0.downsample.0.weight"), (Sizes{128, 64, 1, 1}));
  EXPECT_EQ(shape(r18, "layer4.1.bn2.running_var"), (Sizes{512}));
  EXPECT_EQ(shape(r18, "fc.weight"), (Sizes{10, 512}));
  const Model r50 = make(resnet("50", {{"stem", "imagenet"}}), kImageNet);
  EXPECT_EQ(shape(r50, "conv1.weight"), (Sizes{64, 3, 7, 7}));
  EXPECT_EQ(shape(r50, "layer1.0.downsample.0.weight"), (Sizes{256, 64, 1, 1}));
  EXPECT_EQ(shape(r50, "layer3.5.conv3.weight"), (Sizes{1024, 256, 1, 1}));
  EXPECT_EQ(shape(r50, "fc.weight"), (Sizes{1000, 2048}));
  const Model v16 = make(vgg("16", {{"classifier", "4096,4096"}}), kImageNet);
  EXPECT_EQ(shape(v16, "features.40.bias"), (Sizes{512}));
  EXPECT_EQ(shape(v16, "features.41.running_mean"), (Sizes{512}));
  EXPECT_EQ(shape(v16, "classifier.0.weight"), (Sizes{4096, 25088}));
  EXPECT_EQ(shape(v16, "classifier.6.weight"), (Sizes{1000, 4096}));
  EXPECT_EQ(shape(make(vgg("16", {{"norm", "none"}}), kCifar), "features.28.weight"),
            (Sizes{512, 512, 3, 3}));
  EXPECT_EQ(shape(make(vgg("11"), kCifar), "classifier.weight"), (Sizes{10, 512}));
}

TEST(Vision, ConvolutionsStartWithTorchvisionsDeviation) {
  for (const Settings& settings : {vgg("11"), resnet("18")}) {
    const Model model = make(settings, kCifar);
    const Parameters p = full_values(model);
    for (std::size_t e = 0; e < model.layout->entries.size(); ++e) {
      const Entry& entry = model.layout->entries[e];
      const at::Tensor view = p[static_cast<int>(e)];
      if (view.dim() == 4) {
        const double expected =
            std::sqrt(2.0 / static_cast<double>(view.size(0) * view.size(2) * view.size(3)));
        // The deviation of n normal values is off by 1 / sqrt(2 n) of itself; five times that.
        const double n = static_cast<double>(view.numel());
        EXPECT_NEAR(view.std().item<double>() / expected, 1, 5 / std::sqrt(2 * n)) << entry.name;
        EXPECT_NEAR(view.mean().item<double>() / expected, 0, 5 / std::sqrt(n)) << entry.name;
      } else if (view.dim() == 1 && entry.name.starts_with("features.") &&
                 entry.name.ends_with(".bias")) {
        EXPECT_TRUE(view.eq(0).all().item<bool>()) << entry.name;
      }
    }
  }
}

int block_named(const Model& model, const std::string& name) {
  for (std::size_t i = 0; i < model.layout->blocks.size(); ++i) {
    if (model.layout->blocks[i] == name) return static_cast<int>(i);
  }
  ADD_FAILURE() << "no block " << name;
  return 0;
}

TEST(Vision, ADroppedBlockIsTheIdentity) {
  for (const std::string depth : {"18", "50"}) {
    const Model model = make(resnet(depth, {{"width", "6"}}), kCifar);
    const Parameters full = random_values(model);
    Submodel submodel = Submodel::full(*model.layout);
    // The same model with a last norm that gives zero, so that the input of the block remains.
    Parameters silent = random_values(model);
    const Named v(model, silent);
    for (const std::string block : {"layer1.1", "layer3.1", "layer4.1"}) {
      submodel.keep_block(block_named(model, block), false);
      for (const char* part : {".weight", ".bias"}) {
        v[block + (depth == "50" ? ".bn3" : ".bn2") + part].zero_();
      }
    }
    const Parameters shallow = sliced(model, full, submodel);
    EXPECT_LT(shallow.buffer_layout().count(), full.buffer_layout().count());
    const at::Tensor x = images(5, kCifar.sample);
    for (const Mode mode : {Mode::evaluate, Mode::train}) {
      EXPECT_TRUE(same_bits(run(model, shallow, x, mode), run(model, silent, x, mode))) << depth;
    }
    Plain plain(model, shallow, Mode::evaluate);
    expect_near(
        run(model, shallow, x),
        plain.resnet(x, false,
                     depth == "18" ? std::vector<int>{2, 2, 2, 2} : std::vector<int>{3, 4, 6, 3}),
        depth);
    plain.expect_all_used();
  }
}

TEST(Vision, WidthAndDepthAreCutTogetherAndTrain) {
  for (const std::string depth : {"18", "34", "50"}) {
    const Model model = make(resnet(depth, {{"width", "8"}}), kSmall);
    Submodel submodel = select(*model.layout, 0.5, Choice::rolling);
    submodel.keep_block(block_named(model, "layer2.1"), false);
    Parameters small = sliced(model, full_values(model), submodel);
    small.attach_gradients();
    const at::Tensor x = images(8, kSmall.sample);
    const at::Tensor y = at::arange(8, at::kLong);
    std::vector<double> losses;
    for (int step = 0; step < 8; ++step) {
      Context context;
      context.mode = Mode::train;
      small.zero_gradients();
      const at::Tensor loss = at::cross_entropy_loss(forward(model, small, x, context), y);
      loss.backward();
      losses.push_back(loss.item<double>());
      c10::NoGradGuard no_grad;
      small.trainable().add_(small.gradients(), -0.05);
    }
    EXPECT_LT(losses.back(), 0.9 * losses.front()) << depth;
  }
}

TEST(Vision, ConvolutionsThatFeedOneSumShareAnAxis) {
  for (const std::string depth : {"18", "50"}) {
    const Model model = make(resnet(depth), kCifar);
    const auto out_axis = [&](const std::string& name) {
      return model.layout->entries[static_cast<std::size_t>(entry_named(model, name))]
          .dimensions[0][0]
          .axis;
    };
    const std::string last = depth == "18" ? ".conv2.weight" : ".conv3.weight";
    std::set<int> inner;
    for (const std::string stage : {"layer1", "layer2", "layer3", "layer4"}) {
      EXPECT_EQ(out_axis(stage + ".0" + last), out_axis(stage + ".1" + last));
      if (stage != "layer1" || depth == "50") {
        EXPECT_EQ(out_axis(stage + ".0" + last), out_axis(stage + ".0.downsample.0.weight"));
      }
      for (const char* block : {".0", ".1"})
        inner.insert(out_axis(stage + block + ".conv1.weight"));
    }
    EXPECT_EQ(inner.size(), 8U) << "each block's inner width is an axis of its own";
  }
  const Model r18 = make(resnet("18"), kCifar);
  EXPECT_EQ(r18.layout->entries[static_cast<std::size_t>(entry_named(r18, "conv1.weight"))]
                .dimensions[0][0]
                .axis,
            r18.layout->entries[static_cast<std::size_t>(entry_named(r18, "layer1.1.conv2.weight"))]
                .dimensions[0][0]
                .axis);
}

TEST(Vision, BatchNormIsTheFamiliesOwnDefault) {
  for (const char* name : {"vgg", "resnet"}) {
    OptionTable table;
    declare_model_options(table);
    Config config(std::move(table));
    config.set("model.name", name, "test");
    set_model_defaults(config);
    EXPECT_EQ(config.text("model.norm"), "batch");
    config.set("model.norm", "group", "test");
    EXPECT_FALSE(build_model(config, kCifar).has_statistics);
  }
}

TEST(Vision, RefuseWhatDoesNotFit) {
  EXPECT_THROW(make(vgg("12"), kCifar), InputError);
  EXPECT_THROW(make(resnet("11"), kCifar), InputError);
  EXPECT_THROW(make(vgg("11"), {{784}, 10}), InputError);
  EXPECT_THROW(make(resnet("18"), {{784}, 10}), InputError);
  EXPECT_THROW(make(vgg("11", {{"classifier", "20,0.5"}}), kCifar), InputError);
}

}  // namespace
}  // namespace espalier
