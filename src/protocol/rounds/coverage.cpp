#include "espalier/protocol/rounds/coverage.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "espalier/base/wide.h"
#include "espalier/protocol/rounds/merge.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

constexpr std::int64_t kWordBits = 64;

/// Sums over the values of a block that both updates of a pair hold.
struct PairSums {
  double product = 0;
  double first = 0;  // squares of the first update's differences
  double second = 0;
};

/// The differences of one update in a block of the model, 0 where it holds none, and 1 or 0 for the
/// values that it holds or does not hold.
struct BlockDifferences {
  std::vector<double> values = std::vector<double>(kMergeBlock);
  std::vector<double> held = std::vector<double>(kMergeBlock);
};

ESPALIER_WIDE PairSums pair_sums(const double* a, const double* held_a, const double* b,
                                 const double* held_b) {
  constexpr std::int64_t kLanes = 8;
  static_assert(kMergeBlock % kLanes == 0);
  double product[kLanes] = {}, first[kLanes] = {}, second[kLanes] = {};
  for (std::int64_t i = 0; i < kMergeBlock; i += kLanes) {
    for (std::int64_t j = i; j < i + kLanes; ++j) {
      product[j - i] += a[j] * b[j];
      first[j - i] += a[j] * a[j] * held_b[j];
      second[j - i] += b[j] * b[j] * held_a[j];
    }
  }
  PairSums sums;
  for (std::int64_t j = 0; j < kLanes; ++j) {
    sums.product += product[j];
    sums.first += first[j];
    sums.second += second[j];
  }
  return sums;
}

/// Parameters that updates can hold: all trained ones but the personal ones.
std::int64_t shared_values(const Experiment& experiment, const BufferLayout& model) {
  return experiment.plans->buffer_layout(model.submodel(), Packing::shared)->count(Kind::trainable);
}

}  // namespace

Coverage coverage(const Experiment& experiment, const BufferLayout& model,
                  std::span<const Update> updates) {
  // Equal submodels are counted together: many clients have few distinct ones.
  std::map<const BufferLayout*, std::int64_t> holders;
  for (const Update& update : updates) ++holders[update.buffer_layout.get()];
  Coverage result;
  if (updates.empty()) return result;
  const std::int64_t values = shared_values(experiment, model);
  double sum = 0;
  for (const auto& [buffer_layout, count] : holders) {
    sum += static_cast<double>(count) * static_cast<double>(buffer_layout->count(Kind::trainable));
  }
  result.mean = sum / static_cast<double>(values);
  if (std::ranges::all_of(updates,
                          [](const Update& u) { return u.buffer_layout->submodel().is_full(); })) {
    result.minimum = static_cast<double>(updates.size());
    return result;
  }
  std::vector<std::int32_t> count(static_cast<std::size_t>(model.kind_range(Kind::trainable).end),
                                  0);
  for (const auto& [buffer_layout, number] : holders) {
    const auto plan = experiment.plans->plan(*buffer_layout, model, nullptr, kTrained);
    plan->for_each_value([&](std::int64_t, std::int64_t destination) {
      count[static_cast<std::size_t>(destination)] += static_cast<std::int32_t>(number);
    });
  }
  std::int32_t least = std::numeric_limits<std::int32_t>::max();
  for (std::size_t entry = 0; entry < model.layout().entries.size(); ++entry) {
    const BufferLayout::Place& place = model.place(static_cast<int>(entry));
    const Entry& kept = model.layout().entries[entry];
    if (kept.kind != Kind::trainable || kept.personal || !place.present) continue;
    for (std::int64_t i = place.offset; i < place.offset + place.count; ++i) {
      least = std::min(least, count[static_cast<std::size_t>(i)]);
    }
  }
  result.minimum = least;
  return result;
}

// Ever trained ----------------------------------------------------------------------------------

void EverTrained::add(const Experiment& experiment, const BufferLayout& model,
                      std::span<const Update> updates) {
  all_ = shared_values(experiment, model);
  if (count_ == all_) return;
  words_.resize(static_cast<std::size_t>((model.kind_range(Kind::trainable).end + kWordBits - 1) /
                                         kWordBits));
  std::set<const BufferLayout*> seen;
  for (const Update& update : updates) {
    if (!seen.insert(update.buffer_layout.get()).second) continue;
    const auto plan = experiment.plans->plan(*update.buffer_layout, model, nullptr, kTrained);
    for (const Plan::Run& run : plan->runs()) set(run.destination, run.destination + run.length);
  }
  if (count_ == all_) words_ = {};
}

/// Sets the bits [begin, end), word by word.
void EverTrained::set(std::int64_t begin, std::int64_t end) {
  while (begin < end) {
    const std::int64_t first = begin % kWordBits;
    const std::int64_t bits = std::min(kWordBits - first, end - begin);
    const std::uint64_t mask = (~std::uint64_t{0} >> (kWordBits - bits)) << first;
    std::int64_t& word = words_[static_cast<std::size_t>(begin / kWordBits)];
    const auto before = static_cast<std::uint64_t>(word);
    count_ += std::popcount(mask & ~before);
    word = static_cast<std::int64_t>(before | mask);
    begin += bits;
  }
}

double EverTrained::share() const {
  return all_ == 0 ? 0 : static_cast<double>(count_) / static_cast<double>(all_);
}

void EverTrained::archive(Archive& archive) {
  archive.value("ever_trained", count_);
  archive.value("ever_trained_bits", words_);
}

// Agreement -------------------------------------------------------------------------------------

double agreement(const Experiment& experiment, const Parameters& model,
                 std::span<const Update> updates) {
  std::vector<std::pair<Holding, Holding>> holdings;
  for (const Update& update : updates) holdings.push_back(holdings_of(experiment, model, update));
  const std::size_t count = updates.size();
  std::vector<BlockDifferences> blocks(count);
  std::vector<PairSums> pairs(count * count);
  std::vector<double> unused(kMergeBlock);
  for_each_block(model, [&](Range range) {
    for (std::size_t i = 0; i < count; ++i) {
      auto& [values, held] = blocks[i];
      std::ranges::fill(values, 0.0);
      std::ranges::fill(held, 0.0);
      const auto& [trained, sent] = holdings[i];
      trained.plan->accumulate(range, trained.values, 1, values.data(), held.data());
      sent.plan->accumulate(range, sent.values, -1, values.data(), unused.data());
    }
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t j = i + 1; j < count; ++j) {
        const PairSums sums = pair_sums(blocks[i].values.data(), blocks[i].held.data(),
                                        blocks[j].values.data(), blocks[j].held.data());
        PairSums& pair = pairs[i * count + j];
        pair.product += sums.product;
        pair.first += sums.first;
        pair.second += sums.second;
      }
    }
  });
  double sum = 0;
  std::int64_t counted = 0;
  for (const PairSums& pair : pairs) {
    if (pair.first <= 0 || pair.second <= 0) continue;
    sum += pair.product / std::sqrt(pair.first * pair.second);
    ++counted;
  }
  return counted == 0 ? std::numeric_limits<double>::quiet_NaN()
                      : sum / static_cast<double>(counted);
}

void declare_coverage_options(OptionTable& table) {
  table.add({.key = "record.agreement",
             .type = OptionType::boolean,
             .default_value = "false",
             .help = "rounds: record the mean cosine between two updates of each merge (column "
                     "agreement of /rounds); its work grows with the square of the updates",
             .on_resume = OnResume::may_change});
}

}  // namespace espalier::rounds
