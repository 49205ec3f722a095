#pragma once
// A description of data in a few lines of text: sizes, and hashes of labels and values. It shows
// whether data changed since a run began, or differs on another rank, wherever the files are. It
// works on any splits, so that no loader needs its own.

#include <string>
#include <vector>

#include "espalier/data/dataset.h"

namespace espalier {

/// One line "what = value" for each property. Labels and the clients of samples are hashed whole;
/// values whole up to 64 MB a split, beyond that at 256 evenly spread samples, including the first
/// and the last.
std::string fingerprint(const Dataset& data);

/// The properties in which two fingerprints differ, with both values if they are sizes: "training
/// samples (600 there, 601 here)". Properties that only one fingerprint has are ignored.
std::vector<std::string> differing(const std::string& there, const std::string& here);

}  // namespace espalier
