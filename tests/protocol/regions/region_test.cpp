// A region's steps, values and memory, without a server.

#include "espalier/protocol/regions/region.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <map>

#include "scene.h"

namespace espalier::regions {
namespace {

Scene scene_of(const std::string& more) {
  return Scene(
      "[data]\nname = synthetic\nsynthetic_samples = 122\nsynthetic_shape = 1, 12, 12\n"
      "[clients]\ncount = 4\n[model]\nname = mlp\nhidden = 64, 32\n"
      "[train]\nbatch = 7\nlr = 0.05\n[regions]\nperiod = 10\n",
      more);
}

using Passes = Workload::Passes;

TEST(Passes, AreThoseOfADirectCount) {
  for (const std::string more :
       {"", "[train]\nbatch = 5\n", "[train]\nbatch = 200\n", "[train]\naccumulate = 3\n",
        "[train]\nbatch = 10\naccumulate = 4\n"}) {
    const Scene s = scene_of(more);
    const Experiment& e = s.experiment;
    for (std::int64_t region = 0; region < 4; ++region) {
      const std::int64_t samples = e.samples_of(region);
      const std::int64_t part = part_size(e.train, e.batch_of(region));
      for (const auto& [begin, end] : std::vector<std::pair<std::int64_t, std::int64_t>>{
               {0, 1}, {0, 4}, {0, 5}, {3, 11}, {4, 5}, {5, 6}, {17, 103}, {9, 9}}) {
        std::map<std::int64_t, std::int64_t, std::greater<>> expected;
        std::int64_t left = 0;  // of the epoch
        for (std::int64_t step = 0; step < end; ++step) {
          if (left == 0) left = samples;
          const std::int64_t size = std::min(e.batch_of(region), left);
          left -= size;
          if (step < begin) continue;
          for (std::int64_t done = 0; done < size; done += part) {
            ++expected[std::min(part, size - done)];
          }
        }
        std::vector<Passes> passes;
        for (const auto& [size, count] : expected) passes.push_back({size, count});
        EXPECT_EQ(passes_between(e, region, begin, end), passes)
            << more << region << ": " << begin << " to " << end;
      }
    }
  }
}

/// A region that has joined, and what it is given.
class OneRegion {
 public:
  explicit OneRegion(const Scene& s, std::int64_t region = 0)
      : experiment_(s.experiment),
        settings_(region_settings(s.config, s.experiment)),
        region_(s.experiment, settings_, region) {
    at::set_num_threads(1);
    const Submodel full = Submodel::full(*experiment_.model.layout);
    Parameters model(experiment_.plans->buffer_layout(full, Packing::aligned));
    initialise(model, experiment_.seed);
    const auto dense = experiment_.plans->buffer_layout(full, Packing::dense);
    first_.resize(static_cast<std::size_t>(dense->count(Kind::trainable)));
    experiment_.plans->plan(model.buffer_layout(), *dense, nullptr, kTrained)
        ->copy(std::as_const(model).data(), first_.data());
  }

  Bytes run(std::int64_t job, const RegionTask& task, const std::vector<float>& payload) {
    const auto* bytes = reinterpret_cast<const std::byte*>(payload.data());
    region_.begin(job, task, Bytes(bytes, bytes + payload.size() * sizeof(float)));
    while (region_.step(task)) {
    }
    return region_.finish(task);
  }

  const std::vector<float>& first() const { return first_; }
  const RegionSettings& settings() const { return settings_; }
  Region& region() { return region_; }

 private:
  const Experiment& experiment_;
  RegionSettings settings_;
  Region region_;
  std::vector<float> first_;
};

RegionTask work(std::vector<RegionTask::Applied> applied, std::int64_t goal,
                std::vector<RegionTask::Sent> sent) {
  RegionTask task;
  task.applied = std::move(applied);
  task.goal = goal;
  task.sent = std::move(sent);
  return task;
}

RegionTask join(std::int64_t goal, std::vector<RegionTask::Sent> sent) {
  RegionTask task = work({}, goal, std::move(sent));
  task.joins = 1;
  return task;
}

std::vector<float> floats(const Bytes& bytes) {
  const auto* values = reinterpret_cast<const float*>(bytes.data());
  return {values, values + bytes.size() / sizeof(float)};
}

TEST(Region, JoinsWithTheSharedCopyAndSendsItsOwnValues) {
  const Scene s = scene_of("");
  OneRegion one(s);
  EXPECT_EQ(floats(one.run(0, join(0, {{0, 0}}), one.first())), one.first());
  const auto trained = floats(one.run(1, work({}, 3, {{1, 0}}), {}));
  EXPECT_EQ(trained.size(), one.first().size());
  EXPECT_NE(trained, one.first());
  EXPECT_EQ(one.region().result().samples, 21);
  EXPECT_EQ(one.region().result().tokens, 21);
  // It replaces its values by the merged ones.
  const std::vector<float> merged(one.first().size(), 0.25F);
  EXPECT_EQ(floats(one.run(2, work({{1, 0, 0}}, 3, {{2, 0}}), merged)), merged);
}

TEST(Region, AJobThatIsDoneAgainGivesTheSameAnswer) {
  const Scene s = scene_of("[train]\nmomentum = 0.9\n[regions]\narrival = compensate\n");
  OneRegion one(s);
  one.run(0, join(2, {{0, 0}}), one.first());
  std::vector<float> merged = one.first();
  for (float& value : merged) value *= 0.9F;
  const RegionTask task = work({{0, 0, 0}}, 6, {{1, 0}});
  const Bytes once = one.run(1, task, merged);
  const Bytes head = one.region().result().encode();
  EXPECT_EQ(one.run(1, task, merged), once);
  EXPECT_EQ(one.region().result().encode(), head);
}

TEST(Region, SendsTheDifferenceToTheSharedCopyWithOtherCodecs) {
  const std::string regions = "[regions]\nfragments = strided\nfragment_count = 2\n";
  const Scene exact_scene = scene_of(regions),
              narrow_scene = scene_of(regions + "codec = bfloat16\n");
  OneRegion exact(exact_scene), narrow(narrow_scene), still(exact_scene);
  const RegionTask task = join(4, {{0, 0}, {1, 1}});
  const std::vector<float> values = floats(exact.run(0, task, exact.first()));
  const Bytes bytes = narrow.run(0, task, narrow.first());
  // The shared copy in the order of the fragments: what a region sends before its first step.
  const std::vector<float> shared = floats(still.run(0, join(0, {{0, 0}, {1, 1}}), still.first()));
  std::vector<float> differences(values.size());
  std::size_t begin_value = 0, begin_byte = 0;
  for (const Fragment& fragment : narrow.settings().fragments) {
    const auto count = static_cast<std::size_t>(encoded_bytes(Codec::bfloat16, fragment.tensors));
    const auto first = bytes.begin() + static_cast<std::ptrdiff_t>(begin_byte);
    std::vector<float> own(static_cast<std::size_t>(fragment.values()));
    decode(Codec::bfloat16, fragment.tensors,
           Bytes(first, first + static_cast<std::ptrdiff_t>(count)), own);
    for (std::size_t i = 0; i < own.size(); ++i) {
      const float difference = shared[begin_value + i] - values[begin_value + i];
      ASSERT_NEAR(own[i], difference, std::abs(difference) * 0x1p-8F) << i;  // 8 bits of fraction
    }
    begin_value += own.size();
    begin_byte += count;
  }
  EXPECT_EQ(begin_byte, bytes.size());
}

TEST(Region, WithABaseOfItsOwnDifferencesAreFromWhatItSentLast) {
  const Scene s = scene_of("[regions]\nbase = local\narrival = blend\nalpha = 0.25\n");
  const Scene plain_scene = scene_of("[regions]\nfragments = whole\n");
  OneRegion one(s), plain(plain_scene);
  const std::vector<float>& first = one.first();
  const auto sent = floats(one.run(0, join(3, {{0, 0}}), first));
  const auto values = floats(plain.run(0, join(3, {{0, 0}}), first));
  for (std::size_t i = 0; i < sent.size(); ++i) ASSERT_EQ(sent[i], first[i] - values[i]);
  // It gets a movement, from its own base. Without steps in between, its values blend with
  // first - movement, and the next difference is from the values that it sent.
  const std::vector<float> movement(first.size(), 0.5F);
  const auto next = floats(one.run(1, work({{0, 0, 0}}, 3, {{1, 0}}), movement));
  for (std::size_t i = 0; i < next.size(); ++i) {
    const float own = static_cast<float>(0.25 * values[i] + 0.75 * (first[i] - 0.5F));
    ASSERT_NEAR(next[i], values[i] - own, 1e-6) << i;
  }
}

TEST(Region, ShowsItsReplicaBeforeTheFragments) {
  const Scene s = scene_of("[regions]\ncodec = e3m0\nfragments = strided\nfragment_count = 2\n");
  OneRegion one(s), other(s);
  RegionTask task = join(3, {{0, 1}});
  const Bytes without = one.run(0, task, one.first());
  task.shows = 1;
  const Bytes with = other.run(0, task, other.first());
  const auto size = static_cast<std::ptrdiff_t>(one.first().size() * sizeof(float));
  EXPECT_EQ(Bytes(with.begin() + size, with.end()), without);
  // Two regions of the same seed and steps are equal: the replica is what a whole fragment holds.
  const Scene whole_scene = scene_of("");
  OneRegion whole(whole_scene);
  EXPECT_EQ(Bytes(with.begin(), with.begin() + size),
            whole.run(0, join(3, {{0, 0}}), whole.first()));
}

TEST(Region, MemoryStaysWithinItsBound) {
  install_counting_allocator();
  for (const std::string more :
       {"", "[regions]\ncodec = e3m0\n",
        "[train]\noptimizer = adamw\n[regions]\narrival = compensate\n",
        "[train]\noptimizer = adamw\nbatch = 1\n[regions]\narrival = compensate\nfragments = "
        "strided\nfragment_count = 3\ncodec = int8\n",
        "[train]\nmomentum = 0.9\nbatch = 30\n[regions]\narrival = blend\n",
        "[train]\nbatch = 2\n[regions]\nbase = local\n"}) {
    const Scene s = scene_of(more);
    OneRegion one(s);
    RegionTask task = join(2, {});
    task.shows = 1;
    std::vector<float> payload = one.first();
    const auto count = std::ssize(one.settings().fragments);
    for (std::int64_t p = 0; p < count; ++p) task.sent.push_back({p, p});
    one.run(0, task, payload);
    task = work({}, 4, {});
    payload.clear();
    for (std::int64_t p = 0; p < count; ++p) {
      task.applied.push_back({p, p, 2});
      const std::int64_t size = one.settings().fragments[static_cast<std::size_t>(p)].values();
      payload.insert(payload.end(), static_cast<std::size_t>(size), 0.01F);
    }
    one.run(1, task, payload);
    const std::int64_t peak = one.region().result().peak_bytes;
    const std::int64_t bound = region_bytes(
        s.experiment, one.settings(), part_size(s.experiment.train, s.experiment.batch_of(0)));
    EXPECT_LE(peak, bound) << more;
    // The bound has room for a message with the whole model beside the fragments, which a region
    // gets when it joins.
    const auto message = static_cast<std::int64_t>(one.first().size() * sizeof(float));
    EXPECT_LE(static_cast<double>(bound - message), 1.25 * static_cast<double>(peak)) << more;
  }
}

TEST(Region, KeepsTheValuesThatItSentLast) {
  // A server that has no values to merge, because all messages were lost, sends nothing back.
  install_counting_allocator();
  const Scene s = scene_of("[regions]\narrival = compensate\n");
  OneRegion one(s);
  one.run(0, join(1, {{0, 0}}), one.first());
  for (std::int64_t job = 1; job < 10; ++job) one.run(job, work({}, job + 1, {{job, 0}}), {});
  EXPECT_LE(one.region().result().peak_bytes,
            region_bytes(s.experiment, one.settings(),
                         part_size(s.experiment.train, s.experiment.batch_of(0))));
  // Merged values of an exchange before the last replace its own.
  const std::vector<float> merged(one.first().size(), 0.25F);
  EXPECT_EQ(floats(one.run(10, work({{8, 0, 2}}, 10, {{10, 0}}), merged)), merged);
}

TEST(Region, GoesOnFromItsState) {
  const Scene s = scene_of(
      "[train]\nmomentum = 0.9\n[regions]\narrival = compensate\nfragments = strided\n"
      "fragment_count = 2\n");
  OneRegion first(s), second(s);
  first.run(0, join(7, {{0, 0}, {1, 1}}), first.first());
  ByteArchive saved;
  first.region().archive(saved);
  const Bytes bytes = saved.take();
  ByteArchive loaded(bytes);
  second.region().archive(loaded);
  EXPECT_TRUE(loaded.at_end());
  const auto size = static_cast<std::size_t>(first.settings().fragments[0].values());
  const RegionTask task = work({{0, 0, 4}}, 25, {{2, 0}, {3, 1}});
  const std::vector<float> merged(size, 0.03F);
  EXPECT_EQ(first.run(1, task, merged), second.run(1, task, merged));
  EXPECT_EQ(first.region().result().encode(), second.region().result().encode());
}

}  // namespace
}  // namespace espalier::regions
