// The kernels of row_kernels.h, for a file that has defined kMostRows, kOuts, kSingleOuts, Lanes
// and its operations, in an unnamed namespace. Nothing from the standard library is called: such a
// function would be compiled for this file's instruction set, and the linker could take it for the
// whole program.

constexpr std::int64_t kLanes = 16;

/// Products of kRows rows with `outs` weights' rows, at most kOuts, at once: each number that is
/// read takes part in several products.
template <int kRows, int outs>
inline void tile(const float* x, std::int64_t in, const float* w, const float* bias, float* y,
                 std::int64_t y_stride) {
  Lanes sums[kRows][outs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int o = 0; o < outs; ++o) sums[r][o] = zeros();
  }
  const std::int64_t whole = in / kLanes * kLanes;
  for (std::int64_t k = 0; k < whole; k += kLanes) {
    Lanes weights[outs];
    // A single row waits for memory, and the processor by itself reads ahead only to the end of a
    // page: so ask for the next tile's weights (beyond the last one this has no effect).
#pragma GCC unroll 8
    for (int o = 0; o < outs; ++o) {
      weights[o] = load(w + o * in + k);
      if constexpr (kRows == 1) __builtin_prefetch(w + (outs + o) * in + k, 0, 2);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Lanes own = load(x + r * in + k);
#pragma GCC unroll 8
      for (int o = 0; o < outs; ++o) sums[r][o] = multiply_add(own, weights[o], sums[r][o]);
    }
  }
  if (whole < in) {
    const std::int64_t rest = in - whole;
    for (int r = 0; r < kRows; ++r) {
      const Lanes own = load_part(x + r * in + whole, rest);
      for (int o = 0; o < outs; ++o) {
        sums[r][o] = multiply_add(own, load_part(w + o * in + whole, rest), sums[r][o]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int o = 0; o < outs; ++o) {
      const float sum = total(sums[r][o]);
      y[r * y_stride + o] = bias == nullptr ? sum : sum + bias[o];
    }
  }
}

template <int kRows, int outs>
inline void last_rows(std::int64_t rows, const float* x, std::int64_t in, const float* w,
                      const float* bias, float* y, std::int64_t y_stride) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      tile<kRows, outs>(x, in, w, bias, y, y_stride);
    } else {
      last_rows<kRows - 1, outs>(rows, x, in, w, bias, y, y_stride);
    }
  }
}

template <int outs>
inline void all_rows(const float* x, std::int64_t rows, std::int64_t in, const float* w,
                     const float* bias, float* y, std::int64_t y_stride) {
  std::int64_t r = 0;
  for (; r + kMostRows <= rows; r += kMostRows) {
    tile<kMostRows, outs>(x + r * in, in, w, bias, y + r * y_stride, y_stride);
  }
  last_rows<kMostRows - 1, outs>(rows - r, x + r * in, in, w, bias, y + r * y_stride, y_stride);
}

template <int outs>
inline void products(const float* x, std::int64_t rows, std::int64_t in, const float* w,
                     std::int64_t count, const float* bias, float* y, std::int64_t y_stride) {
  std::int64_t o = 0;
  for (; o + outs <= count; o += outs) {
    all_rows<outs>(x, rows, in, w + o * in, bias == nullptr ? nullptr : bias + o, y + o, y_stride);
  }
  for (; o < count; ++o) {
    all_rows<1>(x, rows, in, w + o * in, bias == nullptr ? nullptr : bias + o, y + o, y_stride);
  }
}

void product(const float* x, std::int64_t rows, std::int64_t in, const float* w, std::int64_t outs,
             const float* bias, float* y, std::int64_t y_stride) {
  // A single row waits for the weights from memory, which come faster if more rows of them are read
  // at once.
  if (rows == 1) {
    products<kSingleOuts>(x, rows, in, w, outs, bias, y, y_stride);
  } else {
    products<kOuts>(x, rows, in, w, outs, bias, y, y_stride);
  }
}

float dot(const float* a, const float* b, std::int64_t count) {
  float sum;
  tile<1, 1>(a, count, b, nullptr, &sum, 0);
  return sum;
}

float sum_of(const float* x, std::int64_t count) {
  Lanes sums = zeros();
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sums = add(sums, load(x + i));
  if (i < count) sums = add(sums, load_part(x + i, count - i));
  return total(sums);
}

/// out[c] = factor x sum over t of weights[t] rows[t * width + c], for kCount x 16 columns; of the
/// last `rest` columns only if that is above 0 (kCount is 1 then).
template <int kCount>
inline void weighted_sum(const float* weights, std::int64_t length, const float* rows,
                         std::int64_t width, std::int64_t rest, float factor, float* out) {
  Lanes sums[kCount];
#pragma GCC unroll 8
  for (int c = 0; c < kCount; ++c) sums[c] = zeros();
  for (std::int64_t t = 0; t < length; ++t) {
    const Lanes weight = all(weights[t]);
    const float* row = rows + t * width;
#pragma GCC unroll 8
    for (int c = 0; c < kCount; ++c) {
      const Lanes values = rest > 0 ? load_part(row, rest) : load(row + c * kLanes);
      sums[c] = multiply_add(weight, values, sums[c]);
    }
  }
  float results[kCount * kLanes];
  for (int c = 0; c < kCount; ++c) store(results + c * kLanes, sums[c]);
  const std::int64_t count = rest > 0 ? rest : kCount * kLanes;
  for (std::int64_t c = 0; c < count; ++c) out[c] = factor * results[c];
}

void attend(const float* queries, std::int64_t heads, std::int64_t columns, const float* keys,
            const float* values, std::int64_t value_columns, std::int64_t length, float scale,
            float* scores, float* out) {
  product(queries, heads, columns, keys, length, nullptr, scores, length);
  for (std::int64_t head = 0; head < heads; ++head) {
    float* own = scores + head * length;
    float largest = own[0];
    for (std::int64_t t = 1; t < length; ++t) largest = own[t] > largest ? own[t] : largest;
    for (std::int64_t t = 0; t < length; ++t) own[t] = exponential((own[t] - largest) * scale);
    const float factor = 1.0F / sum_of(own, length);
    float* to = out + head * value_columns;
    std::int64_t c = 0;
    for (; c + 4 * kLanes <= value_columns; c += 4 * kLanes) {
      weighted_sum<4>(own, length, values + c, value_columns, 0, factor, to + c);
    }
    for (; c + kLanes <= value_columns; c += kLanes) {
      weighted_sum<1>(own, length, values + c, value_columns, 0, factor, to + c);
    }
    if (c < value_columns) {
      weighted_sum<1>(own, length, values + c, value_columns, value_columns - c, factor, to + c);
    }
  }
}

void rms_norm(const float* x, std::int64_t width, const float* weight, float epsilon, float* out) {
  const float mean_square = dot(x, x, width) / static_cast<float>(width);
  const float inverse = 1.0F / __builtin_sqrtf(mean_square + epsilon);
  for (std::int64_t i = 0; i < width; ++i) out[i] = x[i] * inverse * weight[i];
}

void layer_norm(const float* x, std::int64_t width, const float* weight, const float* bias,
                float epsilon, float* out) {
  const float mean = sum_of(x, width) / static_cast<float>(width);
  for (std::int64_t i = 0; i < width; ++i) out[i] = x[i] - mean;
  const float variance = dot(out, out, width) / static_cast<float>(width);
  const float inverse = 1.0F / __builtin_sqrtf(variance + epsilon);
  for (std::int64_t i = 0; i < width; ++i) out[i] = out[i] * inverse * weight[i] + bias[i];
}

void silu_product(float* gate, const float* up, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float x = gate[i];
    const float e = exponential(x < 0 ? x : -x);
    const float larger = 1.0F / (1.0F + e);
    gate[i] = x * (x < 0 ? e * larger : larger) * up[i];
  }
}

void rotate(float* x, std::int64_t heads, std::int64_t pairs, const float* cosine,
            const float* sine) {
  for (std::int64_t head = 0; head < heads; ++head) {
    float* first = x + head * 2 * pairs;
    float* second = first + pairs;
    for (std::int64_t i = 0; i < pairs; ++i) {
      const float a = first[i];
      const float b = second[i];
      first[i] = a * cosine[i] - b * sine[i];
      second[i] = b * cosine[i] + a * sine[i];
    }
  }
}
