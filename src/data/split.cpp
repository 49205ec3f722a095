#include <algorithm>
#include <array>
#include <iterator>
#include <type_traits>
#include <utility>

#include "espalier/base/error.h"
#include "splits.h"

namespace espalier {
namespace {

/// An unset tensor [count, shape...].
at::Tensor new_batch(std::size_t count, const std::vector<std::int64_t>& shape,
                     at::ScalarType type) {
  std::vector<std::int64_t> extents{static_cast<std::int64_t>(count)};
  extents.insert(extents.end(), shape.begin(), shape.end());
  return at::empty(extents, type);
}

std::int64_t product(const std::vector<std::int64_t>& shape) {
  std::int64_t result = 1;
  for (const std::int64_t extent : shape) result *= extent;
  return result;
}

class ByteSplit final : public Split {
 public:
  ByteSplit(std::vector<std::int64_t> shape, std::vector<std::uint8_t> pixels,
            std::vector<std::uint8_t> labels, const Normalisation& normalisation)
      : shape_(std::move(shape)),
        per_sample_(product(shape_)),
        pixels_(std::move(pixels)),
        labels_(std::move(labels)) {
    ESPALIER_CHECK(static_cast<std::int64_t>(pixels_.size()) == per_sample_ * size());
    ESPALIER_CHECK(static_cast<std::int64_t>(normalisation.mean.size()) == shape_[0] &&
                   normalisation.deviation.size() == normalisation.mean.size());
    tables_.resize(normalisation.mean.size());
    for (std::size_t channel = 0; channel < tables_.size(); ++channel) {
      for (int byte = 0; byte < 256; ++byte) {
        tables_[channel][byte] = static_cast<float>((byte / 255.0 - normalisation.mean[channel]) /
                                                    normalisation.deviation[channel]);
      }
    }
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(labels_.size()); }
  std::int64_t label(std::int64_t index) const override { return labels_.at(index); }

  at::Tensor inputs(std::span<const std::int64_t> indices, Stream*) const override {
    at::Tensor batch = new_batch(indices.size(), shape_, at::kFloat);
    float* out = batch.data_ptr<float>();
    const std::int64_t plane = per_sample_ / static_cast<std::int64_t>(tables_.size());
    for (const std::int64_t index : indices) {
      ESPALIER_CHECK(index >= 0 && index < size(), "sample {} of {}", index, size());
      const std::uint8_t* in = pixels_.data() + index * per_sample_;
      for (const auto& table : tables_) {
        for (std::int64_t i = 0; i < plane; ++i) *out++ = table[*in++];
      }
    }
    return batch;
  }

 private:
  std::vector<std::int64_t> shape_;
  std::int64_t per_sample_;
  std::vector<std::uint8_t> pixels_;
  std::vector<std::uint8_t> labels_;
  std::vector<std::array<float, 256>> tables_;  // per channel
};

template <class T>
class ValueSplit final : public Split {
 public:
  using Element = std::conditional_t<std::is_same_v<T, float>, float, std::int64_t>;

  ValueSplit(std::vector<std::int64_t> shape, std::vector<T> values,
             std::vector<std::int32_t> labels)
      : shape_(std::move(shape)),
        per_sample_(product(shape_)),
        values_(std::move(values)),
        labels_(std::move(labels)) {
    ESPALIER_CHECK(static_cast<std::int64_t>(values_.size()) == per_sample_ * size());
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(labels_.size()); }
  std::int64_t label(std::int64_t index) const override { return labels_.at(index); }

  at::Tensor inputs(std::span<const std::int64_t> indices, Stream*) const override {
    at::Tensor batch = new_batch(indices.size(), shape_, c10::CppTypeToScalarType<Element>::value);
    Element* out = batch.data_ptr<Element>();
    for (const std::int64_t index : indices) {
      ESPALIER_CHECK(index >= 0 && index < size(), "sample {} of {}", index, size());
      out = std::copy_n(values_.data() + index * per_sample_, per_sample_, out);
    }
    return batch;
  }

 private:
  std::vector<std::int64_t> shape_;
  std::int64_t per_sample_;
  std::vector<T> values_;
  std::vector<std::int32_t> labels_;
};

class WindowSplit final : public Split {
 public:
  WindowSplit(TokenStream tokens, const Windows& windows, std::vector<WindowSeries> series,
              std::int64_t samples)
      : tokens_(std::move(tokens)),
        windows_(windows),
        series_(std::move(series)),
        samples_(samples) {
    ESPALIER_CHECK(samples_ > 0 && !series_.empty() && series_.front().sample == 0);
    ESPALIER_CHECK(place(samples_ - 1).token + windows_.length + 1 <= tokens_.size);
  }

  std::int64_t size() const override { return samples_; }
  std::int64_t label(std::int64_t) const override { return 0; }
  at::Tensor inputs(std::span<const std::int64_t> indices, Stream*) const override {
    return windows(indices, 0);
  }
  at::Tensor labels(std::span<const std::int64_t> indices) const override {
    at::Tensor batch = windows(indices, 1);
    std::int64_t* out = batch.data_ptr<std::int64_t>();
    const std::int64_t before = windows_.length - windows_.stride;  // labels of earlier windows
    for (const std::int64_t index : indices) {
      if (before > 0 && !place(index).is_first) std::fill_n(out, before, kNoLabel);
      out += windows_.length;
    }
    return batch;
  }

 private:
  struct Place {
    std::int64_t token;
    bool is_first;
  };
  Place place(std::int64_t sample) const {
    const auto after = std::ranges::upper_bound(series_, sample, {}, &WindowSeries::sample);
    const WindowSeries& own = *std::prev(after);
    return {own.token + (sample - own.sample) * windows_.stride, sample == own.sample};
  }
  at::Tensor windows(std::span<const std::int64_t> indices, std::int64_t shift) const {
    at::Tensor batch = new_batch(indices.size(), {windows_.length}, at::kLong);
    std::int64_t* out = batch.data_ptr<std::int64_t>();
    for (const std::int64_t index : indices) {
      ESPALIER_CHECK(index >= 0 && index < samples_, "sample {} of {}", index, samples_);
      tokens_.read(place(index).token + shift, windows_.length, out);
      out += windows_.length;
    }
    return batch;
  }

  TokenStream tokens_;
  Windows windows_;
  std::vector<WindowSeries> series_;
  std::int64_t samples_;
};

}  // namespace

at::Tensor Split::labels(std::span<const std::int64_t> indices) const {
  at::Tensor result = new_batch(indices.size(), {}, at::kLong);
  std::int64_t* out = result.data_ptr<std::int64_t>();
  for (const std::int64_t index : indices) *out++ = label(index);
  return result;
}

Batch Split::batch(std::span<const std::int64_t> indices, Stream* augment) const {
  return {inputs(indices, augment), labels(indices)};
}

Limits limits(const Config& config) {
  return {config.integer("data.train_limit"), config.integer("data.test_limit")};
}

std::unique_ptr<Split> make_byte_split(std::vector<std::int64_t> shape,
                                       std::vector<std::uint8_t> pixels,
                                       std::vector<std::uint8_t> labels,
                                       const Normalisation& normalisation) {
  return std::make_unique<ByteSplit>(std::move(shape), std::move(pixels), std::move(labels),
                                     normalisation);
}

template <class T>
std::unique_ptr<Split> make_value_split(std::vector<std::int64_t> shape, std::vector<T> values,
                                        std::vector<std::int32_t> labels) {
  return std::make_unique<ValueSplit<T>>(std::move(shape), std::move(values), std::move(labels));
}
template std::unique_ptr<Split> make_value_split(std::vector<std::int64_t>, std::vector<float>,
                                                 std::vector<std::int32_t>);
template std::unique_ptr<Split> make_value_split(std::vector<std::int64_t>,
                                                 std::vector<std::int32_t>,
                                                 std::vector<std::int32_t>);

std::unique_ptr<Split> make_window_split(TokenStream tokens, const Windows& windows,
                                         std::vector<WindowSeries> series, std::int64_t samples) {
  return std::make_unique<WindowSplit>(std::move(tokens), windows, std::move(series), samples);
}

Windows test_windows(const Config& config) {
  const std::int64_t length = config.integer("data.length");
  const std::int64_t stride = config.integer("data.stride");
  if (stride > length + 1) {
    throw InputError(
        formatted("data.stride = {} would leave out tokens between windows of data.length = {}: "
                  "set it to at most {}",
                  stride, length, length + 1));
  }
  return {length, stride > 0 ? stride : length};
}

}  // namespace espalier
