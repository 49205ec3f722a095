#include "espalier/engine/clock.h"

#include <cmath>

#include "espalier/device/emulated_time.h"

namespace espalier {
namespace {

/// Processes an answer in order of arrival; returns the end of that work. Failures wait in the same
/// queue, at no cost: the server notices each in its turn.
Nanoseconds process(ServerResources& server, const Flight& flight) {
  const std::int64_t bytes = flight.is_answered ? flight.bytes_up : 0;
  const std::int64_t flops = flight.is_answered ? flight.server_flops : 0;
  return server.processor.take(server.up.take(flight.arrives(), bytes), flops);
}

/// InputError if the flight ends more than 100 years after the start of the run. `of_compute`: the
/// option that its compute time depends on. So the sum of any two times is a time.
void refuse_endless(const Flight& f, const char* of_compute) {
  const Nanoseconds before = later(f.sent, f.queued);
  const Nanoseconds transfers = later(f.download, f.upload);
  within_century(later(before, later(transfers, f.compute)),
                 transfers > f.compute ? "device.*.down_mbps, up_mbps and latency_ms" : of_compute);
}

/// Whether the flight's answer can change its times.
bool is_open(const Flight& flight) { return !flight.is_final || flight.failure_upload; }

/// Time is computed, and ranks work as fast as they can. With the virtual clock the times of a task
/// are final when it is sent, so the order of events is the same on any number of ranks. With the
/// measured clock, and for a client that searches for its submodel or may run out of memory, the
/// times have a lower bound until the task has been computed. next() returns an answer once no
/// other can come before it.
class ComputedClock final : public Clock {
 public:
  /// `host_gflops`: empty for the virtual clock.
  ComputedClock(Pool& pool, const ServerResources& server, std::optional<double> host_gflops)
      : Clock(pool, server), host_gflops_(host_gflops) {}
  ~ComputedClock() override { pool_.on_arrival({}); }

  void start(Nanoseconds) override {}
  void pass(Nanoseconds) override {}
  void prepare(Job job) override { pool_.submit(std::move(job), 0); }
  void on_arrival(std::function<void(Answer&)> handler) override {
    pool_.on_arrival(std::move(handler));
  }

  void hold(Flight flight, Job job) override {
    job.due = add(flight).due;
    if (flight.is_answered) pool_.submit(std::move(job), flight.flops);
  }
  void hold(Flight flight) override { add(flight); }

  std::optional<Event> next(std::optional<Nanoseconds> limit) override {
    while (true) {
      if (limit && first_done() > *limit) return std::nullopt;
      if (!is_open(out_.begin()->second)) break;
      finalise_first();
    }
    // The wait comes before any change, so an interrupted wait has changed nothing.
    const Flight& first = out_.begin()->second;
    if (first.is_answered) pool_.await(first.number);
    Event event{take_first(), {}};
    if (event.flight.is_answered) event.answer = pool_.collect(event.flight.number);
    return event;
  }

 private:
  const Flight& add(Flight flight) {
    flight.is_final =
        flight.is_final || !(host_gflops_ || flight.is_bounded) || !flight.is_answered;
    const bool is_measured = host_gflops_ && !flight.is_final;
    flight.due = is_measured ? flight.arrives() - flight.compute : flight.arrives();
    if (flight.failure_upload) {
      const Nanoseconds earliest = flight.leaves() + flight.download + *flight.failure_upload;
      flight.due = std::min(flight.due, earliest);
    }
    return out_.emplace(Key{flight.due, flight.endpoint, flight.number}, flight).first->second;
  }

  /// Waits for the first job's answer, and makes the job's times final.
  void finalise_first() {
    const Answer& answer = pool_.await(out_.begin()->second.number);
    auto node = out_.extract(out_.begin());
    Flight& flight = node.mapped();
    settle_by(answer, flight);
    if (host_gflops_) {
      // The time by the device's rates, times the host's measured time over its expected time.
      const double expected_s = static_cast<double>(flight.flops) / (*host_gflops_ * 1e9);
      if (expected_s > 0) {
        flight.compute = rounded(static_cast<double>(flight.compute) * answer.host_s / expected_s);
      }
    }
    refuse_endless(flight, "clock.host_gflops");
    flight.is_final = true;
    std::get<0>(node.key()) = flight.arrives();
    out_.insert(std::move(node));
  }

  std::optional<double> host_gflops_;
};

/// Time passes. The message of a task is sent at once, and its receiver holds it until its link
/// time has passed. So the schedule equals that of the virtual clock as long as the host is fast
/// enough; otherwise answers are late.
class PacedClock final : public Clock {
 public:
  PacedClock(Pool& pool, const ServerResources& server, const RealTime& real_time)
      : Clock(pool, server), real_time_(real_time) {}

  void start(Nanoseconds now) override { shift_ = now - real_time_.now(); }
  void prepare(Job job) override {
    const std::int64_t number = job.number;
    prepared_.emplace(number, std::move(job));
  }
  void on_arrival(std::function<void(Answer&)> handler) override { arrived_ = std::move(handler); }

  void pass(Nanoseconds time) override {
    pool_.wait_until([&] { return now() >= time; },
                     [&] { return real_time_.until(time - shift_); });
  }

  void hold(Flight flight, Job job) override {
    flight.is_final = !flight.is_answered;
    flight.due = flight.arrives();
    const Key key{flight.is_final ? flight.due : kLater, flight.endpoint, flight.number};
    if (flight.is_answered) {
      job.due = flight.due;
      job.pace = Pace{flight.leaves() + flight.download - shift_, flight.compute};
      pool_.submit(std::move(job), rate(flight));
    }
    out_.emplace(key, flight);
  }
  void hold(Flight flight) override {
    hold(flight, std::move(prepared_.extract(flight.number).mapped()));
  }

  std::optional<Event> next(std::optional<Nanoseconds> limit) override {
    Nanoseconds at = 0;  // time of the next event
    pool_.wait_until(
        [&] {
          // Answers that arrive from here on are later than `reached`.
          const Nanoseconds reached = now();
          take_answers();
          at = out_.begin()->second.is_final ? first_done() : kLater;
          if (limit) at = std::min(at, *limit);
          return at < reached;
        },
        [&] { return real_time_.until(at == kLater ? kLater : at - shift_); });
    if (!out_.begin()->second.is_final || (limit && first_done() > *limit)) return std::nullopt;
    Event event{take_first(), {}};
    if (auto answer = answers_.extract(event.flight.number))
      event.answer = std::move(answer.mapped());
    return event;
  }

 private:
  /// Key of jobs that have no answer yet: after all others.
  static constexpr Nanoseconds kLater = kLatest;

  Nanoseconds now() const { return later(real_time_.now(), shift_); }

  /// Operations per millisecond.
  static std::int64_t rate(const Flight& flight) {
    constexpr double kMost = 1e15;
    const double length = static_cast<double>(std::max<Nanoseconds>(1, flight.compute));
    return std::llround(std::min(kMost, static_cast<double>(flight.flops) * 1e6 / length));
  }

  void take_answers() {
    while (auto answer = pool_.take()) {
      auto node = out_.extract(Key{kLater, answer->endpoint, answer->number});
      Flight& flight = node.mapped();
      settle_by(*answer, flight);
      const Nanoseconds scheduled = flight.arrives();
      const Nanoseconds begun = flight.leaves() + flight.download;
      flight.compute = std::max(flight.compute, later(*answer->computed, shift_) - begun);
      const Nanoseconds received = later(real_time_.at(answer->received), shift_);
      flight.upload = std::max(flight.upload, received - begun - flight.compute);
      refuse_endless(flight, "clock.scale");
      flight.behind = flight.arrives() - scheduled;
      flight.is_final = true;
      std::get<0>(node.key()) = flight.arrives();
      if (arrived_) arrived_(*answer);
      answers_.emplace(flight.number, std::move(*answer));
      out_.insert(std::move(node));
    }
  }

  const RealTime& real_time_;
  Nanoseconds shift_ = 0;                   // emulated time minus real_time_
  std::map<std::int64_t, Job> prepared_;    // not sent yet, by number
  std::map<std::int64_t, Answer> answers_;  // to jobs of out_, by number
  std::function<void(Answer&)> arrived_;
};

/// The rate of the fastest device class in the fleet.
double fastest(const Fleet& fleet) {
  double most = 0;
  for (std::int64_t client = 0; client < fleet.size(); ++client) {
    const DeviceClass& device = fleet.device(client);
    if (has_roofline(device)) {
      throw InputError(
          formatted("clock.kind = measured: device {} has several rates, and it is not clear which "
                    "of them is the rate of this machine; set clock.host_gflops",
                    device.name));
    }
    most = std::max(most, device.gflops);
  }
  return most;
}

}  // namespace

void Clock::send(Flight flight, Job job) {
  enter(flight);
  hold(flight, std::move(job));
}

void Clock::send(Flight flight) {
  enter(flight);
  hold(flight);
}

void Clock::enter(Flight& flight) {
  flight.queued = server_.down.take(flight.sent, flight.bytes_down) - flight.sent;
  refuse_endless(flight, "device.*.gflops and overhead_us");
}

void Clock::settle_by(const Answer& answer, Flight& flight) {
  if (flight.is_bounded || flight.failure_upload) settle(flight, answer);
  flight.failure_upload.reset();
}

Nanoseconds Clock::first_done() const {
  ServerResources copy = server_;
  const Flight& first = out_.begin()->second;
  if (!is_open(first)) return process(copy, first);
  // A short answer may overtake it, so its own bytes are no bound.
  return copy.processor.take(copy.up.take(first.due, 0), 0);
}

Flight Clock::take_first() {
  Flight flight = out_.extract(out_.begin()).mapped();
  flight.finish = process(server_, flight);
  return flight;
}

void declare_clock_options(OptionTable& table) {
  table.add_choice(
      "clock.kind", "virtual",
      "kind of emulated time: virtual, computed from work and rates while ranks work as fast as "
      "they can; paced, real time, in which work and messages are delayed to the devices' rates; "
      "measured, as virtual but with the measured times of the host",
      {"virtual", "paced", "measured"});
  table.add(
      {"clock.scale", OptionType::real, "1",
       "clock paced: real seconds per emulated second; 0.1 = ten times as fast as the devices", "",
       1e-6, 1e6, OnResume::may_change});
  table.add(
      {"clock.host_gflops", OptionType::real, "0",
       "clock measured: effective rate of this machine; the time of a device is the machine's "
       "time multiplied by this rate and divided by the device's gflops; 0 = gflops of the "
       "fastest device",
       "GFLOP/s", 0, 1e9});
}

ClockSettings clock_settings(const Config& config, const Fleet& fleet) {
  ClockSettings s{ServerResources(config), {}, {}};
  const std::string kind = config.text("clock.kind");
  if (kind == "paced") s.scale = config.real("clock.scale");
  if (kind == "measured") {
    const double given = config.real("clock.host_gflops");
    s.host_gflops = given > 0 ? given : fastest(fleet);
  }
  return s;
}

std::unique_ptr<Clock> make_clock(const ClockSettings& settings, Pool& pool,
                                  const RealTime* real_time) {
  if (real_time != nullptr) return std::make_unique<PacedClock>(pool, settings.server, *real_time);
  return std::make_unique<ComputedClock>(pool, settings.server, settings.host_gflops);
}

}  // namespace espalier
