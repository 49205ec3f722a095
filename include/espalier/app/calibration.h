#pragma once
// Measures this machine with the program's own training steps, for the families at several widths
// and batches. A device class is fitted to some of these combinations; the others, measured in the
// same way, test the fit.

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

/// A client's task on a combination, and its time.
struct MeasuredTask {
  Combination combination;
  TrainingCost step;
  std::int64_t steps = 0;
  double seconds = 0;  ///< of the whole task
};

/// The estimate from repeated measurements of a time: other work of the machine can only add to a
/// measured time. Needs at least one value.
double lower_quartile(std::vector<double> values);

/// Every family at several widths and batches, with more than a third held out. `quick`: with
/// smaller batches.
std::vector<Combination> calibration_combinations(bool quick);

/// Measures tasks of each combination on this thread, from unpacking to packing the weights. The
/// combinations alternate in several turns, and the result is the lower quartile of each. The clock
/// is the thread's processor time, which equals the real time on an idle machine. `quick`: shorter
/// tasks, fewer turns.
std::vector<MeasuredTask> measure_tasks(const std::vector<Combination>& combinations, bool quick);

}  // namespace espalier
