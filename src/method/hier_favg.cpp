#include "espalier/method/hier_favg.h"

namespace espalier::split {

/// By default with the clusters of ParallelSFL, and as many batches in the longest round: there 20
/// iterations of one batch, here 4 of 5.
void register_hier_favg(Catalogue& c) {
  c.methods.add("hier_favg",
                "clusters of workers that train whole models; hosts average them, and the server "
                "the clusters (Liu et al. 2020)",
                {.control = "parallelsfl",
                 .defaults = {{"split.exchange", "models"},
                              {"split.local_steps", "5"},
                              {"method.most_iterations", "4"},
                              {"method.regulation", "false"}}});
}

}  // namespace espalier::split
