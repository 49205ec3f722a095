#include "espalier/protocol/rounds/sampling.h"

#include <algorithm>
#include <cmath>

namespace espalier::rounds {
namespace {

const Purpose kSample = register_purpose("clients.sample");

}  // namespace

void declare_sampling_options(OptionTable& table) {
  table.add_choice(
      "clients.sampling", "uniform",
      "choice of the next clients if clients.per_round is above 0: all with equal probability, "
      "with probability by their samples, or in turn",
      {"uniform", "weighted", "round_robin"});
  table.add({"clients.over_select", OptionType::real, "1",
             "factor of clients.per_round for the clients that work at the same time; with "
             "window.min_updates = clients.per_round the server does not wait for the slowest",
             "", 1, 100});
}

Sampler::Sampler(const Config& config, const Experiment& experiment) : experiment_(experiment) {
  const std::string kind = config.text("clients.sampling");
  kind_ = kind == "weighted"      ? Kind::weighted
          : kind == "round_robin" ? Kind::round_robin
                                  : Kind::uniform;
  const double wanted =
      static_cast<double>(config.integer("clients.per_round")) * config.real("clients.over_select");
  at_once_ =
      std::min(experiment.fleet->size(), static_cast<std::int64_t>(std::ceil(wanted - 1e-9)));
  if (kind_ != Kind::weighted || !experiment.partition) return;
  for (std::int64_t client = 0; client < experiment.fleet->size(); ++client) {
    most_samples_ = std::max(most_samples_, experiment.samples_of(client));
  }
}

namespace {

/// The number of clients that are looked at for each one that is wanted, before the set of those
/// present is asked for.
constexpr std::int64_t kTries = 32;

/// All that can work, ascending.
std::vector<std::int64_t> all_of(const Sampler::Choice& choice) {
  std::vector<std::int64_t> clients;
  const ClientSet& idle = choice.idle;
  const ClientSet* const present = choice.present();
  for (std::int64_t c = idle.next(0, present); c < idle.end(); c = idle.next(c + 1, present)) {
    if (choice.can_work(c)) clients.push_back(c);
  }
  return clients;
}

}  // namespace

std::vector<std::int64_t> Sampler::choose(std::int64_t want, const Choice& choice) {
  if (want <= 0) return {};
  if (want >= choice.idle.size()) return all_of(choice);
  if (kind_ == Kind::round_robin) return take_turns(want, choice);
  const std::set<std::int64_t> drawn = draw(want, choice);
  return {drawn.begin(), drawn.end()};
}

std::vector<std::int64_t> Sampler::take_turns(std::int64_t want, const Choice& choice) {
  std::vector<std::int64_t> chosen;
  const ClientSet& idle = choice.idle;
  const ClientSet* present = nullptr;
  std::int64_t tries = 0;
  const auto walk = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = idle.next(begin, present); c < end && std::ssize(chosen) < want;
         c = idle.next(c + 1, present)) {
      if (++tries == kTries * want) present = choice.present();
      if (choice.can_work(c)) chosen.push_back(c);
    }
  };
  walk(next_, idle.end());
  walk(0, next_);
  if (!chosen.empty()) next_ = chosen.back() + 1;
  std::ranges::sort(chosen);
  return chosen;
}

std::set<std::int64_t> Sampler::draw(std::int64_t want, const Choice& choice) {
  Stream stream(experiment_.seed, kSample, draws_++);
  const std::int64_t clients = experiment_.fleet->size();
  const auto accepted = [&](std::int64_t client) {
    return kind_ == Kind::uniform || stream.uniform() * static_cast<double>(most_samples_) <
                                         static_cast<double>(experiment_.samples_of(client));
  };
  // Draw from all clients until one is idle, which is fast if most are. If few are idle or can
  // work, the number of tries ends this, and the rest is drawn from the list of idle clients.
  std::set<std::int64_t> drawn;
  for (std::int64_t tries = kTries * want; tries > 0 && std::ssize(drawn) < want; --tries) {
    const std::int64_t client = stream.below(clients);
    if (choice.idle.contains(client) && !drawn.contains(client) && accepted(client) &&
        choice.can_work(client)) {
      drawn.insert(client);
    }
  }
  if (std::ssize(drawn) == want) return drawn;
  std::vector<std::int64_t> rest = all_of(choice);
  std::erase_if(rest, [&](std::int64_t client) { return drawn.contains(client); });
  const std::int64_t missing = std::min(want - std::ssize(drawn), std::ssize(rest));
  if (kind_ == Kind::uniform) {
    for (const std::int64_t pick : stream.choose(missing, std::ssize(rest))) {
      drawn.insert(rest[static_cast<std::size_t>(pick)]);
    }
    return drawn;
  }
  for (std::int64_t n = 0; n < missing; ++n) {
    std::int64_t all = 0;
    for (const std::int64_t client : rest) all += experiment_.samples_of(client);
    std::int64_t point = stream.below(std::max<std::int64_t>(1, all));
    std::size_t pick = 0;
    while (pick + 1 < rest.size() && point >= experiment_.samples_of(rest[pick])) {
      point -= experiment_.samples_of(rest[pick++]);
    }
    drawn.insert(rest[pick]);
    rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(pick));
  }
  return drawn;
}

void Sampler::archive(Archive& archive) {
  archive.value("draws", draws_);
  archive.value("next", next_);
}

}  // namespace espalier::rounds
