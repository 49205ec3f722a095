#include "espalier/protocol/regions/network.h"

#include <algorithm>
#include <limits>

#include "espalier/base/error.h"
#include "espalier/device/emulated_time.h"

namespace espalier::regions {

namespace {

/// Of an event that follows from a transfer.
Nanoseconds checked(Nanoseconds time) {
  return within_century(time, "device.*.down_mbps, up_mbps and latency_ms");
}

}  // namespace

Nanoseconds ring_time(std::span<const DeviceClass> devices, std::int64_t bytes) {
  double latency_ms = 0;
  double mbps = 0;  // 0: no limit
  for (const DeviceClass& device : devices) {
    latency_ms = std::max(latency_ms, device.latency_ms);
    for (const double rate : {device.down_mbps, device.up_mbps}) {
      if (rate > 0) mbps = mbps > 0 ? std::min(mbps, rate) : rate;
    }
  }
  const auto regions = std::ssize(devices);
  return transfer_time(mbps, latency_ms, 2 * (regions - 1) * bytes / regions);
}

Network::Network(std::vector<DeviceClass> devices, ServerResources server)
    : devices_(std::move(devices)),
      server_(server),
      up_free_(devices_.size(), 0),
      down_free_(devices_.size(), 0) {}

/// When a transfer on a region's own link ends, with its latency; the link is free before that.
Nanoseconds Network::pass(std::vector<std::int64_t>& free, std::int64_t region, double mbps,
                          std::int64_t bytes, Nanoseconds time) const {
  const auto i = static_cast<std::size_t>(region);
  free[i] = checked(later(std::max(free[i], time), transfer_time(mbps, 0, bytes)));
  return checked(free[i] + transfer_time(0, devices_[i].latency_ms, 0));
}

void Network::hand_over(std::int64_t exchange, std::int64_t region, std::int64_t bytes,
                        Nanoseconds time) {
  const double mbps = devices_[static_cast<std::size_t>(region)].up_mbps;
  events_.insert({pass(up_free_, region, mbps, bytes, time), exchange, Event::Kind::at_server_link,
                  region, bytes});
}

void Network::all_reduce(std::int64_t exchange, std::span<const std::int64_t> members,
                         std::int64_t bytes, Nanoseconds time) {
  std::vector<DeviceClass> devices;
  for (const std::int64_t region : members) {
    devices.push_back(devices_[static_cast<std::size_t>(region)]);
  }
  ring_free_ = checked(later(std::max(ring_free_, time), ring_time(devices, bytes)));
  events_.insert({ring_free_, exchange, Event::Kind::averaged, 0});
}

void Network::send_copy(std::int64_t region, std::int64_t bytes, Nanoseconds time) {
  const double mbps = devices_[static_cast<std::size_t>(region)].down_mbps;
  events_.insert({pass(down_free_, region, mbps, bytes, time), 0, Event::Kind::joined, region});
}

void Network::merge(std::int64_t exchange, std::int64_t flops, Nanoseconds time) {
  events_.insert({server_.processor.take(time, flops), exchange, Event::Kind::averaged, 0});
}

void Network::send_down(std::int64_t exchange, std::int64_t region, std::int64_t bytes,
                        Nanoseconds time) {
  const Nanoseconds left = server_.down.take(time, bytes);
  const double mbps = devices_[static_cast<std::size_t>(region)].down_mbps;
  events_.insert(
      {pass(down_free_, region, mbps, bytes, left), exchange, Event::Kind::arrived, region});
}

void Network::ask(std::int64_t exchange, std::int64_t region, Nanoseconds time) {
  const double latency_ms = devices_[static_cast<std::size_t>(region)].latency_ms;
  events_.insert({checked(later(time, transfer_time(0, latency_ms, 0))), exchange,
                  Event::Kind::asked, region});
}

void Network::close_at(std::int64_t exchange, Nanoseconds time) {
  events_.insert({time, exchange, Event::Kind::closes, 0});
}

std::optional<Nanoseconds> Network::next_time() const {
  return events_.empty() ? std::nullopt : std::optional(events_.begin()->time);
}

std::optional<Network::Event> Network::take() {
  Event event = events_.extract(events_.begin()).value();
  if (event.kind != Event::Kind::at_server_link) return event;
  event.time = server_.up.take(event.time, event.bytes);
  event.kind = Event::Kind::received;
  events_.insert(event);
  return std::nullopt;
}

void Network::archive(Archive& archive) {
  server_.archive(archive);
  archive.value("up_free", up_free_);
  archive.value("down_free", down_free_);
  archive.value("ring_free", ring_free_);
  std::vector<Event> events(events_.begin(), events_.end());
  archive_list(archive, "events", events, [](Archive& a, Event& event) {
    auto kind = static_cast<std::int64_t>(event.kind);
    a.value("time", event.time);
    a.value("exchange", event.exchange);
    a.value("kind", kind);
    a.value("region", event.region);
    a.value("bytes", event.bytes);
    event.kind = static_cast<Event::Kind>(kind);
  });
  events_ = {events.begin(), events.end()};
}

}  // namespace espalier::regions
