#pragma once
// A resident is an object that stays on one rank between the jobs of its endpoint: a region's
// weights with their moments, key-value caches, frozen weights. The steppers of its jobs use it. A
// checkpoint collects its state, and a resume sends the state to the rank that now has the
// resident, so no result depends on that rank.
//
// A checkpoint waits until the residents' outstanding jobs have been answered, so that its bytes do
// not depend on the ranks, and these jobs are sent again after a resume. At a request to stop it
// does not wait: a resident is then saved between two steps of a job. So a job on a resident names
// a goal ("train to step 40"), not an amount of work: when it is repeated, it does the remaining
// work, if any, and gives the same answer.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <utility>

#include "espalier/base/archive.h"
#include "espalier/engine/job.h"

namespace espalier {

class Pool;

class Resident {
 public:
  virtual ~Resident() = default;
  virtual void archive(Archive& archive) = 0;
};

/// The kind of a resident: the hash of its name ("regions.region").
using ResidentKind = JobKind;

/// The residents of a rank.
class Residents {
 public:
  using Make = std::function<std::unique_ptr<Resident>(Endpoint)>;
  /// Adds the jobs that save and restore residents.
  explicit Residents(JobKinds& kinds);
  Residents(const Residents&) = delete;
  Residents& operator=(const Residents&) = delete;
  /// `make` makes a resident in its first state. A kind registered twice is a broken invariant.
  void add(ResidentKind kind, Make make);
  /// The endpoint's resident; the first call makes it.
  template <class T>
  T& at(ResidentKind kind, Endpoint endpoint) {
    return static_cast<T&>(find(kind, endpoint));
  }

 private:
  Resident& find(ResidentKind kind, Endpoint endpoint);

  std::map<ResidentKind, Make> makers_;
  std::map<std::pair<ResidentKind, Endpoint>, std::unique_ptr<Resident>> here_;
};

/// The states of these endpoints' residents, on rank 0: saving requests them from the ranks and
/// waits, loading sends them to the ranks. Jobs of a resident must be sent with
/// Job::needs_resident.
void archive_residents(Archive& archive, Pool& pool, ResidentKind kind,
                       std::span<const Endpoint> endpoints);

}  // namespace espalier
