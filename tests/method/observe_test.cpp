// What a submodel rule hears: every task that ended, once, with its outcome and times, and the slot
// of each task within its version.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "../record/folder.h"
#include "small_run.h"

namespace espalier::rounds {
namespace {

constexpr const char* kInput = R"(
[run]
rounds = 6
[clients]
count = 8
fleet = 6*large, 2*small
[device.large]
gflops = 1
up_mbps = 10
down_mbps = 20
latency_ms = 3
[device.small]
gflops = 1
memory_mb = 0.01
[data]
name = synthetic
synthetic_samples = 80
synthetic_shape = 1, 4, 4
[model]
name = mlp
hidden = 40
[train]
batch = 5
[faults]
crash = 0.2
[method]
name = fedbuff
[window]
min_updates = 3
)";

class Listener : public SubmodelRule {
 public:
  struct Heard {
    std::int64_t client, nth_task;
    Outcome outcome;
    Nanoseconds update_time;
  };
  Assignment choose(const Experiment& experiment, const SendMoment& moment) override {
    slots[{moment.client, moment.nth_task}] = {moment.version, moment.slot};
    return {Submodel::full(*experiment.model.layout)};
  }
  void observe(const Experiment&, const TaskReport& task) override {
    heard.push_back(
        {task.client, task.nth_task, task.outcome, task.download + task.compute + task.upload});
    EXPECT_FALSE(task.searched);
    EXPECT_TRUE(task.submodel.is_full());
    EXPECT_GE(task.finish, task.sent + heard.back().update_time);
    if (task.outcome == Outcome::merged) {
      EXPECT_GT(task.train_loss, 0);
    }
  }
  std::vector<Heard> heard;
  std::map<std::pair<std::int64_t, std::int64_t>, std::pair<std::int64_t, std::int64_t>> slots;
};

TEST(Observe, RulesHearOfEveryTaskOnceAndKnowItsSlot) {
  install_counting_allocator();
  at::set_num_threads(1);
  Config config(method_options());
  config.read_text(kInput, "the test");
  set_defaults(rounds_catalogue(), config);
  const Experiment experiment = build_experiment(config);
  ServerRules rules =
      build_rules(rounds_catalogue(), rule_names(rounds_catalogue(), config), config, experiment);
  auto own = std::make_unique<Listener>();
  Listener& listener = *own;
  rules.submodel = std::move(own);
  std::vector<Listener::Heard> heard;
  decltype(Listener::slots) slots;
  {
    const Folder folder;
    RunFile records(folder / "run.h5", "", all_tables());
    // The server, and the rule with it, end with the run; so the rule copies itself out.
    struct Copier : SubmodelRule {
      Copier(std::unique_ptr<SubmodelRule> r, std::function<void()> c)
          : rule(std::move(r)), copy(std::move(c)) {}
      ~Copier() override { copy(); }
      Assignment choose(const Experiment& e, const SendMoment& m) override {
        return rule->choose(e, m);
      }
      void observe(const Experiment& e, const TaskReport& t) override { rule->observe(e, t); }
      std::unique_ptr<SubmodelRule> rule;
      std::function<void()> copy;
    };
    rules.submodel = std::make_unique<Copier>(std::move(rules.submodel), [&] {
      heard = listener.heard;
      slots = listener.slots;
    });
    run_all_rounds(config, experiment, std::move(rules), records);
  }
  std::map<Outcome, int> outcomes;
  std::map<std::int64_t, std::int64_t> next;  // task of each client
  for (const Listener::Heard& task : heard) {
    ++outcomes[task.outcome];
    EXPECT_EQ(task.nth_task, next[task.client]++) << task.client;
    EXPECT_GT(task.update_time, 0);
  }
  EXPECT_EQ(outcomes[Outcome::merged], 18);        // six windows of three
  EXPECT_EQ(outcomes[Outcome::out_of_memory], 2);  // then they are not sent the same again
  EXPECT_GT(outcomes[Outcome::crashed], 0);
  // The tasks of a version have the slots 0, 1, 2, ...
  std::map<std::int64_t, std::vector<std::int64_t>> by_version;
  for (const auto& [task, place] : slots) {
    const auto& [version, slot] = place;
    const bool was_sent = task.second < next[task.first] || task.first < 6;
    if (was_sent) by_version[version].push_back(slot);
  }
  EXPECT_GE(by_version.size(), 6U);
  for (auto& [version, taken] : by_version) {
    std::ranges::sort(taken);
    for (std::size_t i = 0; i < taken.size(); ++i) {
      EXPECT_EQ(taken[i], static_cast<std::int64_t>(i)) << "version " << version;
    }
  }
}

}  // namespace
}  // namespace espalier::rounds
