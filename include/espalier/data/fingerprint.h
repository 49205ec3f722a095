#pragma once
// What data is, in a few lines of text: sizes, and hashes of labels and values. It tells data that
// changed under a run, or that another rank reads, from the same data in another place. Works on
// any splits, so that no loader has one of its own.

#include <string>
#include <vector>

#include "espalier/data/dataset.h"

namespace espalier {

/// One line "what = value" for each property. Labels, and who has which sample, are hashed whole;
/// values whole up to 64 MB a split, beyond that at 256 samples evenly spread, the first and the
/// last among them.
std::string fingerprint(const Dataset& data);

/// The properties in which two fingerprints differ, each with both values where those are sizes:
/// "training samples (600 there, 601 here)". Those that only one of them has are left aside.
std::vector<std::string> differing(const std::string& there, const std::string& here);

}  // namespace espalier
