#include "espalier/protocol/split/links.h"

#include <algorithm>

namespace espalier::split {
namespace {

/// The slower of two rates, of which 0 costs no time.
double slower(double a, double b) {
  if (a == 0 || b == 0) return std::max(a, b);
  return std::min(a, b);
}

}  // namespace

Nanoseconds peer_time(const DeviceClass& from, const DeviceClass& to, std::int64_t bytes) {
  return transfer_time(slower(from.up_mbps, to.down_mbps), std::max(from.latency_ms, to.latency_ms),
                       bytes);
}

Nanoseconds Links::send(Endpoint host, Nanoseconds time, std::int64_t bytes) {
  return host == kServer ? server_.down.take(time, bytes) : time;
}

Nanoseconds Links::receive(Endpoint host, Nanoseconds time, std::int64_t bytes) {
  return host == kServer ? server_.up.take(time, bytes) : time;
}

Nanoseconds Links::process(Nanoseconds time, std::int64_t flops) {
  return server_.processor.take(time, flops);
}

Nanoseconds Links::processing_time(std::int64_t flops) const {
  Fifo processor = idle_.processor;
  return processor.take(0, flops);
}

Nanoseconds Links::down_time(Endpoint host, std::int64_t client, std::int64_t version,
                             std::int64_t bytes) const {
  const DeviceClass to = fleet_->device_at(client, version);
  if (host == kServer) return transfer_time(to.down_mbps, to.latency_ms, bytes);
  return peer_time(fleet_->device_at(host, version), to, bytes);
}

Nanoseconds Links::up_time(Endpoint host, std::int64_t client, std::int64_t version,
                           std::int64_t bytes) const {
  const DeviceClass from = fleet_->device_at(client, version);
  if (host == kServer) return transfer_time(from.up_mbps, from.latency_ms, bytes);
  return peer_time(from, fleet_->device_at(host, version), bytes);
}

}  // namespace espalier::split
