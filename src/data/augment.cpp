// Crops and flips of training images: the image is moved by up to four pixels each way (a crop of
// the image padded by four) and mirrored in half of the cases (He et al. 2016, section 4.2).

#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "splits.h"

namespace espalier {
namespace {

constexpr std::int64_t kPadding = 4;

/// Changes one plane in place: out(y, x) is in(y + down, x + right), 0 beyond the image; then
/// mirrored if `flip`.
void crop_flip(float* plane, std::int64_t height, std::int64_t width, std::int64_t down,
               std::int64_t right, bool flip, std::vector<float>& scratch) {
  scratch.assign(plane, plane + height * width);
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      const std::int64_t from_y = y + down;
      const std::int64_t from_x = (flip ? width - 1 - x : x) + right;
      const bool inside = from_y >= 0 && from_y < height && from_x >= 0 && from_x < width;
      plane[y * width + x] =
          inside ? scratch[static_cast<std::size_t>(from_y * width + from_x)] : 0;
    }
  }
}

class AugmentedSplit final : public Split {
 public:
  explicit AugmentedSplit(std::unique_ptr<Split> images) : images_(std::move(images)) {}

  std::int64_t size() const override { return images_->size(); }
  std::int64_t label(std::int64_t index) const override { return images_->label(index); }
  at::Tensor labels(std::span<const std::int64_t> indices) const override {
    return images_->labels(indices);
  }
  at::Tensor inputs(std::span<const std::int64_t> indices, Stream* augment) const override {
    at::Tensor batch = images_->inputs(indices);
    if (augment == nullptr) return batch;
    const std::int64_t height = batch.size(2);
    const std::int64_t width = batch.size(3);
    float* plane = batch.data_ptr<float>();
    std::vector<float> scratch;
    for (std::int64_t image = 0; image < batch.size(0); ++image) {
      const std::int64_t down = augment->below(2 * kPadding + 1) - kPadding;
      const std::int64_t right = augment->below(2 * kPadding + 1) - kPadding;
      const bool flip = augment->below(2) == 1;
      for (std::int64_t channel = 0; channel < batch.size(1); ++channel) {
        crop_flip(plane, height, width, down, right, flip, scratch);
        plane += height * width;
      }
    }
    return batch;
  }

 private:
  std::unique_ptr<Split> images_;
};

}  // namespace

std::unique_ptr<Split> make_augmented(std::unique_ptr<Split> images, const DataShape& shape) {
  if (shape.sample.size() != 3 || shape.vocabulary > 0 || shape.sample[1] <= kPadding ||
      shape.sample[2] <= kPadding) {
    throw InputError(
        "data.augment = crop_flip moves images by up to 4 pixels, but these samples are not images "
        "larger than that: set data.augment = none");
  }
  return std::make_unique<AugmentedSplit>(std::move(images));
}

}  // namespace espalier
