#include "espalier/engine/resident.h"

#include <string>

#include "espalier/base/error.h"
#include "espalier/base/stop.h"
#include "espalier/engine/pool.h"

namespace espalier {
namespace {

constexpr JobKind kSave = job_kind("resident.save");
constexpr JobKind kRestore = job_kind("resident.restore");

/// The head of a job that saves or restores a resident: the resident's kind. The payload is its
/// state.
struct Head {
  static SharedBytes encode(ResidentKind kind) {
    ByteArchive archive;
    auto number = static_cast<std::int64_t>(kind);
    archive.value("kind", number);
    return to_shared(archive.take());
  }
  static ResidentKind decode(const Bytes& bytes) {
    ByteArchive archive(bytes);
    std::int64_t number = 0;
    archive.value("kind", number);
    return static_cast<ResidentKind>(number);
  }
};

/// A job whose work is one step.
class OneStep final : public Stepper {
 public:
  explicit OneStep(std::function<SharedBytes()> work) : work_(std::move(work)) {}
  bool step() override { return false; }
  Output finish() override { return {to_shared({}), work_()}; }

 private:
  std::function<SharedBytes()> work_;
};

Job resident_job(JobKind kind, ResidentKind resident, Endpoint endpoint, SharedBytes state) {
  Job job;
  job.kind = kind;
  job.number = endpoint;
  job.endpoint = endpoint;
  job.urgency = Urgency::first;
  job.head = Head::encode(resident);
  job.payload = std::move(state);
  return job;
}

/// States of the residents, by endpoint.
std::map<Endpoint, SharedBytes> states_of(Pool& pool, ResidentKind kind,
                                          std::span<const Endpoint> endpoints) {
  pool.wait_until([&] { return pool.residents_are_idle() || stop_request().has_value(); });
  std::map<Endpoint, SharedBytes> states;
  pool.on_answer(kSave, [&](const Answer& answer) { states[answer.endpoint] = answer.payload; });
  for (const Endpoint endpoint : endpoints) {
    pool.submit_to(pool.home(endpoint), resident_job(kSave, kind, endpoint, to_shared({})));
  }
  pool.wait_until([&] { return states.size() == endpoints.size(); });
  pool.on_answer(kSave, {});
  return states;
}

}  // namespace

Residents::Residents(JobKinds& kinds) {
  kinds.add(kSave, [this](const Job& job) {
    return std::make_unique<OneStep>([this, job] {
      ByteArchive out;
      find(Head::decode(*job.head), job.endpoint).archive(out);
      return to_shared(out.take());
    });
  });
  kinds.add(kRestore, [this](const Job& job) {
    return std::make_unique<OneStep>([this, job] {
      ByteArchive in(*job.payload);
      find(Head::decode(*job.head), job.endpoint).archive(in);
      return to_shared({});
    });
  });
}

void Residents::add(ResidentKind kind, Make make) {
  const bool added = makers_.emplace(kind, std::move(make)).second;
  ESPALIER_CHECK(added, "two kinds of residents have the number {}; rename one",
                 static_cast<std::int32_t>(kind));
}

Resident& Residents::find(ResidentKind kind, Endpoint endpoint) {
  std::unique_ptr<Resident>& resident = here_[{kind, endpoint}];
  if (!resident) {
    const auto make = makers_.find(kind);
    ESPALIER_CHECK(make != makers_.end(), "a resident of unknown kind {}",
                   static_cast<std::int32_t>(kind));
    resident = make->second(endpoint);
  }
  return *resident;
}

void archive_residents(Archive& archive, Pool& pool, ResidentKind kind,
                       std::span<const Endpoint> endpoints) {
  std::map<Endpoint, SharedBytes> states;
  if (!archive.loading()) states = states_of(pool, kind, endpoints);
  for (const Endpoint endpoint : endpoints) {
    Bytes state;
    if (!archive.loading()) state = *states.at(endpoint);
    archive.value(std::to_string(endpoint).c_str(), state);
    if (!archive.loading()) continue;
    pool.on_answer(kRestore, [](const Answer&) {});
    pool.submit_to(pool.home(endpoint),
                   resident_job(kRestore, kind, endpoint, to_shared(std::move(state))));
  }
}

}  // namespace espalier
