// The memory of workers and hosts against the bounds by which a run is refused.

#include "espalier/device/memory.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "espalier/protocol/split/models.h"
#include "espalier/protocol/split/tensors.h"
#include "scene.h"

namespace espalier::split {
namespace {

Bytes zeros_like(const Bytes& bytes) { return Bytes(bytes.size(), std::byte{0}); }

struct Peaks {
  std::int64_t bottom = 0, top = 0;
};

/// Two iterations of a worker and of a top that serves it and two others with the same features.
Peaks peaks_of(const Scene& s, std::int64_t batch) {
  Bottom bottom(s.experiment, *s.parts, 0);
  Top top(s.experiment, *s.parts);
  BottomTask begin;
  begin.batch = batch;
  bottom.begin(begin, *s.weights(s.parts->bottom));
  top.begin(TopTask(), *s.weights(s.parts->top));
  Peaks peaks;
  for (int iteration = 0; iteration < 2; ++iteration) {
    const Stepper::Output sent = bottom.forward();
    const BottomResult result = BottomResult::decode(*sent.head);
    TopTask task{.kind = TopTask::Kind::step,
                 .samples = {batch, batch, batch},
                 .order = {2, 0, 1},
                 .mixtures = {{1, 0.3}, {2, 0.3}, {0, 0.3}},
                 .shape = {result.shape.begin() + 1, result.shape.end()}};
    Bytes features;
    for (int worker = 0; worker < 3; ++worker) {
      features.insert(features.end(), sent.payload->begin(), sent.payload->end());
      task.labels.insert(task.labels.end(), result.labels.begin(), result.labels.end());
    }
    top.step(task, features);
    bottom.step(zeros_like(*sent.payload));
  }
  peaks.bottom = BottomResult::decode(*bottom.finish().head).peak_bytes;
  peaks.top = TopResult::decode(*top.finish().head).peak_bytes;
  return peaks;
}

std::vector<std::string> families() {
  const std::string images = "[data]\nsynthetic_shape = 3, 32, 32\n";
  const std::string texts = "[data]\nsynthetic_vocabulary = 200\nlength = 32\n";
  const std::string slim = "depth = 3\nembed = 48\nheads = 4\n";
  return {"[data]\nsynthetic_shape = 1, 28, 28\n[model]\nname = mlp\nhidden = 200, 100\n",
          images + "[model]\nname = cnn\nnorm = batch\n",
          texts + "synthetic_labels = next_token\n[model]\nname = gpt\ntied = false\n" + slim,
          texts + "[model]\nname = encoder\n" + slim};
}

TEST(Memory, IsBoundedAtEveryCutOfEveryFamily) {
  install_counting_allocator();
  at::set_num_threads(1);
  for (const std::string& family : families()) {
    for (const std::string step : {"merged", "in_turn", "accumulated", "copies", "mixup"}) {
      const auto blocks = static_cast<int>(scene_of(family).experiment.model.blocks.size());
      for (int cut = 1; cut < blocks; ++cut) {
        const Scene s = scene_of(family + "[train]\nmomentum = 0.9\n[split]\ntop = " + step +
                                 "\ncut = " + std::to_string(cut) + "\n");
        const Peaks peaks = peaks_of(s, 8);
        const std::int64_t sizes[] = {8, 8, 8};
        const auto bottom = static_cast<double>(s.costs.bottom_memory(8));
        const auto top = static_cast<double>(s.costs.top_memory(sizes));
        EXPECT_LE(peaks.bottom, bottom) << family << cut;
        EXPECT_LE(peaks.top, top) << family << step << cut;
        EXPECT_LE(bottom, 1.25 * static_cast<double>(peaks.bottom)) << family << cut;
        EXPECT_LE(top, 1.25 * static_cast<double>(peaks.top)) << family << step << cut;
      }
    }
  }
}

/// Two iterations of two batches each, and the mean of three models.
Peaks peaks_of_models(const Scene& s, std::int64_t batch) {
  ModelWorker worker(s.experiment, *s.parts, 0);
  ModelHost host;
  BottomTask begin;
  begin.batch = batch;
  const SharedBytes first = s.weights(s.parts->bottom);
  worker.begin(begin, *first);
  host.begin(TopTask(), *first);
  Peaks peaks;
  for (int iteration = 0; iteration < 2; ++iteration) {
    worker.train();
    worker.train();
    const Stepper::Output sent = worker.answer(iteration == 1);
    peaks.bottom = BottomResult::decode(*sent.head).peak_bytes;
    Bytes models;
    for (int other = 0; other < 3; ++other) {
      models.insert(models.end(), sent.payload->begin(), sent.payload->end());
    }
    const Stepper::Output mean =
        host.step({.kind = TopTask::Kind::step, .weights = {1, 2, 3}}, models);
    if (iteration == 0) worker.replace(*mean.payload);
  }
  peaks.top = TopResult::decode(*host.finish().head).peak_bytes;
  return peaks;
}

TEST(Memory, IsBoundedForWholeModelsOfEveryFamily) {
  install_counting_allocator();
  at::set_num_threads(1);
  for (const std::string& family : families()) {
    for (const std::string parts : {"1", "3"}) {
      const Scene s = scene_of(family + "[train]\nmomentum = 0.9\naccumulate = " + parts +
                               "\n[split]\nexchange = models\ncut = middle\n");
      const Peaks peaks = peaks_of_models(s, 8);
      const std::int64_t sizes[] = {8, 8, 8};
      const auto worker = static_cast<double>(s.costs.bottom_memory(8));
      EXPECT_LE(peaks.bottom, worker) << family << parts;
      EXPECT_LE(worker, 1.25 * static_cast<double>(peaks.bottom)) << family << parts;
      EXPECT_EQ(s.costs.top_memory(sizes), peaks.top) << family;
      EXPECT_EQ(peaks.top, 4 * std::ssize(*s.weights(s.parts->top))) << family;
    }
  }
}

}  // namespace
}  // namespace espalier::split
