// The promises of the mailbox, on any number of ranks: every message arrives once, whole and in the
// order sent, whatever its size, expected or not; on the own rank without a copy. Run on 1, 2 and 3
// ranks.

#include "espalier/comm/mailbox.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "espalier/base/error.h"

namespace espalier {
namespace {

constexpr std::int64_t kChunk = 1000;
constexpr std::chrono::seconds kPatience{60};

int failures = 0;

#define EXPECT(condition)                                                                    \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      ++failures;                                                                            \
      fmt::print(stderr, "rank {}: {}:{}: not so: {}\n", message_rank(), __FILE__, __LINE__, \
                 #condition);                                                                \
    }                                                                                        \
  } while (false)

/// Bytes that depend on every argument, so that a message in the wrong place or of the wrong part
/// differs.
SharedBytes pattern(std::int64_t count, std::int64_t a, std::int64_t b) {
  auto bytes = std::make_shared<Bytes>(static_cast<std::size_t>(count));
  std::uint64_t x =
      static_cast<std::uint64_t>(a) * 1000003 + static_cast<std::uint64_t>(b) * 7919 + 1;
  for (auto& byte : *bytes) {
    x = x * 6364136223846793005U + 1442695040888963407U;
    byte = static_cast<std::byte>(x >> 56);
  }
  return bytes;
}

/// The next message; ends the job instead of hanging if none arrives.
Message next(const MpiEnvironment& mpi, Mailbox& box) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (true) {
    if (auto message = box.receive()) return std::move(*message);
    if (std::chrono::steady_clock::now() > end) {
      fmt::print(stderr, "rank {}: a message is missing\n", mpi.rank());
      mpi.abort_job(1);
    }
    box.wait();
  }
}

void settle(const MpiEnvironment& mpi, Mailbox& box) {
  while (!box.idle()) box.wait();
  EXPECT(!box.receive());
  ESPALIER_MPI(MPI_Barrier(mpi.communicator()));
}

// Sizes around every boundary: empty, one byte, one chunk less and more, head inline and in chunks,
// and above MPI's limit for eager messages.
const std::vector<std::int64_t> kPayloads{0, 1, 999, 1000, 1001, 2000, 12345, 300000};
const std::vector<std::int64_t> kHeads{0, 1, 3839, 3840, 3841, 10000};

/// From every rank to every rank, including itself: every pair of sizes, checked in order, some
/// expected and some not.
void test_sizes_and_order(const MpiEnvironment& mpi, int expected_of_each) {
  Mailbox box(mpi, kChunk);
  for (int rank = 0; rank < mpi.size(); ++rank) {
    for (int i = 0; i < expected_of_each; ++i) box.expect(rank, 400000);
  }
  std::int64_t id = 0;
  std::int64_t bytes = 0;
  for (std::int64_t payload : kPayloads) {
    for (std::int64_t head : kHeads) {
      for (int rank = 0; rank < mpi.size(); ++rank) {
        Message message;
        message.type = MessageType::answer;
        message.subtype = static_cast<std::int32_t>(-id);
        message.from = mpi.rank() + 10;
        message.to = rank == 0 ? kServer : rank;
        message.id = id;
        message.head = pattern(head, id, mpi.rank());
        message.payload = pattern(payload, mpi.rank(), id);
        box.send(rank, std::move(message));
        bytes += head + payload;
      }
      ++id;
    }
  }
  const std::int64_t each = id;
  std::vector<std::int64_t> due(static_cast<std::size_t>(mpi.size()), 0);
  for (std::int64_t n = 0; n < each * mpi.size(); ++n) {
    const Message message = next(mpi, box);
    const std::int64_t k = due[static_cast<std::size_t>(message.rank)]++;
    const auto payloads = static_cast<std::int64_t>(kHeads.size());
    EXPECT(message.id == k);
    EXPECT(message.type == MessageType::answer);
    EXPECT(message.subtype == -k);
    EXPECT(message.from == message.rank + 10);
    EXPECT(message.to == (mpi.rank() == 0 ? kServer : mpi.rank()));
    EXPECT(*message.head ==
           *pattern(kHeads[static_cast<std::size_t>(k % payloads)], k, message.rank));
    EXPECT(*message.payload ==
           *pattern(kPayloads[static_cast<std::size_t>(k / payloads)], message.rank, k));
  }
  for (std::int64_t count : due) EXPECT(count == each);
  EXPECT(box.bytes_sent() == bytes);
  EXPECT(box.bytes_received() == bytes);
  settle(mpi, box);
}

/// expect() must not change the order of messages that have already arrived unexpected.
void test_expecting_late(const MpiEnvironment& mpi) {
  Mailbox box(mpi, kChunk);
  constexpr std::int64_t kCount = 60;
  if (mpi.rank() != 0) {
    for (std::int64_t id = 0; id < kCount; ++id) {
      Message message;
      message.id = id;
      message.payload = pattern(id * 97, mpi.rank(), id);
      box.send(0, std::move(message));
      if (id % 7 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
  } else {
    std::vector<std::int64_t> due(static_cast<std::size_t>(mpi.size()), 0);
    for (std::int64_t n = 0; n < kCount * (mpi.size() - 1); ++n) {
      if (n % 5 == 0) {
        for (int rank = 1; rank < mpi.size(); ++rank) box.expect(rank, 10000);
      }
      const Message message = next(mpi, box);
      const std::int64_t k = due[static_cast<std::size_t>(message.rank)]++;
      EXPECT(message.id == k);
      EXPECT(*message.payload == *pattern(k * 97, message.rank, k));
    }
  }
  settle(mpi, box);
}

/// Many messages in both directions at once: each answer must belong to its question.
void test_ping_pong(const MpiEnvironment& mpi) {
  Mailbox box(mpi, kChunk);
  constexpr std::int64_t kCount = 2000;
  const std::int64_t to_each = mpi.size() == 1 ? kCount : kCount / (mpi.size() - 1);
  std::int64_t answers = 0;
  if (mpi.rank() == 0) {
    const int first = mpi.size() == 1 ? 0 : 1;
    for (std::int64_t id = 0; id < to_each; ++id) {
      for (int rank = first; rank < mpi.size(); ++rank) {
        Message message;
        message.type = MessageType::job;
        message.id = id;
        message.payload = pattern(id % 3000, rank, id);
        box.send(rank, std::move(message));
        if (id % 2 == 0) box.expect(rank, 3000);
      }
    }
    for (int rank = first; rank < mpi.size(); ++rank) {
      Message message;
      message.type = MessageType::stop;
      box.send(rank, std::move(message));
    }
  }
  const std::int64_t due = mpi.rank() == 0 ? to_each * std::max(1, mpi.size() - 1) : 0;
  bool stopped = mpi.rank() == 0 && mpi.size() > 1;
  while (!stopped || answers < due) {
    Message message = next(mpi, box);
    if (message.type == MessageType::job) {
      message.type = MessageType::answer;
      box.send(message.rank, std::move(message));
    } else if (message.type == MessageType::answer) {
      const int from = message.rank;
      EXPECT(*message.payload == *pattern(message.id % 3000, from, message.id));
      ++answers;
    } else {
      EXPECT(message.head && message.head->empty());
      EXPECT(message.payload && message.payload->empty());
      stopped = true;
    }
  }
  EXPECT(answers == due);
  settle(mpi, box);
}

/// On the own rank the receiver gets the very bytes that were sent.
void test_local_delivery_copies_nothing(const MpiEnvironment& mpi) {
  Mailbox box(mpi);
  box.expect(mpi.rank(), 100);
  Message message;
  message.head = pattern(5, 1, 2);
  message.payload = pattern(100, 3, 4);
  const Bytes* head = message.head.get();
  const Bytes* payload = message.payload.get();
  box.send(mpi.rank(), message);
  EXPECT(box.idle());
  const auto received = box.receive();
  EXPECT(received.has_value());
  EXPECT(received && received->head.get() == head);
  EXPECT(received && received->payload.get() == payload);
  EXPECT(received && received->rank == mpi.rank());
  EXPECT(!box.receive());
  settle(mpi, box);
}

/// The sender may drop its bytes at once, and they are freed when sent.
void test_bytes_live_until_sent(const MpiEnvironment& mpi) {
  Mailbox box(mpi);
  const int right = (mpi.rank() + 1) % mpi.size();
  const int left = (mpi.rank() + mpi.size() - 1) % mpi.size();
  constexpr std::int64_t kBig = 8 << 20;
  std::weak_ptr<const Bytes> watched;
  {
    Message message;
    message.payload = pattern(kBig, mpi.rank(), 0);
    watched = message.payload;
    box.send(right, std::move(message));
  }
  EXPECT(!watched.expired());
  {
    const Message message = next(mpi, box);
    EXPECT(message.rank == left);
    EXPECT(*message.payload == *pattern(kBig, left, 0));
  }
  settle(mpi, box);
  EXPECT(watched.expired());
}

void test_agree(const MpiEnvironment& mpi) {
  auto verdict = mpi.agree(0, "");
  EXPECT(verdict.status == 0);
  EXPECT(verdict.rank == -1);
  EXPECT(verdict.message.empty());

  // Every single rank fails once.
  for (int failing = 0; failing < mpi.size(); ++failing) {
    const bool fails = mpi.rank() == failing;
    verdict =
        mpi.agree(fails ? 3 + failing : 0, fails ? formatted("rank {} has no data", failing) : "");
    EXPECT(verdict.status == 3 + failing);
    EXPECT(verdict.rank == failing);
    EXPECT(verdict.message == formatted("rank {} has no data", failing));
  }

  // All fail, and the lowest rank's message is used, even if it is empty and the others are longer.
  verdict = mpi.agree(10 + mpi.rank(), mpi.rank() == 0 ? "" : "not the lowest");
  EXPECT(verdict.status == 10);
  EXPECT(verdict.rank == 0);
  EXPECT(verdict.message.empty());
}

/// A message of another version or program is an internal error and not a wrong model.
void test_stray_message_is_an_error(const MpiEnvironment& mpi) {
  if (mpi.size() == 1) return;
  constexpr int kHeaderTag = 1;
  if (mpi.rank() == 1) {
    const Bytes junk(200, std::byte{7});
    ESPALIER_MPI(MPI_Send(junk.data(), static_cast<int>(junk.size()), MPI_BYTE, 0, kHeaderTag,
                          mpi.communicator()));
  } else if (mpi.rank() == 0) {
    Mailbox box(mpi, kChunk);
    Status status = Status::done;
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (status == Status::done && std::chrono::steady_clock::now() < end) {
      try {
        EXPECT(!box.receive());
        box.wait();
      } catch (const Error& error) {
        status = error.status();
      }
    }
    EXPECT(status == Status::internal);
  }
  ESPALIER_MPI(MPI_Barrier(mpi.communicator()));
}

/// A mailbox can be destroyed although its last message is never received. This test is last,
/// because the message stays in MPI.
void test_closing_with_unreceived_message(const MpiEnvironment& mpi) {
  if (mpi.size() == 1) return;
  {
    Mailbox box(mpi);
    box.expect((mpi.rank() + 1) % mpi.size(), 100);
    if (mpi.rank() == 0) {
      Message message;
      message.payload = pattern(4 << 20, 0, 0);  // too large to be buffered by MPI
      box.send(1, std::move(message));
      EXPECT(!box.idle());
    } else {
      ESPALIER_MPI(MPI_Barrier(mpi.communicator()));
    }
  }
  if (mpi.rank() == 0) ESPALIER_MPI(MPI_Barrier(mpi.communicator()));
}

int run(int argc, char** argv) {
  const MpiEnvironment mpi(&argc, &argv);
  try {
    test_agree(mpi);
    test_local_delivery_copies_nothing(mpi);
    for (int expected : {0, 1, 10, 48}) test_sizes_and_order(mpi, expected);
    test_expecting_late(mpi);
    test_ping_pong(mpi);
    test_bytes_live_until_sent(mpi);
    test_stray_message_is_an_error(mpi);
    test_closing_with_unreceived_message(mpi);
  } catch (const std::exception& error) {
    fmt::print(stderr, "rank {}: {}\n", mpi.rank(), error.what());
    mpi.abort_job(1);
  }
  const auto verdict = mpi.agree(failures == 0 ? 0 : 1, formatted("{} failures", failures));
  if (mpi.rank() == 0 && verdict.status == 0)
    fmt::print("mailbox: all well on {} ranks\n", mpi.size());
  return verdict.status;
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) {
  try {
    return espalier::run(argc, argv);
  } catch (const espalier::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.status());
  }
}
