#include "espalier/engine/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "espalier/base/stop.h"
#include "espalier/engine/protocol.h"
#include "espalier/engine/tables.h"

namespace espalier {
namespace {

// Time that a checkpoint at a stop waits for its norm statistics: after SIGTERM a rank has a
// second.
constexpr double kPatienceAtStop_s = 0.3;

void archive_evaluation(Archive& archive, std::optional<Evaluation>& last) {
  Evaluation e = last.value_or(Evaluation{});
  std::int64_t made = last ? 1 : 0;
  archive.value("made", made);
  archive.value("version", e.version);
  archive.value("time", e.time);
  archive.value("loss", e.loss);
  archive.value("top1", e.top1);
  archive.value("top5", e.top5);
  archive.value("perplexity", e.perplexity);
  if (made != 0) last = e;
}

void archive_model(Archive& archive, Parameters& model) {
  const Layout& layout = model.buffer_layout().layout();
  for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
    const BufferLayout::Place& place = model.buffer_layout().place(static_cast<int>(entry));
    archive.value(
        layout.entries[entry].name.c_str(),
        std::span<float>(model.data() + place.offset, static_cast<std::size_t>(place.count)));
  }
}

}  // namespace

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void declare_stop_options(OptionTable& table) {
  table.add({"run.target_accuracy", OptionType::real, "0",
             "top-1 of the global model at which the run stops; 0 = no such stop", "", 0, 1,
             OnResume::may_change});
  table.add({"run.virtual_limit", OptionType::real, "0",
             "virtual time limit: the run stops at the first merge at or after it; 0 = no limit",
             "s", 0, 3e9, OnResume::may_change});
  table.add(
      {"checkpoint.every", OptionType::integer, "10",
       "versions between two checkpoints; one is always written at the end; 0 = only that one",
       "versions", 0, 1e9, OnResume::may_change});
}

RunSettings run_settings(const Config& config, const Experiment& experiment) {
  RunSettings s{.evaluation = evaluation_plan(config, experiment),
                .versions = experiment.rounds,
                .evaluate_every = config.integer("record.evaluate_every"),
                .evaluate_first = config.boolean("record.evaluate_first"),
                .checkpoint_every = config.integer("checkpoint.every")};
  if (const double target = config.real("run.target_accuracy"); target > 0) {
    if (experiment.model.shape.predicts_tokens()) {
      throw InputError(
          "run.target_accuracy is for models that classify; a language model has no accuracy: "
          "leave it out, or set run.rounds or run.virtual_limit");
    }
    s.target_accuracy = target;
  }
  if (const double limit = config.real("run.virtual_limit"); limit > 0) {
    s.virtual_limit = std::llround(limit * 1e9);
  }
  return s;
}

Run::Run(const Experiment& experiment, RunSettings settings, Pool& pool, RunFile& records,
         const RealTime* real_time, RunListeners listeners)
    : experiment_(experiment),
      settings_(settings),
      pool_(pool),
      records_(records),
      real_time_(real_time),
      listeners_(std::move(listeners)),
      evaluator_(experiment, settings.evaluation, pool) {}

void Run::start() {
  wall_start_ = wall_seconds() - elapsed_before_s_;
  evaluator_.resume();
}

void Run::report(const VersionReport& report) {
  if (listeners_.on_version) listeners_.on_version(report);
}

void Run::warn(const std::string& text) {
  if (listeners_.on_warning) listeners_.on_warning(text);
}

void Run::heed_stops(const std::function<void()>& wait) {
  struct Reset {  // also when the wait ends by an exception
    Pool& pool;
    ~Reset() { pool.interrupt_when({}); }
  } const reset{pool_};
  pool_.interrupt_when([] { return stop_request().has_value(); });
  wait();
}

// Stops -----------------------------------------------------------------------------------------

/// By the stops that do not depend on an evaluation.
bool Run::is_last(std::int64_t version, Nanoseconds now) const {
  return version >= settings_.versions ||
         (settings_.virtual_limit && version > 0 && now >= *settings_.virtual_limit);
}

bool Run::reached_a_stop(std::int64_t version, Nanoseconds now) const {
  if (is_last(version, now)) return true;
  return settings_.target_accuracy && last_evaluation_ &&
         last_evaluation_->top1 >= *settings_.target_accuracy;
}

bool Run::may_send_on(std::int64_t version, Nanoseconds now) const {
  return !is_last(version, now) &&
         !(settings_.target_accuracy && version % settings_.evaluate_every == 0);
}

// Evaluations -----------------------------------------------------------------------------------

void Run::evaluate_first(Conversation& conversation) {
  if (!settings_.evaluate_first || conversation.model() == nullptr) return;
  const Conversation::Progress at = conversation.progress();
  evaluator_.start(at.version, at.made, *conversation.model());
  if (settings_.target_accuracy) wait_for_evaluations();
}

bool Run::made_version(std::int64_t version, Nanoseconds now, const Parameters& model) {
  if (checkpoint_is_due(version)) evaluator_.calibrate(version, model);
  const bool is_due = version % settings_.evaluate_every == 0;
  if (is_due || is_last(version, now)) evaluator_.start(version, now, model);
  if (is_due && settings_.target_accuracy) wait_for_evaluations();
  return !reached_a_stop(version, now);
}

void Run::wait_for_evaluations() {
  pool_.wait_until([this] {
    take_evaluations();
    return !evaluator_.pending();
  });
}

void Run::finish_evaluations(Conversation& conversation) {
  if (conversation.model() == nullptr) return;
  const Conversation::Progress at = conversation.progress();
  // The last version has no evaluation yet if run.rounds was larger when it was made.
  const bool is_known = last_evaluation_ && last_evaluation_->version == at.version;
  if (!is_known && !evaluator_.pending(at.version)) {
    evaluator_.start(at.version, at.made, *conversation.model());
  }
  heed_stops([this] { wait_for_evaluations(); });
  bring_statistics(conversation, {});
}

void Run::take_evaluations() {
  pool_.poll();
  for (auto found = evaluator_.next(); !found.empty(); found = evaluator_.next()) {
    const Evaluation& head = found.front();
    if (!std::isfinite(head.loss)) {
      throw NotFiniteError(formatted(
          "the loss of version {} is not finite; lower train.lr or set train.clip", head.version));
    }
    for (const Evaluation& evaluation : found) record(records_, evaluation);
    last_evaluation_ = head;
    if (listeners_.on_evaluation) listeners_.on_evaluation(head);
  }
}

/// Waits for the norm statistics of the present version, for at most the given time if any, and
/// copies them into the model.
void Run::bring_statistics(Conversation& conversation, std::optional<double> patience_s) {
  Parameters* model = conversation.model();
  if (model == nullptr || !lacks_statistics(*model)) return;
  const std::int64_t version = conversation.progress().version;
  evaluator_.calibrate(version, *model);
  const auto is_calibrated = [&] { return evaluator_.calibrated(version) != nullptr; };
  if (patience_s) {
    const double until = wall_seconds() + *patience_s;
    const auto left_s = [&] { return std::max(0.0, until - wall_seconds()); };
    pool_.wait_until([&] { return is_calibrated() || left_s() == 0; },
                     [&] { return std::chrono::nanoseconds(std::llround(left_s() * 1e9)); });
  } else {
    heed_stops([&] { pool_.wait_until(is_calibrated); });
  }
  if (const Parameters* own = evaluator_.calibrated(version)) copy_statistics(*own, *model);
}

// Checkpoints -----------------------------------------------------------------------------------

bool Run::checkpoint_is_due(std::int64_t version) const {
  return settings_.checkpoint_every > 0 && version % settings_.checkpoint_every == 0 &&
         version != saved_version_ && version < settings_.versions;
}

void Run::save(Conversation& conversation) {
  if (!listeners_.save) return;
  listeners_.save(conversation.progress().version,
                  [&](Archive& archive) { this->archive(archive, conversation); });
}

void Run::save_if_due(Conversation& conversation) {
  const std::int64_t version = conversation.progress().version;
  if (!checkpoint_is_due(version)) return;
  const Stopwatch saving(saving_s_);
  bring_statistics(conversation, {});
  saved_version_ = version;
  save(conversation);
}

void Run::save_last(Conversation& conversation, bool interrupted) {
  if (interrupted) bring_statistics(conversation, kPatienceAtStop_s);
  save(conversation);
}

void Run::archive(Archive& archive, Conversation& conversation) {
  if (Parameters* model = conversation.model()) {
    archive.open("model");
    archive_model(archive, *model);
    archive.close();
  }
  if (!archive.loading()) {  // for programs that use the model; the run itself has its data
    archive.open("data");
    archive_format(archive, const_cast<Dataset&>(experiment_.data));  // only read
    archive.close();
  }
  conversation.archive(archive);
  if (Parameters* model = conversation.model()) {
    archive.open("evaluations");
    archive.open("last");
    archive_evaluation(archive, last_evaluation_);
    archive.close();
    evaluator_.archive(archive, *model);
    archive.close();
  }
  archive_wall(archive, conversation);
  if (archive.loading()) saved_version_ = conversation.progress().version;
}

/// Saves values that may differ between equal runs, and where the journal of the records ends.
void Run::archive_wall(Archive& archive, Conversation& conversation) {
  archive.open("wall");
  double elapsed_s = this->elapsed_s();
  archive.value("elapsed_s", elapsed_s);
  archive.value("busy_s", busy_s_);
  archive.value("saving_s", saving_s_);
  if (archive.loading()) elapsed_before_s_ = elapsed_s;
  conversation.archive_wall(archive);
  if (!archive.loading()) {
    records_.flush(1.0);
    RecordsMark records = records_.mark();
    archive_mark(archive, records);
  }
  archive.close();
}

}  // namespace espalier
