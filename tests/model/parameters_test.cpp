#include "espalier/model/parameters.h"

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/plan.h"
#include "test_layout.h"

namespace espalier {
namespace {

using testing::make_layout;
using testing::rolling;

std::shared_ptr<const BufferLayout> buffer_layout_of(std::shared_ptr<const Layout> layout,
                                                     const Submodel& submodel) {
  return std::make_shared<const BufferLayout>(std::move(layout), submodel, Packing::aligned);
}

int entry_called(const Layout& layout, const std::string& name) {
  for (std::size_t i = 0; i < layout.entries.size(); ++i)
    if (layout.entries[i].name == name) return static_cast<int>(i);
  return -1;
}

TEST(Parameters, ViewsShareTheAlignedBuffer) {
  const auto layout = make_layout();
  Parameters parameters(buffer_layout_of(layout, rolling(*layout, 0.5, 4)));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(parameters.data()) % 64, 0u);
  for (int entry = 0; entry < static_cast<int>(layout->entries.size()); ++entry) {
    const at::Tensor& view = parameters[entry];
    EXPECT_EQ(view.const_data_ptr<float>(),
              parameters.data() + parameters.buffer_layout().place(entry).offset);
    EXPECT_EQ(view.sizes().vec(), parameters.buffer_layout().place(entry).shape);
    EXPECT_TRUE(view.is_leaf());
    EXPECT_FALSE(view.requires_grad());
  }
  EXPECT_EQ(parameters.flat().count_nonzero().item<std::int64_t>(), 0);
}

TEST(Parameters, AbsentEntriesAreBrokenInvariants) {
  const auto layout = make_layout();
  Submodel submodel = Submodel::full(*layout);
  submodel.keep_block(1, false);
  const Parameters parameters(buffer_layout_of(layout, submodel));
  EXPECT_THROW(parameters[entry_called(*layout, "qkv.weight")], Error);
  EXPECT_THROW(parameters[-1], Error);
  EXPECT_NO_THROW(parameters[entry_called(*layout, "square")]);
}

TEST(Parameters, GradientsAccumulateInPlaceInTheFlatBuffer) {
  const auto layout = make_layout();
  Parameters parameters(buffer_layout_of(layout, rolling(*layout, 0.5, 4)));
  parameters.attach_gradients();
  const at::Tensor square = parameters[entry_called(*layout, "square")];
  const at::Tensor scale = parameters[entry_called(*layout, "scale")];
  const at::Tensor frozen = parameters[entry_called(*layout, "pairs")];
  {
    c10::NoGradGuard guard;
    square.copy_(at::arange(square.numel(), at::kFloat).view_as(square));
    scale.fill_(3);
  }
  EXPECT_TRUE(square.requires_grad() && square.is_leaf());
  EXPECT_FALSE(frozen.requires_grad());
  EXPECT_EQ(
      parameters.data()[parameters.buffer_layout().place(entry_called(*layout, "scale")).offset],
      3.0f);
  const void* const buffer = parameters.gradients().const_data_ptr();

  // d(scale * sum(square^2)) = 2 scale square and sum(square^2); twice, so that the second adds.
  for (int pass = 0; pass < 2; ++pass) (scale * square.pow(2).sum()).backward();

  EXPECT_EQ(parameters.gradients().const_data_ptr(), buffer);
  const Range range = parameters.buffer_layout().kind_range(Kind::trainable);
  at::Tensor expected = at::zeros({range.size()});
  const auto place = [&](const char* name) {
    return parameters.buffer_layout().place(entry_called(*layout, name));
  };
  expected.narrow(0, place("square").offset - range.begin, square.numel())
      .copy_((2 * 2 * 3 * square.detach()).flatten());
  expected.narrow(0, place("scale").offset - range.begin, 1)
      .fill_(2 * square.detach().pow(2).sum());
  EXPECT_TRUE(at::equal(parameters.gradients(), expected));

  parameters.zero_gradients();
  EXPECT_EQ(square.grad().count_nonzero().item<std::int64_t>(), 0);
  (scale * square.sum()).backward();
  EXPECT_EQ(parameters.gradients()[place("scale").offset - range.begin].item<float>(),
            square.detach().sum().item<float>());
}

TEST(Parameters, WritingAStatisticLeavesASavedGraphValid) {
  const auto layout = make_layout();
  Parameters parameters(buffer_layout_of(layout, Submodel::full(*layout)));
  parameters.attach_gradients();
  const at::Tensor bias = parameters[entry_called(*layout, "conv.bias")];
  const at::Tensor loss = bias.pow(2).sum();
  {
    c10::NoGradGuard guard;
    parameters[entry_called(*layout, "norm.mean")].add_(1);
  }
  EXPECT_NO_THROW(loss.backward());
}

TEST(Parameters, TrainableIsAViewOfTheTrainableRange) {
  const auto layout = make_layout();
  Parameters parameters(buffer_layout_of(layout, Submodel::full(*layout)));
  parameters.trainable().fill_(1);
  EXPECT_EQ(parameters.flat().sum().item<float>(),
            static_cast<float>(parameters.buffer_layout().kind_range(Kind::trainable).size()));
  EXPECT_EQ(parameters[entry_called(*layout, "norm.mean")].sum().item<float>(), 0);
}

TEST(Parameters, MovingKeepsTheBuffer) {
  const auto layout = make_layout();
  Parameters parameters(buffer_layout_of(layout, Submodel::full(*layout)));
  parameters.attach_gradients();
  const float* const data = parameters.data();
  Parameters moved = std::move(parameters);
  EXPECT_EQ(moved.data(), data);
  EXPECT_TRUE(moved[0].grad().defined());
}

TEST(Initialise, ValuesDependOnSeedAndNameOnly) {
  const auto layout = make_layout();
  Parameters a(buffer_layout_of(layout, Submodel::full(*layout)));
  initialise(a, 42);
  // The same entries in reverse order and packed into other places.
  Layout reversed = *layout;
  std::ranges::reverse(reversed.entries);
  const auto other = std::make_shared<const Layout>(reversed);
  Parameters b(buffer_layout_of(other, Submodel::full(*other)));
  initialise(b, 42);
  Parameters c(buffer_layout_of(layout, Submodel::full(*layout)));
  initialise(c, 43);
  for (int entry = 0; entry < static_cast<int>(layout->entries.size()); ++entry) {
    const std::string& name = layout->entries[entry].name;
    EXPECT_TRUE(at::equal(a[entry], b[entry_called(*other, name)])) << name;
    const bool drawn = layout->entries[entry].init.scale > 0;
    EXPECT_EQ(at::equal(a[entry], c[entry]), !drawn) << name;
  }
}

TEST(Initialise, FollowsTheRulesAndLeavesPaddingZero) {
  Layout wide;
  wide.add_axis("width", 50001);
  wide.add_block("all");
  wide.add_entry({"uniform", Kind::trainable, 0, {wide.along(0)}, {Init::Rule::uniform, 0.25}});
  wide.add_entry({"normal", Kind::trainable, 0, {wide.along(0)}, {Init::Rule::normal, 2}});
  wide.add_entry({"ones", Kind::trainable, 0, {wide.along(0)}, {Init::Rule::ones, 0}});
  wide.add_entry({"zeros", Kind::trainable, 0, {wide.along(0)}, {Init::Rule::zeros, 0}});
  const auto layout = std::make_shared<const Layout>(wide);
  Parameters full(buffer_layout_of(layout, Submodel::full(*layout)));
  initialise(full, 7);
  const double n = 50001;
  EXPECT_LE(full[0].abs().max().item<float>(), 0.25f);
  // Five standard errors: of the mean sd / sqrt(n); of a variance at most sd^2 sqrt(2 / n).
  const double uniform_sd = 0.25 / std::sqrt(3.0);
  EXPECT_NEAR(full[0].to(at::kDouble).mean().item<double>(), 0, 5 * uniform_sd / std::sqrt(n));
  EXPECT_NEAR(full[0].to(at::kDouble).var().item<double>(), uniform_sd * uniform_sd,
              5 * uniform_sd * uniform_sd * std::sqrt(2 / n));
  EXPECT_NEAR(full[1].to(at::kDouble).mean().item<double>(), 0, 5 * 2 / std::sqrt(n));
  EXPECT_NEAR(full[1].to(at::kDouble).var().item<double>(), 4, 5 * 4 * std::sqrt(2 / n));
  EXPECT_TRUE((full[2] == 1).all().item<bool>());
  EXPECT_TRUE((full[3] == 0).all().item<bool>());
  at::Tensor padding = full.flat().clone();
  for (int entry = 0; entry < 4; ++entry) {
    const BufferLayout::Place& place = full.buffer_layout().place(entry);
    padding.narrow(0, place.offset, place.count).zero_();
  }
  EXPECT_EQ(padding.count_nonzero().item<std::int64_t>(), 0);
}

}  // namespace
}  // namespace espalier
