#include "espalier/method/mergesfl_cohort.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>

namespace espalier::split {
namespace {

constexpr std::int64_t kTournament = 3;

using Bits = std::vector<char>;  // by worker: 1 if it takes part

/// Changes cohorts until they are within the bounds.
class Repair {
 public:
  explicit Repair(const CohortBounds& bounds)
      : bounds_(bounds), sizes_(bounds.batches.begin(), bounds.batches.end()) {}

  void operator()(Bits& members) const {
    while (count(members) > bounds_.most) members[first(members, 1, bounds_.priority, -1)] = 0;
    while (count(members) < bounds_.fewest) members[first(members, 0, bounds_.priority, 1)] = 1;
    while (is_too_much(members) && count(members) > bounds_.fewest) {
      members[first(members, 1, sizes_, 1)] = 0;
    }
    while (is_too_much(members)) {  // the largest batch for the smallest that does not take part
      const std::size_t in = first(members, 0, sizes_, -1);
      members[first(members, 1, sizes_, 1)] = 0;
      members[in] = 1;
    }
  }

  std::int64_t samples(const Bits& members) const {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < members.size(); ++i) sum += members[i] ? bounds_.batches[i] : 0;
    return sum;
  }

 private:
  static std::int64_t count(const Bits& members) { return std::ranges::count(members, 1); }
  bool is_too_much(const Bits& members) const {
    return bounds_.budget > 0 && samples(members) > bounds_.budget;
  }
  /// The worker with the largest sign x value, of those the first, among members or the others.
  static std::size_t first(const Bits& members, char are_members, std::span<const double> values,
                           double sign) {
    std::size_t found = members.size();
    for (std::size_t i = 0; i < members.size(); ++i) {
      if (members[i] != are_members) continue;
      if (found == members.size() || sign * values[i] > sign * values[found]) found = i;
    }
    return found;
  }

  const CohortBounds& bounds_;
  std::vector<double> sizes_;  // of the batches
};

class Genetic {
 public:
  Genetic(const CohortBounds& bounds, std::span<const LabelShares> workers,
          const LabelShares& reference, const GeneticSettings& settings, Stream random)
      : bounds_(bounds),
        repair_(bounds),
        workers_(workers),
        reference_(reference),
        settings_(settings),
        random_(std::move(random)) {}

  Evolution run() {
    std::vector<Individual> population;
    for (std::int64_t i = 0; i < settings_.population; ++i) population.push_back(measured(drawn()));
    Evolution evolution;
    for (std::int64_t generation = 0;; ++generation) {
      const Individual& best = *std::ranges::min_element(population, is_better);
      evolution.divergences.push_back(best.divergence);
      if (generation == settings_.generations) {
        for (std::size_t i = 0; i < best.members.size(); ++i) {
          if (best.members[i]) evolution.cohort.push_back(static_cast<std::int64_t>(i));
        }
        return evolution;
      }
      std::vector<Individual> next{best};
      while (std::ssize(next) < settings_.population) next.push_back(measured(child(population)));
      population = std::move(next);
    }
  }

 private:
  struct Individual {
    Bits members;
    double divergence = 0;
    std::int64_t unused = 0;  // samples of the budget
  };

  /// Lower numbers: of two cohorts the one with the first worker that only one of them has.
  static bool is_better(const Individual& a, const Individual& b) {
    return std::tie(a.divergence, a.unused, b.members) <
           std::tie(b.divergence, b.unused, a.members);
  }

  /// Without replacement, by priority (Efraimidis and Spirakis 2006).
  Bits drawn() {
    const auto workers = bounds_.batches.size();
    const std::int64_t size = bounds_.fewest + random_.below(bounds_.most - bounds_.fewest + 1);
    std::vector<std::pair<double, std::size_t>> keys;
    for (std::size_t i = 0; i < workers; ++i) {
      keys.emplace_back(std::log(1 - random_.uniform()) / bounds_.priority[i], i);
    }
    std::ranges::sort(keys, std::greater());
    Bits members(workers, 0);
    for (std::int64_t k = 0; k < size; ++k) members[keys[static_cast<std::size_t>(k)].second] = 1;
    return members;
  }

  const Individual& winner(const std::vector<Individual>& population) {
    const auto any = [&] {
      return &population[static_cast<std::size_t>(random_.below(std::ssize(population)))];
    };
    const Individual* best = any();
    for (std::int64_t i = 1; i < kTournament; ++i) {
      if (const Individual* other = any(); is_better(*other, *best)) best = other;
    }
    return *best;
  }

  Bits child(const std::vector<Individual>& population) {
    const Bits& a = winner(population).members;
    const Bits& b = winner(population).members;
    Bits members(a.size(), 0);
    for (std::size_t i = 0; i < members.size(); ++i) {
      const char bit = random_.below(2) == 0 ? a[i] : b[i];
      const bool flips = random_.below(std::ssize(members)) == 0;
      members[i] = static_cast<char>(flips ? 1 - bit : bit);
    }
    return members;
  }

  Individual measured(Bits members) {
    repair_(members);
    Individual one{.members = std::move(members)};
    Batches batches(bounds_.batches.begin(), bounds_.batches.end());
    for (std::size_t i = 0; i < batches.size(); ++i) batches[i] *= one.members[i];
    one.divergence = divergence(merged_shares(workers_, batches), reference_);
    one.unused = bounds_.budget > 0 ? bounds_.budget - repair_.samples(one.members) : 0;
    return one;
  }

  const CohortBounds& bounds_;
  Repair repair_;
  std::span<const LabelShares> workers_;
  const LabelShares& reference_;
  GeneticSettings settings_;
  Stream random_;
};

}  // namespace

std::vector<double> priorities(std::span<const std::int64_t> times_selected) {
  double all = 0;
  for (const std::int64_t times : times_selected) all += static_cast<double>(times + 1);
  std::vector<double> priorities;
  for (const std::int64_t times : times_selected) {
    priorities.push_back(all / static_cast<double>(times + 1));
  }
  return priorities;
}

std::int64_t possible_budget(std::int64_t wanted, std::int64_t fewest,
                             std::span<const std::int64_t> batches) {
  Batches sorted(batches.begin(), batches.end());
  std::ranges::sort(sorted);
  return std::max(wanted,
                  std::accumulate(sorted.begin(), sorted.begin() + fewest, std::int64_t{0}));
}

Batches cohort_batches(const Cohort& cohort, std::span<const std::int64_t> batches) {
  Batches own(batches.size(), 0);
  for (const std::int64_t worker : cohort) {
    own[static_cast<std::size_t>(worker)] = batches[static_cast<std::size_t>(worker)];
  }
  return own;
}

Cohort random_cohort(const CohortBounds& bounds, Stream random) {
  std::vector<std::int64_t> order(bounds.batches.size());
  std::iota(order.begin(), order.end(), 0);
  random.shuffle(order);
  Bits members(order.size(), 0);
  for (std::int64_t k = 0; k < bounds.most; ++k) {
    members[static_cast<std::size_t>(order[static_cast<std::size_t>(k)])] = 1;
  }
  Repair{bounds}(members);
  Cohort cohort;
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (members[i]) cohort.push_back(static_cast<std::int64_t>(i));
  }
  return cohort;
}

Evolution genetic_cohort(const CohortBounds& bounds, std::span<const LabelShares> workers,
                         const LabelShares& reference, const GeneticSettings& settings,
                         Stream random) {
  return Genetic(bounds, workers, reference, settings, std::move(random)).run();
}

}  // namespace espalier::split
