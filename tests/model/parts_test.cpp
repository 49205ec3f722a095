// A model that is cut at a block boundary: its parts, one after the other, equal the whole model.
#include <vector>

#include "espalier/base/error.h"
#include "family_fixture.h"

namespace espalier {
namespace {

struct Family {
  Settings settings;
  DataShape shape;
};

const std::vector<Family> kFamilies{
    {{{"name", "mlp"}, {"hidden", "12,9"}, {"norm", "layer"}}, {{1, 6, 6}, 10}},
    {{{"name", "lenet"}, {"norm", "batch"}}, {{1, 20, 20}, 10}},
    {{{"name", "cnn"}, {"channels", "6,8"}, {"features", "16"}, {"norm", "group"}},
     {{3, 8, 8}, 10}},
    {{{"name", "vgg"}, {"width", "4"}}, {{3, 32, 32}, 10}},
    {{{"name", "resnet"}, {"width", "4"}, {"norm", "batch"}}, {{3, 8, 8}, 10}},
    {{{"name", "vit"},
      {"depth", "3"},
      {"embed", "24"},
      {"heads", "2"},
      {"patch", "4"},
      {"exits", "3"}},
     {{3, 16, 16}, 10}},
    {{{"name", "gpt"}, {"depth", "2"}, {"embed", "24"}, {"heads", "2"}, {"tied", "false"}},
     {{10}, 40, 40, true}},
    {{{"name", "encoder"}, {"depth", "2"}, {"embed", "24"}, {"heads", "2"}}, {{12}, 4, 40, false}},
    {{{"name", "cnn1d"},
      {"channels", "6,8,9"},
      {"kernel", "3"},
      {"first_kernel", "9"},
      {"first_stride", "2"},
      {"pool", "2"},
      {"exits", "2"},
      {"norm", "batch"}},
     {{2, 70}, 10}},
    {{{"name", "lstm"}, {"embed", "6"}, {"hidden", "12,9"}}, {{10}, 40, 40, true}},
    {{{"name", "lstm"}, {"layers", "3"}, {"embed", "6"}, {"hidden", "10"}, {"exits", "2"}},
     {{12}, 4, 40, false}}};

at::Tensor samples(const Model& model) {
  if (model.shape.vocabulary == 0) return images(4, model.shape.sample);
  const std::int64_t length = model.shape.sample[0];
  return at::arange(4 * length, at::kLong).remainder(model.shape.vocabulary).view({4, length});
}

/// The part's values, taken from `whole`.
Parameters part_values(const Model& model, const Parameters& whole, int first, int last) {
  Parameters part = values_of(model, part_of(model, whole.submodel(), first, last));
  Plan(whole.buffer_layout(), part.buffer_layout()).copy(whole.data(), part.data());
  return part;
}

at::Tensor train(const Model& model, const Parameters& values, const at::Tensor& x) {
  Context context;
  context.mode = Mode::train;
  return forward(model, values, x, context);
}

at::Tensor loss_of(const Model& model, const at::Tensor& logits) {
  const at::Tensor flat = logits.flatten(0, -2);
  const at::Tensor labels = at::arange(flat.size(0), at::kLong).remainder(model.shape.classes);
  return at::cross_entropy_loss(flat, labels);
}

std::string what(const Family& family, double fraction, int cut) {
  return formatted("{} at {}, cut before block {}", family.settings.at("name"), fraction, cut);
}

TEST(Parts, OneAfterTheOtherTheyComputeWhatTheWholeDoes) {
  for (const Family& family : kFamilies) {
    const Model model = make(family.settings, family.shape);
    const auto blocks = static_cast<int>(model.blocks.size());
    const at::Tensor x = samples(model);
    for (const double fraction : {1.0, 0.5}) {
      const Parameters whole =
          sliced(model, full_values(model), select(*model.layout, fraction, Choice::rolling));
      const at::Tensor expected = run(model, whole, x);
      for (int cut = 1; cut < blocks; ++cut) {
        const at::Tensor middle = run(model, part_values(model, whole, 0, cut), x);
        EXPECT_TRUE(same_bits(run(model, part_values(model, whole, cut, blocks), middle), expected))
            << what(family, fraction, cut);
      }
    }
  }
}

TEST(Parts, HoldEachParameterOnce) {
  for (const Family& family : kFamilies) {
    const Model model = make(family.settings, family.shape);
    const auto blocks = static_cast<int>(model.blocks.size());
    const Submodel half = select(*model.layout, 0.5, Choice::leading);
    const auto count = [&](int first, int last) {
      return values_of(model, part_of(model, half, first, last))
          .buffer_layout()
          .count(Kind::trainable);
    };
    // A bottom does not keep the classifiers within it.
    std::int64_t idle = 0;
    for (int cut = 1; cut < blocks; ++cut) {
      if (model.is_exit(cut - 1)) {
        Submodel exit = part_of(model, half, cut - 1, cut);
        EXPECT_FALSE(exit.has_block(cut - 1));
        exit.keep_block(cut - 1, true);
        idle += values_of(model, exit).buffer_layout().count(Kind::trainable);
      }
      EXPECT_EQ(count(0, cut) + idle + count(cut, blocks), count(0, blocks))
          << what(family, 0.5, cut);
    }
  }
}

TEST(Parts, PassBackTheGradientsOfTheWhole) {
  for (const Family& family : kFamilies) {
    const Model model = make(family.settings, family.shape);
    const auto blocks = static_cast<int>(model.blocks.size());
    const at::Tensor x = samples(model);
    for (const double fraction : {1.0, 0.5}) {
      Parameters whole =
          sliced(model, full_values(model), select(*model.layout, fraction, Choice::random));
      whole.attach_gradients();
      whole.zero_gradients();
      loss_of(model, train(model, whole, x)).backward();
      for (int cut = 1; cut < blocks; ++cut) {
        Parameters bottom = part_values(model, whole, 0, cut);
        Parameters top = part_values(model, whole, cut, blocks);
        for (Parameters* part : {&bottom, &top}) {
          part->attach_gradients();
          part->zero_gradients();
        }
        const at::Tensor sent = train(model, bottom, x);
        const at::Tensor received = sent.detach().requires_grad_();
        loss_of(model, train(model, top, received)).backward();
        sent.backward(received.grad());
        for (Parameters* part : {&bottom, &top}) {
          Parameters expected(part->buffer_layout_ptr());
          const at::Tensor& all = whole.gradients();
          const auto begin = whole.buffer_layout().kind_range(Kind::trainable).begin;
          const Plan plan(whole.buffer_layout(), part->buffer_layout(), nullptr,
                          1u << static_cast<unsigned>(Kind::trainable));
          plan.for_each_value([&](std::int64_t source, std::int64_t destination) {
            expected.data()[destination] = all.const_data_ptr<float>()[source - begin];
          });
          EXPECT_TRUE(same_bits(part->gradients(), expected.trainable()))
              << what(family, fraction, cut);
        }
      }
    }
  }
}

TEST(Parts, OfThreeTheMiddleOneTakesAndGivesFeatures) {
  const Family& family = kFamilies[5];
  const Model model = make(family.settings, family.shape);
  const auto blocks = static_cast<int>(model.blocks.size());
  const Parameters whole = full_values(model);
  const at::Tensor x = samples(model);
  at::Tensor stream = run(model, part_values(model, whole, 0, 2), x);
  EXPECT_EQ(stream.sizes(), (std::vector<std::int64_t>{4, 17, 24}));  // 16 patches and a class
  stream = run(model, part_values(model, whole, 2, 5), stream);
  EXPECT_EQ(stream.sizes(), (std::vector<std::int64_t>{4, 17, 24}));
  stream = run(model, part_values(model, whole, 5, blocks), stream);
  EXPECT_TRUE(same_bits(stream, run(model, whole, x)));
}

}  // namespace
}  // namespace espalier
