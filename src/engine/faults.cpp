#include "espalier/engine/faults.h"

#include <cmath>

#include "espalier/base/error.h"
#include "espalier/base/random.h"

namespace espalier {
namespace {

const Purpose kFaults = register_purpose("faults");

}  // namespace

void declare_fault_options(OptionTable& table) {
  const auto add_fraction = [&](const char* key, const char* help) {
    table.add({key, OptionType::real, "0", help, "", 0, 1});
  };
  table.add({"faults.clients", OptionType::real_list, "", "clients that have faults; empty = all",
             "", 0, 1e12});
  add_fraction("faults.crash", "fraction of tasks whose client crashes and gives no answer");
  add_fraction("faults.late", "fraction of tasks whose client is slower than its device");
  table.add({"faults.late_factor", OptionType::real, "4",
             "factor of the compute time of such a task", "", 1, 1e6});
  add_fraction("faults.twice",
               "fraction of tasks that are answered twice; the second answer has no effect and is "
               "not charged");
  add_fraction("faults.not_finite", "fraction of answers with a value that is not a number");
  add_fraction("faults.vanish", "fraction of tasks whose client vanishes for a while");
  table.add({"faults.vanish_tasks", OptionType::real, "3",
             "absence of such a client, in lengths of the task that it left", "", 0, 1e6});
}

Faults::Faults(const Config& config)
    : seed_(config.integer("run.seed")),
      crash_(config.real("faults.crash")),
      late_(config.real("faults.late")),
      late_factor_(config.real("faults.late_factor")),
      twice_(config.real("faults.twice")),
      not_finite_(config.real("faults.not_finite")),
      vanish_(config.real("faults.vanish")),
      vanish_tasks_(config.real("faults.vanish_tasks")) {
  for (const double client : config.reals("faults.clients")) {
    if (client != std::floor(client) ||
        client >= static_cast<double>(config.integer("clients.count"))) {
      throw InputError(formatted("faults.clients names client {}; there are clients 0 to {}",
                                 client, config.integer("clients.count") - 1));
    }
    clients_.insert(static_cast<std::int64_t>(client));
  }
  any_ = crash_ + late_ + twice_ + not_finite_ + vanish_ > 0;
}

InjectedFault Faults::fault(std::int64_t client, std::int64_t nth_task) const {
  InjectedFault fault;
  if (!any_ || !concern(client)) return fault;
  Stream stream(seed_, kFaults, client, nth_task);
  fault.crashes = stream.uniform() < crash_;
  fault.vanishes = stream.uniform() < vanish_ && !fault.crashes;
  fault.twice = stream.uniform() < twice_;
  fault.not_finite = stream.uniform() < not_finite_;
  if (stream.uniform() < late_) fault.slowdown = late_factor_;
  return fault;
}

}  // namespace espalier
