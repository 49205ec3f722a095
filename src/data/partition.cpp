#include "espalier/data/partition.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>
#include <set>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/random.h"

namespace espalier {
namespace {

using Lists = std::vector<std::vector<std::int64_t>>;

struct Request {
  std::uint64_t seed = 0;
  std::int64_t clients = 0;
  std::int64_t samples_per_client = 0;
  std::int64_t min_per_client = 0;
  std::int64_t shards_per_client = 0;
  double alpha = 0;
};

// The first key of the partition's streams; the second is the class or the client.
enum Draw : std::uint64_t { kShuffle = 0, kProportions = 1, kTopUp = 2, kShards = 3, kOwn = 4 };

Stream stream(const Request& request, Draw draw, std::int64_t item = 0) {
  return {request.seed, purpose("data.partition"), draw, static_cast<std::uint64_t>(item)};
}

Lists by_class(const Split& train, std::int64_t classes) {
  Lists members(static_cast<std::size_t>(classes));
  for (std::int64_t i = 0; i < train.size(); ++i) members.at(train.label(i)).push_back(i);
  return members;
}

/// Dirichlet(alpha) over `count` items.
std::vector<double> proportions(Stream& random, double alpha, std::int64_t count) {
  std::vector<double> shares(static_cast<std::size_t>(count));
  double sum = 0;
  for (double& share : shares) sum += share = random.gamma(alpha);
  if (!(sum > 0)) {
    // All draws of a tiny alpha fell below the smallest double; the limit is one item that has
    // everything.
    shares[static_cast<std::size_t>(random.below(count))] = sum = 1;
  }
  for (double& share : shares) share /= sum;
  return shares;
}

Lists iid(const Request& request, std::int64_t samples) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(samples));
  std::iota(order.begin(), order.end(), 0);
  stream(request, kShuffle).shuffle(order);
  const std::int64_t used =
      request.samples_per_client > 0 ? request.clients * request.samples_per_client : samples;
  Lists lists;
  for (std::int64_t client = 0; client < request.clients; ++client) {
    lists.emplace_back(order.begin() + client * used / request.clients,
                       order.begin() + (client + 1) * used / request.clients);
  }
  return lists;
}

void top_up(const Request& request, Lists& lists) {
  // Largest list first, ties to the lowest client; entries that are out of date are skipped.
  std::priority_queue<std::pair<std::int64_t, std::int64_t>> largest;
  for (std::int64_t client = 0; client < request.clients; ++client) {
    largest.emplace(static_cast<std::int64_t>(lists[client].size()), -client);
  }
  for (std::int64_t client = 0; client < request.clients; ++client) {
    Stream random = stream(request, kTopUp, client);
    while (static_cast<std::int64_t>(lists[client].size()) < request.min_per_client) {
      const auto [size, negative] = largest.top();
      largest.pop();
      std::vector<std::int64_t>& donor = lists[-negative];
      if (static_cast<std::int64_t>(donor.size()) != size) continue;
      const auto chosen = donor.begin() + random.below(size);
      lists[client].push_back(*chosen);
      donor.erase(chosen);
      largest.emplace(size - 1, negative);
    }
  }
}

Lists dirichlet_all(const Request& request, Lists members) {
  Lists lists(static_cast<std::size_t>(request.clients));
  for (std::size_t c = 0; c < members.size(); ++c) {
    const auto label = static_cast<std::int64_t>(c);
    stream(request, kShuffle, label).shuffle(members[c]);
    Stream random = stream(request, kProportions, label);
    const std::vector<double> shares = proportions(random, request.alpha, request.clients);
    const auto count = static_cast<double>(members[c].size());
    double until = 0;
    std::int64_t begin = 0;
    for (std::int64_t client = 0; client < request.clients; ++client) {
      until += shares[client];
      const bool last = client + 1 == request.clients;
      const std::int64_t end =
          last ? static_cast<std::int64_t>(members[c].size())
               : std::min(std::llround(until * count), static_cast<long long>(members[c].size()));
      lists[client].insert(lists[client].end(), members[c].begin() + begin,
                           members[c].begin() + end);
      begin = end;
    }
  }
  top_up(request, lists);
  return lists;
}

/// Each client draws class proportions of its own, then its samples one by one from what the
/// classes still have.
Lists dirichlet_drawn(const Request& request, Lists members) {
  for (std::size_t c = 0; c < members.size(); ++c) {
    stream(request, kShuffle, static_cast<std::int64_t>(c)).shuffle(members[c]);
  }
  Lists lists(static_cast<std::size_t>(request.clients));
  for (std::int64_t client = 0; client < request.clients; ++client) {
    Stream random = stream(request, kOwn, client);
    const std::vector<double> shares =
        proportions(random, request.alpha, static_cast<std::int64_t>(members.size()));
    for (std::int64_t i = 0; i < request.samples_per_client; ++i) {
      double left = 0;
      for (std::size_t c = 0; c < members.size(); ++c) left += members[c].empty() ? 0 : shares[c];
      double draw = random.uniform() * left;
      std::int64_t chosen = -1;
      for (std::size_t c = 0; c < members.size(); ++c) {
        if (members[c].empty()) continue;
        // Where the client's own classes are used up, the last class that has samples serves.
        chosen = static_cast<std::int64_t>(c);
        if (shares[c] > 0 && draw < shares[c]) break;
        draw -= shares[c];
      }
      ESPALIER_CHECK(chosen >= 0);
      lists[client].push_back(members[chosen].back());
      members[chosen].pop_back();
    }
  }
  return lists;
}

Lists shards(const Request& request, const Lists& members, std::int64_t samples) {
  if (request.samples_per_client == 0 && request.shards_per_client > samples / request.clients) {
    throw InputError(
        fmt::format("{} clients with {} shards each need more than the {} samples there are: lower "
                    "clients.count or data.shards_per_client",
                    request.clients, request.shards_per_client, samples));
  }
  if (request.samples_per_client % request.shards_per_client != 0) {
    throw InputError(
        fmt::format("data.samples_per_client = {} is no multiple of data.shards_per_client = {}: "
                    "change one of them",
                    request.samples_per_client, request.shards_per_client));
  }
  const std::int64_t needed = request.clients * request.shards_per_client;
  const std::int64_t size =
      request.samples_per_client / request.shards_per_client;  // 0: divide everything
  const std::int64_t there = size > 0 ? samples / size : needed;
  const auto bound = [&](std::int64_t shard) {
    return size > 0 ? shard * size : shard * samples / there;
  };
  std::vector<std::int64_t> sorted;
  for (const auto& list : members) sorted.insert(sorted.end(), list.begin(), list.end());
  std::vector<std::int64_t> order(static_cast<std::size_t>(there));
  std::iota(order.begin(), order.end(), 0);
  stream(request, kShards).shuffle(order);
  Lists lists(static_cast<std::size_t>(request.clients));
  for (std::int64_t i = 0; i < needed; ++i) {
    std::vector<std::int64_t>& list = lists[i / request.shards_per_client];
    list.insert(list.end(), sorted.begin() + bound(order[i]), sorted.begin() + bound(order[i] + 1));
  }
  return lists;
}

void check_enough(const Request& request, std::int64_t samples) {
  const bool fixed = request.samples_per_client > 0;
  const std::int64_t each = fixed ? request.samples_per_client : request.min_per_client;
  if (each <= samples / request.clients) return;
  throw InputError(
      fmt::format("{} clients with {}{} samples each are more than the {} training samples allow: "
                  "lower clients.count or data.{}",
                  request.clients, fixed ? "" : "at least ", each, samples,
                  fixed ? "samples_per_client" : "min_per_client"));
}

}  // namespace

Partition::Partition(const Config& config, const Split& train, std::int64_t classes) {
  const Request request{.seed = static_cast<std::uint64_t>(config.integer("run.seed")),
                        .clients = config.integer("clients.count"),
                        .samples_per_client = config.integer("data.samples_per_client"),
                        .min_per_client = config.integer("data.min_per_client"),
                        .shards_per_client = config.integer("data.shards_per_client"),
                        .alpha = config.real("data.alpha")};
  const std::string kind = config.text("data.partition");
  check_enough(request, train.size());
  Lists lists;
  if (kind == "iid") {
    lists = iid(request, train.size());
  } else if (kind == "shards") {
    lists = shards(request, by_class(train, classes), train.size());
    if (request.samples_per_client == 0) top_up(request, lists);
  } else {
    ESPALIER_CHECK(kind == "dirichlet", "partition {}", kind);
    Lists members = by_class(train, classes);
    lists = request.samples_per_client > 0 ? dirichlet_drawn(request, std::move(members))
                                           : dirichlet_all(request, std::move(members));
  }
  begin_.push_back(0);
  for (std::vector<std::int64_t>& list : lists) {
    std::sort(list.begin(), list.end());
    indices_.insert(indices_.end(), list.begin(), list.end());
    begin_.push_back(static_cast<std::int64_t>(indices_.size()));
  }
}

std::span<const std::int64_t> Partition::samples(std::int64_t client) const {
  ESPALIER_CHECK(client >= 0 && client < clients(), "client {} of {}", client, clients());
  return std::span(indices_).subspan(static_cast<std::size_t>(begin_[client]),
                                     static_cast<std::size_t>(begin_[client + 1] - begin_[client]));
}

std::vector<std::int64_t> Partition::classes(std::int64_t client, const Split& train) const {
  const at::Tensor labels = train.labels(samples(client)).flatten();
  const std::int64_t* first = labels.const_data_ptr<std::int64_t>();
  const std::set<std::int64_t> classes(first, first + labels.numel());
  return {classes.begin(), classes.end()};
}

std::vector<std::int64_t> epoch_order(std::uint64_t seed, std::int64_t client,
                                      std::int64_t nth_task, std::int64_t epoch,
                                      std::span<const std::int64_t> samples) {
  std::vector<std::int64_t> order(samples.begin(), samples.end());
  Stream random(seed, purpose("data.order"), static_cast<std::uint64_t>(client),
                static_cast<std::uint64_t>(nth_task), static_cast<std::uint64_t>(epoch));
  random.shuffle(order);
  return order;
}

}  // namespace espalier
