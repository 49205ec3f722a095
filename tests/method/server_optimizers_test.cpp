// The optimisers of the server, against loops in double precision that follow the papers' formulas.

#include <gtest/gtest.h>

#include <cmath>

#include "merge_scene.h"

namespace espalier::rounds {
namespace {

constexpr double kRate = 0.05, kMomentum = 0.9, kBeta1 = 0.9, kBeta2 = 0.99, kTau = 0.01;
// Three rounds with values below 8, whose floats round by 2^-22 at most: in the mean, in the model
// and in the state. A step multiplies such an error by at most rate (1 - beta1) / tau = 0.5, or by
// 1 + momentum of the first round's.
constexpr double kBound = 3 * 3 * 1.9 * 0x1p-22;

/// One value's change in three rounds, with means `targets` (from the start) of its holders.
double moved(const std::string& kind, std::span<const double> targets) {
  double w = 0, m = 0, v = kind == "momentum" ? 0 : kTau * kTau;
  for (const double target : targets) {
    const double d = target - w;
    if (kind == "sgd") {
      w += kRate * d;
      continue;
    }
    if (kind == "momentum") {
      m = kMomentum * m + d;
      w += kRate * m;
      continue;
    }
    m = kBeta1 * m + (1 - kBeta1) * d;
    if (kind == "adagrad") v += d * d;
    if (kind == "adam") v = kBeta2 * v + (1 - kBeta2) * d * d;
    if (kind == "yogi") {
      if (v < d * d) {
        v += (1 - kBeta2) * d * d;
      } else if (v > d * d) {
        v -= (1 - kBeta2) * d * d;
      }
    }
    w += kRate * m / (std::sqrt(v) + kTau);
  }
  return w;
}

const char* const kSettings =
    "server_lr = 0.05\nserver_momentum = 0.9\nserver_beta1 = 0.9\nserver_beta2 = 0.99\n"
    "server_tau = 0.01\n";

/// Saves a rule's state and restores it in another one.
void move_state(MergeRule& from, MergeRule& to) {
  ByteArchive saved;
  from.archive(saved);
  const Bytes bytes = saved.take();
  ByteArchive archive(bytes);
  to.archive(archive);
}

TEST(ServerOptimizer, StepsAsInThePapers) {
  for (const std::string kind : {"sgd", "momentum", "adagrad", "adam", "yogi"}) {
    SCOPED_TRACE(kind);
    Scene s;
    std::string settings = kSettings;
    settings += "server_optimizer = " + kind + "\n";
    auto rule = s.rule("average", settings);
    // Unit 0 has both clients, unit 1 one of them, unit 2 one in the second round alone, and unit 3
    // none.
    const std::vector<std::pair<double, double>> steps{{0.4, 0.8}, {-0.3, 0.02}, {0.05, -0.6}};
    std::vector<double> both, one, late;
    for (std::size_t round = 0; round < steps.size(); ++round) {
      const auto [a, b] = steps[round];
      std::vector<std::int64_t> units{0};
      if (round == 1) units.push_back(2);
      std::vector<Update> updates{s.update({0, 1}, a, 1), s.update(units, b, 1)};
      rule->merge(s.experiment, s.model, updates);
      both.push_back((a + b) / 2);
      one.push_back(a);
      if (round == 1) late.push_back(b);
      auto restored = s.rule("average", settings);
      move_state(*rule, *restored);
      rule = std::move(restored);
    }
    for (std::int64_t i = 0; i < 4; ++i) {
      EXPECT_NEAR(s.value(0, i) - s.first(0, i), moved(kind, both), kBound);
      EXPECT_NEAR(s.value(0, 4 + i) - s.first(0, 4 + i), moved(kind, one), kBound);
      EXPECT_NEAR(s.value(0, 8 + i) - s.first(0, 8 + i), moved(kind, late), kBound);
      EXPECT_EQ(s.value(0, 12 + i), s.first(0, 12 + i));
    }
    EXPECT_GT(std::abs(moved(kind, both) - moved(kind, one)), 50 * kBound);
  }
}

TEST(ServerOptimizer, WithRateOneAndNoMomentumGivesTheRulesResult) {
  for (const char* const kind : {"sgd", "momentum"}) {
    Scene plain, stepped;
    const auto a = plain.rule("average", "");
    const auto b = stepped.rule("average", std::string("server_optimizer = ") + kind + "\n");
    for (const double step : {0.37, -1.9, 0.003}) {
      for (const auto& [scene, rule] : {std::pair{&plain, a.get()}, std::pair{&stepped, b.get()}}) {
        std::vector<Update> updates{scene->update({0, 1, 5}, step, 1),
                                    scene->update({0, 7}, 2.3 * step, 1)};
        rule->merge(scene->experiment, scene->model, updates);
      }
      EXPECT_EQ(0, std::memcmp(plain.model.data(), stepped.model.data(),
                               static_cast<std::size_t>(plain.model.buffer_layout().size()) *
                                   sizeof(float)));
    }
    EXPECT_NE(plain.value(0, 0), plain.first(0, 0));
  }
}

TEST(ServerOptimizer, TakesOverTheRateOfBufferedDifferences) {
  Scene own, other;
  const std::string settings = "server_lr = 0.3\nserver_momentum = 0.5\nstaleness_power = 0\n";
  const auto a = own.rule("buffered_differences", settings);
  const auto b = other.rule("buffered_differences", settings + "server_optimizer = momentum\n");
  for (int round = 0; round < 3; ++round) {
    for (const auto& [scene, rule] : {std::pair{&own, a.get()}, std::pair{&other, b.get()}}) {
      std::vector<Update> updates{scene->update({0, 1}, 0.4, 1), scene->update({0}, 0.1, 1)};
      rule->merge(scene->experiment, scene->model, updates);
    }
  }
  // Both make the same steps, and round the model, its mean and the velocity in each round.
  for (std::int64_t i = 0; i < 8; ++i) EXPECT_NEAR(own.value(0, i), other.value(0, i), kBound);
  EXPECT_GT(own.value(0, 0) - own.first(0, 0), 100 * kBound);
}

}  // namespace
}  // namespace espalier::rounds
