#include "espalier/protocol/rounds/check.h"

#include <fmt/ranges.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "espalier/base/log.h"
#include "espalier/base/units.h"
#include "espalier/protocol/rounds/personal.h"
#include "espalier/protocol/rounds/task_costs.h"
#include "espalier/train/optimizer.h"

namespace espalier::rounds {
namespace {

/// The number of clients with too little memory for their first task, and a remedy.
std::string memory_line(const Experiment& e, const std::vector<std::int64_t>& too_small) {
  if (too_small.empty()) {
    return formatted("memory   all {} clients can hold their task", e.fleet->size());
  }
  std::set<std::string> classes;
  for (const std::int64_t client : too_small) classes.insert(e.fleet->device(client).name);
  return formatted(
      "memory   {} of {} clients cannot hold their task ({}): give them more memory_mb, choose "
      "smaller method.widths, or set clients.memory_fit = width",
      too_small.size(), e.fleet->size(), fmt::join(classes, ", "));
}

/// Clients of one device class with submodels of equal costs.
struct CheckLine {
  std::string device;
  std::string rest;  ///< of the line
  std::int64_t clients = 0;
};

}  // namespace

void print_check(const Experiment& e, const RuleNames& names, const ServerRules& rules,
                 const std::optional<Heterogeneity>& heterogeneity) {
  log_note(formatted("method   {} (submodel {}, window {}, merge {}, objective {})", names.method,
                     names.submodel, names.window, names.merge, names.objective));
  const auto full = Submodel::full(*e.model.layout);
  const auto whole = e.plans->buffer_layout(full, Packing::aligned);
  log_note(formatted("model    {}, {}", e.model.name, parameters_description(*whole)));
  const std::string personal = personal_description(e);
  if (!personal.empty()) log_note(personal);
  log_note(formatted("data     {}, {} training and {} test samples", e.data.name,
                     e.data.train ? e.data.train->size() : 0,
                     e.data.test ? e.data.test->size() : 0));
  for (const std::string& file : e.data.files) log_note("         " + file);
  log_note(formatted("clients  {}", e.fleet->size()));
  log_note(formatted("         {:<14} {:>8} {:>6} {:>12} {:>12} {:>12} {:>12} {:>12}", "device",
                     "clients", "width", "parameters", "memory", "cap", "down", "up"));
  TaskCosts costs(e, rules.tasks);
  std::map<std::pair<std::string, std::string>, std::size_t> line_of;  // device and rest
  std::vector<CheckLine> lines;
  std::vector<std::int64_t> too_small;  // clients
  std::int64_t payloads = 0;
  std::int64_t states = 0;
  const bool keeps_state = e.train.optimizer_state == OptimizerState::keep;
  for (std::int64_t client = 0; client < e.fleet->size(); ++client) {
    const SendMoment moment{client, 0, 0};
    const Assignment assigned = rules.submodel->choose(e, moment);
    const DeviceClass& device = e.fleet->device(client);
    const Peaks bounds = assignment_peaks(e, rules.tasks, assigned, client);
    const TrainingCost& cost = bounds.training;
    payloads += cost.message_bytes;
    const std::int64_t cap = memory_bytes(device);
    const bool fits = cap == 0 || bounds.largest() <= cap;
    if (!fits) too_small.push_back(client);
    if (keeps_state) states += Optimizer::copies(e.train) * cost.message_bytes;
    // Bytes of the first task. Without data it is not known what it does, and so what a search
    // finds.
    std::string down = "-", up = "-";
    if (e.partition) {
      const Flight flight = costs.first_flight(assigned, client);
      down = megabytes(flight.bytes_down);
      up = (flight.is_bounded ? ">= " : "") + megabytes(flight.bytes_up);
    }
    const std::string rest = formatted(
        "{:>6.3g} {:>12} {:>12} {:>12} {:>12} {:>12}{}{}", assigned.width, cost.parameters,
        megabytes(cost.peak_bytes), cap > 0 ? megabytes(cap) : "-", down, up,
        bounds.search > 0 ? formatted("  {} while it searches", megabytes(bounds.search)) : "",
        fits ? "" : "  too little memory");
    const auto [line, is_new] = line_of.try_emplace({device.name, rest}, lines.size());
    if (is_new) lines.push_back({device.name, rest});
    ++lines[line->second].clients;
  }
  for (const CheckLine& line : lines) {
    log_note(formatted("         {:<14} {:>8} {}", line.device, line.clients, line.rest));
  }
  log_note(description(heterogeneity));
  // The model, its evaluated copy (without frozen values), and for each client its payload, its
  // update and three states: the one before the task, the one after it, and the one to send next.
  // Also its last model and those that travel with its task, if objectives compare them.
  const std::int64_t peers = rules.tasks.objective->peers();
  const std::int64_t copies = peers > 0 ? 3 + peers : 2;
  log_note(formatted("server   {} at most, beside data and libraries",
                     megabytes(8 * whole->count(Kind::trainable) + 4 * whole->count(Kind::frozen) +
                               copies * payloads + 3 * states)));
  log_note(memory_line(e, too_small));
}

}  // namespace espalier::rounds
