#include "espalier/protocol/rounds/check.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "espalier/base/log.h"
#include "espalier/base/units.h"
#include "espalier/device/emulated_time.h"
#include "espalier/engine/server_memory.h"
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

/// What a client's task is for the server.
struct ServerTask {
  std::uint64_t submodel = 0;  ///< tasks with equal submodels share a payload
  std::int64_t bytes = 0;      ///< of the payload, and of the update
};

/// The largest payloads and updates of the clients that work at the same time exist at once: an
/// update and its client's state before and after the task, and a payload for each submodel of this
/// version and of the one before. Clients keep a state once they had a task.
HeldBytes held_bytes(const Experiment& e, const ServerRules& rules, const BufferLayout& whole,
                     const ServerSizes& server, const std::vector<ServerTask>& tasks) {
  constexpr std::int64_t kClient = 64;  // of a registered client: in the set of the idle, counts
  constexpr std::int64_t kSavedClient = 16;  // of it in a checkpoint
  const bool keeps_state = e.train.optimizer_state == OptimizerState::keep;
  const std::int64_t copies = keeps_state ? Optimizer::copies(e.train) : 0;
  const std::int64_t peers = rules.tasks.objective->peers();
  const auto clients = std::ssize(tasks);
  const std::int64_t out = server.at_once == 0 ? clients : std::min(server.at_once, clients);
  const std::int64_t with_state = std::min(clients, times(out, e.rounds));
  std::map<std::uint64_t, std::int64_t> payloads;  // bytes by submodel
  std::vector<std::int64_t> of_tasks, of_payloads;
  for (const ServerTask& task : tasks) {
    payloads[task.submodel] = task.bytes;
    of_tasks.push_back(task.bytes);
  }
  for (const auto& [submodel, bytes] : payloads) of_payloads.push_back(bytes);
  std::ranges::sort(of_tasks, std::greater{});
  std::ranges::sort(of_payloads, std::greater{});
  const auto sum_of_first = [](const std::vector<std::int64_t>& bytes, std::int64_t count) {
    return std::accumulate(bytes.begin(), bytes.begin() + std::min(std::ssize(bytes), count),
                           std::int64_t{0});
  };
  const std::int64_t updates = (1 + peers + 2 * copies) * sum_of_first(of_tasks, out);
  const std::int64_t held = 2 * sum_of_first(of_payloads, out) + updates +
                            copies * sum_of_first(of_tasks, with_state) +
                            server.copies * whole.size() * std::int64_t{sizeof(float)};
  return {.most = held + kClient * clients, .saved = held + kSavedClient * clients};
}

/// Clients of one device class with submodels of equal costs.
struct CheckLine {
  std::string device;
  std::string rest;  ///< of the line
  std::int64_t clients = 0;
};

}  // namespace

void print_check(const Experiment& e, const RuleNames& names, const ServerRules& rules,
                 const std::optional<Heterogeneity>& heterogeneity, const ServerSizes& server) {
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
  std::vector<ServerTask> tasks;
  for (std::int64_t client = 0; client < e.fleet->size(); ++client) {
    const SendMoment moment{client, 0, 0};
    const Assignment assigned = rules.submodel->choose(e, moment);
    const DeviceClass& device = e.fleet->device(client);
    const Peaks bounds = assignment_peaks(e, rules.tasks, assigned, client);
    const TrainingCost& cost = bounds.training;
    tasks.push_back({assigned.submodel.hash(), cost.message_bytes});
    const std::int64_t cap = memory_bytes(device);
    const bool fits = cap == 0 || bounds.largest() <= cap;
    if (!fits) too_small.push_back(client);
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
  log_note(server_line(e, held_bytes(e, rules, *whole, server, tasks)));
  log_result(memory_line(e, too_small));  // with -q too
}

}  // namespace espalier::rounds
