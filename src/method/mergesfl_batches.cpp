#include "espalier/method/mergesfl_batches.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <utility>

namespace espalier::split {
namespace {

/// Of worker `i` in `values`, where `i` has any type of integer.
template <class Values>
auto& at_worker(Values& values, std::int64_t i) {
  return values[static_cast<std::size_t>(i)];
}

std::int64_t sum_of(std::span<const std::int64_t> batches) {
  return std::accumulate(batches.begin(), batches.end(), std::int64_t{0});
}

/// The search of refined_batches().
class Refinement {
 public:
  Refinement(Batches batches, std::span<const LabelShares> workers, const LabelShares& reference,
             std::span<const double> sample_s, std::span<const BatchRange> ranges,
             const RefinementSettings& settings)
      : first_(batches),
        batches_(std::move(batches)),
        workers_(workers),
        reference_(reference),
        sample_s_(sample_s),
        ranges_(ranges),
        settings_(settings) {}

  Batches run() {
    Quality now = quality();
    if (now.excess == 0) return batches_;
    for (Change change = best_change(); change.quality < now; change = best_change()) {
      at_worker(batches_, change.worker) += change.samples;
      now = change.quality;
    }
    return batches_;
  }

 private:
  struct Quality {
    double excess = 0, time = 0;
    bool operator<(const Quality& other) const {
      return std::pair(excess, time) < std::pair(other.excess, other.time);
    }
  };
  struct Change {
    std::int64_t worker = 0, samples = 0;
    Quality quality{};
  };

  Quality quality() const {
    Quality q;
    const double kl = divergence(merged_shares(workers_, batches_), reference_);
    q.excess = std::max(0.0, kl - settings_.limit);
    for (std::size_t i = 0; i < batches_.size(); ++i) {
      q.time += static_cast<double>(std::abs(batches_[i] - first_[i])) * sample_s_[i];
    }
    return q;
  }

  bool allows(std::int64_t worker, std::int64_t batch) const {
    const BatchRange& range = at_worker(ranges_, worker);
    const std::int64_t first = at_worker(first_, worker);
    const double change = std::abs(static_cast<double>(batch - first));
    return batch >= range.least && batch <= range.most &&
           change <= settings_.trust * static_cast<double>(first);
  }

  Change best_change() {
    Change best = {.quality = quality()};
    const std::int64_t sum = sum_of(batches_);
    for (std::int64_t i = 0; i < std::ssize(batches_); ++i) {
      std::int64_t& batch = at_worker(batches_, i);
      if (batch == 0) continue;
      for (const std::int64_t samples : {-1, 1}) {
        const bool is_too_much = settings_.budget > 0 && sum + samples > settings_.budget;
        if (!allows(i, batch + samples) || is_too_much) continue;
        batch += samples;
        const Quality changed = quality();
        batch -= samples;
        if (changed < best.quality) best = {i, samples, changed};
      }
    }
    return best;
  }

  Batches first_, batches_;
  std::span<const LabelShares> workers_;
  const LabelShares& reference_;
  std::span<const double> sample_s_;
  std::span<const BatchRange> ranges_;
  RefinementSettings settings_;
};

}  // namespace

BatchRange batch_range(const Experiment& experiment, const Costs& costs, std::int64_t client) {
  BatchRange range{1, std::min({experiment.batch_of(client), experiment.train.batch,
                                experiment.samples_of(client)})};
  const std::int64_t cap = memory_bytes(experiment.fleet->device(client));
  if (cap > 0) {
    while (range.most > 1 && costs.bottom_memory(range.most) > cap) --range.most;
  }
  range.least = experiment.model.has_statistics ? std::min<std::int64_t>(2, range.most) : 1;
  return range;
}

Batches regulated_batches(std::span<const double> sample_s, std::int64_t largest,
                          std::span<const BatchRange> ranges) {
  const double least = *std::ranges::min_element(sample_s);
  Batches batches;
  for (std::size_t i = 0; i < sample_s.size(); ++i) {
    // The quotient first: it is exactly 1 for the fastest.
    const double exact = static_cast<double>(largest) * (least / sample_s[i]);
    const auto most = static_cast<std::int64_t>(std::floor(exact));
    batches.push_back(std::max(ranges[i].least, std::min(ranges[i].most, most)));
  }
  return batches;
}

double waiting_share(std::span<const double> sample_s, std::span<const std::int64_t> batches) {
  double slowest = 0, sum = 0, workers = 0;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    if (batches[i] == 0) continue;
    const double time = static_cast<double>(batches[i]) * sample_s[i];
    slowest = std::max(slowest, time);
    sum += time;
    ++workers;
  }
  return 1 - sum / (workers * slowest);
}

LabelShares merged_shares(std::span<const LabelShares> workers,
                          std::span<const std::int64_t> batches) {
  LabelShares merged(workers.front().size(), 0.0);
  const auto samples = static_cast<double>(sum_of(batches));
  for (std::size_t i = 0; i < batches.size(); ++i) {
    if (batches[i] == 0) continue;
    const double weight = static_cast<double>(batches[i]) / samples;
    for (std::size_t j = 0; j < merged.size(); ++j) merged[j] += weight * workers[i][j];
  }
  return merged;
}

Batches refined_batches(Batches batches, std::span<const LabelShares> workers,
                        const LabelShares& reference, std::span<const double> sample_s,
                        std::span<const BatchRange> ranges, const RefinementSettings& settings) {
  return Refinement(std::move(batches), workers, reference, sample_s, ranges, settings).run();
}

Batches filled_batches(Batches batches, std::int64_t budget, std::int64_t largest,
                       std::span<const BatchRange> ranges) {
  const std::int64_t sum = sum_of(batches), most = *std::ranges::max_element(batches);
  // The factor is `numerator / denominator`; in whole numbers nothing is rounded the wrong way.
  std::int64_t numerator = budget, denominator = sum;
  if (largest * sum < budget * most) {
    numerator = largest;
    denominator = most;
  }
  if (numerator <= denominator) return batches;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    if (batches[i] == 0) continue;
    batches[i] =
        std::max(batches[i], std::min(ranges[i].most, batches[i] * numerator / denominator));
  }
  return batches;
}

}  // namespace espalier::split
