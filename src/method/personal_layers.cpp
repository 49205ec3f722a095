#include "espalier/method/personal_layers.h"

namespace espalier::rounds {

void register_personal_layers(Catalogue& c) {
  Method fedper;
  fedper.defaults = {{"method.personal", "head"}};
  c.methods.add("fedper", "FedAvg; each client keeps its own head (Arivazhagan et al. 2019)",
                fedper);
  Method fedbn;
  fedbn.defaults = {{"method.personal", "norms"}};
  c.methods.add("fedbn", "FedAvg; each client keeps its own norms (Li et al. 2021)", fedbn);
}

}  // namespace espalier::rounds
