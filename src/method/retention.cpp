#include "espalier/method/retention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier::rounds {
namespace {

// Factor by which a client must be faster than the target, and number of consecutive intervals,
// before it may grow again.
constexpr double kFast = 1.5;
constexpr std::int64_t kFastIntervals = 3;

/// The last `count` points that differ from each other, the latest first.
std::vector<RetentionPoint> usable(std::span<const RetentionPoint> points, std::int64_t count) {
  constexpr double kSameTime = 1e-6;
  std::vector<RetentionPoint> used;
  for (auto p = points.rbegin(); p != points.rend() && std::ssize(used) < count; ++p) {
    const bool differs = std::ranges::all_of(used, [&](const RetentionPoint& other) {
      return std::abs(p->time - other.time) > kSameTime * std::abs(other.time) &&
             p->retention != other.retention;
    });
    if (differs) used.push_back(*p);
  }
  return used;
}

}  // namespace

std::optional<double> interpolate(std::span<const RetentionPoint> points, std::int64_t count,
                                  double time) {
  const std::vector<RetentionPoint> used = usable(points, count);
  const std::size_t n = used.size();
  if (n < 2) return std::nullopt;
  // In place: after pass k, differences[i] is the divided difference of the points i-k to i.
  std::vector<double> differences;
  for (const RetentionPoint& p : used) differences.push_back(p.retention);
  for (std::size_t k = 1; k < n; ++k) {
    for (std::size_t i = n - 1; i >= k; --i) {
      differences[i] = (differences[i] - differences[i - 1]) / (used[i].time - used[i - k].time);
    }
  }
  double value = differences[n - 1];
  for (std::size_t i = n - 1; i-- > 0;) value = differences[i] + value * (time - used[i].time);
  return value;
}

RetentionLearner::RetentionLearner(RetentionSettings settings, std::int64_t clients)
    : settings_(settings), clients_(static_cast<std::size_t>(clients)) {}

std::vector<double> RetentionLearner::learn(std::span<const std::optional<double>> times,
                                            std::span<const double> retentions) {
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    if (!times[i]) continue;
    std::vector<RetentionPoint>& points = clients_[i].points;
    points.push_back({*times[i], retentions[i]});
    points = usable(points, settings_.points);
    std::ranges::reverse(points);
  }
  std::vector<double> wanted(retentions.begin(), retentions.end());
  const std::optional<double> target = this->target(retentions);
  if (!target) return wanted;
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    if (!times[i]) continue;
    Client& client = clients_[i];
    client.fast_intervals = *times[i] < *target / kFast ? client.fast_intervals + 1 : 0;
    if (*times[i] > *target * (1 + settings_.tolerance)) {
      wanted[i] = smaller(client, *target);
      if (wanted[i] < retentions[i]) client.is_pruned = 1;
    } else if (settings_.regrows && client.fast_intervals >= kFastIntervals) {
      wanted[i] = larger(client, *target);
      client.fast_intervals = 0;
    }
  }
  return wanted;
}

std::optional<double> RetentionLearner::target(std::span<const double> retentions) const {
  std::optional<double> fastest, fastest_whole;
  const auto take = [](std::optional<double>& least, double time) {
    least = std::min(least.value_or(time), time);
  };
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    const Client& client = clients_[i];
    if (client.points.empty() || (settings_.is_anchored && client.is_pruned != 0)) continue;
    take(fastest, client.points.back().time);
    if (retentions[i] == 1) take(fastest_whole, client.points.back().time);
  }
  return settings_.is_anchored && fastest_whole ? fastest_whole : fastest;
}

double RetentionLearner::smaller(const Client& client, double target) const {
  const auto [time, retention] = client.points.back();
  const double aim = target * (1 + settings_.aim * settings_.tolerance);
  const double proportional = retention * aim / time;
  const double fitted = interpolate(client.points, settings_.points, aim).value_or(proportional);
  const double next = fitted > 0 && fitted < retention ? fitted : proportional;
  const double rate = std::min(
      {(retention - next) / retention, settings_.largest_rate, 1 - settings_.floor / retention});
  return rate < settings_.least_rate ? retention : retention * (1 - rate);
}

double RetentionLearner::larger(const Client& client, double target) const {
  const auto [time, retention] = client.points.back();
  const double proportional = retention * target / time;
  const double fitted = interpolate(client.points, settings_.points, target).value_or(proportional);
  const double next = fitted > retention ? fitted : proportional;
  return std::min({next, retention / (1 - settings_.largest_rate), 1.0});
}

void RetentionLearner::archive(Archive& archive) {
  archive_list(archive, "learned", clients_, [](Archive& a, Client& client) {
    std::vector<double> times, retentions;
    for (const RetentionPoint& p : client.points) {
      times.push_back(p.time);
      retentions.push_back(p.retention);
    }
    a.value("times", times);
    a.value("retentions", retentions);
    a.value("is_pruned", client.is_pruned);
    a.value("fast_intervals", client.fast_intervals);
    if (!a.loading()) return;
    client.points.clear();
    for (std::size_t i = 0; i < times.size(); ++i) {
      client.points.push_back({times[i], retentions[i]});
    }
  });
}

}  // namespace espalier::rounds
