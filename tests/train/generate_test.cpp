// The choice of a token, and texts that are longer than the model looks back.

#include "espalier/train/generate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "espalier/base/error.h"
#include "espalier/train/experiment.h"
#include "purpose.h"

namespace espalier {
namespace {

const std::vector<float> kLogits{0, 2, 1, 2, -1};

TEST(ChooseToken, GreedyTakesTheFirstOfTheLargest) {
  EXPECT_EQ(choose_token(kLogits, {}, 0), 1);
  EXPECT_EQ(choose_token(std::vector<float>{-3, -3}, {}, 5), 0);
}

TEST(ChooseToken, TopKAndTopPLeaveOnlyTheMostProbable) {
  const auto seen = [](const Sampling& sampling) {
    std::set<std::int64_t> tokens;
    for (std::int64_t place = 0; place < 400; ++place) {
      tokens.insert(choose_token(kLogits, sampling, place));
    }
    return tokens;
  };
  const auto only = [](std::set<std::int64_t> tokens) { return tokens; };
  EXPECT_EQ(seen({1, 0, 1, 1}), only({0, 1, 2, 3, 4}));
  EXPECT_EQ(seen({1, 1, 1, 1}), only({1}));  // of equal ones the lowest
  EXPECT_EQ(seen({1, 2, 1, 1}), only({1, 3}));
  EXPECT_EQ(seen({1, 3, 1, 1}), only({1, 2, 3}));
  // Probabilities in order 0.383, 0.383, 0.141, 0.052, 0.019 with sums 0.383, 0.766, 0.907, ...
  EXPECT_EQ(seen({1, 0, 0.3, 1}), only({1}));
  EXPECT_EQ(seen({1, 0, 0.5, 1}), only({1, 3}));
  EXPECT_EQ(seen({1, 0, 0.8, 1}), only({1, 2, 3}));
  EXPECT_EQ(seen({1, 1, 0.8, 1}), only({1}));
}

TEST(ChooseToken, DrawsByTheProbabilitiesAtTheTemperature) {
  const Sampling sampling{0.7, 0, 1, 3};
  std::map<std::int64_t, double> counts;
  constexpr std::int64_t kDraws = 20000;
  for (std::int64_t place = 0; place < kDraws; ++place) {
    counts[choose_token(kLogits, sampling, place)] += 1;
  }
  double total = 0;
  for (const float logit : kLogits) total += std::exp(logit / 0.7);
  for (std::int64_t token = 0; token < 5; ++token) {
    const double p = std::exp(kLogits[static_cast<std::size_t>(token)] / 0.7) / total;
    // Five standard deviations of a binomial share.
    EXPECT_NEAR(counts[token] / kDraws, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << token;
  }
}

TEST(ChooseToken, ADrawIsNamedBySeedAndPlace) {
  const Sampling one{1, 0, 1, 1};
  const Sampling two{1, 0, 1, 2};
  int different = 0;
  for (std::int64_t place = 0; place < 100; ++place) {
    const std::int64_t token = choose_token(kLogits, one, place);
    EXPECT_EQ(token, choose_token(kLogits, one, place));
    different += token == choose_token(kLogits, two, place) ? 0 : 1;
  }
  EXPECT_GT(different, 10);
}

TEST(ChooseToken, NoNumberIsRefused) {
  EXPECT_THROW(choose_token(std::vector<float>{0, std::nanf("")}, {}, 0), NotFiniteError);
  EXPECT_THROW(choose_token(std::vector<float>{std::numeric_limits<float>::infinity()}, {}, 0),
               NotFiniteError);
}

Model language_model(const std::string& name, const std::string& positions) {
  OptionTable table;
  declare_model_options(table);
  Config config(std::move(table));
  for (const auto& [key, value] : std::map<std::string, std::string>{{"name", name},
                                                                     {"embed", "24"},
                                                                     {"heads", "2"},
                                                                     {"depth", "2"},
                                                                     {"hidden", "16"},
                                                                     {"positions", positions}}) {
    config.set("model." + key, value, "test");
  }
  return build_model(config, {{12}, 31, 31, true});
}

Parameters values_of(const Model& model) {
  Parameters p(std::make_shared<const BufferLayout>(model.layout, Submodel::full(*model.layout),
                                                    Packing::aligned));
  initialise(p, 3);
  Stream stream(1, kTest);
  for (std::int64_t i = 0; i < p.flat().numel(); ++i) {
    p.data()[i] += static_cast<float>(0.3 * stream.normal());
  }
  return p;
}

TEST(TextReader, TextsBeyondTheContextAreTheSameWithAndWithoutACache) {
  for (const auto& [name, positions] :
       {std::pair("gpt", "learned"), {"gpt", "rotary"}, {"lstm", "learned"}}) {
    const Model model = language_model(name, positions);
    const Parameters values = values_of(model);
    for (const std::int64_t context : {1, 5, 12, 100}) {
      const Sampling sampling{1, 0, 1, 7};
      std::vector<std::vector<std::int64_t>> texts;
      for (const bool cached : {true, false}) {
        for (const bool in_parts : {true, false}) {
          TextReader reader(model, values, context, cached);
          std::vector<std::int64_t> text{3, 14, 15, 9, 2, 6, 5};
          if (in_parts) {
            for (int i = 0; i < 4; ++i) reader.read({text.data() + i, 1});
            reader.read({text.data() + 4, 2});
          }
          const std::size_t done = in_parts ? 6 : 0;
          std::span<const float> logits = reader.read(std::span(text).subspan(done));
          while (text.size() < 40) {
            text.push_back(choose_token(logits, sampling, std::ssize(text)));
            logits = reader.read({&text.back(), 1});
          }
          EXPECT_EQ(reader.length(), 40);
          EXPECT_EQ(reader.cache_bytes() > 0, cached && takes_cache(model));
          texts.push_back(text);
        }
      }
      for (const auto& text : texts) EXPECT_EQ(text, texts[0]) << name << " " << context;
      EXPECT_GT(std::set<std::int64_t>(texts[0].begin(), texts[0].end()).size(), 8U);
    }
  }
}

}  // namespace
}  // namespace espalier
