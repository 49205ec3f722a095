#include "espalier/data/fingerprint.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <span>
#include <sstream>

#include "espalier/base/hash.h"

namespace espalier {
namespace {

constexpr std::int64_t kHashedWhole = 64'000'000;  // bytes of a split
constexpr std::int64_t kSampled = 256;             // samples of a larger one
constexpr std::int64_t kAtOnce = 256;

/// `count` of the numbers 0 ... size - 1, evenly spread, including both ends.
std::vector<std::int64_t> spread(std::int64_t count, std::int64_t size) {
  std::vector<std::int64_t> indices(static_cast<std::size_t>(std::min(count, size)));
  std::iota(indices.begin(), indices.end(), std::int64_t{0});
  if (size <= count) return indices;
  for (std::int64_t& index : indices) index = index * (size - 1) / (count - 1);
  return indices;
}

std::uint64_t hash_tensor(const at::Tensor& values, std::uint64_t seed) {
  const at::Tensor flat = values.contiguous();
  return hash_bytes(flat.data_ptr(), flat.nbytes(), seed);
}

std::uint64_t hash_labels(const Split& split) {
  std::vector<std::int64_t> labels(static_cast<std::size_t>(split.size()));
  for (std::int64_t i = 0; i < split.size(); ++i) {
    labels[static_cast<std::size_t>(i)] = split.label(i);
  }
  return hash_bytes(labels.data(), labels.size() * sizeof(labels[0]));
}

/// Hash of the samples, and of the tokens that may be labels if tokens are predicted.
std::uint64_t hash_values(const Split& split, bool predicts_tokens) {
  if (split.size() == 0) return 0;
  const std::int64_t first[] = {0};
  const auto each = static_cast<std::int64_t>(split.inputs(first).nbytes());
  const std::int64_t count =
      split.size() <= kHashedWhole / std::max<std::int64_t>(1, each) ? split.size() : kSampled;
  const std::vector<std::int64_t> all = spread(count, split.size());
  std::uint64_t hash = 0;
  for (std::size_t begin = 0; begin < all.size(); begin += kAtOnce) {
    const std::size_t size = std::min<std::size_t>(kAtOnce, all.size() - begin);
    const auto part = std::span(all).subspan(begin, size);
    hash = hash_tensor(split.inputs(part), hash);
    if (predicts_tokens) hash = hash_tensor(split.labels(part), hash);
  }
  return hash;
}

std::string numbers(const std::vector<std::int64_t>& values) {
  std::string text;
  for (const std::int64_t value : values) {
    text += text.empty() ? std::to_string(value) : "x" + std::to_string(value);
  }
  return text;
}

using Lines = std::map<std::string, std::string>;

Lines lines_of(const std::string& print) {
  Lines lines;
  std::istringstream text(print);
  for (std::string line; std::getline(text, line);) {
    const std::size_t equals = line.find(" = ");
    if (equals != std::string::npos) lines[line.substr(0, equals)] = line.substr(equals + 3);
  }
  return lines;
}

bool is_hash(const std::string& value) { return value.starts_with("xxh3:"); }

}  // namespace

std::string fingerprint(const Dataset& data) {
  std::string print;
  const auto say = [&](const std::string& what, const std::string& value) {
    print += formatted("{} = {}\n", what, value);
  };
  const auto say_hash = [&](const std::string& what, std::uint64_t hash) {
    say(what, formatted("xxh3:{:016x}", hash));
  };
  say("shape of a sample", numbers(data.shape.sample));
  say("classes", std::to_string(data.shape.classes));
  if (data.shape.vocabulary > 0) say("vocabulary", std::to_string(data.shape.vocabulary));
  if (!data.words.empty()) say_hash("words", hash_text(data.words));
  const auto describe = [&](const std::string& name, const std::unique_ptr<Split>& split) {
    say(name + " samples", std::to_string(split ? split->size() : 0));
    if (!split) return;
    say_hash(name + " labels", hash_labels(*split));
    say_hash(name + " values", hash_values(*split, data.shape.predicts_tokens()));
  };
  describe("training", data.train);
  describe("test", data.test);
  say_hash("clients of the samples",
           hash_bytes(data.client_of.data(), data.client_of.size() * sizeof(std::int32_t)));
  return print;
}

std::vector<std::string> differing(const std::string& there, const std::string& here) {
  std::vector<std::string> differences;
  const Lines before = lines_of(there);
  for (const auto& [what, value] : lines_of(here)) {
    const auto other = before.find(what);
    if (other == before.end() || other->second == value) continue;
    differences.push_back(
        is_hash(value) ? what : formatted("{} ({} there, {} here)", what, other->second, value));
  }
  return differences;
}

}  // namespace espalier
