#pragma once
// What travels with the tasks of the present version: payloads, one for each submodel, and models
// of other clients. Clients with equal submodels get the same payload, so the server copies each
// parameter once for all of them.

#include <cstdint>
#include <unordered_map>
#include <utility>

#include "espalier/base/bytes.h"
#include "espalier/model/parameters.h"
#include "espalier/model/plan.h"
#include "espalier/protocol/rounds/peer_models.h"

namespace espalier::rounds {

class Payloads {
 public:
  /// `plans` must outlive it; `peers`: models of other clients that a task gets at most.
  explicit Payloads(PlanCache& plans, std::int64_t peers = 0) : plans_(plans), peers_(peers) {}
  /// The trained values of `submodel`, whose shared buffer layout is given, packed from `model`;
  /// then those of `companion` (MergeRule::companion), if there is one.
  SharedBytes payload(const Parameters& model, const Parameters* companion,
                      const Submodel& submodel, const BufferLayout& shared);
  /// Stores a payload of the present version for further tasks.
  void keep(const Submodel& submodel, SharedBytes payload);
  /// Forgets all payloads, because the version is new.
  void clear() { payloads_.clear(); }
  PeerModels& peers() { return peers_; }

 private:
  PlanCache& plans_;
  std::unordered_map<std::uint64_t, std::pair<Submodel, SharedBytes>> payloads_;  // by hash
  PeerModels peers_;
};

/// The weights of a payload, and its companion values (null if it has none).
std::pair<SharedBytes, SharedBytes> parted(SharedBytes payload, const BufferLayout& layout);
/// The payload, with or without companion values, of a smaller submodel.
SharedBytes narrowed(PlanCache& plans, const Bytes& payload, const BufferLayout& from,
                     const BufferLayout& to);

}  // namespace espalier::rounds
