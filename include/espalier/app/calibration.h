#pragma once
// Measures this machine with the engine's own training steps, over the families at several widths
// and batches. What a device class is fitted to, and what the fit is judged by (combinations apart
// from those), are measured alike.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "espalier/model/cost.h"

namespace espalier {

/// One family at one width and batch.
struct Combination {
  std::string family;
  std::vector<std::pair<std::string, std::string>> settings;  ///< options of model and data
  double width = 1;  ///< fraction of every axis that can be cut
  std::int64_t batch = 1;
  bool held_out = false;  ///< not used for fitting
};

/// A client's task on a combination, and what it took.
struct MeasuredTask {
  Combination what;
  TrainingCost step;
  std::int64_t steps = 0;
  double seconds = 0;  ///< of the whole task
};

/// What counts of times that were measured again and again: whatever else the machine does only
/// adds to them. At least one value.
double lower_quartile(std::vector<double> values);

/// Every family at several widths and batches, more than a third of them held out. `quick`: with
/// smaller batches.
std::vector<Combination> calibration_combinations(bool quick);

/// Trains tasks of each combination on this thread, from the weights that come in to those that go
/// out. All combinations take turns, several times over, and the lower quartile of each counts,
/// because whatever else the machine does only adds to the time. The clock is the thread's
/// processor time: on an idle machine that on the wall. `quick`: shorter tasks, fewer turns.
std::vector<MeasuredTask> measure_tasks(const std::vector<Combination>& combinations, bool quick);

}  // namespace espalier
