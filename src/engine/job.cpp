#include "espalier/engine/job.h"

#include <bit>
#include <utility>

#include "espalier/base/error.h"

namespace espalier {
namespace {

// Places in Message::numbers.
enum JobNumber : std::size_t { kDue, kVersion, kUrgency, kPlace, kPaceBegin, kPaceLength };
enum AnswerNumber : std::size_t { kIsTimed, kComputed, kHost };

constexpr std::int64_t kNoPace = -1;

}  // namespace

void JobKinds::add(JobKind kind, MakeStepper make) {
  const bool added = kinds_.emplace(kind, std::move(make)).second;
  ESPALIER_CHECK(added, "two kinds of jobs have the number {}; rename one",
                 static_cast<std::int32_t>(kind));
}

std::unique_ptr<Stepper> JobKinds::make(Job job) const {
  const auto found = kinds_.find(job.kind);
  ESPALIER_CHECK(found != kinds_.end(), "a job of unknown kind {}",
                 static_cast<std::int32_t>(job.kind));
  return found->second(std::move(job));
}

Message message_of(const Job& job, std::int64_t payload_place) {
  Message message;
  message.type = MessageType::job;
  message.subtype = static_cast<std::int32_t>(job.kind);
  message.to = job.endpoint;
  message.id = job.number;
  message.numbers[kDue] = job.due;
  message.numbers[kVersion] = job.version;
  message.numbers[kUrgency] = static_cast<std::int64_t>(job.urgency);
  message.numbers[kPlace] = payload_place;
  message.numbers[kPaceBegin] = job.pace ? job.pace->begin : 0;
  message.numbers[kPaceLength] = job.pace ? job.pace->length : kNoPace;
  message.head = job.head;
  message.payload = payload_place > 0 ? nullptr : job.payload;
  return message;
}

Job job_of(const Message& message) {
  Job job;
  job.kind = JobKind{message.subtype};
  job.number = message.id;
  job.endpoint = message.to;
  job.due = message.numbers[kDue];
  job.version = message.numbers[kVersion];
  job.urgency = static_cast<Urgency>(message.numbers[kUrgency]);
  if (message.numbers[kPaceLength] != kNoPace) {
    job.pace = Pace{message.numbers[kPaceBegin], message.numbers[kPaceLength]};
  }
  job.head = message.head;
  job.payload = message.payload;
  return job;
}

std::int64_t payload_place_of(const Message& message) { return message.numbers[kPlace]; }

Message message_of(const Answer& answer) {
  Message message;
  message.type = MessageType::answer;
  message.subtype = static_cast<std::int32_t>(answer.kind);
  message.from = answer.endpoint;
  message.to = kServer;
  message.id = answer.number;
  message.numbers[kIsTimed] = answer.computed ? 1 : 0;
  message.numbers[kComputed] = answer.computed.value_or(0);
  message.numbers[kHost] = std::bit_cast<std::int64_t>(answer.host_s);
  message.head = answer.head;
  message.payload = answer.payload;
  return message;
}

Answer answer_of(const Message& message) {
  Answer answer;
  answer.kind = JobKind{message.subtype};
  answer.number = message.id;
  answer.endpoint = message.from;
  answer.head = message.head;
  answer.payload = message.payload;
  answer.host_s = std::bit_cast<double>(message.numbers[kHost]);
  if (message.numbers[kIsTimed] != 0) answer.computed = message.numbers[kComputed];
  answer.rank = message.rank;
  answer.received = std::chrono::steady_clock::now();
  return answer;
}

}  // namespace espalier
