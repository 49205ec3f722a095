#include "espalier/protocol/rounds/clock.h"

namespace espalier {
namespace {

/// Ranks compute as fast as they can. When a task is sent its time is known, so the order of events
/// is that of the emulated clients on any number of ranks.
class VirtualClock final : public Clock {
 public:
  explicit VirtualClock(Pool& pool) : Clock(pool) {}

  void send(SentTask sent) override {
    sent.task.finish = sent.arrives();
    if (sent.answers()) pool_.submit(sent.task, sent.payload, sent.flops);
    const Key key{sent.arrives(), sent.task.client, sent.task.task};
    out_.emplace(key, std::move(sent));
  }

  std::optional<SentTask> next(std::optional<Nanoseconds> limit) override {
    if (limit && out_.begin()->second.arrives() > *limit) return std::nullopt;
    SentTask sent = std::move(out_.extract(out_.begin()).mapped());
    sent.finish = sent.arrives();
    if (sent.answers()) sent.arrival = pool_.collect(sent.task.task);
    return sent;
  }
};

}  // namespace

void declare_clock_options(OptionTable& table) {
  table.add({"clock.kind", OptionType::choice, "virtual", "what time is", "", {}, {}, {"virtual"}});
}

std::unique_ptr<Clock> make_clock(Pool& pool) { return std::make_unique<VirtualClock>(pool); }

}  // namespace espalier
