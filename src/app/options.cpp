#include "espalier/app/options.h"

#include "espalier/base/error.h"
#include "espalier/data/dataset.h"
#include "espalier/device/availability.h"
#include "espalier/device/device.h"
#include "espalier/engine/clock.h"
#include "espalier/model/model.h"
#include "espalier/train/evaluate.h"
#include "espalier/train/experiment.h"
#include "espalier/train/settings.h"
#include "espalier/train/weights.h"

namespace espalier {
namespace {

void declare_run_options(OptionTable& table) {
  table.add({.key = "run.name",
             .type = OptionType::text,
             .default_value = "",
             .help = "name of the run's folder, may contain {seed}, {method}, {job}; empty = the "
                     "input file's own name",
             .on_resume = OnResume::place});
  table.add({.key = "run.dir",
             .type = OptionType::text,
             .default_value = "runs",
             .help = "parent folder of runs",
             .on_resume = OnResume::place});
  table.add({"run.threads", OptionType::integer, "1",
             "threads per rank; part of the result's last bits", "", 1, 1024});
  table.add_choice(
      "run.isa", "auto",
      "instruction set; part of the result's last bits; auto = the best of this machine",
      {"auto", "avx2", "avx512"});
  table.add({"checkpoint.keep", OptionType::integer, "2",
             "checkpoints that are kept, the last ones", "", 2, 1e9, OnResume::may_change});
  table.add({"checkpoint.keep_every", OptionType::integer, "0",
             "of the others, those of every so many rounds are kept too; 0 = none", "rounds", 0,
             1e9, OnResume::may_change});
}

}  // namespace

const Protocol& protocol_of(const Protocols& protocols, const Config& config) {
  const std::string wanted = config.text("method.name");
  std::string known;
  for (const Protocol& protocol : protocols) {
    const std::vector<Listing> listings = protocol.list();
    for (const Listing::Item& method : listings.front().items) {
      if (method.name == wanted) return protocol;
      known += (known.empty() ? "" : ", ") + method.name;
    }
  }
  throw InputError(formatted("no method is called '{}'; there are: {}", wanted, known));
}

OptionTable all_options(const Protocols& protocols) {
  OptionTable table;
  declare_run_options(table);
  declare_experiment_options(table);
  declare_stop_options(table);
  declare_model_options(table);
  declare_weight_options(table);
  declare_data_options(table);
  declare_device_options(table);
  table.add({"method.name", OptionType::text, "fedavg", "the method; see `espalier list methods`"});
  for (const Protocol& protocol : protocols) protocol.declare(table);
  declare_train_options(table);
  declare_clock_options(table);
  declare_resource_options(table);
  declare_availability_options(table);
  declare_evaluation_options(table);
  return table;
}

}  // namespace espalier
