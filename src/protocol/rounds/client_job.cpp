#include "espalier/protocol/rounds/client_job.h"

#include <utility>

#include "espalier/base/kill_point.h"
#include "espalier/protocol/rounds/client_stepper.h"

namespace espalier::rounds {
namespace {

constexpr JobKind kClientTask = job_kind("rounds.task");

class ClientJob final : public Stepper {
 public:
  ClientJob(const RuleContext& context, const ClientRules& rules, Job job)
      : stepper_(make_stepper(context, rules, std::move(job))) {}

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
  static ClientStepper make_stepper(const RuleContext& context, const ClientRules& rules, Job job) {
    ClientTask task = ClientTask::decode(*context.experiment.model.layout, *job.head);
    const std::int64_t message_bytes =
        task.description_bytes(std::ssize(*job.head)) + std::ssize(*job.payload);
    return {context, rules, std::move(task), message_bytes, std::move(job.payload)};
  }

  ClientStepper stepper_;
};

}  // namespace

void add_client_jobs(JobKinds& kinds, const RuleContext& context, const ClientRules& rules) {
  kinds.add(kClientTask, [context, rules](Job job) {
    return std::make_unique<ClientJob>(context, rules, std::move(job));
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
