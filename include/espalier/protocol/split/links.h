#pragma once
// The links between workers and hosts, in emulated time. With the server as host a message passes
// the worker's link and then, in order of arrival, the server's; with a client as host it passes
// the slower of the two clients' links. A worker's messages never wait for those of another client.

#include <cstdint>

#include "espalier/comm/mailbox.h"
#include "espalier/engine/resources.h"
#include "espalier/train/experiment.h"

namespace espalier::split {

/// Between two clients: the slower of the two links, with the larger latency.
Nanoseconds peer_time(const DeviceClass& from, const DeviceClass& to, std::int64_t bytes);

class Links {
 public:
  /// `fleet` must outlive it.
  Links(const Fleet& fleet, ServerResources server)
      : fleet_(&fleet), idle_(server), server_(server) {}

  /// A message that the host hands over at `time` has passed the host's outgoing queue.
  Nanoseconds send(Endpoint host, Nanoseconds time, std::int64_t bytes);
  /// A message that reaches the host at `time` has passed the host's incoming queue. Call it in
  /// order of time.
  Nanoseconds receive(Endpoint host, Nanoseconds time, std::int64_t bytes);
  /// Work on the server that can begin at `time` is done. Call it in order of time.
  Nanoseconds process(Nanoseconds time, std::int64_t flops);
  /// Time of the work alone, without the queue.
  Nanoseconds processing_time(std::int64_t flops) const;

  /// Transfer times between host and client in the round of `version`, without queues.
  Nanoseconds down_time(Endpoint host, std::int64_t client, std::int64_t version,
                        std::int64_t bytes) const;
  Nanoseconds up_time(Endpoint host, std::int64_t client, std::int64_t version,
                      std::int64_t bytes) const;
  void archive(Archive& archive) { server_.archive(archive); }

 private:
  const Fleet* fleet_;
  ServerResources idle_;  // with empty queues
  ServerResources server_;
};

}  // namespace espalier::split
