#include "espalier/protocol/rounds/peer_models.h"

#include <iterator>
#include <utility>

#include "espalier/protocol/rounds/client_task.h"
#include "espalier/protocol/rounds/payloads.h"

namespace espalier::rounds {

void PeerModels::keep(std::span<const Update> updates) {
  if (count_ == 0) return;
  models_.clear();
  for (const Update& update : updates) {
    models_[update.client] = {update.buffer_layout->submodel(),
                              parted(update.values, *update.buffer_layout).first};
  }
}

std::vector<PeerModel> PeerModels::models_for(std::int64_t client, const Submodel& submodel) const {
  std::vector<PeerModel> chosen;
  const auto add = [&](auto first, auto last) {
    for (; first != last && std::ssize(chosen) < count_; ++first) {
      if (first->second.submodel.is_no_larger(submodel)) chosen.push_back(first->second);
    }
  };
  add(models_.upper_bound(client), models_.end());
  add(models_.begin(), models_.lower_bound(client));
  return chosen;
}

void PeerModels::archive(Archive& archive, const Layout& layout) {
  if (count_ == 0) return;
  std::vector<std::pair<std::int64_t, PeerModel>> list(models_.begin(), models_.end());
  archive_list(archive, "peer_models", list, [&layout](Archive& a, auto& item) {
    a.value("client", item.first);
    archive_peer(a, &layout, item.second);
  });
  models_ = {list.begin(), list.end()};
}

}  // namespace espalier::rounds
