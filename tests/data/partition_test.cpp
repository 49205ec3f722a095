#include "espalier/data/partition.h"

#include <algorithm>
#include <map>
#include <set>

#include "espalier/base/error.h"
#include "fixture.h"

namespace espalier {
namespace {

/// Sample i has label i mod `classes`.
LabelSplit balanced(std::int64_t samples, std::int64_t classes) {
  std::vector<std::int64_t> labels = all_of(samples);
  for (std::int64_t& label : labels) label %= classes;
  return LabelSplit(std::move(labels));
}

Partition divide(const Split& train, const std::string& data, std::int64_t clients, int seed = 1) {
  return {data_config("[data]\n" + data + "\n[clients]\ncount = " + std::to_string(clients) +
                      "\n[run]\nseed = " + std::to_string(seed) + "\n"),
          train, 10};
}

std::vector<std::vector<std::int64_t>> lists(const Partition& partition) {
  std::vector<std::vector<std::int64_t>> result;
  for (std::int64_t client = 0; client < partition.clients(); ++client) {
    const auto samples = partition.samples(client);
    EXPECT_TRUE(std::is_sorted(samples.begin(), samples.end()));
    result.emplace_back(samples.begin(), samples.end());
  }
  return result;
}

std::vector<std::int64_t> joined(const Partition& partition) {
  std::vector<std::int64_t> all;
  for (const auto& list : lists(partition)) all.insert(all.end(), list.begin(), list.end());
  std::sort(all.begin(), all.end());
  return all;
}

/// Mean over the clients of the share that their most frequent class has.
double dominance(const Partition& partition, const Split& train) {
  double sum = 0;
  for (const auto& list : lists(partition)) {
    std::map<std::int64_t, int> counts;
    int most = 0;
    for (const std::int64_t index : list) most = std::max(most, ++counts[train.label(index)]);
    sum += most / static_cast<double>(list.size());
  }
  return sum / static_cast<double>(partition.clients());
}

std::string refusal(const Split& train, const std::string& data, std::int64_t clients) {
  try {
    divide(train, data, clients);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Partition, EverySampleHasExactlyOneClient) {
  const LabelSplit train = balanced(1003, 10);
  for (const char* data :
       {"partition = iid", "partition = dirichlet\nalpha = 0.1",
        "partition = dirichlet\nalpha = 100", "partition = dirichlet\nalpha = 0.001",
        "partition = shards", "partition = shards\nshards_per_client = 3\nmin_per_client = 40"}) {
    for (const int clients : {1, 7, 20}) {
      const Partition partition = divide(train, data, clients);
      ASSERT_EQ(partition.clients(), clients);
      EXPECT_EQ(joined(partition), all_of(1003)) << data << ", " << clients;
    }
  }
}

TEST(Partition, IidSizesDifferByAtMostOne) {
  const Partition partition = divide(balanced(1003, 10), "partition = iid", 10);
  for (const auto& list : lists(partition)) {
    EXPECT_GE(list.size(), 100U);
    EXPECT_LE(list.size(), 101U);
  }
}

TEST(Partition, IsKeyedBySeedAlone) {
  const LabelSplit train = balanced(500, 10);
  for (const char* data :
       {"partition = iid", "partition = dirichlet", "partition = shards",
        "partition = dirichlet\nsamples_per_client = 20", "samples_per_client = 20"}) {
    EXPECT_EQ(lists(divide(train, data, 10)), lists(divide(train, data, 10))) << data;
    EXPECT_NE(lists(divide(train, data, 10)), lists(divide(train, data, 10, 2))) << data;
  }
}

TEST(Partition, DirichletSkewFallsWithAlpha) {
  const LabelSplit train = balanced(10000, 10);
  for (const std::string size : {"", "\nsamples_per_client = 100"}) {
    const double strong =
        dominance(divide(train, "partition = dirichlet\nalpha = 0.1" + size, 20), train);
    const double weak =
        dominance(divide(train, "partition = dirichlet\nalpha = 1000" + size, 20), train);
    // A component of Dirichlet(0.1) over 10 classes usually takes more than half; one of
    // Dirichlet(1000) is 0.1 +- 0.003, and 100 samples of it have a largest class of about 0.15
    // (0.25 would be 5 deviations).
    EXPECT_GT(strong, 0.5);
    EXPECT_LT(weak, 0.25);
  }
}

TEST(Partition, TopUpMeetsTheMinimumEvenWhereAllAreEqual) {
  const LabelSplit train = balanced(200, 10);
  const Partition partition =
      divide(train, "partition = dirichlet\nalpha = 0.05\nmin_per_client = 20", 10);
  EXPECT_EQ(joined(partition), all_of(200));
  for (const auto& list : lists(partition)) EXPECT_EQ(list.size(), 20U);
  std::size_t smallest = 200;
  for (const auto& list : lists(divide(train, "partition = dirichlet\nalpha = 0.05", 10))) {
    smallest = std::min(smallest, list.size());
  }
  EXPECT_GE(smallest, 1U);
  EXPECT_LT(smallest, 20U) << "without the top-up the minimum would not have been met";
}

TEST(Partition, ShardsLimitTheClassesOfAClient) {
  // 10 classes of 100, 20 shards of 50: a shard lies within one class.
  const LabelSplit train = balanced(1000, 10);
  const Partition partition = divide(train, "partition = shards", 10);
  for (std::int64_t client = 0; client < 10; ++client) {
    EXPECT_EQ(partition.samples(client).size(), 100U);
    const std::vector<std::int64_t> classes = partition.classes(client, train);
    EXPECT_GE(classes.size(), 1U);
    EXPECT_LE(classes.size(), 2U);
    EXPECT_TRUE(std::is_sorted(classes.begin(), classes.end()));
    std::set<std::int64_t> seen;
    for (const std::int64_t index : partition.samples(client)) seen.insert(train.label(index));
    EXPECT_EQ(std::vector<std::int64_t>(seen.begin(), seen.end()), classes);
  }
}

TEST(Partition, SamplesPerClientAreExactAndDisjoint) {
  const LabelSplit train = balanced(1000, 10);
  for (const char* kind : {"iid", "dirichlet", "shards"}) {
    for (const int each : {30, 100}) {
      const Partition partition = divide(
          train,
          std::string("partition = ") + kind + "\nsamples_per_client = " + std::to_string(each),
          10);
      for (const auto& list : lists(partition))
        EXPECT_EQ(static_cast<int>(list.size()), each) << kind;
      const std::vector<std::int64_t> all = joined(partition);
      EXPECT_EQ(std::adjacent_find(all.begin(), all.end()), all.end()) << kind;
      EXPECT_GE(all.front(), 0);
      EXPECT_LT(all.back(), 1000);
    }
  }
}

TEST(Partition, MoreThanTheSamplesAllowIsRefusedWithNumbers) {
  const LabelSplit train = balanced(100, 10);
  EXPECT_EQ(refusal(train, "partition = iid", 100), "accepted");
  for (const char* kind : {"iid", "dirichlet", "shards\nshards_per_client = 1"}) {
    const std::string data = std::string("partition = ") + kind;
    EXPECT_NE(refusal(train, data, 101).find("101 clients"), std::string::npos) << kind;
    EXPECT_NE(refusal(train, data + "\nsamples_per_client = 11", 10).find("samples_per_client"),
              std::string::npos);
    EXPECT_NE(refusal(train, data + "\nmin_per_client = 11", 10).find("min_per_client"),
              std::string::npos);
  }
  EXPECT_NE(refusal(train, "partition = shards", 51).find("shards_per_client"), std::string::npos);
  EXPECT_NE(refusal(train, "partition = shards\nsamples_per_client = 5", 10).find("no multiple"),
            std::string::npos);
}

TEST(EpochOrder, IsAPermutationKeyedByClientTaskAndEpoch) {
  std::vector<std::int64_t> samples{3, 8, 9, 20, 21, 22, 40, 41, 90, 95};
  const auto order = epoch_order(1, 2, 3, 4, samples);
  EXPECT_EQ(order, epoch_order(1, 2, 3, 4, samples));
  EXPECT_TRUE(std::is_permutation(order.begin(), order.end(), samples.begin(), samples.end()));
  // Two of the 10! orders agree by chance once in 3.6 million.
  EXPECT_NE(order, epoch_order(2, 2, 3, 4, samples));
  EXPECT_NE(order, epoch_order(1, 3, 3, 4, samples));
  EXPECT_NE(order, epoch_order(1, 2, 4, 4, samples));
  EXPECT_NE(order, epoch_order(1, 2, 3, 5, samples));
}

}  // namespace
}  // namespace espalier
