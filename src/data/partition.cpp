#include "espalier/data/partition.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <queue>
#include <set>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/config/lists.h"

namespace espalier {
namespace {

const Purpose kPartition = register_purpose("data.partition");
const Purpose kOrder = register_purpose("data.order");

using Members = std::vector<std::vector<std::int64_t>>;

// The first key of the partition's streams. The second is the class, client, list or block, the
// third the split.
enum Draw : std::int64_t {
  kShuffle = 0,
  kProportions = 1,
  kTopUp = 2,
  kShards = 3,
  kOwn = 4,
  kTail = 5,
  kDominant = 6,
  kRest = 7,
  kLocalTest = 8
};

Stream stream(std::int64_t seed, Draw draw, std::int64_t item = 0, std::int64_t part = 0) {
  return {seed, kPartition, draw, item, part};
}

std::int64_t length(const auto& list) { return static_cast<std::int64_t>(list.size()); }

std::int64_t total(const Members& members) {
  std::int64_t sum = 0;
  for (const auto& list : members) sum += length(list);
  return sum;
}

/// The samples of each class, ascending.
Members by_class(const Split& train, std::int64_t classes) {
  Members members(static_cast<std::size_t>(classes));
  for (std::int64_t i = 0; i < train.size(); ++i) members.at(train.label(i)).push_back(i);
  return members;
}

std::vector<std::int64_t> all_in_order(const Members& members) {
  std::vector<std::int64_t> all;
  for (const auto& list : members) all.insert(all.end(), list.begin(), list.end());
  return all;
}

/// Dirichlet(alpha) over `count` items.
std::vector<double> proportions(Stream& random, double alpha, std::int64_t count) {
  std::vector<double> fractions(static_cast<std::size_t>(count));
  double sum = 0;
  for (double& fraction : fractions) sum += fraction = random.gamma(alpha);
  if (!(sum > 0)) {
    // All draws of a tiny alpha fell below the smallest double; the limit is one item that has
    // everything.
    fractions[static_cast<std::size_t>(random.below(count))] = sum = 1;
  }
  for (double& fraction : fractions) fraction /= sum;
  return fractions;
}

/// Number of `samples` that a client gets in an even split.
std::int64_t even_part(std::int64_t samples, std::int64_t client, std::int64_t clients) {
  return (client + 1) * samples / clients - client * samples / clients;
}

Members divide_evenly(std::int64_t seed, std::int64_t clients, std::vector<std::int64_t> samples) {
  stream(seed, kShuffle).shuffle(samples);
  Members lists;
  auto next = samples.begin();
  for (std::int64_t client = 0; client < clients; ++client) {
    const auto end = next + even_part(length(samples), client, clients);
    lists.emplace_back(next, end);
    next = end;
  }
  return lists;
}

/// data.dirichlet_parts for each client.
std::vector<std::int64_t> parts_of(const Config& config, std::int64_t clients) {
  std::vector<std::int64_t> parts =
      whole_numbers(config, "data.dirichlet_parts", "number of parts");
  if (parts.empty()) parts.push_back(1);
  if (parts.size() == 1) parts.assign(static_cast<std::size_t>(clients), parts[0]);
  if (length(parts) != clients) {
    throw InputError(
        formatted("data.dirichlet_parts has {} values for {} clients: give one for all, or one "
                  "for each",
                  parts.size(), clients));
  }
  return parts;
}

/// Joins the first parts[0] lists to one list, then the next parts[1], and so on.
Members merged(Members lists, const std::vector<std::int64_t>& parts) {
  Members result;
  auto next = lists.begin();
  for (const std::int64_t count : parts) {
    result.push_back(std::move(*next++));
    for (std::int64_t i = 1; i < count; ++i, ++next) {
      result.back().insert(result.back().end(), next->begin(), next->end());
    }
  }
  return result;
}

Members divide_by_dirichlet(std::int64_t seed, std::int64_t clients, double alpha,
                            Members members) {
  Members lists(static_cast<std::size_t>(clients));
  for (std::size_t c = 0; c < members.size(); ++c) {
    const auto label = static_cast<std::int64_t>(c);
    stream(seed, kShuffle, label).shuffle(members[c]);
    Stream random = stream(seed, kProportions, label);
    const std::vector<double> fractions = proportions(random, alpha, clients);
    const auto count = static_cast<double>(members[c].size());
    double until = 0;
    std::int64_t begin = 0;
    for (std::int64_t client = 0; client < clients; ++client) {
      until += fractions[client];
      const bool last = client + 1 == clients;
      const std::int64_t end =
          last ? length(members[c])
               : std::min<std::int64_t>(std::llround(until * count), length(members[c]));
      lists[client].insert(lists[client].end(), members[c].begin() + begin,
                           members[c].begin() + end);
      begin = end;
    }
  }
  return lists;
}

/// The dominant class of a client: each block of `classes` clients has every class once, in an
/// order drawn for the block.
std::int64_t dominant_class(std::int64_t seed, std::int64_t client, std::int64_t classes) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(classes));
  std::iota(order.begin(), order.end(), 0);
  stream(seed, kDominant, client / classes).shuffle(order);
  return order[static_cast<std::size_t>(client % classes)];
}

/// No member list may be empty.
Members divide_by_dominance(std::int64_t seed, std::int64_t clients, double dominant_fraction,
                            Members members) {
  const std::int64_t classes = length(members);
  const std::int64_t samples = total(members);
  std::vector<std::int64_t> own(static_cast<std::size_t>(clients));
  std::vector<std::int64_t> requested(static_cast<std::size_t>(classes));  // of each class
  const auto quota = [&](std::int64_t client) {
    return std::llround(dominant_fraction *
                        static_cast<double>(even_part(samples, client, clients)));
  };
  for (std::int64_t client = 0; client < clients; ++client) {
    own[client] = dominant_class(seed, client, classes);
    requested[own[client]] += quota(client);
  }
  std::vector<std::int64_t> available(static_cast<std::size_t>(classes));
  for (std::int64_t c = 0; c < classes; ++c) {
    stream(seed, kShuffle, c).shuffle(members[c]);
    available[c] = length(members[c]);
  }
  Members lists(static_cast<std::size_t>(clients));
  for (std::int64_t client = 0; client < clients; ++client) {
    const std::int64_t c = own[client];
    // If clients request more samples than a class has, each gets a part in proportion.
    const std::int64_t count = requested[c] <= available[c]
                                   ? quota(client)
                                   : static_cast<std::int64_t>(static_cast<double>(quota(client)) *
                                                               static_cast<double>(available[c]) /
                                                               static_cast<double>(requested[c]));
    lists[client].assign(members[c].end() - count, members[c].end());
    members[c].resize(members[c].size() - static_cast<std::size_t>(count));
  }
  // The remaining samples are dealt at random. A client that would get one of its own class swaps
  // it with another client, if one of a hundred random samples allows it.
  struct Sample {
    std::int64_t index, label;
  };
  std::vector<Sample> left;
  for (std::int64_t c = 0; c < classes; ++c) {
    for (const std::int64_t index : members[c]) left.push_back({index, c});
  }
  std::vector<std::int64_t> order(left.size());
  std::iota(order.begin(), order.end(), 0);
  Stream random = stream(seed, kRest);
  random.shuffle(order);
  std::vector<std::int64_t> receiver;
  for (std::int64_t client = 0; client < clients; ++client) {
    receiver.resize(receiver.size() + static_cast<std::size_t>(even_part(samples, client, clients) -
                                                               length(lists[client])),
                    client);
  }
  const auto label = [&](std::int64_t place) { return left[order[place]].label; };
  const auto dominant = [&](std::int64_t place) { return own[receiver[place]]; };
  for (std::int64_t place = 0; place < length(order); ++place) {
    for (int tries = 0; label(place) == dominant(place) && tries < 100; ++tries) {
      const std::int64_t other = random.below(length(order));
      if (label(other) != dominant(place) && label(place) != dominant(other)) {
        std::swap(order[place], order[other]);
      }
    }
  }
  for (std::int64_t place = 0; place < length(order); ++place) {
    lists[receiver[place]].push_back(left[order[place]].index);
  }
  return lists;
}

/// Leaves class j of C with n_max imbalance^(-j / (C - 1)) samples, rounded down, at least one,
/// where n_max is the size of the largest class.
void cut_long_tail(std::int64_t seed, double imbalance, Members& members) {
  std::int64_t largest = 0;
  for (const auto& list : members) largest = std::max(largest, length(list));
  for (std::size_t c = 0; c < members.size(); ++c) {
    const double exponent =
        members.size() > 1 ? static_cast<double>(c) / static_cast<double>(members.size() - 1) : 0;
    // The factor keeps whole numbers whole, whatever the last digit of pow() is.
    const double size = static_cast<double>(largest) * std::pow(imbalance, -exponent) * (1 + 1e-12);
    const std::int64_t kept = std::max<std::int64_t>(1, static_cast<std::int64_t>(size));
    if (kept >= length(members[c])) continue;
    stream(seed, kTail, static_cast<std::int64_t>(c)).shuffle(members[c]);
    members[c].resize(static_cast<std::size_t>(kept));
    std::sort(members[c].begin(), members[c].end());
  }
}

/// The shards of each client. `sorted`: by label.
Members divide_by_shards(std::int64_t seed, std::int64_t clients, std::int64_t each,
                         const std::vector<std::int64_t>& sorted) {
  const std::int64_t samples = length(sorted);
  const std::int64_t count = clients * each;
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  stream(seed, kShards).shuffle(order);
  Members lists(static_cast<std::size_t>(clients));
  for (std::int64_t i = 0; i < count; ++i) {
    std::vector<std::int64_t>& list = lists[i / each];
    list.insert(list.end(), sorted.begin() + order[i] * samples / count,
                sorted.begin() + (order[i] + 1) * samples / count);
  }
  return lists;
}

/// Whole shards of `size`, for clients to draw from.
Members make_shards(std::int64_t size, const std::vector<std::int64_t>& sorted) {
  Members lists;
  for (std::int64_t end = size; end <= length(sorted); end += size) {
    lists.emplace_back(sorted.begin() + end - size, sorted.begin() + end);
  }
  return lists;
}

/// `limit`: data.train_limit.
Members by_client(const Dataset& data, std::int64_t clients, std::int64_t limit) {
  if (data.client_of.empty()) {
    const std::string remedy =
        data.name == "arrays" ? "add an array 'client' beside 'x' and 'y'"
        : data.name == "csv"  ? "set data.csv_client"
        : data.name == "text" ? "set data.file to a folder with a file NAME.txt for each client"
                              : "choose another partition";
    throw InputError(
        formatted("data.partition = given needs the client of each sample, and {} does not name "
                  "it; {}",
                  data.name, remedy));
  }
  const std::int64_t named =
      *std::max_element(data.client_of.begin(), data.client_of.end()) + std::int64_t{1};
  if (named < clients) {
    throw InputError(formatted(
        "clients.count = {} is more than the {} clients (0 to {}) that {} names{}: set it "
        "to at most {}{}",
        clients, named, named - 1, data.name,
        limit > 0 ? formatted(" in its first {} samples", limit) : "", named,
        limit > 0 ? ", or leave data.train_limit at 0" : ""));
  }
  Members lists(static_cast<std::size_t>(clients));  // of the first ones that the data names
  for (std::size_t i = 0; i < data.client_of.size(); ++i) {
    const auto client = static_cast<std::size_t>(data.client_of[i]);
    if (client < lists.size()) lists[client].push_back(static_cast<std::int64_t>(i));
  }
  for (std::int64_t client = 0; client < clients; ++client) {
    if (!lists[client].empty()) continue;
    throw DataError(
        formatted("{} has no training sample of client {}: number the clients from 0 without "
                  "gaps, and leave data.train_limit at 0",
                  data.name, client));
  }
  return lists;
}

/// Clients below the minimum get samples of the clients with most.
void top_up(std::int64_t seed, std::int64_t minimum, Members& lists) {
  // Largest list first, ties to the lowest client; outdated entries are skipped.
  std::priority_queue<std::pair<std::int64_t, std::int64_t>> largest;
  for (std::int64_t client = 0; client < length(lists); ++client) {
    largest.emplace(length(lists[client]), -client);
  }
  for (std::int64_t client = 0; client < length(lists); ++client) {
    Stream random = stream(seed, kTopUp, client);
    while (length(lists[client]) < minimum) {
      const auto [size, negative] = largest.top();
      largest.pop();
      std::vector<std::int64_t>& donor = lists[-negative];
      if (length(donor) != size) continue;
      const auto chosen = donor.begin() + random.below(size);
      lists[client].push_back(*chosen);
      donor.erase(chosen);
      largest.emplace(size - 1, negative);
    }
  }
}

void check_enough(std::int64_t clients, std::int64_t each, std::int64_t samples,
                  const std::string& what) {
  if (each <= samples / clients) return;
  throw InputError(formatted(
      "{} clients with at least {} {} each are more than the {} training samples allow: lower "
      "clients.count or data.{}, or let clients draw their samples (data.samples_per_client)",
      clients, each, what, samples, what == "shards" ? "shards_per_client" : "min_per_client"));
}

/// Appends `count` samples of a pool of `size`: the whole pool as often as it fits into `count`,
/// and distinct random samples for the rest. `at`: the sample at a place.
void pick(Stream& random, std::int64_t size, std::int64_t count, const auto& at,
          std::vector<std::int64_t>& taken) {
  if (size == 0) return;
  for (; count >= size; count -= size) {
    for (std::int64_t place = 0; place < size; ++place) taken.push_back(at(place));
  }
  for (const std::int64_t place : random.choose(count, size)) taken.push_back(at(place));
}

}  // namespace

std::span<const std::uint32_t> Partition::Lists::operator[](std::int64_t list) const {
  return std::span(indices).subspan(static_cast<std::size_t>(begin[list]),
                                    static_cast<std::size_t>(begin[list + 1] - begin[list]));
}

Partition::Partition(const Config& config, const Dataset& data)
    : seed_(config.integer("run.seed")),
      clients_(config.integer("clients.count")),
      drawn_(config.integer("data.samples_per_client")) {
  const std::string given_name = config.text("data.partition");
  // The dataset has the clients of a file, too.
  const std::string name = given_name == "file" ? "given" : given_name;
  const Split& train = *data.train;
  ESPALIER_CHECK(train.size() <= std::numeric_limits<std::uint32_t>::max());
  if (data.shape.predicts_tokens() && name != "iid" && name != "given") {
    throw InputError(formatted(
        "data.partition = {} divides by class, and the samples of {} have no class: set it to iid",
        name, data.name));
  }
  std::string rule = name;
  Members members;
  if (name == "given") {
    members = by_client(data, clients_, config.integer("data.train_limit"));
  } else {
    members = by_class(train, data.shape.predicts_tokens() ? 1 : data.shape.classes);
    if (name == "long_tail") {
      cut_long_tail(seed_, config.real("data.imbalance"), members);
      rule = config.text("data.long_tail_split");
    }
    // Classes without samples are left out.
    std::erase_if(members, [](const auto& list) { return list.empty(); });
  }
  const std::int64_t samples = total(members);
  const bool divided = drawn_ == 0;
  const std::int64_t minimum =
      divided && rule != "given" ? config.integer("data.min_per_client") : 0;
  if (divided) check_enough(clients_, minimum, samples, "samples");

  if (rule == "iid") {
    rule_ = Rule::iid;
    members = {all_in_order(members)};
    std::sort(members[0].begin(), members[0].end());
    if (divided) members = divide_evenly(seed_, clients_, std::move(members[0]));
  } else if (rule == "dirichlet") {
    rule_ = Rule::dirichlet;
    alpha_ = config.real("data.alpha");
    if (divided) {
      const std::vector<std::int64_t> parts = parts_of(config, clients_);
      const std::int64_t all = std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
      members = merged(divide_by_dirichlet(seed_, all, alpha_, std::move(members)), parts);
    }
  } else if (rule == "dominant") {
    rule_ = Rule::dominant;
    dominant_fraction_ = config.real("data.dominant_share");
    if (divided) {
      members = divide_by_dominance(seed_, clients_, dominant_fraction_, std::move(members));
    }
  } else if (rule == "shards") {
    rule_ = Rule::shards;
    shards_per_client_ = config.integer("data.shards_per_client");
    if (divided) {
      check_enough(clients_, shards_per_client_, samples, "shards");
      members = divide_by_shards(seed_, clients_, shards_per_client_, all_in_order(members));
    } else {
      if (drawn_ % shards_per_client_ != 0 || drawn_ > samples) {
        throw InputError(
            formatted("data.samples_per_client = {} is not a multiple of data.shards_per_client = "
                      "{} up to the {} training samples: change one of them",
                      drawn_, shards_per_client_, samples));
      }
      members = make_shards(drawn_ / shards_per_client_, all_in_order(members));
    }
  } else {
    ESPALIER_CHECK(rule == "given", "partition {}", rule);
    rule_ = Rule::given;
  }
  if (divided) top_up(seed_, minimum, members);
  keep(members, config.real("data.local_test"));
}

void Partition::keep(const Members& lists, double local_test) {
  const auto for_test = [&](std::int64_t count) {
    return static_cast<std::int64_t>(local_test * static_cast<double>(count));
  };
  drawn_for_test_ = for_test(drawn_);
  if (rule_ == Rule::shards && drawn_ > 0) {
    drawn_for_test_ = shards_per_client_ * for_test(drawn_ / shards_per_client_);
  }
  for (std::int64_t list = 0; list < length(lists); ++list) {
    std::vector<std::int64_t> sorted = lists[list];
    std::sort(sorted.begin(), sorted.end());
    const std::int64_t count = length(sorted);
    const std::vector<std::int64_t> tests =
        stream(seed_, kLocalTest, list).choose(for_test(count), count);
    auto next = tests.begin();
    for (std::int64_t place = 0; place < count; ++place) {
      const bool tested = next != tests.end() && *next == place;
      if (tested) ++next;
      (tested ? test_ : train_).indices.push_back(static_cast<std::uint32_t>(sorted[place]));
    }
    for (Lists* part : {&train_, &test_}) part->begin.push_back(length(part->indices));
  }
}

std::vector<std::int64_t> Partition::draw(std::int64_t client, Part part) const {
  const Lists& lists = part == Part::train ? train_ : test_;
  const std::int64_t count = part == Part::train ? drawn_ - drawn_for_test_ : drawn_for_test_;
  Stream random = stream(seed_, kOwn, client, static_cast<std::int64_t>(part));
  std::vector<std::int64_t> taken;
  const auto pick_from = [&](std::int64_t list, std::int64_t wanted) {
    const auto pool = lists[list];
    pick(
        random, length(pool), wanted, [&](std::int64_t place) { return pool[place]; }, taken);
  };
  switch (rule_) {
    case Rule::iid:
      pick_from(0, count);
      break;
    case Rule::given:
      pick_from(client, count);
      break;
    case Rule::shards: {
      // The same shards for training and tests.
      Stream choice = stream(seed_, kShards, client);
      for (const std::int64_t shard : choice.choose(shards_per_client_, lists.count())) {
        taken.insert(taken.end(), lists[shard].begin(), lists[shard].end());
      }
      break;
    }
    case Rule::dirichlet: {
      Stream own = stream(seed_, kProportions, client);
      std::vector<double> fractions = proportions(own, alpha_, lists.count());
      std::vector<std::int64_t> wanted(fractions.size());
      double sum = 0;
      for (std::int64_t c = 0; c < lists.count(); ++c) sum += lists[c].empty() ? 0 : fractions[c];
      for (std::int64_t i = 0; i < count; ++i) {
        double left = random.uniform() * sum;
        std::int64_t chosen = -1;
        for (std::int64_t c = 0; c < lists.count(); ++c) {
          if (lists[c].empty()) continue;
          chosen = c;  // the last class, if rounding leaves a rest
          if ((left -= fractions[c]) < 0) break;
        }
        if (chosen >= 0) ++wanted[chosen];
      }
      for (std::int64_t c = 0; c < lists.count(); ++c) pick_from(c, wanted[c]);
      break;
    }
    case Rule::dominant: {
      const std::int64_t own = dominant_class(seed_, client, lists.count());
      const std::int64_t size = length(lists[own]);
      const std::int64_t others = length(lists.indices) - size;
      const std::int64_t of_own =
          others == 0 ? count : std::llround(dominant_fraction_ * static_cast<double>(count));
      pick_from(own, of_own);
      pick(
          random, others, count - of_own,
          [&](std::int64_t place) {
            return lists.indices[place < lists.begin[own] ? place : place + size];
          },
          taken);
      break;
    }
  }
  std::sort(taken.begin(), taken.end());
  return taken;
}

std::vector<std::int64_t> Partition::take(std::int64_t client, Part part) const {
  ESPALIER_CHECK(client >= 0 && client < clients_, "client {} of {}", client, clients_);
  if (drawn_ > 0) return draw(client, part);
  const auto list = (part == Part::train ? train_ : test_)[client];
  return {list.begin(), list.end()};
}

std::int64_t Partition::size(std::int64_t client) const {
  ESPALIER_CHECK(client >= 0 && client < clients_, "client {} of {}", client, clients_);
  return drawn_ > 0 ? drawn_ - drawn_for_test_ : length(train_[client]);
}

std::vector<std::int64_t> Partition::samples(std::int64_t client) const {
  return take(client, Part::train);
}

std::vector<std::int64_t> Partition::test_samples(std::int64_t client) const {
  return take(client, Part::test);
}

std::vector<std::int64_t> Partition::classes(std::int64_t client, const Split& train) const {
  const at::Tensor labels = train.labels(samples(client)).flatten();
  const std::int64_t* first = labels.const_data_ptr<std::int64_t>();
  const std::set<std::int64_t> classes(first, first + labels.numel());
  return {classes.begin(), classes.end()};
}

std::vector<std::int64_t> epoch_order(std::int64_t seed, std::int64_t client, std::int64_t nth_task,
                                      std::int64_t epoch, std::span<const std::int64_t> samples) {
  std::vector<std::int64_t> order(samples.begin(), samples.end());
  Stream random(seed, kOrder, client, nth_task, epoch);
  random.shuffle(order);
  return order;
}

}  // namespace espalier
