#include "espalier/method/parallelsfl_clusters.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "espalier/base/error.h"

namespace espalier::split {
namespace {

using Members = std::vector<std::int64_t>;  // ascending

const Candidate& candidate(const Workers& workers, std::int64_t number) {
  return workers.all[static_cast<std::size_t>(number)];
}

Members all_of(const Workers& workers) {
  Members all(workers.all.size());
  std::iota(all.begin(), all.end(), std::int64_t{0});
  return all;
}

LabelShares mean_labels(const Workers& workers, const Members& members) {
  LabelShares mean(workers.all.front().labels.size(), 0.0);
  for (const std::int64_t member : members) {
    const LabelShares& own = candidate(workers, member).labels;
    for (std::size_t j = 0; j < mean.size(); ++j) mean[j] += own[j];
  }
  for (double& share : mean) share /= static_cast<double>(members.size());
  return mean;
}

double longest_side(const Workers& workers, const WorkerCluster& cluster) {
  double longest = 0;
  for (const std::int64_t bottom : cluster.bottoms) {
    longest = std::max(longest, workers.side_s(bottom, cluster.top));
  }
  return longest;
}

void add_bottom(WorkerCluster& cluster, std::int64_t bottom) {
  cluster.bottoms.insert(std::ranges::upper_bound(cluster.bottoms, bottom), bottom);
}

WorkerCluster with(WorkerCluster cluster, std::int64_t bottom) {
  add_bottom(cluster, bottom);
  return cluster;
}

WorkerCluster swapped(WorkerCluster cluster, std::int64_t out, std::int64_t in) {
  std::erase(cluster.bottoms, out);
  return with(std::move(cluster), in);
}

// k-means ---------------------------------------------------------------------------------------

double distance(const LabelShares& shares, const LabelShares& centre, LabelDistance kind) {
  double sum = 0;
  for (std::size_t j = 0; j < shares.size(); ++j) {
    if (kind == LabelDistance::euclidean) {
      sum += (shares[j] - centre[j]) * (shares[j] - centre[j]);
    } else if (shares[j] > 0) {
      // A label that no member of the centre has is very far, not infinitely far.
      sum += shares[j] * std::log(shares[j] / std::max(centre[j], 1e-9));
    }
  }
  return std::max(0.0, sum);
}

std::size_t nearest(const LabelShares& shares, const std::vector<LabelShares>& centres,
                    LabelDistance kind) {
  return static_cast<std::size_t>(
      std::ranges::min_element(
          centres, {}, [&](const LabelShares& centre) { return distance(shares, centre, kind); }) -
      centres.begin());
}

/// Draws each further centre with a probability in proportion to its distance from the nearest
/// centre.
std::vector<LabelShares> first_centres(std::span<const LabelShares> shares, std::int64_t sets,
                                       LabelDistance kind, Stream& random) {
  std::vector<LabelShares> centres{
      shares[static_cast<std::size_t>(random.below(std::ssize(shares)))]};
  while (std::ssize(centres) < sets) {
    std::vector<double> sums;
    double sum = 0;
    for (const LabelShares& own : shares) {
      sum += distance(own, centres[nearest(own, centres, kind)], kind);
      sums.push_back(sum);
    }
    if (sum == 0) break;  // all others are equal to a centre
    const auto drawn = std::ranges::upper_bound(sums, random.uniform() * sum);
    centres.push_back(shares[static_cast<std::size_t>(drawn - sums.begin())]);
  }
  return centres;
}

// The greedy algorithm --------------------------------------------------------------------------

class Greedy {
 public:
  Greedy(const Workers& workers, std::span<const std::int64_t> sets, TopChoice choice)
      : workers_(workers), choice_(choice), all_(mean_labels(workers, all_of(workers))) {
    sets_.resize(static_cast<std::size_t>(*std::ranges::max_element(sets) + 1));
    for (std::size_t i = 0; i < sets.size(); ++i) {
      sets_[static_cast<std::size_t>(sets[i])].push_back(static_cast<std::int64_t>(i));
    }
  }

  Clustering run() {
    while (const std::optional<std::int64_t> top = take_top()) {
      WorkerCluster cluster{.top = *top};
      fill(cluster);
      if (cluster.bottoms.empty()) {
        result_.leftovers.push_back(*top);
      } else {
        result_.clusters.push_back(std::move(cluster));
      }
    }
    for (const Members& set : sets_) {
      result_.leftovers.insert(result_.leftovers.end(), set.begin(), set.end());
    }
    std::ranges::sort(result_.leftovers);
    for (const std::int64_t lone : result_.leftovers) attach(lone);
    return std::move(result_);
  }

 private:
  bool can_be_top(std::int64_t i) const { return candidate(workers_, i).limit > 0; }

  /// From the largest set that has one.
  std::optional<std::int64_t> take_top() {
    Members* largest = nullptr;
    for (Members& set : sets_) {
      if (std::ranges::none_of(set, [&](std::int64_t i) { return can_be_top(i); })) continue;
      if (largest == nullptr || set.size() > largest->size()) largest = &set;
    }
    if (largest == nullptr) return std::nullopt;
    const std::int64_t top = chosen_top(*largest);
    std::erase(*largest, top);
    return top;
  }

  std::int64_t chosen_top(const Members& set) const {
    Members candidates;
    std::ranges::copy_if(set, std::back_inserter(candidates),
                         [&](std::int64_t i) { return can_be_top(i); });
    std::ranges::stable_sort(candidates, std::ranges::greater{},
                             [&](std::int64_t i) { return candidate(workers_, i).bandwidth; });
    candidates.resize(
        std::min<std::size_t>(candidates.size(), choice_ == TopChoice::strict ? 1 : 3));
    return *std::ranges::min_element(
        candidates, {}, [&](std::int64_t i) { return candidate(workers_, i).times_top; });
  }

  /// Of the slowest worker of each set the one that brings the labels closest to those of all.
  void fill(WorkerCluster& cluster) {
    while (std::ssize(cluster.bottoms) < candidate(workers_, cluster.top).limit) {
      Members* from = nullptr;
      std::int64_t best = 0;
      double smallest = std::numeric_limits<double>::infinity();
      for (Members& set : sets_) {
        if (set.empty()) continue;
        const std::int64_t slowest = *std::ranges::max_element(
            set, {}, [&](std::int64_t i) { return workers_.side_s(i, cluster.top); });
        const double kl = divergence(mean_labels(workers_, with(cluster, slowest).bottoms), all_);
        if (kl >= smallest) continue;
        smallest = kl;
        best = slowest;
        from = &set;
      }
      if (from == nullptr || !keeps_up(workers_, with(cluster, best))) return;
      add_bottom(cluster, best);
      std::erase(*from, best);
    }
  }

  /// To the cluster with most room.
  void attach(std::int64_t lone) {
    WorkerCluster* roomiest = nullptr;
    double least = 0;
    for (WorkerCluster& cluster : result_.clusters) {
      const Candidate& top = candidate(workers_, cluster.top);
      if (std::ssize(cluster.bottoms) >= top.fitting) continue;
      const double used =
          static_cast<double>(cluster.bottoms.size()) / static_cast<double>(top.limit);
      if (roomiest != nullptr && used >= least) continue;
      roomiest = &cluster;
      least = used;
    }
    if (roomiest != nullptr) {
      add_bottom(*roomiest, lone);
    } else if (!add_cluster(lone)) {
      throw InputError(formatted(
          "client {} finds no cluster: the clients that can be a host have no room for it; lower "
          "method.bottom_mbps, or give clients a faster down_mbps or more memory_mb",
          lone));
    }
  }

  /// Where all clusters are full: a bottom that its cluster can spare is one more top with `lone`,
  /// or the bottom of `lone`; or a bottom with more room takes the place of its top.
  bool add_cluster(std::int64_t lone) {
    for (WorkerCluster& cluster : result_.clusters) {
      for (const std::int64_t other : cluster.bottoms) {
        const bool is_spare = cluster.bottoms.size() > 1;
        if (is_spare && (can_be_top(lone) || can_be_top(other))) {
          std::erase(cluster.bottoms, other);
          result_.clusters.push_back(can_be_top(lone) ? WorkerCluster{lone, {other}}
                                                      : WorkerCluster{other, {lone}});
          return true;
        }
        if (can_be_top(other) && candidate(workers_, other).fitting > std::ssize(cluster.bottoms)) {
          WorkerCluster turned{.top = other, .bottoms = cluster.bottoms};
          std::erase(turned.bottoms, other);
          add_bottom(turned, cluster.top);
          add_bottom(turned, lone);
          cluster = std::move(turned);
          return true;
        }
      }
    }
    return false;
  }

  const Workers& workers_;
  TopChoice choice_;
  LabelShares all_;
  std::vector<Members> sets_;  // workers without a cluster
  Clustering result_;
};

double scale(double largest) { return largest > 0 ? largest : 1; }

struct Swap {
  double utility = 0;
  WorkerCluster a, b;
};

/// The best swap between two clusters, if one lowers the sum of their utilities.
std::optional<Swap> best_swap(const Workers& workers, const Utility& utility,
                              const WorkerCluster& a, const WorkerCluster& b) {
  const double now = utility(a) + utility(b);
  const bool a_keeps_up = keeps_up(workers, a), b_keeps_up = keeps_up(workers, b);
  std::optional<Swap> best;
  for (const std::int64_t i : a.bottoms) {
    for (const std::int64_t j : b.bottoms) {
      Swap swap{.a = swapped(a, i, j), .b = swapped(b, j, i)};
      swap.utility = utility(swap.a) + utility(swap.b);
      // The least gain keeps rounding from swapping back and forth.
      if (swap.utility >= (best ? best->utility : now - 1e-9)) continue;
      if (a_keeps_up && !keeps_up(workers, swap.a)) continue;
      if (b_keeps_up && !keeps_up(workers, swap.b)) continue;
      best = std::move(swap);
    }
  }
  return best;
}

}  // namespace

std::vector<std::int64_t> label_sets(std::span<const LabelShares> shares, std::int64_t sets,
                                     LabelDistance distance, Stream random) {
  std::vector<LabelShares> centres = first_centres(shares, sets, distance, random);
  std::vector<std::int64_t> set_of(shares.size(), -1);
  for (int pass = 0; pass < 100; ++pass) {
    bool moved = false;
    for (std::size_t i = 0; i < shares.size(); ++i) {
      const auto set = static_cast<std::int64_t>(nearest(shares[i], centres, distance));
      moved = moved || set != set_of[i];
      set_of[i] = set;
    }
    if (!moved) break;
    for (std::size_t k = 0; k < centres.size(); ++k) {
      LabelShares sum(centres[k].size(), 0.0);
      double members = 0;
      for (std::size_t i = 0; i < shares.size(); ++i) {
        if (set_of[i] != static_cast<std::int64_t>(k)) continue;
        for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += shares[i][j];
        ++members;
      }
      if (members == 0) continue;
      for (double& share : sum) share /= members;
      centres[k] = std::move(sum);
    }
  }
  return set_of;
}

bool keeps_up(const Workers& workers, const WorkerCluster& cluster) {
  const auto bottoms = std::ssize(cluster.bottoms);
  return bottoms <= 1 || static_cast<double>(bottoms) * candidate(workers, cluster.top).top_s <=
                             longest_side(workers, cluster);
}

double waiting(const Workers& workers, const WorkerCluster& cluster) {
  double sum = 0;
  for (const std::int64_t bottom : cluster.bottoms) sum += workers.side_s(bottom, cluster.top);
  return std::max(
      0.0, longest_side(workers, cluster) - sum / static_cast<double>(cluster.bottoms.size()));
}

Clustering greedy_clusters(const Workers& workers, std::span<const std::int64_t> sets,
                           TopChoice choice) {
  return Greedy(workers, sets, choice).run();
}

Utility::Utility(const Workers& workers, std::span<const WorkerCluster> first, double lambda)
    : workers_(workers), all_(mean_labels(workers, all_of(workers))), lambda_(lambda) {
  double longest = 0, farthest = 0;
  for (const WorkerCluster& cluster : first) {
    longest = std::max(longest, waiting(workers, cluster));
    farthest = std::max(farthest, divergence_of(cluster));
  }
  waiting_scale_ = scale(longest);
  divergence_scale_ = scale(farthest);
}

double Utility::divergence_of(const WorkerCluster& cluster) const {
  return divergence(mean_labels(workers_, cluster.bottoms), all_);
}

double Utility::operator()(const WorkerCluster& cluster) const {
  return lambda_ * waiting(workers_, cluster) / waiting_scale_ +
         (1 - lambda_) * divergence_of(cluster) / divergence_scale_;
}

void tune(const Workers& workers, const Utility& utility, std::int64_t passes,
          std::vector<WorkerCluster>& clusters) {
  for (std::int64_t pass = 0; pass < passes; ++pass) {
    bool swapped_any = false;
    for (std::size_t a = 0; a < clusters.size(); ++a) {
      for (std::size_t b = a + 1; b < clusters.size(); ++b) {
        std::optional<Swap> swap = best_swap(workers, utility, clusters[a], clusters[b]);
        if (!swap) continue;
        clusters[a] = std::move(swap->a);
        clusters[b] = std::move(swap->b);
        swapped_any = true;
      }
    }
    if (!swapped_any) return;
  }
}

void draw_bottoms(std::vector<WorkerCluster>& clusters, Stream random) {
  Members all;
  for (const WorkerCluster& cluster : clusters) {
    all.insert(all.end(), cluster.bottoms.begin(), cluster.bottoms.end());
  }
  random.shuffle(all);
  auto next = all.begin();
  for (WorkerCluster& cluster : clusters) {
    for (std::int64_t& bottom : cluster.bottoms) bottom = *next++;
    std::ranges::sort(cluster.bottoms);
  }
}

}  // namespace espalier::split
