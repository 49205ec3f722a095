#pragma once
// The payloads of the present version, one for each submodel: clients with the same submodel share
// the bytes, so the server copies each parameter once for all of them.

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
  /// Further tasks share this payload, which is of the present version.
  void keep(const Submodel& submodel, SharedBytes payload);
  /// There is a new version.
  void clear() { payloads_.clear(); }

 private:
  PlanCache& plans_;
  std::unordered_map<std::uint64_t, std::pair<Submodel, SharedBytes>> payloads_;  // by hash
};

}  // namespace espalier::rounds
