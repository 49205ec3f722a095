#pragma once
// The conversation of `split`: one round after the other. The control module plans a round, the
// round is carried out, and the mean of its clusters' models is the next version of the model. What
// is saved is the state between two rounds; a round that was interrupted is repeated.

#include <memory>
#include <string>
#include <vector>

#include "espalier/engine/clock.h"
#include "espalier/engine/protocol.h"
#include "espalier/protocol/split/labels.h"
#include "espalier/protocol/split/round.h"

namespace espalier::split {

struct ServerSettings {
  std::shared_ptr<const Parts> parts;
  std::shared_ptr<const Costs> costs;
  ClockSettings clock;
  bool record_iterations = false;
};
/// record.iterations.
void declare_server_options(OptionTable& table);
/// InputError if settings contradict each other.
ServerSettings server_settings(const Config& config, const Experiment& experiment);

class SplitServer final : public Conversation {
 public:
  /// `model`: before the first round, aligned.
  SplitServer(const Experiment& experiment, ServerSettings settings,
              std::unique_ptr<Control> control, Parameters model, Run& run);

  void begin() override { clock_->start(state_.now); }
  void advance() override;
  Progress progress() const override { return {state_.version, state_.now, state_.now}; }
  Parameters* model() override { return &model_; }
  std::string summary() const override;
  void archive(Archive& archive) override;

 private:
  /// Between two rounds.
  struct State {
    std::int64_t version = 0;
    Nanoseconds now = 0;
    std::vector<std::int64_t> tasks_of;  // rounds in which the client trained
    std::int64_t server_bytes_up = 0, server_bytes_down = 0, device_bytes = 0;
    KeptStates optimizers;
  };

  void begin_round();
  void end_round();
  SharedBytes weights_of(const Submodel& part) const;

  const Experiment& experiment_;
  ServerSettings settings_;
  Run& run_;
  std::unique_ptr<Control> control_;
  Parameters model_;
  std::unique_ptr<Clock> clock_;
  Links links_;
  std::vector<LabelShares> labels_;  // by client
  State state_;
  std::unique_ptr<Round> round_;  // null between two rounds
};

}  // namespace espalier::split
