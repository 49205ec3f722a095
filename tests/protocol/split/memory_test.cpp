// The memory of bottoms and tops against the bounds by which a run is refused.

#include "espalier/device/memory.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "espalier/protocol/split/bottom.h"
#include "espalier/protocol/split/tensors.h"
#include "espalier/protocol/split/top.h"
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

TEST(Memory, IsBoundedAtEveryCutOfEveryFamily) {
  install_counting_allocator();
  at::set_num_threads(1);
  const std::string images = "[data]\nsynthetic_shape = 3, 32, 32\n";
  const std::string texts = "[data]\nsynthetic_vocabulary = 200\nlength = 32\n";
  const std::string slim = "depth = 3\nembed = 48\nheads = 4\n";
  for (const std::string& family :
       {"[data]\nsynthetic_shape = 1, 28, 28\n[model]\nname = mlp\nhidden = 200, 100\n" +
            std::string(),
        images + "[model]\nname = cnn\nnorm = batch\n",
        texts + "synthetic_labels = next_token\n[model]\nname = gpt\ntied = false\n" + slim,
        texts + "[model]\nname = encoder\n" + slim}) {
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

}  // namespace
}  // namespace espalier::split
