#pragma once
// Which client has which training samples: iid, dirichlet, shards. Keyed by the run's seed, so
// every rank computes the same partition and nothing need be sent.

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/config/config.h"
#include "espalier/data/dataset.h"

namespace espalier {

class Partition {
 public:
  /// data.partition, data.alpha, data.samples_per_client, data.min_per_client, clients.count,
  /// run.seed. With data.samples_per_client = 0 every sample has exactly one client; otherwise each
  /// client gets that many, no sample twice. InputError where there are more clients than the
  /// samples allow.
  ///
  /// iid: shuffled and split evenly. dirichlet: each class is split by proportions drawn from
  /// Dirichlet(alpha) (Hsu et al. 2019; with samples_per_client each client draws its own class
  /// proportions), then clients below min_per_client are topped up from the largest. shards: sorted
  /// by label, cut into equal shards, and each client gets data.shards_per_client of them (McMahan
  /// et al. 2017).
  Partition(const Config& config, const Split& train, std::int64_t classes);

  std::int64_t clients() const { return static_cast<std::int64_t>(begin_.size()) - 1; }
  /// Indices into the training split, ascending.
  std::span<const std::int64_t> samples(std::int64_t client) const;
  /// Classes that the client has at least one sample of, ascending.
  std::vector<std::int64_t> classes(std::int64_t client, const Split& train) const;

 private:
  std::vector<std::int64_t> indices_;
  std::vector<std::int64_t> begin_;
};

/// The order in which a client sees its samples in one epoch of its n-th task (purpose
/// "data.order").
std::vector<std::int64_t> epoch_order(std::uint64_t seed, std::int64_t client,
                                      std::int64_t nth_task, std::int64_t epoch,
                                      std::span<const std::int64_t> samples);

}  // namespace espalier
