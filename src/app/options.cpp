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
             .help = "name of the run's folder; may contain {seed}, {method}, {job}; empty = name "
                     "of the input file",
             .on_resume = OnResume::place});
  table.add({.key = "run.dir",
             .type = OptionType::text,
             .default_value = "runs",
             .help = "parent folder of runs",
             .on_resume = OnResume::place});
  table.add({"run.threads", OptionType::integer, "1",
             "threads per rank; the last bits of results depend on them", "", 1, 1024});
  table.add_choice(
      "run.isa", "auto",
      "instruction set; the last bits of results depend on it; auto = best of this machine",
      {"auto", "avx2", "avx512"});
  table.add({"checkpoint.keep", OptionType::integer, "2", "number of last checkpoints to keep", "",
             2, 1e9, OnResume::may_change});
  table.add({"checkpoint.keep_every", OptionType::integer, "0",
             "rounds between further checkpoints to keep; 0 = no others", "rounds", 0, 1e9,
             OnResume::may_change});
}

}  // namespace

const Protocol& protocol_of(const Protocols& protocols, const Config& config) {
  const std::string wanted = config.text("method.name");
  std::string names;
  for (const Protocol& protocol : protocols) {
    const std::vector<Listing> listings = protocol.list();
    for (const Listing::Item& method : listings.front().items) {
      if (method.name == wanted) return protocol;
      names += (names.empty() ? "" : ", ") + method.name;
    }
  }
  throw InputError(formatted("no method is called '{}'; there are: {}", wanted, names));
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
  table.add({"method.name", OptionType::text, "fedavg",
             "name of the method; see `espalier list methods`"});
  declare_train_options(table);
  for (const Protocol& protocol : protocols) protocol.declare(table);
  declare_clock_options(table);
  declare_resource_options(table);
  declare_availability_options(table);
  declare_evaluation_options(table);
  return table;
}

}  // namespace espalier
