#include "espalier/protocol/rounds/clients.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "espalier/train/experiment.h"
#include "purpose.h"

namespace espalier::rounds {
namespace {

using Numbers = std::vector<std::int64_t>;

constexpr Nanoseconds kSecond = 1'000'000'000;

/// The same submodel for every client: the whole model, until another one is set.
class CountedRule final : public SubmodelRule {
 public:
  Assignment choose(const Experiment& experiment, const SendMoment&) override {
    ++calls;
    return {submodel.value_or(Submodel::full(*experiment.model.layout)), 1};
  }
  std::optional<Submodel> submodel;
  std::int64_t calls = 0;
};

class Scene {
 public:
  Scene(std::int64_t count, const std::string& settings, std::optional<std::int64_t> max_spread)
      : config_(make_config(count, settings)),
        experiment_(build_experiment(config_)),
        clients_(experiment_, rule_, Sampler(config_, experiment_),
                 Availability(config_, *experiment_.fleet), max_spread) {}
  const Config& config() const { return config_; }
  const Experiment& experiment() const { return experiment_; }
  Clients& clients() { return clients_; }
  CountedRule& rule() { return rule_; }

 private:
  static Config make_config(std::int64_t count, const std::string& settings) {
    OptionTable table;
    declare_experiment_options(table);
    declare_model_options(table);
    declare_data_options(table);
    declare_device_options(table);
    declare_availability_options(table);
    declare_train_options(table);
    declare_sampling_options(table);
    Config config(std::move(table));
    config.read_text(
        "[data]\nname = synthetic\nsynthetic_samples = 1000\nsynthetic_shape = 1, 2, 2\n"
        "[model]\nname = mlp\nhidden = 2\n",
        "the fixture");
    config.read_text("[clients]\ncount = " + std::to_string(count) + "\n" + settings, "the test");
    return config;
  }

  Config config_;
  Experiment experiment_;
  CountedRule rule_;
  Clients clients_;
};

/// A file that is removed at the end.
class TraceFile {
 public:
  explicit TraceFile(const std::string& text)
      : path_(std::filesystem::temp_directory_path() /
              ("clients_test." + std::to_string(getpid()) + ".txt")) {
    std::ofstream(path_) << text;
  }
  ~TraceFile() { std::filesystem::remove(path_); }
  std::string option() const { return "availability_trace = " + path_.string() + "\n"; }

 private:
  std::filesystem::path path_;
};

/// Ends the tasks of some clients at random: those that end are released.
Numbers ended(Stream& random, std::set<std::int64_t>& at_work) {
  Numbers released;
  for (const std::int64_t client : Numbers(at_work.begin(), at_work.end())) {
    if (random.uniform() < 0.6) continue;
    at_work.erase(client);
    released.push_back(client);
  }
  return released;
}

TEST(Clients, WorkWhenTheTraceAndTheDrawsHaveThem) {
  const TraceFile file("0 3 10\n1 5 12\n1 20 31\n3 0 7\n3 30 31\n");
  for (const char* draws : {"", "[device.laptop]\navailability = 0.4\n"}) {
    Scene s(90, file.option() + "availability_period_s = 4\n" + draws, {});
    const Availability availability(s.config(), *s.experiment().fleet);
    Stream random(7, kTest);
    std::set<std::int64_t> at_work;
    std::int64_t tasks = 0;
    Nanoseconds now = 0;
    for (int event = 0; event < 300; ++event) {
      now += random.below(event % 50 == 49 ? 100 * kSecond : 3 * kSecond);
      for (const std::int64_t client : ended(random, at_work)) s.clients().release(client);
      Numbers expected;
      for (std::int64_t client = 0; client < 90; ++client) {
        if (!at_work.contains(client) && availability.available(client, now)) {
          expected.push_back(client);
        }
      }
      ASSERT_EQ(s.clients().take({.now = now}), expected) << draws << event;
      for (const std::int64_t client : expected) s.clients().number_task(client);
      at_work.insert(expected.begin(), expected.end());
      tasks += std::ssize(expected);
    }
    EXPECT_GT(tasks, 300) << draws;
  }
}

TEST(Clients, StayWithinTheSpreadOfTheSlowest) {
  constexpr std::int64_t kClients = 70;
  for (const std::int64_t spread : {0, 1, 3}) {
    Scene s(kClients, "", spread);
    Stream random(11, kTest, spread);
    std::set<std::int64_t> at_work;
    Numbers tasks(kClients, 0);  // sent so far
    std::int64_t held_back = 0;
    for (int event = 0; event < 400; ++event) {
      for (const std::int64_t client : ended(random, at_work)) s.clients().release(client);
      Clients::Moment moment;
      for (const std::int64_t client : at_work) {
        moment.slowest_out =
            std::min(moment.slowest_out, tasks[static_cast<std::size_t>(client)] - 1);
      }
      std::int64_t slowest = moment.slowest_out;
      for (std::int64_t client = 0; client < kClients; ++client) {
        if (at_work.contains(client)) continue;
        slowest = std::min(slowest, tasks[static_cast<std::size_t>(client)]);
      }
      Numbers expected;
      for (std::int64_t client = 0; client < kClients; ++client) {
        if (at_work.contains(client)) continue;
        const bool is_near = tasks[static_cast<std::size_t>(client)] <= slowest + spread;
        is_near ? expected.push_back(client) : void(++held_back);
      }
      ASSERT_EQ(s.clients().take(moment), expected) << spread << " " << event;
      for (const std::int64_t client : expected) {
        ASSERT_EQ(s.clients().number_task(client), tasks[static_cast<std::size_t>(client)]++);
      }
      at_work.insert(expected.begin(), expected.end());
    }
    EXPECT_GT(held_back, 100) << spread;
  }
}

/// All but the slowest have done their task and ran out of memory with the whole model, so that
/// the rule is asked whether they can hold the next one; but it is not their turn.
TEST(Clients, ThatAreTooFarAheadAreNotLookedAt) {
  constexpr std::int64_t kClients = 600;
  Scene s(kClients, "", 0);
  const Submodel full = Submodel::full(*s.experiment().model.layout);
  Submodel half = full;
  for (int axis = 0; axis < full.axes(); ++axis) {
    if (full.full_width(axis) == 2) half.keep(axis, {0});
  }
  ASSERT_FALSE(full.inside(half));
  s.rule().submodel = half;
  ASSERT_EQ(std::ssize(s.clients().take({})), kClients);
  for (std::int64_t client = 0; client < kClients; ++client) {
    s.clients().number_task(client);
    if (client == 5) continue;
    s.clients().ran_out_of_memory(client, full);
    s.clients().release(client);
  }
  s.rule().calls = 0;
  Clients::Moment moment;
  moment.slowest_out = 0;
  EXPECT_TRUE(s.clients().take(moment).empty());
  EXPECT_LT(s.rule().calls, 10);
  s.clients().release(5);
  EXPECT_EQ(std::ssize(s.clients().take({})), kClients);
}

}  // namespace
}  // namespace espalier::rounds
