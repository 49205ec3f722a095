#include "espalier/protocol/rounds/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/train/experiment.h"

namespace espalier::rounds {
namespace {

using Clients = std::vector<std::int64_t>;

bool anybody(std::int64_t) { return true; }

ClientSet set_of(std::int64_t clients, const Clients& members) {
  ClientSet set(clients);
  for (const std::int64_t client : members) set.insert(client);
  return set;
}

/// A sampler over `count` clients, and the set of idle clients: all.
class Scene {
 public:
  Scene(std::int64_t count, const std::string& clients, const std::string& data = "")
      : config_(make_config(count, clients, data)),
        experiment_(build_experiment(config_)),
        sampler_(config_, experiment_) {
    idle_ = ClientSet(count);
    for (std::int64_t client = 0; client < count; ++client) idle_.insert(client);
  }
  Clients choose(std::int64_t want) { return sampler_.choose(want, {idle_, anybody}); }
  Sampler& sampler() { return sampler_; }
  ClientSet& idle() { return idle_; }
  const Experiment& experiment() const { return experiment_; }

 private:
  static Config make_config(std::int64_t count, const std::string& clients,
                            const std::string& data) {
    OptionTable table;
    declare_experiment_options(table);
    declare_model_options(table);
    declare_data_options(table);
    declare_device_options(table);
    declare_train_options(table);
    declare_sampling_options(table);
    Config config(std::move(table));
    config.read_text(
        "[data]\nname = synthetic\nsynthetic_samples = 4000\n"
        "synthetic_shape = 1, 2, 2\n" +
            data + "[model]\nname = mlp\nhidden = 2\n",
        "the fixture");
    config.read_text("[clients]\ncount = " + std::to_string(count) + "\n" + clients, "the test");
    return config;
  }

  Config config_;
  Experiment experiment_;
  Sampler sampler_;
  ClientSet idle_;
};

TEST(Sampler, WorksAtOnceAsManyAsAskedForTimesTheOverSelection) {
  EXPECT_EQ(Scene(10, "").sampler().at_once(), 0);  // all
  EXPECT_EQ(Scene(10, "per_round = 4\n").sampler().at_once(), 4);
  EXPECT_EQ(Scene(10, "per_round = 4\nover_select = 1.3\n").sampler().at_once(), 6);  // 5.2
  EXPECT_EQ(Scene(10, "per_round = 4\nover_select = 3\n").sampler().at_once(), 10);
  // 10 x 1.1 is 11.000000000000002 in binary.
  EXPECT_EQ(Scene(20, "per_round = 10\nover_select = 1.1\n").sampler().at_once(), 11);
}

TEST(Sampler, ChoosesIdleClientsThatCanWorkInAscendingOrder) {
  for (const char* kind : {"uniform", "weighted", "round_robin"}) {
    Scene scene(40, std::string("per_round = 5\nsampling = ") + kind + "\n");
    scene.idle() = set_of(40, {3, 8, 9, 14, 15, 20, 31, 33, 36, 39});
    const auto odd = [](std::int64_t client) { return client % 2 == 1; };
    for (int draw = 0; draw < 50; ++draw) {
      const Clients chosen = scene.sampler().choose(4, {scene.idle(), odd});
      ASSERT_EQ(chosen.size(), 4u) << kind;
      EXPECT_TRUE(std::ranges::is_sorted(chosen)) << kind;
      EXPECT_EQ(std::ranges::adjacent_find(chosen), chosen.end()) << kind;
      for (const std::int64_t client : chosen) {
        EXPECT_TRUE(scene.idle().contains(client) && odd(client)) << kind << " " << client;
      }
    }
    EXPECT_EQ(scene.sampler().choose(9, {scene.idle(), odd}), (Clients{3, 9, 15, 31, 33, 39}))
        << kind << ": six can work";
    EXPECT_EQ(scene.sampler().choose(0, {scene.idle(), odd}), Clients{}) << kind;
  }
}

TEST(Sampler, RoundRobinGoesOnAfterTheLastOne) {
  Scene scene(5, "per_round = 2\nsampling = round_robin\n");
  EXPECT_EQ(scene.choose(2), (Clients{0, 1}));
  EXPECT_EQ(scene.choose(2), (Clients{2, 3}));
  EXPECT_EQ(scene.choose(2), (Clients{0, 4}));  // 4, then 0 again
  EXPECT_EQ(scene.choose(2), (Clients{1, 2}));
}

/// Chosen in `draws` draws of `want`, per client.
std::vector<double> frequencies(Scene& scene, std::int64_t count, std::int64_t want, int draws) {
  std::vector<double> times(static_cast<std::size_t>(count), 0.0);
  for (int draw = 0; draw < draws; ++draw) {
    for (const std::int64_t client : scene.choose(want)) ++times[static_cast<std::size_t>(client)];
  }
  for (double& t : times) t /= draws;
  return times;
}

TEST(Sampler, UniformChoosesEachClientEquallyOften) {
  constexpr int kDraws = 4000;
  Scene scene(12, "per_round = 3\n");
  // A binomial fraction of p = 3/12 over 4000 draws deviates by 0.0068; five deviations for each of
  // twelve clients fail by chance once in 100,000 tests, and the seed is fixed.
  const double bound = 5 * std::sqrt(0.25 * 0.75 / kDraws);
  for (const double share : frequencies(scene, 12, 3, kDraws)) EXPECT_NEAR(share, 0.25, bound);
}

TEST(Sampler, WeightedChoosesOneClientInProportionToItsSamples) {
  constexpr int kDraws = 6000;
  Scene scene(8, "per_round = 1\nsampling = weighted\n",
              "partition = dirichlet\nalpha = 0.3\nmin_per_client = 20\n");
  std::vector<double> shares;
  for (std::int64_t client = 0; client < 8; ++client) {
    shares.push_back(static_cast<double>(scene.experiment().samples_of(client)));
  }
  const double all = std::accumulate(shares.begin(), shares.end(), 0.0);
  const auto found = frequencies(scene, 8, 1, kDraws);
  EXPECT_GT(*std::ranges::max_element(shares), 2 * *std::ranges::min_element(shares));
  for (std::size_t client = 0; client < shares.size(); ++client) {
    const double p = shares[client] / all;
    EXPECT_NEAR(found[client], p, 5 * std::sqrt(p * (1 - p) / kDraws)) << client;
  }
}

/// About one of `one_in` clients, without a pattern.
Clients scattered(std::int64_t clients, std::int64_t one_in) {
  Clients few;
  for (std::int64_t c = 0; c < clients; ++c) {
    if (c * 2654435761 % 4294967296 < 4294967296 / one_in) few.push_back(c);
  }
  return few;
}

TEST(Sampler, KnowingWhoIsPresentChangesNoChoiceAndSavesTheWork) {
  constexpr std::int64_t kClients = 3900;
  const Clients few = scattered(kClients, 90);
  const ClientSet present = set_of(kClients, few);
  ASSERT_GT(few.size(), 25u);
  for (const char* kind : {"uniform", "round_robin"}) {
    const std::string clients = std::string("per_round = 4\nsampling = ") + kind + "\n";
    Scene knows(kClients, clients);
    Scene searches(kClients, clients);
    std::int64_t looks = 0, longest = 0;
    const auto can_work = [&](std::int64_t client) {
      ++looks;
      return present.contains(client) && client % 5 != 1;
    };
    for (int draw = 0; draw < 60; ++draw) {
      const std::int64_t want = 1 + draw % 3;
      const Clients expected = searches.sampler().choose(want, {searches.idle(), can_work});
      looks = 0;
      const Clients chosen =
          knows.sampler().choose(want, {knows.idle(), can_work, [&] { return &present; }});
      longest = std::max(longest, looks);
      ASSERT_EQ(chosen, expected) << kind << " " << draw;
      ASSERT_EQ(std::ssize(chosen), want);
      for (Scene* scene : {&knows, &searches}) {
        for (const std::int64_t client : chosen) scene->idle().erase(client);
        if (draw % 7 == 6) scene->idle() = set_of(kClients, few);  // all others are at work
      }
    }
    EXPECT_LE(longest, 32 * 3 + std::ssize(few)) << kind;
  }
}

TEST(ClientSet, IteratesOverThoseInBoth) {
  ClientSet set = set_of(200, {0, 5, 63, 64, 127, 128, 199});
  const ClientSet other = set_of(200, {5, 64, 65, 199});
  EXPECT_EQ(set.ascending(), (Clients{0, 5, 63, 64, 127, 128, 199}));
  EXPECT_EQ(set.next(6), 63);
  EXPECT_EQ(set.next(6, &other), 64);
  EXPECT_EQ(set.next(65, &other), 199);
  EXPECT_EQ(set.next(200), set.end());
  set.insert(5);
  set.erase(6);
  EXPECT_EQ(set.size(), 7);
  set.erase(63);
  EXPECT_EQ(set.size(), 6);
  EXPECT_FALSE(set.contains(63));
}

TEST(Sampler, RestoredItDrawsWhatTheSavedOneWouldHave) {
  for (const char* kind : {"uniform", "weighted", "round_robin"}) {
    const std::string clients = std::string("per_round = 3\nsampling = ") + kind + "\n";
    Scene saved(15, clients), restored(15, clients);
    for (int draw = 0; draw < 7; ++draw) saved.choose(3);
    ByteArchive out;
    saved.sampler().archive(out);
    const Bytes bytes = out.take();
    ByteArchive in(bytes);
    restored.sampler().archive(in);
    for (int draw = 0; draw < 7; ++draw) EXPECT_EQ(saved.choose(3), restored.choose(3)) << kind;
  }
}

}  // namespace
}  // namespace espalier::rounds
