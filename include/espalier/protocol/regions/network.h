#pragma once
// The links between regions, in emulated time. A link serves one transfer at a time, in the order
// in which they were handed over, and takes no account of what its endpoints compute. With a star,
// fragments pass the region's own link and the server's; with a ring, the regions average a
// fragment among themselves (all-reduce), at the pace of the slowest link.

#include <compare>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/device/device.h"
#include "espalier/engine/resources.h"

namespace espalier::regions {

enum class Topology { ring, star };

/// Nanoseconds of an all-reduce of `bytes` among the devices: latency + 2 (M - 1) / M bytes /
/// bandwidth, with the largest latency and the smallest rate of any of them.
Nanoseconds ring_time(std::span<const DeviceClass> devices, std::int64_t bytes);

class Network {
 public:
  /// Something that happens on the links.
  struct Event {
    enum class Kind : std::int64_t {
      at_server_link,  ///< star: the region's fragment reaches the server's link
      received,        ///< star: the server has it
      averaged,        ///< the merge is complete (ring: at all regions)
      arrived,         ///< star: the region has the merged fragment
      joined,          ///< the region has the whole shared copy
      asked,           ///< the region has the server's request for a fragment
      closes           ///< the server has waited long enough for further values
    };
    Nanoseconds time = 0;
    std::int64_t exchange = 0;
    Kind kind = Kind::received;
    std::int64_t region = 0;
    std::int64_t bytes = 0;  ///< at the server's link
    auto operator<=>(const Event&) const = default;
  };

  /// `devices`: of the regions.
  Network(std::vector<DeviceClass> devices, ServerResources server);

  /// Star: region `region` hands over its fragment of `bytes` at `time`.
  void hand_over(std::int64_t exchange, std::int64_t region, std::int64_t bytes, Nanoseconds time);
  /// Ring: these regions begin to average a fragment of `bytes` at `time`.
  void all_reduce(std::int64_t exchange, std::span<const std::int64_t> members, std::int64_t bytes,
                  Nanoseconds time);
  /// Star: the server begins to merge at `time`; the exchange is then averaged.
  void merge(std::int64_t exchange, std::int64_t flops, Nanoseconds time);
  /// Star: the merged fragment is sent to a region.
  void send_down(std::int64_t exchange, std::int64_t region, std::int64_t bytes, Nanoseconds time);
  /// From `time` on a region gets the whole shared copy of `bytes`.
  void send_copy(std::int64_t region, std::int64_t bytes, Nanoseconds time);

  /// The server asks a region for a fragment; the request is only latency.
  void ask(std::int64_t exchange, std::int64_t region, Nanoseconds time);
  /// The server will not wait beyond `time`.
  void close_at(std::int64_t exchange, Nanoseconds time);

  std::optional<Nanoseconds> next_time() const;
  /// Removes the next event; none if it only took its place in the queue at the server's link.
  std::optional<Event> take();
  void archive(Archive& archive);

 private:
  Nanoseconds pass(std::vector<std::int64_t>& free, std::int64_t region, double mbps,
                   std::int64_t bytes, Nanoseconds time) const;

  std::vector<DeviceClass> devices_;
  ServerResources server_;
  std::vector<std::int64_t> up_free_, down_free_;  // by region
  Nanoseconds ring_free_ = 0;
  std::set<Event> events_;
};

}  // namespace espalier::regions
