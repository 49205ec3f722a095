#include "espalier/method/prunefl.h"

namespace espalier::rounds {

void register_prunefl(Catalogue& c) {
  Method method;
  method.submodel = "static";
  c.methods.add("prunefl",
                "same leading units in all rounds, mean over holders (after Jiang et al. 2022)",
                method);
}

}  // namespace espalier::rounds
