// The planning of ParallelSFL alone, on emulated fleets: docs/methods/parallelsfl.md, "The plan
// alone", has its table from here.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "espalier/base/error.h"
#include "espalier/base/format.h"
#include "espalier/method/parallelsfl_clusters.h"
#include "espalier/method/parallelsfl_frequencies.h"
#include "purpose.h"

namespace espalier::split {
namespace {

using Bottoms = std::vector<std::int64_t>;

/// Workers as in section 7 of the paper's reconstruction: speeds that differ thirtyfold, Dirichlet
/// labels, rates between devices of 5 to 50 Mbit/s, links into them for one to eight bottoms.
struct EmulatedFleet {
  Workers workers;
  std::vector<double> model_s;  // of the whole model, down and up

  EmulatedFleet(std::int64_t count, double alpha, double top_ratio, std::int64_t seed) {
    constexpr std::int64_t kLabels = 10;
    Stream random(seed, kTest, count, std::llround(alpha * 1000), std::llround(top_ratio * 1000));
    std::vector<LabelShares> labels(static_cast<std::size_t>(count), LabelShares(kLabels));
    for (std::size_t label = 0; label < kLabels; ++label) {
      double sum = 0;
      for (LabelShares& own : labels) sum += own[label] = random.gamma(alpha) + 1e-12;
      for (LabelShares& own : labels) own[label] /= sum;
    }
    std::vector<double> bottom_s, rates;
    for (LabelShares& own : labels) {
      const double sum = std::accumulate(own.begin(), own.end(), 0.0);
      for (double& share : own) share /= sum;
      const double slowness[] = {1, 2, 4, 8, 16, 30};
      bottom_s.push_back(0.04 * slowness[random.below(6)] * (0.8 + 0.4 * random.uniform()));
      rates.push_back(5 * std::pow(10, random.uniform()));
      model_s.push_back(2 * 0.21 * 8 / std::pow(30, random.uniform()));
      const double bandwidth = 5 + 35 * random.uniform();
      workers.all.push_back({.labels = own,
                             .bandwidth = bandwidth,
                             .limit = static_cast<std::int64_t>(bandwidth / 5),
                             .fitting = 100,
                             .top_s = top_ratio * bottom_s.back()});
    }
    workers.side_s = [bottom_s, rates](std::int64_t i, std::int64_t top) {
      const auto at = [](const std::vector<double>& values, std::int64_t place) {
        return values[static_cast<std::size_t>(place)];
      };
      constexpr double kMegabits = 2 * 32 * 784 * 4 * 8e-6;
      return at(bottom_s, i) + kMegabits / std::min(at(rates, i), at(rates, top));
    };
  }

  std::int64_t size() const { return std::ssize(workers.all); }
  std::vector<std::int64_t> sets(std::int64_t seed) const {
    std::vector<LabelShares> labels;
    for (const Candidate& one : workers.all) labels.push_back(one.labels);
    const auto count = std::max<std::int64_t>(1, std::llround(static_cast<double>(size()) / 5));
    return label_sets(labels, count, LabelDistance::euclidean, Stream(seed, kTest, 1));
  }
  Clustering greedy(std::int64_t seed, TopChoice choice = TopChoice::strict) const {
    return greedy_clusters(workers, sets(seed), choice);
  }
  double iteration_s(const WorkerCluster& cluster) const {
    double longest = 0;
    for (const std::int64_t i : cluster.bottoms) {
      longest = std::max(longest, workers.side_s(i, cluster.top));
    }
    const double top = workers.all[static_cast<std::size_t>(cluster.top)].top_s;
    return std::max(longest + top, static_cast<double>(cluster.bottoms.size()) * top);
  }
  std::vector<ClusterPace> paces(const std::vector<WorkerCluster>& clusters) const {
    std::vector<ClusterPace> all;
    for (const WorkerCluster& cluster : clusters) {
      all.push_back({iteration_s(cluster), model_s[static_cast<std::size_t>(cluster.top)]});
    }
    return all;
  }
};

template <class Of>
double mean(const std::vector<WorkerCluster>& clusters, const Of& of) {
  double sum = 0;
  for (const WorkerCluster& cluster : clusters) sum += of(cluster);
  return sum / static_cast<double>(clusters.size());
}

void expect_everyone_once(const std::vector<WorkerCluster>& clusters, std::int64_t workers) {
  std::multiset<std::int64_t> seen;
  for (const WorkerCluster& cluster : clusters) {
    seen.insert(cluster.top);
    seen.insert(cluster.bottoms.begin(), cluster.bottoms.end());
    EXPECT_FALSE(cluster.bottoms.empty());
    EXPECT_TRUE(std::ranges::is_sorted(cluster.bottoms));
  }
  EXPECT_EQ(std::ssize(seen), workers);
  EXPECT_EQ(std::ssize(std::set<std::int64_t>(seen.begin(), seen.end())), workers);
}

/// Clusters with a leftover may break (8) by it, and (10).
void expect_limits(const EmulatedFleet& fleet, const Clustering& clustering) {
  for (const WorkerCluster& cluster : clustering.clusters) {
    const auto extra = std::ranges::count_if(clustering.leftovers, [&](std::int64_t i) {
      return std::ranges::binary_search(cluster.bottoms, i);
    });
    const std::int64_t limit = fleet.workers.all[static_cast<std::size_t>(cluster.top)].limit;
    EXPECT_LE(std::ssize(cluster.bottoms) - extra, limit);
    EXPECT_TRUE(extra > 0 || keeps_up(fleet.workers, cluster));
  }
}

// Sets of labels --------------------------------------------------------------------------------

TEST(LabelSets, FindWorkersWithEqualLabels) {
  // Three kinds of workers, mixed; a few samples differ.
  std::vector<LabelShares> labels;
  Stream random(7, kTest);
  for (int i = 0; i < 24; ++i) {
    LabelShares own(6, 0.02 * random.uniform());
    own[static_cast<std::size_t>(i * 7 % 3 * 2)] = 1;
    const double sum = std::accumulate(own.begin(), own.end(), 0.0);
    for (double& share : own) share /= sum;
    labels.push_back(own);
  }
  for (const LabelDistance distance : {LabelDistance::euclidean, LabelDistance::kl}) {
    const auto sets = label_sets(labels, 3, distance, Stream(3, kTest));
    for (std::size_t i = 0; i < 24; ++i) {
      for (std::size_t j = 0; j < 24; ++j) EXPECT_EQ(sets[i] == sets[j], i % 3 == j % 3);
    }
    EXPECT_EQ(sets, label_sets(labels, 3, distance, Stream(3, kTest)));
  }
}

TEST(LabelSets, AreOneIfAllLabelsAreEqual) {
  const std::vector<LabelShares> labels(9, LabelShares{0.25, 0.75});
  EXPECT_EQ(label_sets(labels, 4, LabelDistance::euclidean, Stream(3, kTest)), Bottoms(9, 0));
}

// Clusters --------------------------------------------------------------------------------------

/// Workers with one label each, whose time does not depend on the top.
Workers simple(std::vector<std::int64_t> labels, std::vector<double> side_s, double top_s,
               std::int64_t limit) {
  Workers workers;
  for (const std::int64_t label : labels) {
    LabelShares own(3, 0.0);
    own[static_cast<std::size_t>(label)] = 1;
    workers.all.push_back(
        {.labels = own, .bandwidth = 1, .limit = limit, .fitting = limit, .top_s = top_s});
  }
  workers.side_s = [side_s](std::int64_t i, std::int64_t) {
    return side_s[static_cast<std::size_t>(i)];
  };
  return workers;
}

TEST(Greedy, MixesLabelsAndKeepsEqualSpeedsTogether) {
  // A top from the largest set, then the slowest of each set: {0}, 1 with the slow, 5 with the
  // rest.
  const Workers workers = simple({0, 0, 0, 0, 1, 1, 2, 2}, {1, 2, 9, 8, 7, 2, 8, 3}, 0.1, 3);
  const std::vector<std::int64_t> sets{0, 0, 0, 0, 1, 1, 2, 2};
  const Clustering result = greedy_clusters(workers, sets, TopChoice::strict);
  EXPECT_EQ(result.clusters, (std::vector<WorkerCluster>{{0, {2, 4, 6}}, {1, {3, 5, 7}}}));
  EXPECT_TRUE(result.leftovers.empty());
}

TEST(Greedy, StopsWhereTheTopWouldNotKeepUp) {
  // Two passes of 1 s fit into 2 s, three do not.
  const Workers workers = simple({0, 0, 0, 1, 1, 1}, {2, 2, 2, 2, 2, 2}, 1, 5);
  const Clustering result =
      greedy_clusters(workers, std::vector<std::int64_t>{0, 0, 0, 1, 1, 1}, TopChoice::strict);
  ASSERT_EQ(std::ssize(result.clusters), 2);
  for (const WorkerCluster& cluster : result.clusters) EXPECT_EQ(std::ssize(cluster.bottoms), 2);
}

TEST(Greedy, AttachesALoneWorkerWhereMostRoomIs) {
  Workers workers = simple({0, 0, 1, 1, 2}, {1, 1, 1, 1, 1}, 0, 1);
  workers.all[0].limit = workers.all[0].fitting = 2;
  for (Candidate& one : workers.all) one.fitting = 3;
  workers.all[0].bandwidth = 2;
  const Clustering result =
      greedy_clusters(workers, std::vector<std::int64_t>{0, 0, 1, 1, 2}, TopChoice::strict);
  // Client 0 takes two; of the other two one is a top. Nobody is left over.
  expect_everyone_once(result.clusters, 5);
  EXPECT_TRUE(result.leftovers.empty());
  workers.all[0].limit = 1;
  const Clustering lone =
      greedy_clusters(workers, std::vector<std::int64_t>{0, 0, 1, 1, 2}, TopChoice::strict);
  expect_everyone_once(lone.clusters, 5);
  EXPECT_EQ(std::ssize(lone.leftovers), 1);
  for (Candidate& one : workers.all) one.fitting = 1;
  EXPECT_THROW(
      greedy_clusters(workers, std::vector<std::int64_t>{0, 0, 1, 1, 2}, TopChoice::strict),
      InputError);
}

TEST(Greedy, MakesOneMoreClusterWhereAllAreFull) {
  // Every client has room for three bottoms: of five clients one would be left over.
  for (const std::int64_t clients : {5, 6, 9, 10, 13}) {
    const Workers workers = simple(std::vector<std::int64_t>(static_cast<std::size_t>(clients), 0),
                                   std::vector<double>(static_cast<std::size_t>(clients), 1), 0, 3);
    const std::vector<std::int64_t> sets(static_cast<std::size_t>(clients), 0);
    const auto clusters = greedy_clusters(workers, sets, TopChoice::strict).clusters;
    expect_everyone_once(clusters, clients);
    for (const WorkerCluster& cluster : clusters) {
      EXPECT_GE(std::ssize(cluster.bottoms), 1);
      EXPECT_LE(std::ssize(cluster.bottoms), 3);
    }
  }
  // The last one cannot be a top, so a bottom becomes one.
  Workers workers = simple({0, 0, 0, 0, 0}, {1, 1, 1, 1, 0.5}, 0, 3);
  workers.all[4].limit = workers.all[4].fitting = 0;
  expect_everyone_once(
      greedy_clusters(workers, std::vector<std::int64_t>(5, 0), TopChoice::strict).clusters, 5);
}

TEST(Greedy, GivesTheTopToABottomWithMoreRoom) {
  Workers workers = simple({0, 0, 0}, {1, 2, 1}, 0, 1);
  workers.all[0].bandwidth = 2;
  workers.all[1].limit = workers.all[1].fitting = 2;
  workers.all[2].limit = workers.all[2].fitting = 0;
  const Clustering result =
      greedy_clusters(workers, std::vector<std::int64_t>{0, 0, 0}, TopChoice::strict);
  EXPECT_EQ(result.clusters, (std::vector<WorkerCluster>{{1, {0, 2}}}));
}

TEST(Greedy, TakesTurnsAsTops) {
  Workers workers = simple({0, 0, 0, 0, 0}, {1, 1, 1, 1, 1}, 0, 4);
  for (std::size_t i = 0; i < 5; ++i) workers.all[i].bandwidth = static_cast<double>(10 - i);
  const std::vector<std::int64_t> sets(5, 0);
  std::vector<std::int64_t> tops;
  for (int round = 0; round < 6; ++round) {
    const auto clusters = greedy_clusters(workers, sets, TopChoice::least_often).clusters;
    tops.push_back(clusters[0].top);
    ++workers.all[static_cast<std::size_t>(tops.back())].times_top;
    EXPECT_EQ(greedy_clusters(workers, sets, TopChoice::strict).clusters[0].top, 0);
  }
  EXPECT_EQ(tops, (std::vector<std::int64_t>{0, 1, 2, 0, 1, 2}));
}

TEST(Clusters, HaveEveryWorkerOnceWithinTheLimits) {
  for (const std::int64_t count : {2, 3, 7, 12, 31, 80}) {
    for (const double ratio : {0.05, 0.5, 3.0}) {
      for (std::int64_t seed = 1; seed <= 5; ++seed) {
        const EmulatedFleet fleet(count, 0.1, ratio, seed);
        for (const TopChoice choice : {TopChoice::strict, TopChoice::least_often}) {
          Clustering result = fleet.greedy(seed, choice);
          expect_everyone_once(result.clusters, count);
          expect_limits(fleet, result);
          tune(fleet.workers, Utility(fleet.workers, result.clusters, 0.5), 3, result.clusters);
          expect_everyone_once(result.clusters, count);
          draw_bottoms(result.clusters, Stream(seed, kTest, 2));
          expect_everyone_once(result.clusters, count);
        }
      }
    }
  }
}

TEST(Tuning, NeverRaisesTheUtility) {
  for (const double lambda : {0.0, 0.5, 1.0}) {
    bool has_lowered = false;
    for (std::int64_t seed = 1; seed <= 6; ++seed) {
      const EmulatedFleet fleet(30, 0.3, 0.2, seed);
      const std::vector<WorkerCluster> first = fleet.greedy(seed).clusters;
      const Utility utility(fleet.workers, first, lambda);
      double before = 0;
      for (const WorkerCluster& cluster : first) before += utility(cluster);
      std::vector<bool> kept_up;
      for (const WorkerCluster& cluster : first) {
        kept_up.push_back(keeps_up(fleet.workers, cluster));
      }
      for (std::int64_t passes = 1; passes <= 4; ++passes) {
        std::vector<WorkerCluster> clusters = first;
        tune(fleet.workers, utility, passes, clusters);
        double after = 0;
        for (std::size_t c = 0; c < clusters.size(); ++c) {
          after += utility(clusters[c]);
          EXPECT_EQ(clusters[c].top, first[c].top);
          EXPECT_EQ(clusters[c].bottoms.size(), first[c].bottoms.size());
          EXPECT_TRUE(!kept_up[c] || keeps_up(fleet.workers, clusters[c]));
        }
        EXPECT_LE(after, before + 1e-12);
        has_lowered = has_lowered || after < before - 0.01;
        before = after;
      }
    }
    EXPECT_TRUE(has_lowered);
  }
}

TEST(Tuning, WeighsWaitingAndLabels) {
  // Labels and speeds ask for different swaps.
  const Workers workers = simple({0, 0, 1, 1, 2, 2}, {1, 5, 1, 5, 0, 0}, 0, 2);
  const std::vector<WorkerCluster> first{{4, {0, 1}}, {5, {2, 3}}};
  const auto tuned = [&](double lambda) {
    std::vector<WorkerCluster> clusters = first;
    tune(workers, Utility(workers, first, lambda), 3, clusters);
    return clusters;
  };
  EXPECT_EQ(tuned(1)[0].bottoms, (Bottoms{1, 3}));
  EXPECT_DOUBLE_EQ(waiting(workers, tuned(1)[0]), 0);
  const std::vector<WorkerCluster> mixed = tuned(0);
  EXPECT_EQ(mixed[0].bottoms.front() / 2 + mixed[0].bottoms.back() / 2, 1);
  EXPECT_DOUBLE_EQ(waiting(workers, first[0]), 2);
}

TEST(Clusters, HaveMoreEvenLabelsThanRandomOnes) {
  for (std::int64_t seed = 1; seed <= 6; ++seed) {
    const EmulatedFleet fleet(40, 0.1, 0.05, seed);
    std::vector<WorkerCluster> clusters = fleet.greedy(seed).clusters;
    const Utility utility(fleet.workers, clusters, 0.5);
    const auto kl = [&](const WorkerCluster& cluster) { return utility.divergence_of(cluster); };
    tune(fleet.workers, utility, 3, clusters);
    double drawn = 0;
    for (std::int64_t draw = 0; draw < 50; ++draw) {
      std::vector<WorkerCluster> random = clusters;
      draw_bottoms(random, Stream(seed, kTest, 3, draw));
      drawn += mean(random, kl) / 50;
    }
    EXPECT_LE(mean(clusters, kl), drawn);
  }
}

// Frequencies -----------------------------------------------------------------------------------

TEST(Frequencies, LetAllClustersEndTogether) {
  Stream random(5, kTest);
  for (int scene = 0; scene < 200; ++scene) {
    std::vector<ClusterPace> clusters;
    for (int c = 0; c < 6; ++c) {
      clusters.push_back({0.05 * std::pow(30, random.uniform()), 2 * random.uniform()});
    }
    const std::vector<std::int64_t> tau = frequencies(clusters, 25, 0);
    const auto fastest = static_cast<std::size_t>(
        std::ranges::min_element(clusters, {}, &ClusterPace::iteration_s) - clusters.begin());
    EXPECT_EQ(tau[fastest], 25);
    const double end = round_s(clusters[fastest], 25);
    for (std::size_t c = 0; c < clusters.size(); ++c) {
      EXPECT_GE(tau[c], 1);
      EXPECT_LE(tau[c], 25);
      if (tau[c] == 1 || tau[c] == 25) continue;
      EXPECT_LT(std::abs(round_s(clusters[c], tau[c]) - end), clusters[c].iteration_s);
      // Of two clusters with equal fixed times the slower one makes no more iterations.
      ClusterPace slower = clusters[c];
      slower.iteration_s *= 1 + random.uniform();
      std::vector<ClusterPace> more = clusters;
      more.push_back(slower);
      EXPECT_LE(frequencies(more, 25, 0).back(), tau[c]);
    }
  }
}

TEST(Frequencies, AreEqualForEqualClusters) {
  for (const double iteration : {0.1, 1.0 / 3, 7e-5, 41.7}) {
    for (const double fixed : {0.0, 0.7, 1e3}) {
      const std::vector<ClusterPace> clusters(5, {iteration, fixed});
      EXPECT_EQ(frequencies(clusters, 17, 0.1), Bottoms(5, 17));
    }
  }
  EXPECT_EQ(frequencies(std::vector<ClusterPace>{{0, 1}, {0, 2}}, 9, 0), Bottoms(2, 9));
}

TEST(Frequencies, IgnoreAFewVeryFastClusters) {
  std::vector<ClusterPace> clusters(20, {1, 0});
  clusters[13] = {0.01, 0};
  EXPECT_EQ(frequencies(clusters, 10, 0)[0], 1);
  const std::vector<std::int64_t> tau = frequencies(clusters, 10, 0.1);
  EXPECT_EQ(tau, Bottoms(20, 10));
}

TEST(Frequencies, WaitingAndWeightsAreThePapers) {
  const std::vector<ClusterPace> clusters{{1, 2}, {3, 1}, {10, 0}};
  EXPECT_EQ(frequencies(clusters, 12, 0), (Bottoms{12, 4, 1}));
  EXPECT_DOUBLE_EQ(waiting(clusters, Bottoms{12, 4, 1}), (0.0 + 1 + 4) / 3);
  const std::vector<double> weights = aggregation_weights(Bottoms{2, 5, 3}, Bottoms{12, 4, 1});
  EXPECT_DOUBLE_EQ(weights[0], 24.0 / 47);
  EXPECT_DOUBLE_EQ(weights[1], 20.0 / 47);
  EXPECT_DOUBLE_EQ(std::accumulate(weights.begin(), weights.end(), 0.0), 1);
}

// The plan alone --------------------------------------------------------------------------------

struct PlanFigures {
  double clusters = 0, bottoms = 0, kl = 0, tuned_kl = 0, wait = 0, tuned_wait = 0, least = 0,
         mean_tau = 0, fixed_share = 0, share = 0;
};

PlanFigures figures(std::int64_t count, double alpha, double ratio) {
  constexpr std::int64_t kSeeds = 6, kMost = 30;
  PlanFigures sum;
  for (std::int64_t seed = 1; seed <= kSeeds; ++seed) {
    const EmulatedFleet fleet(count, alpha, ratio, seed);
    std::vector<WorkerCluster> clusters = fleet.greedy(seed).clusters;
    const Utility utility(fleet.workers, clusters, 0.5);
    const auto kl = [&](const WorkerCluster& c) { return utility.divergence_of(c); };
    const auto wait = [&](const WorkerCluster& c) {
      return waiting(fleet.workers, c) / fleet.iteration_s(c);
    };
    sum.clusters += static_cast<double>(clusters.size());
    sum.bottoms +=
        mean(clusters, [](const auto& c) { return static_cast<double>(c.bottoms.size()); });
    sum.kl += mean(clusters, kl);
    sum.wait += mean(clusters, wait);
    tune(fleet.workers, utility, 3, clusters);
    sum.tuned_kl += mean(clusters, kl);
    sum.tuned_wait += mean(clusters, wait);
    const std::vector<ClusterPace> paces = fleet.paces(clusters);
    const auto share = [&](const std::vector<std::int64_t>& tau) {
      double last = 0;
      for (std::size_t c = 0; c < paces.size(); ++c) {
        last = std::max(last, round_s(paces[c], tau[c]));
      }
      return waiting(paces, tau) / last;
    };
    const std::vector<std::int64_t> tau = frequencies(paces, kMost, 0);
    sum.least += static_cast<double>(*std::ranges::min_element(tau));
    sum.mean_tau += static_cast<double>(std::accumulate(tau.begin(), tau.end(), std::int64_t{0})) /
                    static_cast<double>(tau.size());
    sum.fixed_share += share(Bottoms(paces.size(), kMost));
    sum.share += share(tau);
  }
  for (double* value : {&sum.clusters, &sum.bottoms, &sum.kl, &sum.tuned_kl, &sum.wait,
                        &sum.tuned_wait, &sum.least, &sum.mean_tau, &sum.fixed_share, &sum.share}) {
    *value /= kSeeds;
  }
  return sum;
}

std::string row(std::int64_t count, double alpha, double ratio, const PlanFigures& f) {
  return formatted(
      "| {}, {}, {} | {:.1f} | {:.1f} | {:.3f} → {:.3f} | {:.2f} → {:.2f} | {:.1f} / {:.1f} | "
      "{:.2f} → {:.2f} |",
      count, alpha, ratio, f.clusters, f.bottoms, f.kl, f.tuned_kl, f.wait, f.tuned_wait, f.least,
      f.mean_tau, f.fixed_share, f.share);
}

TEST(Plan, HasTheFiguresOfTheDocumentation) {
  for (const auto& [count, alpha, ratio] : {std::tuple{80, 0.1, 0.05}, std::tuple{80, 0.1, 0.5},
                                            std::tuple{12, 0.1, 0.05}, std::tuple{12, 0.5, 0.05}}) {
    const PlanFigures f = figures(count, alpha, ratio);
    std::puts(row(count, alpha, ratio, f).c_str());
    const bool is_large = count == 80;
    EXPECT_LE(f.tuned_kl, 0.75 * f.kl);
    EXPECT_LE(f.tuned_wait, 1.05 * f.wait);
    EXPECT_LE(f.share, 0.1);
    EXPECT_GE(f.fixed_share, is_large ? 0.5 : 0.3);
    EXPECT_NEAR(f.clusters, is_large ? 13 : 2.3, is_large ? 4 : 0.8);
  }
}

}  // namespace
}  // namespace espalier::split
