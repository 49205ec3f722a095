#pragma once
// The windows of MSfusion as pure functions of participant, round and overlap: between rounds they
// move on, between participants they lie apart (docs/methods/msfusion.md). All is our
// reconstruction; the paper's own formulas could not be read.

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/model/layout.h"

namespace espalier::rounds {

/// Offsets of neighbouring layers between rounds: the same; different ones; drawn for each layer.
enum class LayerShift { equal, staggered, random };

/// The offset of round r in a layer of h units whose windows have w, in [0, h). `side`: 0 or 1,
/// different for layers that share weights (layer_sides). equal, and side 0 of staggered: r mod h.
/// Side 1 of staggered: q r + w floor(r / h) with q = 2 ceil(h / (2 w)) + 1, modulo h.
std::int64_t round_offset(LayerShift shift, int side, std::int64_t h, std::int64_t w,
                          std::int64_t r);

/// The shift between neighbouring participants whose windows of w units overlap by the fraction c:
/// max(1, floor((1 - c) w)).
std::int64_t participant_shift(std::int64_t w, double c);

/// The largest overlap with which windows of these widths, each shifted against the one before it
/// by participant_shift(), keep all h units; 0 if none does. With n equal widths w that is 1 -
/// ceil((h - w) / (n - 1)) / w.
double largest_overlap(std::int64_t h, std::span<const std::int64_t> widths);

/// Side (0 or 1) of each axis: two axes that share an entry have different sides, except for the
/// smallest entry of each odd circle. The first cuttable axis of each connected part has side 0.
std::vector<int> layer_sides(const Layout& layout);

/// The overlap during a run: it goes from `start` to `end`.
enum class OverlapSchedule { constant, down, up, plateau };
/// Overlap of round r. constant: start. down: end + (start - end) max(0, 1 - r / r_end). up: the
/// same from end to start. plateau: start - `fallen`, not below end. end is at most start.
double overlap_at(OverlapSchedule schedule, double start, double end, double r, double r_end,
                  double fallen);

}  // namespace espalier::rounds
