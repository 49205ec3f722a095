#include "espalier/method/cocodc.h"

namespace espalier::regions {

void register_cocodc(Catalogue& c) {
  Method streaming;
  streaming.defaults = {{"regions.period", "100"},         {"regions.overlap", "5"},
                        {"regions.fragments", "strided"},  {"regions.schedule", "offset"},
                        {"regions.arrival", "blend"},      {"regions.outer_lr", "0.4"},
                        {"regions.topology", "ring"},      {"train.optimizer", "adamw"},
                        {"train.optimizer_state", "keep"}, {"train.lr", "0.0004"},
                        {"train.weight_decay", "0.1"},     {"train.clip", "1"}};
  Method cocodc = streaming;
  cocodc.defaults.emplace_back("regions.fragment_count", "4");
  for (auto& [key, value] : cocodc.defaults) {
    if (key == "regions.schedule") value = "adaptive";
    if (key == "regions.arrival") value = "compensate";
  }
  c.add("streaming_diloco",
        "one fragment at a time, overlapped with training and blended (Douillard et al. 2025)",
        streaming);
  c.add("cocodc", "fragments chosen by their change, with delay compensation (2025)", cocodc);
}

}  // namespace espalier::regions
