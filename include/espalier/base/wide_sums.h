#pragma once
// Sums over floats in double precision. The same values on every processor, because the order of
// additions does not depend on the width of its registers.

#include <cstdint>
#include <span>

namespace espalier {

double sum_of_products(const float* a, const float* b, std::int64_t count);
double sum_of_magnitudes(const float* values, std::int64_t count);
double squared_distance(const float* a, const float* b, std::int64_t count);

/// True if every value is finite.
bool all_finite(std::span<const float> values);

}  // namespace espalier
