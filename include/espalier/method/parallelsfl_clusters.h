#pragma once
// The clusters of ParallelSFL (Liao et al. 2024), as functions of values: sets of workers with
// similar labels, clusters that are filled from these sets, and swaps that lower the utility. All
// ties go to the lower number, so equal input gives equal clusters.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/protocol/split/labels.h"

namespace espalier::split {

enum class LabelDistance { euclidean, kl };
/// k-means on the shares of labels, at most 100 passes, with the first centres drawn as by
/// k-means++. With `kl` a worker belongs to the centre c of the smallest KL(V || c). Returns the
/// set of each worker; a set may be empty.
std::vector<std::int64_t> label_sets(std::span<const LabelShares> shares, std::int64_t sets,
                                     LabelDistance distance, Stream random);

struct Candidate {
  LabelShares labels{};
  double bandwidth = 0;        ///< of its incoming link
  std::int64_t limit = 0;      ///< most bottoms if it is a top, by (8); 0: it cannot be one
  std::int64_t fitting = 0;    ///< most bottoms that its memory allows, at least `limit`
  double top_s = 0;            ///< of the top's pass for one bottom's batch, mu_p
  std::int64_t times_top = 0;  ///< rounds in which it was a top
};

struct Workers {
  std::vector<Candidate> all;
  /// Seconds of an iteration of `worker` without the top's pass, mu_b + beta, if `top` is the top.
  std::function<double(std::int64_t worker, std::int64_t top)> side_s;
};

struct WorkerCluster {
  std::int64_t top = 0;
  std::vector<std::int64_t> bottoms{};  ///< ascending
  bool operator==(const WorkerCluster&) const = default;
};

struct Clustering {
  std::vector<WorkerCluster> clusters;
  /// Bottoms that no cluster could take within (8) and (10), and that were added all the same.
  std::vector<std::int64_t> leftovers;
};

/// Whether the top keeps up with its bottoms, (10): N_c mu_p <= max(mu_b + beta). With one bottom
/// nothing can be left out, and it holds.
bool keeps_up(const Workers& workers, const WorkerCluster& cluster);
/// Mean waiting of the bottoms in an iteration, (11).
double waiting(const Workers& workers, const WorkerCluster& cluster);

enum class TopChoice {
  least_often,  ///< of the three with the best bandwidth in the set the one that was it least often
  strict        ///< the best bandwidth
};
/// The paper's algorithm 1 without its last step. InputError if no worker can be a top, or if a
/// worker fits nowhere.
Clustering greedy_clusters(const Workers& workers, std::span<const std::int64_t> sets,
                           TopChoice choice);

/// U_c, (14), with waiting and divergence divided by their largest values among `first`.
class Utility {
 public:
  Utility(const Workers& workers, std::span<const WorkerCluster> first, double lambda);
  double operator()(const WorkerCluster& cluster) const;
  double divergence_of(const WorkerCluster& cluster) const;

 private:
  const Workers& workers_;
  LabelShares all_;
  double lambda_, waiting_scale_, divergence_scale_;
};

/// In each pass, for each pair of clusters, the swap of two bottoms that lowers the sum of their
/// utilities most, unless a top that kept up would not any more. Ends after `passes`, or a pass
/// without swaps.
void tune(const Workers& workers, const Utility& utility, std::int64_t passes,
          std::vector<WorkerCluster>& clusters);

/// The same tops and sizes, with bottoms drawn at random.
void draw_bottoms(std::vector<WorkerCluster>& clusters, Stream random);

}  // namespace espalier::split
