#pragma once
// Submodels that keep a contiguous window of the units of every axis, which may wrap round its end:
// the leading units, or a window that moves.

#include <cstdint>
#include <vector>

#include "espalier/model/layout.h"
#include "espalier/model/submodel.h"

namespace espalier {

/// ceil(fraction * size), at least 1.
std::int64_t kept_units(double fraction, std::int64_t size);
/// {(offset + k) mod size, k < kept_units(fraction, size)}, ascending.
std::vector<std::int64_t> window_units(double fraction, std::int64_t size, std::int64_t offset);
/// The submodel with window_units of every axis that can be cut.
Submodel window_submodel(const Layout& layout, double fraction, std::int64_t offset);

}  // namespace espalier
