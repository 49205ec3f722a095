#include <array>
#include <cstring>

#include "espalier/base/error.h"
#include "espalier/data/dataset.h"

namespace espalier {
namespace {

class ByteSplit final : public Split {
 public:
  ByteSplit(std::vector<std::int64_t> shape, std::vector<std::uint8_t> pixels,
            std::vector<std::uint8_t> labels, const Normalisation& normalisation)
      : shape_(std::move(shape)), pixels_(std::move(pixels)), labels_(std::move(labels)) {
    per_sample_ = 1;
    for (const std::int64_t extent : shape_) per_sample_ *= extent;
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
    std::vector<std::int64_t> extents{static_cast<std::int64_t>(indices.size())};
    extents.insert(extents.end(), shape_.begin(), shape_.end());
    at::Tensor batch = at::empty(extents, at::kFloat);
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
  std::int64_t per_sample_ = 0;
  std::vector<std::uint8_t> pixels_;
  std::vector<std::uint8_t> labels_;
  std::vector<std::array<float, 256>> tables_;  // per channel
};

}  // namespace

at::Tensor Split::labels(std::span<const std::int64_t> indices) const {
  at::Tensor result = at::empty({static_cast<std::int64_t>(indices.size())}, at::kLong);
  std::int64_t* out = result.data_ptr<std::int64_t>();
  for (const std::int64_t index : indices) *out++ = label(index);
  return result;
}

std::unique_ptr<Split> make_byte_split(std::vector<std::int64_t> shape,
                                       std::vector<std::uint8_t> pixels,
                                       std::vector<std::uint8_t> labels,
                                       const Normalisation& normalisation) {
  return std::make_unique<ByteSplit>(std::move(shape), std::move(pixels), std::move(labels),
                                     normalisation);
}

}  // namespace espalier
