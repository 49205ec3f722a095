#include "espalier/protocol/rounds/clock.h"

namespace espalier {
namespace {

/// Takes an answer in, in order of arrival; returns when the server is done with it. Failures take
/// their turn as well, at no cost: the server notices them when it comes to them.
Nanoseconds take_in(ServerResources& server, const SentTask& sent) {
  const std::int64_t bytes = sent.answers() ? sent.bytes_up : 0;
  const std::int64_t values = sent.answers() ? sent.geometry->count(Kind::trainable) : 0;
  return server.processor.take(server.up.take(sent.arrives(), bytes),
                               kFlopsPerMergedValue * values);
}

/// Ranks compute as fast as they can. When a task is sent its time is known, so the order of events
/// is that of the emulated clients on any number of ranks.
class VirtualClock final : public Clock {
 public:
  VirtualClock(Pool& pool, const ServerResources& server) : Clock(pool, server) {}

  void send(SentTask sent) override {
    queue(sent);
    sent.task.finish = sent.arrives();
    if (sent.answers()) pool_.submit(sent.task, sent.payload, sent.flops);
    const Key key{sent.arrives(), sent.task.client, sent.task.task};
    out_.emplace(key, std::move(sent));
  }

  std::optional<SentTask> next(std::optional<Nanoseconds> limit) override {
    if (limit && done(out_.begin()->second) > *limit) return std::nullopt;
    SentTask sent = take_first();
    if (sent.answers()) sent.arrival = pool_.collect(sent.task.task);
    return sent;
  }
};

}  // namespace

void Clock::queue(SentTask& sent) {
  sent.queued = server_.down.take(sent.sent, sent.bytes_down) - sent.sent;
}

Nanoseconds Clock::done(const SentTask& sent) const {
  ServerResources present = server_;
  return take_in(present, sent);
}

SentTask Clock::take_first() {
  SentTask sent = std::move(out_.extract(out_.begin()).mapped());
  sent.finish = take_in(server_, sent);
  return sent;
}

void declare_clock_options(OptionTable& table) {
  table.add({"clock.kind", OptionType::choice, "virtual", "what time is", "", {}, {}, {"virtual"}});
}

std::unique_ptr<Clock> make_clock(const Config& config, Pool& pool) {
  return std::make_unique<VirtualClock>(pool, ServerResources(config));
}

}  // namespace espalier
