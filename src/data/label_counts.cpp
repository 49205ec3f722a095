#include "espalier/data/label_counts.h"

#include <algorithm>

#include "espalier/base/format.h"

namespace espalier {
namespace {

constexpr std::int64_t kMostClients = 50;
constexpr std::int64_t kMostClasses = 12;  // that fit a line

std::vector<std::int64_t> counts_of(const Dataset& data, const Partition& partition,
                                    std::int64_t client) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(data.shape.classes));
  for (const std::int64_t sample : partition.samples(client)) {
    ++counts[static_cast<std::size_t>(data.train->label(sample))];
  }
  return counts;
}

}  // namespace

std::vector<std::string> label_table(const Dataset& data, const Partition& partition) {
  if (data.shape.predicts_tokens() || data.shape.classes < 1) return {};
  const bool has_columns = data.shape.classes <= kMostClasses;
  std::string head = formatted("labels   {:>8} {:>8}", "client", "samples");
  if (!has_columns) head += formatted(" {:>8} {:>15}", "classes", "of the largest");
  for (std::int64_t label = 0; has_columns && label < data.shape.classes; ++label) {
    head += formatted(" {:>6}", label);
  }
  std::vector<std::string> lines{head};
  const std::int64_t shown = std::min(partition.clients(), kMostClients);
  for (std::int64_t client = 0; client < shown; ++client) {
    const std::vector<std::int64_t> counts = counts_of(data, partition, client);
    const std::int64_t samples = partition.size(client);
    std::string line = formatted("         {:>8} {:>8}", client, samples);
    if (has_columns) {
      for (const std::int64_t count : counts) line += formatted(" {:>6}", count);
    } else {
      const auto classes = std::ssize(counts) - std::ranges::count(counts, 0);
      const double largest = static_cast<double>(std::ranges::max(counts)) /
                             static_cast<double>(std::max<std::int64_t>(1, samples));
      line += formatted(" {:>8} {:>13.0f} %", classes, 100 * largest);
    }
    lines.push_back(std::move(line));
  }
  if (shown < partition.clients()) {
    lines.push_back(formatted("         and {} more clients", partition.clients() - shown));
  }
  return lines;
}

}  // namespace espalier
