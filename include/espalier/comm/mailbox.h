#pragma once
// Messages between endpoints (server, client i, later region j), whatever rank they live on, also
// within one rank. Sends are non-blocking and own their bytes; large payloads travel in chunks
// below MPI's int limit; headers are checksummed; nobody spins: wait() sleeps until a rank of the
// node rings, and between looks where a message is under way or may come from another node.

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/comm/environment.h"
#include "espalier/comm/wire_header.h"

namespace espalier {

/// Who a message is from or for: kServer, or a client number >= 0.
using Endpoint = std::int64_t;
inline constexpr Endpoint kServer = -1;

/// What a message is; kinds of jobs are distinguished by `subtype`, never by MPI tags.
enum class MessageType : std::int32_t { job, answer, stop, warning };

struct Message {
  MessageType type = MessageType::job;
  std::int32_t subtype = 0;
  Endpoint from = kServer;
  Endpoint to = kServer;
  std::int64_t id = 0;                                  ///< number of the job
  std::array<std::int64_t, kMessageNumbers> numbers{};  ///< the sender's own, beside the head
  SharedBytes head;  ///< small: the description (never null; may be empty)
  SharedBytes
      payload;   ///< large: parameters (never null; may be empty); shared, never copied by send
  int rank = 0;  ///< on receipt: the rank it came from
};

/// One at a time for a communicator: messages left over from an earlier mailbox are errors in the
/// next. Not thread-safe (MPI is funneled). Any failure of MPI or of a checksum is an internal
/// Error.
class Mailbox {
 public:
  /// `chunk_bytes`: largest single MPI message, 1 to INT_MAX; tests lower it. The receiver follows
  /// the sender's. Not collective.
  explicit Mailbox(const MpiEnvironment& mpi, std::int64_t chunk_bytes = std::int64_t{1} << 30);
  /// Waits at most one second for outgoing messages, then gives them up; never throws.
  ~Mailbox();

  /// Starts sending; returns at once. Payload and head stay shared until sent and must not change;
  /// null counts as empty. To the own rank: delivered by a later receive(), without a copy.
  void send(int rank, Message message);
  /// Posts a receive for one message of up to `largest_bytes` (head + payload) from `rank`, so that
  /// it lands without a probe. Its payload is received once its header tells the true size,
  /// straight into its final place, so memory is that of the messages that came and not of the
  /// largest possible. Messages beyond what is posted are found by matched probes; the order is the
  /// same either way.
  void expect(int rank, std::int64_t largest_bytes);
  /// The next complete message in order of arrival, if any; progresses sends and receives, and
  /// costs next to nothing while no message is under way. Messages of one rank come in the order in
  /// which it sent them.
  std::optional<Message> receive();
  /// Sleeps once, until a message has come or a signal arrives, and never longer than `at_most`;
  /// not at all if a message is ready. May return for no reason. Call when receive() gave nothing
  /// and there is no work.
  void wait(std::chrono::nanoseconds at_most = std::chrono::nanoseconds::max());
  /// True when every send has left; progresses sends and receives.
  bool idle();

  /// Head and payload bytes given to send(), and handed out by receive(): messages within the rank
  /// included, so that the sums over all ranks do not depend on their number.
  std::int64_t bytes_sent() const;
  std::int64_t bytes_received() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace espalier
