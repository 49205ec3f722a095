#include "espalier/protocol/rounds/payloads.h"

#include "espalier/train/trainer.h"

namespace espalier::rounds {

SharedBytes Payloads::payload(const Parameters& model, const Submodel& submodel,
                              const BufferLayout& dense) {
  auto& [cached, payload] = payloads_[submodel.hash()];
  if (payload && cached == submodel) return payload;
  cached = submodel;
  payload = pack_payload(plans_, model, dense);
  return payload;
}

void Payloads::keep(const Submodel& submodel, SharedBytes payload) {
  payloads_[submodel.hash()] = {submodel, std::move(payload)};
}

}  // namespace espalier::rounds
