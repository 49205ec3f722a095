#include "espalier/method/diloco.h"

namespace espalier::regions {

void register_diloco(Catalogue& c) {
  Method diloco;
  diloco.defaults = {{"regions.period", "100"},         {"train.optimizer", "adamw"},
                     {"train.optimizer_state", "keep"}, {"train.lr", "0.0004"},
                     {"train.weight_decay", "0.1"},     {"train.clip", "1"}};
  c.add("diloco",
        "all parameters every period, Nesterov as outer optimiser (Douillard et al. 2023)", diloco);
  Method local_sgd;
  local_sgd.defaults = {{"regions.period", "10"},
                        {"regions.outer", "sgd"},
                        {"regions.outer_lr", "1"},
                        {"regions.weights", "samples"},
                        {"train.optimizer_state", "keep"}};
  Method sync_dp;
  sync_dp.defaults = {{"regions.exchange", "gradients"},
                      {"regions.schedule", "every_step"},
                      {"regions.topology", "ring"},
                      {"train.optimizer_state", "keep"}};
  c.add("sync_dp", "the mean of the regions' gradients in every step (data parallel)", sync_dp);
  c.add("local_sgd", "the mean of the regions replaces their models every period (Stich 2019)",
        local_sgd);
}

}  // namespace espalier::regions
