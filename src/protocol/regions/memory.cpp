#include "espalier/protocol/regions/memory.h"

#include <algorithm>
#include <numeric>

#include "espalier/device/emulated_time.h"
#include "espalier/train/optimizer.h"

namespace espalier::regions {
namespace {

std::int64_t sum_of(const std::vector<std::int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
}

/// Fragment p of K is sent at p/K of each period.
std::int64_t most_sent_in_turn(std::int64_t period, const std::vector<std::int64_t>& sizes,
                               std::int64_t steps) {
  const auto count = std::ssize(sizes);
  const auto offset = [&](std::int64_t p) { return p * period / count; };
  std::int64_t most = 0;
  for (std::int64_t first = 0; first < count; ++first) {
    std::int64_t sent = 0;
    for (std::int64_t p = 0; p < count; ++p) {
      const std::int64_t after = (offset(p) - offset(first) + period) % period;
      if (after < steps % period) sent += sizes[static_cast<std::size_t>(p)];
    }
    most = std::max(most, sent);
  }
  return times(steps / period, sum_of(sizes)) + most;
}

/// Of what a region is, as a checkpoint gets it.
std::int64_t state_bytes(const Experiment& e, const RegionSettings& settings, std::int64_t model) {
  const std::int64_t copies = 2 + Optimizer::copies(e.train);  // the replica, gradient or base
  return (copies + (settings.keeps_sent_values() ? 1 : 0)) * model;
}

/// While a merge of a fragment computes: the base, the values of a region, differences and means in
/// double (for radial, directions too), the values before and after.
std::int64_t merging_bytes(const MergeSettings& merge, std::int64_t fragment) {
  return (merge.is_radial ? 10 : 8) * fragment;
}

}  // namespace

std::int64_t most_sent(const ScheduleSettings& schedule, const std::vector<std::int64_t>& sizes,
                       std::int64_t steps) {
  const std::int64_t all = sum_of(sizes);
  switch (schedule.kind) {
    case ScheduleKind::every_step:
      return times(steps, all);
    case ScheduleKind::together:
      return times((steps - 1) / schedule.period + 1, all);
    case ScheduleKind::adaptive:  // no fragment twice, because it is under way
      return std::min(all,
                      times((steps - 1) / schedule.spacing + 1, *std::ranges::max_element(sizes)));
    case ScheduleKind::offset:
      break;
  }
  return most_sent_in_turn(schedule.period, sizes, steps);
}

HeldBytes held_bytes(const Experiment& e, const ServerSettings& s) {
  std::vector<std::int64_t> values, encoded;
  for (const Fragment& fragment : s.regions.fragments) {
    values.push_back(fragment.values() * static_cast<std::int64_t>(sizeof(float)));
    encoded.push_back(encoded_bytes(s.regions.codec, fragment.tensors));
  }
  const std::int64_t regions = e.fleet->size();
  const std::int64_t model = sum_of(values);
  const std::int64_t fragment = *std::ranges::max_element(values);
  const bool overlaps = s.schedule.overlap > 0;

  // All the time: optimisers, bases, sums in double of the replicas of one period, or of two.
  std::int64_t always = 0;
  if (s.regions.gradients) {
    always = Optimizer::copies(e.train) * model;
  } else {
    always = OuterOptimizer::copies(s.merge.outer.kind) * model;
    if (s.regions.local_base) always += model;
  }
  if (s.regions.shows_replicas) always += (overlaps ? 4 : 2) * model;

  // A region sends its values and goes on until it has to apply the merged ones, which it does
  // before it sends others. Of those that it sends in these steps, the server has every region's
  // values, or the merged ones.
  const std::int64_t slots = std::max<std::int64_t>(1, s.schedule.overlap);
  const std::int64_t sent = s.decoupling ? model : most_sent(s.schedule, values, slots);
  const std::int64_t answers =
      times(regions, s.decoupling ? sum_of(encoded) : most_sent(s.schedule, encoded, slots));
  const std::int64_t replicas = s.regions.shows_replicas ? regions * model : 0;
  // In jobs, what is applied at one step.
  const std::int64_t applied = regions * most_sent(s.schedule, values, 1);

  // The first jobs bring the model.
  const std::int64_t beginning = regions * model + answers + replicas;
  const std::int64_t training = applied + answers + replicas + sent;
  // Without overlap all regions wait for the merge, and their jobs are done.
  const bool goes_on = overlaps || s.decoupling.has_value();
  const std::int64_t merging =
      (goes_on ? applied + sent : 0) + answers + merging_bytes(s.merge, fragment);
  // A checkpoint follows the merge, with a star before values reach the regions. It makes a list of
  // exchanges and one of jobs, which grow to twice their sizes, and takes in one region's state.
  const bool are_away = goes_on || s.topology == Topology::ring;
  const std::int64_t exchanges = sent + (goes_on ? answers : 0);
  const std::int64_t jobs = are_away ? applied : 0;
  const std::int64_t inner = s.regions.gradients ? std::max<std::int64_t>(model, 2 * always) : 0;
  const std::int64_t state = state_bytes(e, s.regions, model);
  const std::int64_t saving =
      sent + jobs + (are_away ? answers + replicas : 0) +
      std::max({2 * exchanges, jobs > 0 ? 2 * jobs + fragment : 0, state, inner});
  // Gaps between blocks of different sizes that the heap keeps, as measured. With gradients all
  // have the size of the model, and regions that never wait hardly ever fill what is counted for
  // them.
  std::int64_t gaps = std::min(4 * fragment, 2 * model - fragment);
  if (s.regions.gradients) gaps = model / 2;
  if (s.decoupling) gaps = 0;
  return {.most = always + std::max({beginning, training, merging, saving}) + gaps,
          .saved = always + exchanges + jobs + regions * state};
}

}  // namespace espalier::regions
