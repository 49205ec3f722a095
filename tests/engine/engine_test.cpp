// Pool, worker and clock on one rank, with a kind of job that counts.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/engine/clock.h"
#include "mpi_for_all.h"

namespace espalier {
namespace {

constexpr JobKind kCount = job_kind("test.count");
constexpr JobKind kTwice = job_kind("test.twice");

/// Numbers of the jobs that made a step, in order.
using Steps = std::vector<std::int64_t>;

/// Makes `steps` steps, the first byte of its head, and answers with its payload.
class Counter final : public Stepper {
 public:
  Counter(Job job, Steps& made, bool is_sent_twice)
      : job_(std::move(job)),
        made_(made),
        is_sent_twice_(is_sent_twice),
        steps_(static_cast<std::int64_t>(job_.head->front())) {}
  bool step() override {
    made_.push_back(job_.number);
    return ++done_ < steps_;
  }
  Output finish() override { return {job_.head, job_.payload, is_sent_twice_}; }
  std::int64_t steps() const override { return steps_; }
  std::int64_t steps_done() const override { return done_; }

 private:
  Job job_;
  Steps& made_;
  bool is_sent_twice_;
  std::int64_t steps_ = 0;
  std::int64_t done_ = 0;
};

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

class Engine : public testing::Test {
 protected:
  Engine()
      : mailbox_(mpi_for_all->get()),
        worker_(add_kinds(kinds_), mailbox_, nullptr),
        pool_(mailbox_, 1, &worker_, false) {}

  JobKinds& add_kinds(JobKinds& kinds) {
    for (const JobKind kind : {kCount, kTwice}) {
      kinds.add(kind, [this, kind](Job job) {
        return std::make_unique<Counter>(std::move(job), made_, kind == kTwice);
      });
    }
    return kinds;
  }

  static Job job(std::int64_t number, int steps = 1, JobKind kind = kCount) {
    Job job;
    job.kind = kind;
    job.number = number;
    job.endpoint = 100 - number;
    job.head = to_shared(bytes_of({steps}));
    job.payload = to_shared(bytes_of({static_cast<int>(number), 7}));
    return job;
  }

  JobKinds kinds_;
  Steps made_;
  Mailbox mailbox_;
  Worker worker_;
  Pool pool_;
};

// Jobs and answers as messages -----------------------------------------------------------------

TEST(Job, IsTheSameAfterItsMessage) {
  Job sent;
  sent.kind = kCount;
  sent.number = 12;
  sent.endpoint = 5;
  sent.due = 1'000'000'000'123;
  sent.version = 9;
  sent.urgency = Urgency::first;
  sent.pace = Pace{-4, 77};
  sent.head = to_shared(bytes_of({1, 2}));
  sent.payload = to_shared(bytes_of({3}));
  const Job got = job_of(message_of(sent, kPayloadKept));
  EXPECT_EQ(got.kind, sent.kind);
  EXPECT_EQ(got.number, 12);
  EXPECT_EQ(got.endpoint, 5);
  EXPECT_EQ(got.due, sent.due);
  EXPECT_EQ(got.version, 9);
  EXPECT_EQ(got.urgency, Urgency::first);
  ASSERT_TRUE(got.pace.has_value());
  EXPECT_EQ(got.pace->begin, -4);
  EXPECT_EQ(got.pace->length, 77);
  EXPECT_EQ(*got.head, *sent.head);
  EXPECT_EQ(got.payload, sent.payload);
  sent.pace.reset();
  EXPECT_FALSE(job_of(message_of(sent, kPayloadKept)).pace.has_value());
  EXPECT_EQ(job_of(message_of(sent, 2)).payload, nullptr);
  EXPECT_EQ(payload_place_of(message_of(sent, 2)), 2);
}

TEST(Job, AnAnswerIsTheSameAfterItsMessage) {
  Answer sent;
  sent.kind = kTwice;
  sent.number = 3;
  sent.endpoint = 8;
  sent.host_s = 0.1;
  sent.computed = 55;
  sent.head = to_shared({});
  sent.payload = to_shared({});
  const Answer got = answer_of(message_of(sent));
  EXPECT_EQ(got.kind, kTwice);
  EXPECT_EQ(got.number, 3);
  EXPECT_EQ(got.endpoint, 8);
  EXPECT_EQ(got.host_s, 0.1);
  EXPECT_EQ(got.computed, 55);
  sent.computed.reset();
  EXPECT_FALSE(answer_of(message_of(sent)).computed.has_value());
}

TEST(Job, AKindIsRegisteredOnceAndAnUnknownOneIsRefused) {
  JobKinds kinds;
  const auto make = [](const Job&) { return std::unique_ptr<Stepper>(); };
  kinds.add(kCount, make);
  EXPECT_THROW(kinds.add(kCount, make), Error);
  Job unknown;
  unknown.kind = kTwice;
  EXPECT_THROW(kinds.make(unknown), Error);
}

// The order of work ----------------------------------------------------------------------------

TEST_F(Engine, AnswersComeWithTheirJobs) {
  pool_.submit(job(1, 3), 1);
  pool_.submit(job(2, 1), 1);
  const Answer second = pool_.collect(2);
  EXPECT_EQ(second.endpoint, 98);
  EXPECT_EQ(*second.payload, bytes_of({2, 7}));
  EXPECT_EQ(pool_.await(1).number, 1);
  EXPECT_EQ(*pool_.collect(1).payload, bytes_of({1, 7}));
  EXPECT_FALSE(pool_.take().has_value());
}

TEST_F(Engine, ASecondAnswerHasNoEffect) {
  pool_.submit(job(1, 1, kTwice), 1);
  pool_.submit(job(2, 1, kTwice), 1);
  EXPECT_EQ(pool_.collect(1).number, 1);
  EXPECT_EQ(pool_.collect(2).number, 2);
  pool_.poll();
  EXPECT_FALSE(pool_.take().has_value());
}

TEST_F(Engine, NormalJobsAreDoneInTheOrderInWhichTheirAnswersAreDue) {
  for (const auto& [number, due] : {std::pair{1, 30}, {2, 10}, {3, 20}}) {
    Job one = job(number, 2);
    one.due = due;
    worker_.accept(message_of(one, kPayloadNotKept));
  }
  while (worker_.step()) {
  }
  // The first job has started when the others arrive.
  EXPECT_EQ(made_, (Steps{1, 1, 2, 2, 3, 3}));
}

TEST_F(Engine, IdleJobsWaitUnlessTwoVersionsLateAndFirstOnesDoNot) {
  const auto accept = [&](std::int64_t number, Urgency urgency, std::int64_t version) {
    Job one = job(number, 1);
    one.urgency = urgency;
    one.version = version;
    worker_.accept(message_of(one, kPayloadNotKept));
  };
  accept(1, Urgency::idle, 4);
  accept(2, Urgency::normal, 5);
  accept(3, Urgency::first, 5);
  accept(4, Urgency::normal, 6);
  while (worker_.step()) {
  }
  EXPECT_EQ(made_, (Steps{3, 1, 2, 4}));  // version 6 is two ahead of the idle one
  made_.clear();
  accept(5, Urgency::idle, 5);
  accept(6, Urgency::normal, 6);
  while (worker_.step()) {
  }
  EXPECT_EQ(made_, (Steps{6, 5}));
}

TEST_F(Engine, JobsThatShareAPayloadGetIt) {
  const SharedBytes shared = to_shared(bytes_of({9, 9, 9}));
  for (std::int64_t number = 1; number <= 12; ++number) {
    Job one = job(number);
    if (number % 3 != 0) one.payload = shared;
    pool_.submit(std::move(one), 1);
  }
  for (std::int64_t number = 1; number <= 12; ++number) {
    const Bytes expected = number % 3 != 0 ? *shared : bytes_of({static_cast<int>(number), 7});
    EXPECT_EQ(*pool_.collect(number).payload, expected) << number;
  }
}

TEST_F(Engine, AnswersOfAKindWithAHandlerGoToIt) {
  std::vector<std::int64_t> handled;
  pool_.on_answer(kTwice, [&](const Answer& answer) { handled.push_back(answer.number); });
  pool_.submit_to(0, job(1, 1, kTwice));
  pool_.submit(job(2), 1);
  pool_.collect(2);
  pool_.wait_until([&] { return handled.size() == 2; });
  EXPECT_EQ(handled, (std::vector<std::int64_t>{1, 1}));  // it is sent twice
}

// The clock --------------------------------------------------------------------------------------

class VirtualClock : public Engine {
 protected:
  static ClockSettings settings(const std::string& text = "") {
    OptionTable table;
    table.add({.key = "run.seed", .type = OptionType::integer, .default_value = "1", .help = ""});
    declare_device_options(table);
    declare_clock_options(table);
    declare_resource_options(table);
    Config config(std::move(table));
    config.read_text(text, "the test");
    return clock_settings(config, Fleet(config));
  }
  void make(const std::string& text = "") {
    clock_ = make_clock(settings(text), pool_, nullptr);
    clock_->start(0);
  }
  /// A flight of `compute` nanoseconds.
  static Flight flight(std::int64_t number, Nanoseconds compute) {
    Flight flight;
    flight.number = number;
    flight.endpoint = 100 - number;
    flight.compute = compute;
    return flight;
  }
  void send(std::int64_t number, Nanoseconds compute) {
    clock_->send(flight(number, compute), job(number));
  }
  /// Numbers of all flights in the order in which they end.
  Steps land() {
    Steps numbers;
    while (!clock_->out().empty()) numbers.push_back(clock_->next({})->flight.number);
    return numbers;
  }
  std::unique_ptr<Clock> clock_;
};

TEST_F(VirtualClock, HandsOutEventsByTimeThenEndpointThenNumber) {
  make();
  send(1, 30);
  send(2, 10);
  send(3, 30);  // endpoint 97, before endpoint 99 of the first
  send(4, 20);
  EXPECT_EQ(land(), (Steps{2, 4, 3, 1}));
}

TEST_F(VirtualClock, HandsOutNothingAfterTheLimit) {
  make();
  send(1, 30);
  send(2, 10);
  EXPECT_EQ(clock_->next(15)->flight.number, 2);
  EXPECT_FALSE(clock_->next(29).has_value());
  EXPECT_EQ(clock_->out().size(), 1u);
  const auto event = clock_->next(30);  // arrivals at the limit count
  EXPECT_EQ(event->flight.finish, 30);
  EXPECT_EQ(*event->answer->payload, bytes_of({1, 7}));
}

TEST_F(VirtualClock, AFailureIsAnEventWithoutAnAnswerAndWithoutWork) {
  make();
  Flight failed = flight(1, 5);
  failed.is_answered = false;
  clock_->send(failed, job(1));
  send(2, 10);
  const auto first = clock_->next({});
  EXPECT_EQ(first->flight.number, 1);
  EXPECT_FALSE(first->answer.has_value());
  EXPECT_EQ(clock_->next({})->flight.number, 2);
  EXPECT_EQ(made_, (Steps{2}));
}

TEST_F(VirtualClock, ABoundedFlightIsSettledBeforeOthersThatCouldComeEarlier) {
  make();
  clock_->settle = [](Flight& flight, const Answer& answer) {
    EXPECT_EQ(answer.number, flight.number);
    flight.compute = 50;
  };
  Flight bounded = flight(1, 10);
  bounded.is_bounded = true;
  clock_->send(bounded, job(1));
  send(2, 20);
  send(3, 60);
  EXPECT_EQ(land(), (Steps{2, 1, 3}));
}

TEST_F(VirtualClock, AFlightThatMayFailIsSettledBeforeOthersThatCouldComeEarlier) {
  make("[server]\nup_mbps = 8\ngflops = 1\n");  // 1000 ns a byte, 1 ns an operation
  clock_->settle = [](Flight& flight, const Answer&) {
    if (flight.number == 4) return;  // it succeeds
    flight.compute = 700;
    flight.upload = *flight.failure_upload;
    flight.bytes_up = 1;
    flight.server_flops = 0;
  };
  for (const std::int64_t number : {1, 4}) {
    Flight open = flight(number, 5000);
    open.download = 60;
    open.upload = 4000;
    open.bytes_up = 3;
    open.server_flops = 11;
    open.failure_upload = 40;
    clock_->send(open, job(number));
  }
  send(2, 799);
  send(3, 801);
  EXPECT_FALSE(clock_->next(798).has_value());
  // The earliest end of the others' work would be 1100.
  EXPECT_EQ(clock_->next(1000)->flight.finish, 799);
  Steps numbers{2}, ends{799};
  while (!clock_->out().empty()) {
    const auto event = clock_->next({});
    numbers.push_back(event->flight.number);
    ends.push_back(event->flight.finish);
    EXPECT_FALSE(event->flight.failure_upload.has_value());
  }
  EXPECT_EQ(numbers, (Steps{2, 1, 3, 4}));
  EXPECT_EQ(ends, (Steps{799, 1800, 1800, 9060 + 3000 + 11}));
}

TEST_F(VirtualClock, AnswersQueueForTheServer) {
  make("[server]\ndown_mbps = 8\nup_mbps = 4\ngflops = 2\n");  // 1000 and 2000 ns a byte
  for (const std::int64_t number : {1, 2}) {
    Flight one = flight(number, 100);
    one.bytes_down = 3;
    one.bytes_up = 5;
    one.server_flops = 1000;
    clock_->send(one, job(number));
  }
  // Downloads end at 3000 and 6000, computing at 3100 and 6100, uploads at 13100 and 23100, and the
  // server takes 500 for each.
  const auto first = clock_->next({}), second = clock_->next({});
  EXPECT_EQ(first->flight.number, 1);
  EXPECT_EQ(first->flight.finish, 13'600);
  EXPECT_EQ(second->flight.queued, 6'000);
  EXPECT_EQ(second->flight.finish, 23'600);
  EXPECT_EQ(second->flight.at_server(), 6'000 + 23'600 - 6'100);
}

TEST_F(VirtualClock, PreparedJobsRunAheadOfTheirFlights) {
  make();
  // Job 3 needs the answer of job 2, which comes last in emulated time.
  clock_->on_arrival([this](Answer& answer) {
    if (answer.number != 2) return;
    clock_->prepare(job(3));
    answer.payload = nullptr;
  });
  clock_->prepare(job(1, 4));
  clock_->prepare(job(2));
  clock_->send(flight(2, 50));
  clock_->send(flight(1, 20));
  EXPECT_EQ(clock_->next({})->flight.number, 1);
  pool_.await(3);
  EXPECT_EQ(made_, (Steps{1, 1, 1, 1, 2, 3}));
  const auto event = clock_->next({});
  EXPECT_EQ(event->flight.finish, 50);
  EXPECT_EQ(event->answer->payload, nullptr);
  clock_->send(flight(3, 5));
  EXPECT_EQ(clock_->next({})->flight.number, 3);
  clock_->on_arrival({});
}

TEST_F(VirtualClock, AMeasuredFlightTakesTheHostsTime) {
  make("[clock]\nkind = measured\nhost_gflops = 1\n");
  Flight one = flight(1, 1'000'000);
  one.flops = 1'000;  // a microsecond at the host's rate
  clock_->send(one, job(1, 3));
  const auto event = clock_->next({});
  const double host_s = event->answer->host_s;
  EXPECT_GT(host_s, 0);
  EXPECT_EQ(event->flight.finish, std::llround(1e6 * host_s / 1e-6));
}

}  // namespace
}  // namespace espalier
