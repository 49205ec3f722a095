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

/// A partition of labels below 10, unless `data` has another number of classes.
Partition divide(Dataset& data, const std::string& settings, std::int64_t clients, int seed = 1) {
  return {data_config("[data]\n" + settings + "\n[clients]\ncount = " + std::to_string(clients) +
                      "\n[run]\nseed = " + std::to_string(seed) + "\n"),
          data};
}
Partition divide(const LabelSplit& train, const std::string& settings, std::int64_t clients,
                 int seed = 1) {
  Dataset data{"labels", {{1}, 10}, std::make_unique<LabelSplit>(train), nullptr, {}};
  return divide(data, settings, clients, seed);
}

std::vector<std::vector<std::int64_t>> lists(const Partition& partition) {
  std::vector<std::vector<std::int64_t>> result;
  for (std::int64_t client = 0; client < partition.clients(); ++client) {
    result.push_back(partition.samples(client));
    EXPECT_TRUE(std::is_sorted(result.back().begin(), result.back().end()));
    EXPECT_EQ(static_cast<std::int64_t>(result.back().size()), partition.size(client));
  }
  return result;
}

std::vector<std::int64_t> joined(const Partition& partition) {
  std::vector<std::int64_t> all;
  for (const auto& list : lists(partition)) all.insert(all.end(), list.begin(), list.end());
  std::sort(all.begin(), all.end());
  return all;
}

/// Mean over the clients of the fraction of their most frequent class.
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

std::string refusal(const LabelSplit& train, const std::string& data, std::int64_t clients) {
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
        "partition = shards", "partition = shards\nshards_per_client = 3\nmin_per_client = 40",
        "partition = dominant", "partition = dominant\ndominant_share = 1",
        "partition = long_tail\nimbalance = 1",
        "partition = long_tail\nimbalance = 1\nlong_tail_split = dirichlet"}) {
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
       {"partition = iid", "partition = dirichlet", "partition = shards", "partition = dominant",
        "partition = long_tail", "partition = dirichlet\nsamples_per_client = 20",
        "samples_per_client = 20", "partition = shards\nsamples_per_client = 20",
        "partition = dominant\nsamples_per_client = 20",
        "partition = long_tail\nsamples_per_client = 20", "partition = iid\nlocal_test = 0.3"}) {
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

TEST(Partition, DirichletPartsMakeAClientsDataLargerAndMoreEven) {
  const LabelSplit train = balanced(6000, 10);
  const std::string rule = "partition = dirichlet\nalpha = 0.3\n";
  const Partition parts = divide(train, rule + "dirichlet_parts = 12, 12, 1, 1", 4);
  EXPECT_EQ(joined(parts), all_of(6000));
  // The parts equal the parts of as many clients with one part each.
  const Partition single = divide(train, rule, 26);
  std::vector<std::int64_t> first;
  for (std::int64_t client = 0; client < 12; ++client) {
    const auto own = single.samples(client);
    first.insert(first.end(), own.begin(), own.end());
  }
  std::sort(first.begin(), first.end());
  EXPECT_EQ(parts.samples(0), first);
  EXPECT_EQ(parts.samples(3), single.samples(25));
  EXPECT_LT(dominance(divide(train, rule + "dirichlet_parts = 12", 4), train),
            dominance(divide(train, rule, 4), train));
  EXPECT_EQ(lists(divide(train, rule + "dirichlet_parts = 1", 4)), lists(divide(train, rule, 4)));
  EXPECT_NE(refusal(train, rule + "dirichlet_parts = 2, 2", 4).find("2 values for 4 clients"),
            std::string::npos);
  EXPECT_NE(refusal(train, rule + "dirichlet_parts = 0.5", 4).find("not a number of parts"),
            std::string::npos);
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
  // 10 classes of 100, 20 shards of 50: a shard has one class.
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

const std::vector<std::string> kDrawn{
    "partition = iid",       "partition = dirichlet",
    "partition = shards",    "partition = dominant",
    "partition = long_tail", "partition = long_tail\nlong_tail_split = dirichlet"};

TEST(Partition, DrawnSamplesAreExactAndDependOnTheClientAlone) {
  const LabelSplit train = balanced(5000, 10);
  for (const std::string& kind : kDrawn) {
    const std::string settings = kind + "\nsamples_per_client = 40";
    const Partition few = divide(train, settings, 20);
    const Partition many = divide(train, settings, 1'000'000);
    EXPECT_EQ(many.clients(), 1'000'000);
    std::set<std::vector<std::int64_t>> different;
    for (std::int64_t client = 0; client < 20; ++client) {
      const std::vector<std::int64_t> samples = few.samples(client);
      EXPECT_EQ(samples.size(), 40U) << kind;
      EXPECT_EQ(samples, many.samples(client)) << kind;
      EXPECT_TRUE(std::is_sorted(samples.begin(), samples.end()));
      EXPECT_GE(samples.front(), 0);
      EXPECT_LT(samples.back(), 5000);
      different.insert(samples);
    }
    EXPECT_EQ(different.size(), 20U) << kind;
    EXPECT_EQ(many.samples(999'999).size(), 40U);
    EXPECT_EQ(many.size(999'999), 40);
  }
}

TEST(Partition, DrawnSamplesRepeatOnlyWhereThePoolIsTooSmall) {
  const LabelSplit train = balanced(100, 10);
  const auto most_often = [](const std::vector<std::int64_t>& samples) {
    std::map<std::int64_t, int> counts;
    int most = 0;
    for (const std::int64_t index : samples) most = std::max(most, ++counts[index]);
    return std::pair(most, counts.size());
  };
  // All 100 once; then all twice and 30 of them three times.
  EXPECT_EQ(most_often(divide(train, "samples_per_client = 100", 3).samples(2)),
            std::pair(1, std::size_t{100}));
  EXPECT_EQ(most_often(divide(train, "samples_per_client = 230", 3).samples(2)),
            std::pair(3, std::size_t{100}));
  // 8 of the 10 of its class; then 12 of them, so two come twice.
  const std::string dominant = "partition = dominant\nsamples_per_client = ";
  EXPECT_EQ(most_often(divide(train, dominant + "10", 3).samples(2)),
            std::pair(1, std::size_t{10}));
  EXPECT_EQ(most_often(divide(train, dominant + "15", 3).samples(2)),
            std::pair(2, std::size_t{13}));
}

TEST(Partition, IndependentDrawsOfManyClientsUseEverySampleEquallyOften) {
  const LabelSplit train = balanced(1000, 10);
  const Partition partition = divide(train, "samples_per_client = 100", 2000);
  std::vector<int> uses(1000);
  for (const auto& list : lists(partition)) {
    for (const std::int64_t index : list) ++uses[index];
  }
  // Binomial(2000, 0.1): 200 with deviation 13.4; none of 1000 such counts is 6 deviations off.
  for (const int use : uses) EXPECT_NEAR(use, 200, 81);
}

TEST(Partition, DominantClassHasItsShareAndTheOthersTheRest) {
  // 10 clients with 200 samples, 160 of which have the client's class; each class has one client.
  const LabelSplit train = balanced(2000, 10);
  for (const std::string size : {"", "\nsamples_per_client = 200"}) {
    const Partition partition = divide(train, "partition = dominant" + size, 10);
    std::set<std::int64_t> classes;
    std::vector<double> others(10);
    for (const auto& list : lists(partition)) {
      ASSERT_EQ(list.size(), 200U);
      std::map<std::int64_t, int> counts;
      for (const std::int64_t index : list) ++counts[train.label(index)];
      const auto most =
          std::max_element(counts.begin(), counts.end(),
                           [](const auto& a, const auto& b) { return a.second < b.second; });
      EXPECT_EQ(most->second, 160);
      classes.insert(most->first);
      for (const auto& [label, count] : counts) {
        if (label != most->first) others[label] += count;
      }
    }
    EXPECT_EQ(classes.size(), 10U);
    // A class gets on average 40 of the 400 other samples, with a deviation of at most sqrt(400 0.1
    // 0.9) = 6 (0 if all samples are divided).
    for (const double count : others) EXPECT_NEAR(count, 40, size.empty() ? 0 : 36);
  }
}

TEST(Partition, DominantDividesScarceClassesInProportion) {
  // Half of the samples have class 0: a client of another class finds 500 / 9 of its own for the
  // 80 that it should have.
  std::vector<std::int64_t> labels;
  for (std::int64_t i = 0; i < 1000; ++i) labels.push_back(i < 500 ? 0 : 1 + i % 9);
  const LabelSplit train(std::move(labels));
  const Partition partition = divide(train, "partition = dominant", 10);
  EXPECT_EQ(joined(partition), all_of(1000));
  for (const auto& list : lists(partition)) EXPECT_EQ(list.size(), 100U);
}

TEST(Partition, LongTailHasTheSizesThatTheImbalanceStates) {
  const auto sizes = [](std::int64_t classes, int imbalance) {
    Dataset data{"labels", {{1}, classes}, nullptr, nullptr, {}};
    data.train = std::make_unique<LabelSplit>(balanced(50000, classes));
    const Partition partition =
        divide(data, "partition = long_tail\nimbalance = " + std::to_string(imbalance), 10);
    std::vector<int> counts(static_cast<std::size_t>(classes));
    for (const std::int64_t index : joined(partition)) ++counts[data.train->label(index)];
    return counts;
  };
  const auto sum = [](const std::vector<int>& counts) {
    return std::accumulate(counts.begin(), counts.end(), 0);
  };
  // CIFAR-10 and CIFAR-100 at the usual imbalances (Cui et al. 2019 and Cao et al. 2019 use these
  // counts).
  EXPECT_EQ(sizes(10, 10),
            (std::vector<int>{5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500}));
  EXPECT_EQ(sizes(10, 100), (std::vector<int>{5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50}));
  EXPECT_EQ(sum(sizes(10, 50)), 13996);
  EXPECT_EQ(sum(sizes(10, 200)), 11203);
  EXPECT_EQ(sum(sizes(100, 50)), 12608);
  EXPECT_EQ(sum(sizes(100, 100)), 10847);
}

TEST(Partition, LongTailIsSplitAsAsked) {
  const LabelSplit train = balanced(10000, 10);
  const std::string tail = "partition = long_tail\nimbalance = 10\nlong_tail_split = ";
  const auto sizes = [](const Partition& partition) {
    std::set<std::size_t> different;
    for (const auto& list : lists(partition)) different.insert(list.size());
    return different.size();
  };
  EXPECT_LE(sizes(divide(train, tail + "iid", 10)), 2U);
  EXPECT_GT(sizes(divide(train, tail + "dirichlet\nalpha = 0.1", 10)), 5U);
}

TEST(Partition, GivenFollowsTheColumn) {
  Dataset data{"mine", {{1}, 10}, std::make_unique<LabelSplit>(balanced(6, 10)), nullptr, {}};
  data.client_of = {2, 0, 1, 2, 2, 0};
  EXPECT_EQ(lists(divide(data, "partition = given", 3)),
            (std::vector<std::vector<std::int64_t>>{{1, 5}, {2}, {0, 3, 4}}));
  // Drawn from its own: client 1 has only one sample, which is drawn four times.
  const Partition drawn = divide(data, "partition = given\nsamples_per_client = 4", 3);
  EXPECT_EQ(drawn.samples(1), (std::vector<std::int64_t>{2, 2, 2, 2}));
  const auto refused = [&](std::int64_t clients) {
    try {
      divide(data, "partition = given", clients);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_MENTIONS(refused(4),
                  "clients.count = 4 is more than the 3 clients (0 to 2) that mine names");
  EXPECT_EQ(refused(4).find("train_limit"), std::string::npos);
  try {
    divide(data, "partition = given\ntrain_limit = 6", 5);
    FAIL();
  } catch (const InputError& error) {
    EXPECT_MENTIONS(std::string(error.what()),
                    "mine names in its first 6 samples: set it to at most 3, or leave "
                    "data.train_limit at 0");
  }
  // Fewer are the first ones; nobody trains on the samples of the others.
  const Partition first = divide(data, "partition = given", 2);
  EXPECT_EQ(lists(first), (std::vector<std::vector<std::int64_t>>{{1, 5}, {2}}));
  const auto used = first.in_training();
  EXPECT_EQ(std::set<std::int64_t>(used.begin(), used.end()), (std::set<std::int64_t>{1, 2, 5}));
  data.client_of = {2, 0, 0, 2, 2, 0};
  EXPECT_MENTIONS(refused(3), "no training sample of client 1");
  EXPECT_EQ(refused(1), "accepted");
  data.client_of.clear();
  EXPECT_MENTIONS(refused(3), "needs the client of each sample");
}

TEST(Partition, LocalTestsAreNeverTrainedOn) {
  const LabelSplit train = balanced(1003, 10);
  std::vector<std::string> all = kDrawn;
  for (const std::string& kind : kDrawn) all.push_back(kind + "\nsamples_per_client = 50");
  all.push_back("samples_per_client = 3000");  // the pool is too small: samples are repeated
  for (const std::string& kind : all) {
    const Partition partition = divide(train, kind + "\nlocal_test = 0.2", 20);
    std::set<std::int64_t> trained, tested;
    for (std::int64_t client = 0; client < 20; ++client) {
      const auto own = partition.samples(client);
      const auto tests = partition.test_samples(client);
      // A fifth of the client's samples, rounded down (in shards: of each shard).
      const std::size_t whole = own.size() + tests.size();
      EXPECT_LE(tests.size(), whole / 5) << kind;
      EXPECT_GE(tests.size() + 2, whole / 5) << kind;
      EXPECT_EQ(static_cast<std::int64_t>(own.size()), partition.size(client));
      EXPECT_TRUE(std::is_sorted(tests.begin(), tests.end()));
      trained.insert(own.begin(), own.end());
      tested.insert(tests.begin(), tests.end());
    }
    EXPECT_GT(tested.size(), 20U) << kind;
    const std::set<std::int64_t> allowed(partition.in_training().begin(),
                                         partition.in_training().end());
    EXPECT_EQ(allowed.size(), partition.in_training().size());
    for (const std::int64_t index : tested) {
      EXPECT_EQ(trained.count(index), 0U) << kind;
      EXPECT_EQ(allowed.count(index), 0U) << kind;
    }
    for (const std::int64_t index : trained) EXPECT_EQ(allowed.count(index), 1U);
  }
}

TEST(Partition, NextTokenDataIsNotDividedByClass) {
  Dataset data{"text", {{4}, 256, 256, true}, nullptr, nullptr, {}};
  data.train = std::make_unique<LabelSplit>(std::vector<std::int64_t>(100, 0));
  for (const char* kind : {"dirichlet", "shards", "dominant", "long_tail"}) {
    try {
      divide(data, std::string("partition = ") + kind, 5);
      ADD_FAILURE() << kind;
    } catch (const InputError& error) {
      EXPECT_MENTIONS(std::string(error.what()), "set it to iid");
    }
  }
  EXPECT_EQ(joined(divide(data, "partition = iid", 5)), all_of(100));
}

TEST(Partition, MoreThanTheSamplesAllowIsRefusedWithNumbers) {
  const LabelSplit train = balanced(100, 10);
  EXPECT_EQ(refusal(train, "partition = iid", 100), "accepted");
  for (const char* kind : {"iid", "dirichlet", "shards\nshards_per_client = 1"}) {
    const std::string data = std::string("partition = ") + kind;
    EXPECT_NE(refusal(train, data, 101).find("101 clients"), std::string::npos) << kind;
    EXPECT_NE(refusal(train, data + "\nmin_per_client = 11", 10).find("min_per_client"),
              std::string::npos);
  }
  EXPECT_NE(refusal(train, "partition = shards", 51).find("shards_per_client"), std::string::npos);
  EXPECT_NE(refusal(train, "partition = shards\nsamples_per_client = 5", 10).find("not a multiple"),
            std::string::npos);
  EXPECT_NE(refusal(train, "partition = shards\nsamples_per_client = 102", 10).find("100"),
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
