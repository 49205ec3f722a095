#include "espalier/protocol/regions/fragments.h"

#include <gtest/gtest.h>

#include <numeric>

#include "espalier/base/error.h"
#include "scene.h"

namespace espalier::regions {
namespace {

const std::string kImages =
    "[data]\nname = synthetic\nsynthetic_samples = 40\nsynthetic_shape = 3, 32, 32\n";
const std::string kSignals =
    "[data]\nname = synthetic\nsynthetic_samples = 40\nsynthetic_shape = 1, 4096\n";
const std::string kTokens =
    "[data]\nname = synthetic\nsynthetic_samples = 40\nsynthetic_vocabulary = 50\nlength = 8\n";

const std::vector<std::pair<std::string, std::string>> kFamilies{
    {"mlp", kImages + "[model]\nname = mlp\nhidden = 9, 8, 7\n"},
    {"lenet", kImages + "[model]\nname = lenet\n"},
    {"cnn", kImages + "[model]\nname = cnn\nnorm = batch\n"},
    {"cnn1d", kSignals + "[model]\nname = cnn1d\nnorm = batch\n"},
    {"vgg", kImages + "[model]\nname = vgg\n"},
    {"resnet", kImages + "[model]\nname = resnet\n"},
    {"vit", kImages + "[model]\nname = vit\ndepth = 4\nembed = 24\npatch = 8\n"},
    {"gpt",
     kTokens + "synthetic_labels = next_token\n[model]\nname = gpt\ndepth = 4\nembed = 24\n"},
    {"lstm", kTokens + "[model]\nname = lstm\nlayers = 3\nembed = 8\nhidden = 12\n"},
    {"encoder", kTokens + "[model]\nname = encoder\ndepth = 4\nembed = 24\n"}};

std::vector<Fragment> fragments_of(const Scene& s) {
  return make_fragments(s.config, s.experiment.model, *s.experiment.plans);
}

TEST(Fragments, AreDisjointAndCompleteForEveryFamily) {
  for (const auto& [family, text] : kFamilies) {
    for (const std::string cut :
         {"fragments = whole\n", "fragments = strided\nfragment_count = 3\n",
          "fragments = sequential\nfragment_count = 3\n", "fragments = strided\n",
          "fragments = sequential\nfragment_blocks = 2\n"}) {
      const Scene s(text + "[regions]\n" + cut);
      const Layout& layout = *s.experiment.model.layout;
      std::vector<int> holders(layout.entries.size(), 0);
      std::int64_t values = 0;
      for (const Fragment& fragment : fragments_of(s)) {
        std::int64_t own = 0;
        for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
          const auto& place = fragment.layout->place(static_cast<int>(entry));
          if (!place.present) continue;
          ++holders[entry];
          const bool is_its_block =
              std::ranges::find(fragment.blocks, layout.entries[entry].block) !=
              fragment.blocks.end();
          ASSERT_TRUE(is_its_block) << family << " " << layout.entries[entry].name;
          if (layout.entries[entry].kind == Kind::trainable) own += place.count;
        }
        EXPECT_EQ(fragment.values(), own);
        EXPECT_GT(own, 0) << "an exchange of nothing";
        values += own;
        // The tensors are the fragment's values, without gaps.
        std::vector<int> covered(static_cast<std::size_t>(own), 0);
        for (const Range& range : fragment.tensors) {
          for (std::int64_t i = range.begin; i < range.end; ++i) {
            ++covered.at(static_cast<std::size_t>(i));
          }
        }
        EXPECT_TRUE(std::ranges::all_of(covered, [](int times) { return times == 1; })) << family;
      }
      std::int64_t all = 0;
      const BufferLayout full(s.experiment.model.layout, Submodel::full(layout), Packing::dense);
      for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
        if (layout.entries[entry].kind != Kind::trainable) continue;
        EXPECT_EQ(holders[entry], 1) << family << " " << cut << layout.entries[entry].name;
        all += full.place(static_cast<int>(entry)).count;
      }
      EXPECT_EQ(values, all) << family << " " << cut;
    }
  }
}

/// A gpt with a stem, six blocks and a head: eight units.
std::vector<std::vector<int>> blocks_of(const std::string& cut) {
  const Scene s(kTokens +
                "synthetic_labels = next_token\n[model]\nname = gpt\ndepth = 6\nembed = 24\n" +
                "[regions]\n" + cut);
  std::vector<std::vector<int>> blocks;
  for (const Fragment& fragment : fragments_of(s)) blocks.push_back(fragment.blocks);
  return blocks;
}

TEST(Fragments, StridedTakeEveryKthBlock) {
  using Blocks = std::vector<std::vector<int>>;
  EXPECT_EQ(blocks_of("fragments = strided\nfragment_count = 3\n"),
            (Blocks{{0, 3, 6}, {1, 4, 7}, {2, 5}}));
  EXPECT_EQ(blocks_of("fragments = sequential\nfragment_count = 4\n"),
            (Blocks{{0, 1}, {2, 3}, {4, 5}, {6, 7}}));
  EXPECT_EQ(blocks_of("fragments = sequential\nfragment_count = 8\n").size(), 8U);
  // By size: eight units in fragments of at most three.
  EXPECT_EQ(blocks_of("fragments = strided\n").size(), 3U);
  EXPECT_EQ(blocks_of("fragments = strided\nfragment_blocks = 8\n").size(), 1U);
}

TEST(Fragments, BalancedHaveTheEndsInOneFragmentAndTheOthersBySize) {
  using Blocks = std::vector<std::vector<int>>;
  EXPECT_EQ(blocks_of("fragments = balanced\nfragment_count = 3\n"),
            (Blocks{{0, 7}, {1, 3, 5}, {2, 4, 6}}));
  EXPECT_EQ(blocks_of("fragments = balanced\nfragment_blocks = 1\n").size(), 7U);
  EXPECT_EQ(blocks_of("fragments = balanced\nfragment_blocks = 4\n").size(), 3U);
  // An mlp with layers of 600 = 20 30, 30 40, 40 10, 10 50 weights and biases between its ends.
  const Scene s(
      "[data]\nname = synthetic\nsynthetic_shape = 1, 4, 4\n[clients]\ncount = 4\n"
      "[model]\nname = mlp\nhidden = 20, 30, 40, 10, 50\n"
      "[regions]\nfragments = balanced\nfragment_count = 3\n");
  Blocks blocks;
  for (const Fragment& fragment : fragments_of(s)) blocks.push_back(fragment.blocks);
  // Sizes 630, 1240, 410, 550: the largest alone, then 630, 550 and 410 together.
  EXPECT_EQ(blocks, (Blocks{{0, 5}, {2}, {1, 3, 4}}));
}

TEST(Fragments, InnerTensorsAreThoseBetweenTheEnds) {
  const Scene s(kTokens +
                "synthetic_labels = next_token\n[model]\nname = gpt\ndepth = 6\nembed = 24\n"
                "[regions]\nfragments = strided\nfragment_count = 7\n");
  const auto fragments = fragments_of(s);
  EXPECT_EQ(fragments[1].inner_tensors, fragments[1].tensors);
  EXPECT_TRUE(!fragments[0].tensors.empty());
  EXPECT_TRUE(fragments[0].inner_tensors.empty());  // embedding and head
}

TEST(Fragments, MoreThanThereAreBlocksAreRefused) {
  EXPECT_THROW(blocks_of("fragments = balanced\nfragment_count = 8\n"), InputError);
  EXPECT_THROW(blocks_of("fragments = balanced\nfragment_count = 1\n"), InputError);
  EXPECT_THROW(blocks_of("fragments = strided\nfragment_count = 9\n"), InputError);
}

}  // namespace
}  // namespace espalier::regions
