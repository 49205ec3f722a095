#pragma once
// The payloads of the present version, one for each submodel. Clients with equal submodels get the
// same payload, so the server copies each parameter once for all of them.

#include <cstdint>
#include <unordered_map>
#include <utility>

#include "espalier/base/bytes.h"
#include "espalier/model/parameters.h"
#include "espalier/model/plan.h"

namespace espalier::rounds {

class Payloads {
 public:
  /// `plans` must outlive it.
  explicit Payloads(PlanCache& plans) : plans_(plans) {}
  /// The trained values of `submodel`, whose shared buffer layout is given, packed from `model`;
  /// then those of `companion` (MergeRule::companion), if there is one.
  SharedBytes payload(const Parameters& model, const Parameters* companion,
                      const Submodel& submodel, const BufferLayout& shared);
  /// Stores a payload of the present version for further tasks.
  void keep(const Submodel& submodel, SharedBytes payload);
  /// Forgets all payloads, because the version is new.
  void clear() { payloads_.clear(); }

 private:
  PlanCache& plans_;
  std::unordered_map<std::uint64_t, std::pair<Submodel, SharedBytes>> payloads_;  // by hash
};

/// The weights of a payload, and its companion values (null if it has none).
std::pair<SharedBytes, SharedBytes> parted(SharedBytes payload, const BufferLayout& layout);
/// The payload, with or without companion values, of a smaller submodel.
SharedBytes narrowed(PlanCache& plans, const Bytes& payload, const BufferLayout& from,
                     const BufferLayout& to);

}  // namespace espalier::rounds
