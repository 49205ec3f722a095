// A round of several clusters with hosts of every kind, on one rank.

#include "espalier/protocol/split/round.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <optional>

#include "mpi_for_all.h"
#include "scene.h"

namespace espalier::split {
namespace {

/// Everything that a round needs on one rank.
class Stage {
 public:
  explicit Stage(const Scene& s)
      : scene_(s),
        residents_(kinds_),
        mailbox_(mpi_for_all->get()),
        worker_(add_jobs(), mailbox_, nullptr),
        pool_(mailbox_, 1, &worker_, false),
        clock_(make_clock(ClockSettings{ServerResources(), {}, {}}, pool_, nullptr)) {
    at::set_num_threads(1);
  }

  std::unique_ptr<Round> run(RoundPlan plan) {
    RoundStart start{.version = 3, .now = 1'000'000'000};
    start.bottom = scene_.weights(scene_.parts->bottom);
    start.top = scene_.weights(scene_.parts->top);
    start.nth_task.assign(8, 2);
    auto round =
        std::make_unique<Round>(scene_.experiment, *scene_.parts, scene_.costs, *clock_,
                                Links(*scene_.experiment.fleet, ServerResources(scene_.config)),
                                std::move(plan), std::move(start));
    clock_->on_arrival([&](Answer& answer) { round->arrived(answer); });
    round->begin();
    while (!round->has_ended()) round->take(*clock_->next({}));
    clock_->on_arrival({});
    return round;
  }

 private:
  JobKinds& add_jobs() {
    add_round_jobs(kinds_, residents_, scene_.experiment, scene_.parts);
    return kinds_;
  }

  const Scene& scene_;
  JobKinds kinds_;
  Residents residents_;
  Mailbox mailbox_;
  Worker worker_;
  Pool pool_;
  std::unique_ptr<Clock> clock_;
};

ClusterPlan cluster(Endpoint host, std::int64_t iterations, std::vector<WorkerPlan> workers,
                    double weight) {
  return {.host = host, .iterations = iterations, .workers = std::move(workers), .weight = weight};
}

RoundPlan three_clusters(Endpoint first_host, Endpoint second_host) {
  return {{cluster(first_host, 3, {{1, 4, 1}, {4, 3, 2}}, 6),
           cluster(second_host, 2, {{2, 2, 1}, {6, 2, 1}, {7, 5, 1}}, 6),
           cluster(kServer, 5, {{3, 4, 1}}, 5)}};
}

/// The merged model, dense.
Bytes merged(const Scene& s, const Round& round) {
  Parameters model = s.first_values();
  merge(s.experiment, *s.parts, round, model);
  const auto dense = s.experiment.plans->buffer_layout(model.submodel(), Packing::dense);
  return *pack_payload(*s.experiment.plans, model, *dense);
}

TEST(Round, HasValuesThatDoNotDependOnHosts) {
  const Scene s = scene_of("");
  Stage stage(s);
  const Bytes expected = merged(s, *stage.run(three_clusters(kServer, kServer)));
  EXPECT_EQ(expected, merged(s, *stage.run(three_clusters(0, 5))));
  EXPECT_NE(expected, merged(s, *stage.run({{cluster(kServer, 3, {{1, 4, 1}, {4, 3, 1}}, 6)}})));
}

TEST(Round, MergesByTheWeightsOfThePlan) {
  const Scene s = scene_of("");
  Stage stage(s);
  const auto round = stage.run(three_clusters(0, 5));
  const Bytes model = merged(s, *round);
  EXPECT_DOUBLE_EQ(round->share(round->clusters()[0]), 6.0 / 17);
  const std::vector<double> shares{2.0 / 17, 4.0 / 17, 2.0 / 17, 2.0 / 17, 2.0 / 17, 5.0 / 17};
  const auto& workers = round->workers();
  const std::size_t bottom = floats_of(*workers[0].weights).size();
  for (std::size_t w = 0; w < 6; ++w) EXPECT_DOUBLE_EQ(round->share(workers[w]), shares[w]);
  for (std::size_t i = 0; i < floats_of(model).size(); ++i) {
    double mean = 0;
    if (i < bottom) {
      for (std::size_t w = 0; w < 6; ++w) mean += shares[w] * floats_of(*workers[w].weights)[i];
    } else {
      for (std::size_t c = 0; c < 3; ++c) {
        mean += (c < 2 ? 6.0 : 5.0) / 17 * floats_of(*round->clusters()[c].weights)[i - bottom];
      }
    }
    EXPECT_NEAR(floats_of(model)[i], mean, 1e-7) << i;
  }
}

TEST(Round, LeavesClustersIndependentInTime) {
  const Scene s = scene_of("");
  Stage stage(s);
  const RoundPlan plan = three_clusters(0, 5);
  const auto all = stage.run(plan);
  EXPECT_EQ(all->ended(), std::max({all->clusters()[0].ended, all->clusters()[1].ended,
                                    all->clusters()[2].ended}));
  for (std::size_t c = 0; c < 3; ++c) {
    const auto alone = stage.run({{plan.clusters[c]}});
    EXPECT_EQ(alone->ended(), all->clusters()[c].ended);
    EXPECT_EQ(all->clusters()[c].iterations, plan.clusters[c].iterations);
  }
}

TEST(Round, TakesTheTimeOfItsParts) {
  const Scene s = scene_of("");
  Stage stage(s);
  const auto round = stage.run({{cluster(0, 2, {{4, 3, 1}}, 1)}});
  const Round::Worker& worker = round->workers()[0];
  const Round::Cluster& only = round->clusters()[0];
  const std::int64_t bottom = (36 * 12 + 12) * 4, top = (12 * 10 + 10 + 10 * 10 + 10) * 4;
  const std::int64_t features = 3 * 12 * 4, labels = 3 * 4;
  const auto link = [](double mbps, double latency_ms, std::int64_t bytes) {
    return std::llround(latency_ms * 1e6 + static_cast<double>(bytes) * 8e3 / mbps);
  };
  // Client 0 is fast, client 4 slow: between them the slower rate and the larger latency.
  const Nanoseconds down = link(2, 5, bottom) + 2 * link(2, 5, features);
  const Nanoseconds up = 2 * link(1, 5, features + labels) + link(1, 5, bottom);
  const Nanoseconds whole = link(4, 3, bottom + top) + link(2, 3, bottom + top);
  const TrainingCost& step = s.costs.bottom(3);
  const Nanoseconds compute = 2 * step.step_flops * 1000,
                    tops = 2 * s.costs.top(3).step_flops * 500;
  const Nanoseconds mean = 2 * (36 * 12 + 12) * 500;
  EXPECT_EQ(worker.transfer, down + up);
  EXPECT_EQ(worker.compute, compute);
  EXPECT_EQ(worker.top, tops);
  EXPECT_EQ(worker.waiting, 0);
  EXPECT_EQ(only.ended, 1'000'000'000 + whole + down + up + compute + tops + mean);
  EXPECT_EQ(only.server_bytes_up, bottom + top);
  EXPECT_EQ(only.device_bytes, 2 * bottom + 2 * (2 * features + labels));
  const std::vector<Observation> seen = round->observations();
  EXPECT_EQ(seen[0].transfer, down + up - link(2, 5, bottom) - link(1, 5, bottom));
}

TEST(Round, TakesTheTimeOfItsPartsWithModels) {
  // Client 4 has 20 samples: batches of 8, 8 and 4. Two iterations of two batches each.
  const Scene s = scene_of("[split]\nexchange = models\ncut = middle\nlocal_steps = 2\n");
  ASSERT_EQ(s.experiment.samples_of(4), 20);
  Stage stage(s);
  const auto round = stage.run({{cluster(0, 2, {{4, 8, 1}}, 1)}});
  const Round::Worker& worker = round->workers()[0];
  const Round::Cluster& only = round->clusters()[0];
  const std::int64_t values = 36 * 12 + 12 + 12 * 10 + 10 + 10 * 10 + 10, model = 4 * values;
  const auto link = [](double mbps, double latency_ms, std::int64_t bytes) {
    return std::llround(latency_ms * 1e6 + static_cast<double>(bytes) * 8e3 / mbps);
  };
  const Nanoseconds ways = 2 * (link(2, 5, model) + link(1, 5, model));
  const Nanoseconds whole = link(4, 3, model) + link(2, 3, model);
  const Nanoseconds compute =
      (3 * s.costs.bottom(8).step_flops + s.costs.bottom(4).step_flops) * 1000;
  const Nanoseconds mean = 2 * values * 500;
  EXPECT_EQ(worker.samples, 28);
  EXPECT_EQ(worker.transfer, ways);
  EXPECT_EQ(worker.compute, compute);
  EXPECT_EQ(worker.top, mean);  // of the first iteration
  EXPECT_EQ(only.top, 2 * mean);
  EXPECT_EQ(only.ended, 1'000'000'000 + whole + ways + compute + 2 * mean);
  EXPECT_EQ(only.server_bytes_up, model);
  EXPECT_EQ(only.server_bytes_down, model);
  EXPECT_EQ(only.device_bytes, 4 * model);
  EXPECT_EQ(round->observations()[0].transfer, ways);
}

TEST(Round, HasMeansOfModelsByTheWeightsOfThePlan) {
  const Scene s = scene_of("[split]\nexchange = models\ncut = middle\nlocal_steps = 3\n");
  Stage stage(s);
  const auto alone = [&](WorkerPlan worker) {
    return merged(s, *stage.run({{cluster(kServer, 1, {worker}, 1)}}));
  };
  const Bytes first = alone({1, 4, 1}), second = alone({4, 3, 1}), third = alone({3, 4, 1});
  const Bytes model = merged(s, *stage.run({{cluster(0, 1, {{1, 4, 1}, {4, 3, 2}}, 6),
                                             cluster(kServer, 1, {{3, 4, 1}}, 5)}}));
  EXPECT_NE(first, second);
  for (std::size_t i = 0; i < floats_of(model).size(); ++i) {
    const double mean = 6.0 / 11 * (floats_of(first)[i] / 3 + 2 * floats_of(second)[i] / 3) +
                        5.0 / 11 * floats_of(third)[i];
    EXPECT_NEAR(floats_of(model)[i], mean, 1e-7) << i;
  }
}

TEST(Round, QueuesTopsOnTheServersProcessor) {
  const Scene s = scene_of("[server]\ngflops = 0.0001\n");
  Stage stage(s);
  const WorkerPlan first{1, 4, 1}, second{2, 4, 1};
  const auto round =
      stage.run({{cluster(kServer, 1, {first}, 1), cluster(kServer, 1, {second}, 1)}});
  const Nanoseconds step = s.costs.top(4).step_flops * 10'000;
  // Two equal workers whose features come at the same time: one top waits for the other.
  EXPECT_EQ(round->clusters()[0].top, step);
  EXPECT_EQ(round->clusters()[1].top, 2 * step);
}

TEST(Round, AccumulatesOneBatchWhileOthersAreUnderWay) {
  const std::string far = "[device.slow]\nlatency_ms = 25\n";
  const Scene merged = scene_of(far), s = scene_of(far + "[split]\ntop = accumulated\n");
  // A near and a far worker; then two near ones, whose batches come together.
  const RoundPlan apart{{cluster(0, 1, {{1, 4, 1}, {3, 4, 1}}, 1)}};
  const RoundPlan together{{cluster(0, 1, {{1, 4, 1}, {2, 4, 1}}, 1)}};
  const Nanoseconds pass = s.costs.top(4).step_flops * 500;
  const Nanoseconds both = s.costs.top(8).step_flops * 500;
  Stage accumulating(s);
  EXPECT_EQ(accumulating.run(apart)->clusters()[0].top, pass);
  EXPECT_EQ(accumulating.run(together)->clusters()[0].top, 2 * pass);
  Stage merging(merged);
  EXPECT_EQ(merging.run(apart)->clusters()[0].top, both);
  EXPECT_EQ(merging.run(together)->clusters()[0].top, both);
}

TEST(Costs, QueueAccumulatedBatchesInOrderOfArrival) {
  const Scene s = scene_of("[split]\ntop = accumulated\n");
  const DeviceClass& device = s.experiment.fleet->device(0);
  const Nanoseconds small = s.costs.top(2).step_flops * 500;
  const Nanoseconds large = s.costs.top(5).step_flops * 500;
  ASSERT_GT(large, small + 10);
  // The large one comes while the small one is worked on, and the next after a pause.
  const std::vector<Arrival> batches{{100, 5}, {90, 2}, {90 + small + large + 7, 2}};
  EXPECT_EQ(s.costs.top_done(device, batches), 90 + small + large + 7 + small);
  EXPECT_EQ(s.costs.top_done(device, {batches[0], batches[1]}), 90 + small + large);
  EXPECT_EQ(s.costs.top_done(device, {batches[0]}, 3), 100 + 3 * large);
}

}  // namespace
}  // namespace espalier::split
