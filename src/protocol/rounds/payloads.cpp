#include "espalier/protocol/rounds/payloads.h"

#include "espalier/base/error.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {

SharedBytes Payloads::payload(const Parameters& model, const Parameters* companion,
                              const Submodel& submodel, const BufferLayout& shared) {
  auto& [cached, payload] = payloads_[submodel.hash()];
  if (payload && cached == submodel) return payload;
  cached = submodel;
  const auto packed = pack_payload(plans_, model, shared);
  if (companion != nullptr) {
    const auto beside = pack_payload(plans_, *companion, shared);
    packed->insert(packed->end(), beside->begin(), beside->end());
  }
  payload = packed;
  return payload;
}

void Payloads::keep(const Submodel& submodel, SharedBytes payload) {
  payloads_[submodel.hash()] = {submodel, std::move(payload)};
}

std::pair<SharedBytes, SharedBytes> parted(SharedBytes payload, const BufferLayout& layout) {
  const std::int64_t weights = payload_bytes(layout);
  if (std::ssize(*payload) == weights) return {std::move(payload), nullptr};
  ESPALIER_CHECK(std::ssize(*payload) == 2 * weights, "payload of {} bytes, expected {}",
                 payload->size(), 2 * weights);
  const auto middle = payload->begin() + weights;
  return {std::make_shared<const Bytes>(payload->begin(), middle),
          std::make_shared<const Bytes>(middle, payload->end())};
}

SharedBytes narrowed(PlanCache& plans, const Bytes& payload, const BufferLayout& from,
                     const BufferLayout& to) {
  const std::int64_t parts = std::ssize(payload) / payload_bytes(from);
  auto narrow = std::make_shared<Bytes>(static_cast<std::size_t>(parts * payload_bytes(to)));
  const auto plan = plans.plan(from, to, nullptr, kTrained);
  for (std::int64_t part = 0; part < parts; ++part) {
    plan->copy(floats_of(payload).data() + part * from.kind_range(Kind::trainable).size(),
               floats_of(*narrow).data() + part * to.kind_range(Kind::trainable).size());
  }
  return narrow;
}

}  // namespace espalier::rounds
