#include "espalier/method/decoupled_diloco.h"

namespace espalier::regions {

void register_decoupled_diloco(Catalogue& c) {
  Method method;
  method.defaults = {{"regions.period", "24"},          {"regions.decoupled", "true"},
                     {"regions.fragments", "balanced"}, {"regions.fragment_blocks", "1"},
                     {"regions.schedule", "offset"},    {"regions.weights", "tokens_per_step"},
                     {"regions.merge", "radial"},       {"train.optimizer", "adamw"},
                     {"train.optimizer_state", "keep"}, {"train.lr", "0.0004"},
                     {"train.weight_decay", "0.1"},     {"train.clip", "1"}};
  c.add("decoupled_diloco",
        "regions never wait; fragments are merged from those that answer in time (2026)", method);
}

}  // namespace espalier::regions
