#pragma once
// The clients' models of the last merge, for objectives that compare a client's model with those of
// others (LocalObjective::peers). They travel in the heads of tasks, so that links and memory are
// charged for them as for any message.

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "espalier/protocol/rounds/rules.h"

namespace espalier::rounds {

class PeerModels {
 public:
  /// `count`: models that a task gets at most. With 0 nothing is kept.
  explicit PeerModels(std::int64_t count) : count_(count) {}

  /// Replaces the models by those of a merge: each client's last one. The values are shared with
  /// the updates.
  void keep(std::span<const Update> updates);
  /// The models for a task: those of the clients that follow `client` in the order of their
  /// numbers, the first after the last, without those that are larger than `submodel`.
  std::vector<PeerModel> models_for(std::int64_t client, const Submodel& submodel) const;
  void archive(Archive& archive, const Layout& layout);

 private:
  std::int64_t count_;
  std::map<std::int64_t, PeerModel> models_;  // by client
};

}  // namespace espalier::rounds
