#pragma once
// The training samples of each client. Keyed by the run's seed, so every rank computes the same
// partition and none is sent. Either every sample has exactly one client, or each client draws its
// samples independently, on demand, so that a million clients cost no memory.

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/config/config.h"
#include "espalier/data/dataset.h"

namespace espalier {

class Partition {
 public:
  /// Reads data.partition and the options of that rule, data.samples_per_client, data.local_test,
  /// clients.count and run.seed. InputError if there are more clients than the samples allow, the
  /// rule needs classes and the data has none, or clients.count is above the data's clients.
  ///
  /// With data.samples_per_client = 0 every sample has exactly one client: iid: shuffled and split
  /// evenly. dirichlet: each class is split by proportions drawn from Dirichlet(alpha) (Hsu et al.
  /// 2019). shards: sorted by label, cut into equal shards, and each client gets
  /// data.shards_per_client of them (McMahan et al. 2017). dominant: an even split in which
  /// data.dominant_share of a client's samples have one class and the rest are spread over the
  /// others. long_tail: class sizes fall exponentially (Cui et al. 2019), then iid or dirichlet.
  /// given: by Dataset::client_of, whose first clients.count clients take part. Clients below
  /// data.min_per_client are topped up from the largest, except in given.
  ///
  /// With data.samples_per_client = m each client draws m samples for itself, without repeats
  /// unless its pool is smaller than m: iid from all samples; dirichlet by class proportions of its
  /// own; shards whole shards; dominant and long_tail as above; given from its own.
  Partition(const Config& config, const Dataset& data);

  std::int64_t clients() const { return clients_; }
  /// Number of samples that a client trains on; needs no draw.
  std::int64_t size(std::int64_t client) const;
  /// The samples that a client trains on: indices into the training split, ascending.
  std::vector<std::int64_t> samples(std::int64_t client) const;
  /// Its samples for local tests, a fraction data.local_test of its samples, ascending; no client
  /// trains on them.
  std::vector<std::int64_t> test_samples(std::int64_t client) const;
  /// Classes that the client trains on, ascending.
  std::vector<std::int64_t> classes(std::int64_t client, const Split& train) const;
  /// Every sample that some client may train on, once.
  std::span<const std::uint32_t> in_training() const { return train_.indices; }

 private:
  enum class Rule { iid, dirichlet, shards, dominant, given };
  enum class Part : std::int64_t { train = 0, test = 1 };

  /// Lists one after the other: list i is indices[begin[i]] to indices[begin[i + 1]].
  struct Lists {
    std::vector<std::uint32_t> indices;
    std::vector<std::int64_t> begin{0};
    std::int64_t count() const { return static_cast<std::int64_t>(begin.size()) - 1; }
    std::span<const std::uint32_t> operator[](std::int64_t list) const;
  };

  void keep(const std::vector<std::vector<std::int64_t>>& lists, double local_test);
  std::vector<std::int64_t> take(std::int64_t client, Part part) const;
  std::vector<std::int64_t> draw(std::int64_t client, Part part) const;

  std::int64_t seed_;
  std::int64_t clients_;
  std::int64_t drawn_;  // samples that each client draws; 0: all samples are divided
  Rule rule_ = Rule::iid;
  double alpha_ = 0;
  double dominant_fraction_ = 0;
  std::int64_t shards_per_client_ = 0;
  std::int64_t drawn_for_test_ = 0;
  // Divided: a list for each client. Drawn: the pools, lists of all samples (iid), of each class
  // (dirichlet, dominant), shard (shards) or client (given).
  Lists train_;
  Lists test_;
};

/// The order in which a client sees its samples in one epoch of its n-th task (purpose
/// "data.order").
std::vector<std::int64_t> epoch_order(std::int64_t seed, std::int64_t client, std::int64_t nth_task,
                                      std::int64_t epoch, std::span<const std::int64_t> samples);

}  // namespace espalier
