#include "espalier/comm/mailbox.h"

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/large_pages.h"
#include "espalier/comm/wire_header.h"

// The form of a message. First one MPI message with tag kHeader: the header, and the head if it is
// short. Then, with tag kBody, a longer head and the payload in chunks, straight from the sender's
// bytes. MPI keeps the order of messages of one sender and tag, and body receives are posted in the
// order of the headers. So the n-th chunk sent matches the n-th receive posted, without a probe and
// in its final place.

namespace espalier {
namespace {

constexpr int kHeader = 1;
constexpr int kBody = 2;
/// Header and a head this short fit into one message that MPI sends eagerly (4096 bytes in shared
/// memory).
constexpr std::int64_t kInlineHeadBytes = 3840;
constexpr std::int64_t kFirstBytes =
    static_cast<std::int64_t>(sizeof(WireHeader)) + kInlineHeadBytes;

// Sleeps between polls while a message may move without a ring: the shortest, used first because
// the rest of a message follows its first part, and the longest.
constexpr std::chrono::microseconds kShortestSleep{100};
constexpr std::chrono::microseconds kLongestSleep{500};
// The time between polls without a ring if all ranks can ring; a safeguard only.
constexpr std::chrono::microseconds kPollWithoutRing{20000};
constexpr std::chrono::milliseconds kLastWait{1000};

std::int64_t size_of(const Bytes& bytes) { return static_cast<std::int64_t>(bytes.size()); }

/// Owns the memory that MPI reads from.
struct Outgoing {
  Bytes first;
  SharedBytes head;
  SharedBytes payload;
};

struct Incoming {
  Bytes first;
  bool first_arrived = false;
  bool described = false;  ///< header read, body receives posted
  std::int64_t chunks_pending = 0;
  WireHeader header;
  std::shared_ptr<Bytes> head = std::make_shared<Bytes>();
  std::shared_ptr<Bytes> payload = std::make_shared<Bytes>();
  int rank = 0;
};

/// The message that a request belongs to: exactly one of the two is set.
struct Transfer {
  std::shared_ptr<Outgoing> outgoing;
  std::shared_ptr<Incoming> incoming;
  std::int64_t chunk_bytes = -1;  ///< of a body chunk; -1 for a first message
};

}  // namespace

struct Mailbox::State {
  State(const MpiEnvironment& mpi, std::int64_t chunk)
      : communicator(mpi.communicator()),
        doorbell(mpi.doorbell()),
        own_rank(mpi.rank()),
        chunk_bytes(chunk),
        incoming(static_cast<std::size_t>(mpi.size())),
        next_sequence(static_cast<std::size_t>(mpi.size()), 0),
        due_sequence(static_cast<std::size_t>(mpi.size()), 0) {
    ESPALIER_CHECK(chunk >= 1 && chunk <= INT_MAX, "chunk_bytes is {}", chunk);
  }

  void track(MPI_Request request, Transfer transfer) {
    requests.push_back(request);
    transfers.push_back(std::move(transfer));
  }
  void send_first(int rank, const std::shared_ptr<Outgoing>& message);
  void send_body(int rank, const std::shared_ptr<Outgoing>& message, const Bytes& bytes);
  void post_first(int rank);
  void post_body(const std::shared_ptr<Incoming>& message, Bytes& bytes);
  void describe(const std::shared_ptr<Incoming>& message);
  void advance(int rank);
  bool take_unexpected();
  bool test();
  /// Whether a message is partly sent or partly received.
  bool moving() const { return sends_pending > 0 || bodies_pending > 0; }
  /// Whether all messages that rings announced have arrived.
  bool caught_up() const { return begun >= announced && bodies_pending == 0; }
  void progress();
  void abandon() noexcept;

  MPI_Comm communicator;
  const Doorbell& doorbell;
  int own_rank;
  std::int64_t chunk_bytes;

  std::vector<MPI_Request> requests;
  std::vector<Transfer> transfers;  ///< one for each request
  std::int64_t sends_pending = 0;   ///< requests that are sends
  std::int64_t bodies_pending = 0;  ///< requests that receive a part of a body
  std::int64_t announced = 0;       ///< messages that rings announced
  std::int64_t begun = 0;           ///< messages whose first part has arrived
  /// For each rank, its messages in the order sent: those that have arrived or are expected, and
  /// are not yet in `ready`.
  std::vector<std::deque<std::shared_ptr<Incoming>>> incoming;
  std::vector<std::int64_t> next_sequence;
  std::vector<std::int64_t> due_sequence;
  std::deque<Message> ready;

  std::vector<int> done;
  std::vector<MPI_Status> statuses;
  std::chrono::microseconds waited{0};  ///< slept since a message last moved
  std::chrono::steady_clock::time_point last_poll;
  std::int64_t bytes_sent = 0;
  std::int64_t bytes_received = 0;
};

void Mailbox::State::send_first(int rank, const std::shared_ptr<Outgoing>& message) {
  MPI_Request request = MPI_REQUEST_NULL;
  ESPALIER_MPI(MPI_Isend(message->first.data(), static_cast<int>(message->first.size()), MPI_BYTE,
                         rank, kHeader, communicator, &request));
  track(request, {message, nullptr, -1});
  ++sends_pending;
}

void Mailbox::State::send_body(int rank, const std::shared_ptr<Outgoing>& message,
                               const Bytes& bytes) {
  for (std::int64_t start = 0; start < size_of(bytes); start += chunk_bytes) {
    const std::int64_t count = std::min(chunk_bytes, size_of(bytes) - start);
    MPI_Request request = MPI_REQUEST_NULL;
    ESPALIER_MPI(MPI_Isend(bytes.data() + start, static_cast<int>(count), MPI_BYTE, rank, kBody,
                           communicator, &request));
    track(request, {message, nullptr, count});
    ++sends_pending;
  }
}

void Mailbox::State::post_first(int rank) {
  auto message = std::make_shared<Incoming>();
  message->rank = rank;
  message->first.resize(static_cast<std::size_t>(kFirstBytes));
  MPI_Request request = MPI_REQUEST_NULL;
  ESPALIER_MPI(MPI_Irecv(message->first.data(), static_cast<int>(kFirstBytes), MPI_BYTE, rank,
                         kHeader, communicator, &request));
  track(request, {nullptr, message, -1});
  incoming[static_cast<std::size_t>(rank)].push_back(std::move(message));
}

void Mailbox::State::post_body(const std::shared_ptr<Incoming>& message, Bytes& bytes) {
  const std::int64_t limit = message->header.chunk_bytes;
  for (std::int64_t start = 0; start < size_of(bytes); start += limit) {
    const std::int64_t count = std::min(limit, size_of(bytes) - start);
    MPI_Request request = MPI_REQUEST_NULL;
    ESPALIER_MPI(MPI_Irecv(bytes.data() + start, static_cast<int>(count), MPI_BYTE, message->rank,
                           kBody, communicator, &request));
    track(request, {nullptr, message, count});
    ++message->chunks_pending;
    ++bodies_pending;
  }
}

void Mailbox::State::describe(const std::shared_ptr<Incoming>& message) {
  const WireHeader header = open_header(message->first);
  message->header = header;
  std::int64_t& due = due_sequence[static_cast<std::size_t>(message->rank)];
  ESPALIER_CHECK(header.sequence == due, "message {} of rank {} arrived instead of message {}",
                 header.sequence, message->rank, due);
  ++due;
  message->payload->resize(static_cast<std::size_t>(header.payload_bytes));
  prefer_large_pages(message->payload->data(), message->payload->size());
  if (header.head_bytes <= kInlineHeadBytes) {
    message->head->assign(message->first.begin() + sizeof(WireHeader), message->first.end());
  } else {
    message->head->resize(static_cast<std::size_t>(header.head_bytes));
    post_body(message, *message->head);
  }
  post_body(message, *message->payload);
  message->first = Bytes();
  message->described = true;
}

/// Reads the headers that have arrived from `rank` and moves its complete messages to `ready`, both
/// in order.
void Mailbox::State::advance(int rank) {
  auto& queue = incoming[static_cast<std::size_t>(rank)];
  for (const auto& message : queue) {
    if (message->described) continue;
    if (!message->first_arrived) break;
    describe(message);
  }
  while (!queue.empty() && queue.front()->described && queue.front()->chunks_pending == 0) {
    Incoming& from = *queue.front();
    check_head(from.header, *from.head);
    Message message;
    message.type = static_cast<MessageType>(from.header.type);
    message.subtype = from.header.subtype;
    message.from = from.header.from;
    message.to = from.header.to;
    message.id = from.header.id;
    message.numbers = from.header.numbers;
    message.head = std::move(from.head);
    message.payload = std::move(from.payload);
    message.rank = rank;
    ready.push_back(std::move(message));
    queue.pop_front();
  }
}

/// Starts receiving a header that no posted receive matched; true if there was one. A message is
/// unmatched only if earlier messages have taken all receives posted for its rank, so it goes to
/// the end of the queue.
bool Mailbox::State::take_unexpected() {
  int found = 0;
  MPI_Message handle = MPI_MESSAGE_NULL;
  MPI_Status status;
  ESPALIER_MPI(MPI_Improbe(MPI_ANY_SOURCE, kHeader, communicator, &found, &handle, &status));
  if (!found) return false;
  int count = 0;
  ESPALIER_MPI(MPI_Get_count(&status, MPI_BYTE, &count));
  ESPALIER_CHECK(count <= kFirstBytes, "a header of {} bytes from rank {}", count,
                 status.MPI_SOURCE);
  auto message = std::make_shared<Incoming>();
  message->rank = status.MPI_SOURCE;
  message->first.resize(static_cast<std::size_t>(count));
  MPI_Request request = MPI_REQUEST_NULL;
  ESPALIER_MPI(MPI_Imrecv(message->first.data(), count, MPI_BYTE, &handle, &request));
  track(request, {nullptr, message, -1});
  incoming[static_cast<std::size_t>(message->rank)].push_back(std::move(message));
  return true;
}

/// Completes the requests that MPI has finished; true if there was one.
bool Mailbox::State::test() {
  if (requests.empty()) return false;
  done.resize(requests.size());
  statuses.resize(requests.size());
  int count = 0;
  const int code = MPI_Testsome(static_cast<int>(requests.size()), requests.data(), &count,
                                done.data(), statuses.data());
  if (code == MPI_ERR_IN_STATUS) {
    for (int i = 0; i < count; ++i)
      check_mpi(statuses[static_cast<std::size_t>(i)].MPI_ERROR, "a transfer");
  }
  check_mpi(code, "MPI_Testsome");
  if (count == MPI_UNDEFINED || count == 0) return false;
  waited = {};

  for (int i = 0; i < count; ++i) {
    const Transfer transfer =
        std::exchange(transfers[static_cast<std::size_t>(done[static_cast<std::size_t>(i)])], {});
    if (transfer.outgoing) {
      --sends_pending;
      continue;
    }
    int received = 0;
    ESPALIER_MPI(MPI_Get_count(&statuses[static_cast<std::size_t>(i)], MPI_BYTE, &received));
    Incoming& message = *transfer.incoming;
    if (transfer.chunk_bytes < 0) {
      message.first.resize(static_cast<std::size_t>(received));
      message.first_arrived = true;
      ++begun;
    } else {
      ESPALIER_CHECK(received == transfer.chunk_bytes,
                     "a chunk of {} bytes arrived instead of one of {} bytes", received,
                     transfer.chunk_bytes);
      --message.chunks_pending;
      --bodies_pending;
    }
    advance(message.rank);
  }

  std::size_t kept = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (requests[i] == MPI_REQUEST_NULL) continue;
    if (kept != i) {
      requests[kept] = requests[i];
      transfers[kept] = std::move(transfers[i]);
    }
    ++kept;
  }
  requests.resize(kept);
  transfers.resize(kept);
  return true;
}

void Mailbox::State::progress() {
  if (incoming.size() == 1) return;
  const auto now = std::chrono::steady_clock::now();
  // Cleared before the poll, so that a ring during it is not lost.
  const std::int64_t rings = doorbell.clear();
  const bool poll_is_due =
      now - last_poll >= (doorbell.reaches_all() ? kPollWithoutRing : kShortestSleep);
  if (rings == 0 && !moving() && !poll_is_due) return;
  announced += rings;
  last_poll = now;
  // An empty poll yields the core and costs a time slice if two ranks share it. So if all ranks can
  // ring, it polls only until the announced messages have arrived. Otherwise it polls again while
  // anything moved (a header just read has posted receives that may be complete already), and once
  // more, because MPI tests requests before it takes in arrived messages.
  const bool announced_only = doorbell.reaches_all() && !poll_is_due;
  for (int quiet = 0; quiet < 2; ++quiet) {
    bool moved = test();
    if (announced_only && caught_up()) return;
    moved = test() || moved;
    if (announced_only && caught_up()) return;
    if (take_unexpected() || moved) quiet = -1;
  }
  announced = begun;
}

/// Gives up all requests. MPI may still use the memory of requests that it can neither finish nor
/// cancel, so that memory is never freed: this happens at the end of a job, or after peers have
/// died.
void Mailbox::State::abandon() noexcept {
  int finalized = 0;
  MPI_Finalized(&finalized);
  auto* lost = new std::vector<Transfer>();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    int complete = 0;
    if (!finalized && requests[i] != MPI_REQUEST_NULL) {
      if (transfers[i].incoming) MPI_Cancel(&requests[i]);
      MPI_Test(&requests[i], &complete, MPI_STATUS_IGNORE);
      if (!complete) MPI_Request_free(&requests[i]);
    }
    if (!complete) lost->push_back(std::move(transfers[i]));
  }
  if (lost->empty()) delete lost;
}

Mailbox::Mailbox(const MpiEnvironment& mpi, std::int64_t chunk_bytes)
    : state_(std::make_unique<State>(mpi, chunk_bytes)) {}

Mailbox::~Mailbox() {
  try {
    const auto end = std::chrono::steady_clock::now() + kLastWait;
    // No probing: messages that arrive from now on are for a later mailbox.
    while (state_->sends_pending > 0 && std::chrono::steady_clock::now() < end) {
      if (!state_->test()) std::this_thread::sleep_for(kShortestSleep);
    }
  } catch (...) {
    // The messages are lost either way, and a destructor cannot report it.
  }
  state_->abandon();
}

void Mailbox::send(int rank, Message message) {
  State& state = *state_;
  ESPALIER_CHECK(rank >= 0 && rank < static_cast<int>(state.incoming.size()), "no rank {}", rank);
  if (!message.head) message.head = std::make_shared<const Bytes>();
  if (!message.payload) message.payload = std::make_shared<const Bytes>();
  state.bytes_sent += size_of(*message.head) + size_of(*message.payload);
  if (rank == state.own_rank) {
    message.rank = rank;
    state.ready.push_back(std::move(message));
    return;
  }

  WireHeader header;
  header.type = static_cast<std::int32_t>(message.type);
  header.subtype = message.subtype;
  header.from = message.from;
  header.to = message.to;
  header.id = message.id;
  header.numbers = message.numbers;
  header.payload_bytes = size_of(*message.payload);
  header.chunk_bytes = state.chunk_bytes;
  header.sequence = state.next_sequence[static_cast<std::size_t>(rank)]++;
  seal_header(header, *message.head);

  auto outgoing = std::make_shared<Outgoing>();
  outgoing->head = std::move(message.head);
  outgoing->payload = std::move(message.payload);
  const bool is_inline = header.head_bytes <= kInlineHeadBytes;
  outgoing->first.resize(sizeof(header) + (is_inline ? outgoing->head->size() : 0));
  std::memcpy(outgoing->first.data(), &header, sizeof(header));
  if (is_inline) {
    std::copy(outgoing->head->begin(), outgoing->head->end(),
              outgoing->first.begin() + sizeof(header));
  }
  state.send_first(rank, outgoing);
  if (!is_inline) state.send_body(rank, outgoing, *outgoing->head);
  state.send_body(rank, outgoing, *outgoing->payload);
  state.doorbell.ring(rank);
  state.waited = {};
}

void Mailbox::expect(int rank, std::int64_t largest_bytes) {
  ESPALIER_CHECK(rank >= 0 && rank < static_cast<int>(state_->incoming.size()), "no rank {}", rank);
  ESPALIER_CHECK(largest_bytes >= 0, "largest_bytes is {}", largest_bytes);
  if (rank != state_->own_rank) state_->post_first(rank);
}

std::optional<Message> Mailbox::receive() {
  State& state = *state_;
  state.progress();
  if (state.ready.empty()) return std::nullopt;
  Message message = std::move(state.ready.front());
  state.ready.pop_front();
  state.bytes_received += size_of(*message.head) + size_of(*message.payload);
  return message;
}

void Mailbox::wait(std::chrono::nanoseconds at_most) {
  State& state = *state_;
  if (!state.ready.empty() || at_most.count() <= 0) return;
  auto length = std::clamp(state.waited, kShortestSleep, kLongestSleep);
  if (state.doorbell.reaches_all() && !state.moving()) length = kPollWithoutRing;
  if (at_most < length) length = std::chrono::ceil<std::chrono::microseconds>(at_most);
  state.doorbell.sleep(length);
  state.waited += length;
}

bool Mailbox::idle() {
  state_->progress();
  return state_->sends_pending == 0;
}

std::int64_t Mailbox::bytes_sent() const { return state_->bytes_sent; }
std::int64_t Mailbox::bytes_received() const { return state_->bytes_received; }

}  // namespace espalier
