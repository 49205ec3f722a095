#include "espalier/engine/resident.h"

#include <string>

#include "espalier/base/error.h"
#include "espalier/base/process_memory.h"
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

/// Asks residents for their states, and gives them out in the order of the endpoints. It asks for
/// one after the other, because together they may be many times the model; at a request to stop,
/// when there is no time to lose, for all at once.
class States {
 public:
  States(Pool& pool, ResidentKind kind, std::span<const Endpoint> endpoints)
      : pool_(pool), kind_(kind), endpoints_(endpoints) {
    pool_.wait_until([&] { return pool_.residents_are_idle() || stop_request().has_value(); });
    pool_.on_answer(kSave,
                    [this](const Answer& answer) { arrived_[answer.endpoint] = answer.payload; });
  }
  ~States() { pool_.on_answer(kSave, {}); }
  States(const States&) = delete;
  States& operator=(const States&) = delete;

  SharedBytes next() {
    const Endpoint endpoint = endpoints_[given_++];
    pool_.wait_until([&] {
      ask_up_to(stop_request() ? endpoints_.size() : given_);
      return arrived_.contains(endpoint);
    });
    return std::move(arrived_.extract(endpoint).mapped());
  }

 private:
  void ask_up_to(std::size_t end) {
    for (; asked_ < end; ++asked_) {
      const Endpoint endpoint = endpoints_[asked_];
      pool_.submit_to(pool_.home(endpoint), resident_job(kSave, kind_, endpoint, to_shared({})));
    }
  }

  Pool& pool_;
  ResidentKind kind_;
  std::span<const Endpoint> endpoints_;
  std::size_t given_ = 0, asked_ = 0;
  std::map<Endpoint, SharedBytes> arrived_;
};

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
  if (!archive.loading()) {
    // A state may be larger than any gap of the heap, which would grow for it beside the gaps.
    return_free_memory();
    States states(pool, kind, endpoints);
    for (const Endpoint endpoint : endpoints) {
      const SharedBytes state = states.next();
      // Only read: a state may be larger than the model.
      archive.value(std::to_string(endpoint).c_str(), const_cast<Bytes&>(*state));
    }
    return;
  }
  for (const Endpoint endpoint : endpoints) {
    Bytes state;
    archive.value(std::to_string(endpoint).c_str(), state);
    pool.on_answer(kRestore, [](const Answer&) {});
    pool.submit_to(pool.home(endpoint),
                   resident_job(kRestore, kind, endpoint, to_shared(std::move(state))));
  }
}

}  // namespace espalier
