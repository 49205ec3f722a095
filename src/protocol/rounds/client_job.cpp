#include "espalier/protocol/rounds/client_job.h"

#include <utility>

#include "espalier/base/kill_point.h"

namespace espalier::rounds {
namespace {

constexpr JobKind kClientTask = job_kind("rounds.task");

class ClientJob final : public Stepper {
 public:
  ClientJob(const Experiment& experiment, const ClientRules& rules, const Config& config, Job job)
      : stepper_(make_stepper(experiment, rules, config, std::move(job))) {}

  bool step() override {
    kill_point("client.step");
    return stepper_.step();
  }
  Output finish() override {
    const bool is_sent_twice = stepper_.task().answers_twice;
    auto [result, values] = stepper_.finish();
    return {to_shared(result.encode()), std::move(values), is_sent_twice};
  }
  std::int64_t steps() const override { return stepper_.steps(); }
  std::int64_t steps_done() const override { return stepper_.steps_done(); }

 private:
  static ClientStepper make_stepper(const Experiment& experiment, const ClientRules& rules,
                                    const Config& config, Job job) {
    ClientTask task = ClientTask::decode(*experiment.model.layout, *job.head);
    const std::int64_t message_bytes =
        task.description_bytes(std::ssize(*job.head)) + std::ssize(*job.payload);
    return {experiment, rules, config, std::move(task), message_bytes, std::move(job.payload)};
  }

  ClientStepper stepper_;
};

}  // namespace

void add_client_jobs(JobKinds& kinds, const Experiment& experiment, ClientRules rules,
                     const Config& config) {
  kinds.add(kClientTask, [&experiment, &config, rules = std::move(rules)](Job job) {
    return std::make_unique<ClientJob>(experiment, rules, config, std::move(job));
  });
}

Job client_job(const ClientTask& task, SharedBytes payload) {
  Job job;
  job.kind = kClientTask;
  job.number = task.task;
  job.endpoint = task.client;
  job.version = task.base_version;
  job.head = to_shared(task.encode());
  job.payload = std::move(payload);
  return job;
}

Arrival arrival_of(const Answer& answer) {
  Arrival arrival{ClientResult::decode(*answer.head), answer.payload, answer.rank};
  arrival.result.wall_compute_s = answer.host_s;
  return arrival;
}

}  // namespace espalier::rounds
