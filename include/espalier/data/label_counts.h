#pragma once
// How the classes are spread over the clients, for a person who looks at a partition.

#include <string>
#include <vector>

#include "espalier/data/dataset.h"
#include "espalier/data/partition.h"

namespace espalier {

/// Lines of a table with the training samples of each of the first clients, by class; with many
/// classes, their number and the share of the most frequent one. Empty for data without classes.
std::vector<std::string> label_table(const Dataset& data, const Partition& partition);

}  // namespace espalier
