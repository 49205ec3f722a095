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
  /// The trained values of `submodel`, whose dense buffer layout is given, packed from `model`.
  SharedBytes payload(const Parameters& model, const Submodel& submodel, const BufferLayout& dense);
  /// Stores a payload of the present version for further tasks.
  void keep(const Submodel& submodel, SharedBytes payload);
  /// Forgets all payloads, because the version is new.
  void clear() { payloads_.clear(); }

 private:
  PlanCache& plans_;
  std::unordered_map<std::uint64_t, std::pair<Submodel, SharedBytes>> payloads_;  // by hash
};

}  // namespace espalier::rounds
