#include "espalier/method/moon.h"

#include "espalier/method/contrast.h"

namespace espalier::rounds {

void register_moon(Catalogue& c) {
  add_contrast(c);
  Method method;
  method.objective = "contrastive";
  method.defaults = {{"method.contrast", "5"}, {"model.projection", "256"}};
  c.methods.add("moon", "FedAvg with a contrast of models (Li et al. 2021)", method);
}

}  // namespace espalier::rounds
