#pragma once
// Messages between endpoints (server, client i, later region j) on any ranks, also within one rank.
// Sends are non-blocking and own their bytes; large payloads are sent in chunks below MPI's int
// limit; headers are checksummed. No rank spins: wait() sleeps until a rank of the node rings, and
// for a short time only if a message is under way or may come from another node.

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

/// Sender or receiver of a message: kServer, or a client number >= 0.
using Endpoint = std::int64_t;
inline constexpr Endpoint kServer = -1;

/// Kind of a message; kinds of jobs are distinguished by `subtype`, never by MPI tags.
enum class MessageType : std::int32_t { job, answer, stop, warning };

struct Message {
  MessageType type = MessageType::job;
  std::int32_t subtype = 0;
  Endpoint from = kServer;
  Endpoint to = kServer;
  std::int64_t id = 0;                                  ///< number of the job
  std::array<std::int64_t, kMessageNumbers> numbers{};  ///< numbers of the sender, beside the head
  SharedBytes head;  ///< small: the description (never null; may be empty)
  SharedBytes
      payload;   ///< large: parameters (never null; may be empty); shared, never copied by send
  int rank = 0;  ///< on receipt: the sender's rank
};

/// One at a time for a communicator: messages left over from an earlier mailbox are errors in the
/// next. Not thread-safe (MPI is funneled). Any failure of MPI or of a checksum is an internal
/// Error.
class Mailbox {
 public:
  /// `chunk_bytes`: largest single MPI message, 1 to INT_MAX; tests lower it. The receiver uses the
  /// sender's. Not collective.
  explicit Mailbox(const MpiEnvironment& mpi, std::int64_t chunk_bytes = std::int64_t{1} << 30);
  /// Waits at most one second for outgoing messages, then drops them; never throws.
  ~Mailbox();

  /// Starts sending; returns at once. Payload and head stay shared until sent and must not change;
  /// null counts as empty. To the own rank: delivered by a later receive(), without a copy.
  void send(int rank, Message message);
  /// Posts a receive for one message of up to `largest_bytes` (head + payload) from `rank`, so that
  /// it arrives without a probe. The header has the true size of the payload, which is then
  /// received straight into its final place; so no memory is reserved for the largest possible
  /// message. Messages without a posted receive are found by matched probes; the order is the same
  /// either way.
  void expect(int rank, std::int64_t largest_bytes);
  /// The next complete message in order of arrival, if any; progresses sends and receives, and
  /// costs almost nothing while no message is under way. Messages of one rank arrive in the order
  /// in which it sent them.
  std::optional<Message> receive();
  /// Sleeps once, until a message or a signal arrives, and never longer than `at_most`; not at all
  /// if a message is ready. May return early. Call it if receive() returned nothing and there is no
  /// work.
  void wait(std::chrono::nanoseconds at_most = std::chrono::nanoseconds::max());
  /// True if every send is complete; progresses sends and receives.
  bool idle();

  /// Head and payload bytes given to send(), and returned by receive(), including messages within
  /// the rank, so that the sums over all ranks do not depend on their number.
  std::int64_t bytes_sent() const;
  std::int64_t bytes_received() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace espalier
