#include "espalier/model/parameters.h"

#include <cstring>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/hash.h"
#include "espalier/base/random.h"

namespace espalier {
namespace {

const Purpose kInit = register_purpose("model.init");

// A view with its own version counter: for autograd, writing one entry (such as a statistic) must
// not change the others that it saved.
at::Tensor view_of(const at::Tensor& flat, std::int64_t offset, const BufferLayout::Place& place) {
  return flat.narrow(0, offset, place.count).view(place.shape).variable_data();
}

}  // namespace

Parameters::Parameters(std::shared_ptr<const BufferLayout> buffer_layout)
    : buffer_layout_(std::move(buffer_layout)) {
  allocate(buffer_layout_->size());
}

Parameters::Parameters(std::shared_ptr<const BufferLayout> buffer_layout, const Parameters& frozen,
                       std::shared_ptr<const void> held)
    : buffer_layout_(std::move(buffer_layout)), held_(std::move(held)) {
  allocate(buffer_layout_->size_without_frozen());
  for (std::size_t entry = 0; entry < views_.size(); ++entry) {
    const BufferLayout::Place& place = buffer_layout_->place(static_cast<int>(entry));
    if (!place.present || views_[entry].defined()) continue;
    views_[entry] = frozen[static_cast<int>(entry)];
    ESPALIER_CHECK(views_[entry].sizes() == at::IntArrayRef(place.shape), "entry {} was cut",
                   entry);
  }
}

/// Zeros, and the views of the entries within the first `size` floats of the buffer layout.
void Parameters::allocate(std::int64_t size) {
  flat_ = at::zeros({size}, at::kFloat);
  views_.resize(buffer_layout_->layout().entries.size());
  for (std::size_t entry = 0; entry < views_.size(); ++entry) {
    const BufferLayout::Place& place = buffer_layout_->place(static_cast<int>(entry));
    if (place.present && place.offset + place.count <= size) {
      views_[entry] = view_of(flat_, place.offset, place);
    }
  }
}

Parameters Parameters::copy() const {
  Parameters copy(buffer_layout_, *this, held_);
  const auto values = static_cast<std::size_t>(buffer_layout_->size_without_frozen());
  std::memcpy(copy.data(), data(), values * sizeof(float));
  return copy;
}

const at::Tensor& Parameters::operator[](int entry) const {
  ESPALIER_CHECK(0 <= entry && entry < static_cast<int>(views_.size()) && views_[entry].defined(),
                 "the submodel has no entry {}", entry);
  return views_[entry];
}

Weight Parameters::weight(int entry) const {
  ESPALIER_CHECK(buffer_layout_->layout().entries[entry].product);
  return {(*this)[entry], gradient_views_.empty() ? at::Tensor() : gradient_views_[entry]};
}

Parameters Parameters::part(std::shared_ptr<const BufferLayout> own, int first) const {
  Parameters part;
  part.buffer_layout_ = std::move(own);
  const auto count = std::ssize(part.buffer_layout_->layout().entries);
  ESPALIER_CHECK(0 <= first && first + count <= std::ssize(views_));
  const auto cut = [&](const std::vector<at::Tensor>& all) {
    return std::vector<at::Tensor>(all.begin() + first, all.begin() + first + count);
  };
  part.views_ = cut(views_);
  if (!gradient_views_.empty()) part.gradient_views_ = cut(gradient_views_);
  return part;
}

at::Tensor Parameters::trainable() const {
  const Range range = buffer_layout_->kind_range(Kind::trainable);
  return flat_.narrow(0, range.begin, range.size());
}

void Parameters::attach_gradients() {
  if (gradients_.defined()) return;
  const Range range = buffer_layout_->kind_range(Kind::trainable);
  gradients_ = at::zeros({range.size()}, at::kFloat);
  gradient_views_.resize(views_.size());
  for (std::size_t entry = 0; entry < views_.size(); ++entry) {
    if (!views_[entry].defined() || buffer_layout_->layout().entries[entry].kind != Kind::trainable)
      continue;
    const BufferLayout::Place& place = buffer_layout_->place(static_cast<int>(entry));
    views_[entry].set_requires_grad(true);
    gradient_views_[entry] = view_of(gradients_, place.offset - range.begin, place);
    views_[entry].mutable_grad() = gradient_views_[entry];
  }
}

void Parameters::zero_gradients() {
  ESPALIER_CHECK(gradients_.defined());
  for (std::size_t entry = 0; entry < views_.size(); ++entry) {
    if (!gradient_views_[entry].defined()) continue;
    if (buffer_layout_->layout().entries[entry].product) {
      views_[entry].mutable_grad() = at::Tensor();
    } else {
      gradient_views_[entry].zero_();
    }
  }
}

const at::Tensor& Parameters::gradients() const {
  for (std::size_t entry = 0; entry < gradient_views_.size(); ++entry) {
    const at::Tensor& place = gradient_views_[entry];
    if (!place.defined()) continue;
    at::Tensor& gradient = views_[entry].mutable_grad();
    if (gradient.is_same(place)) continue;
    // No product ran backward, or another operation read the entry and autograd allocated its
    // gradient.
    if (gradient.defined()) {
      place.copy_(gradient);
    } else {
      place.zero_();
    }
    gradient = place;
  }
  return gradients_;
}

void initialise(Parameters& full, std::int64_t seed, const std::vector<bool>& kept) {
  const BufferLayout& buffer_layout = full.buffer_layout();
  ESPALIER_CHECK(buffer_layout.submodel().is_full(),
                 "only a full model is initialised; cut it afterwards");
  const Layout& layout = buffer_layout.layout();
  for (std::size_t index = 0; index < layout.entries.size(); ++index) {
    if (!kept.empty() && kept[index]) continue;
    const Entry& entry = layout.entries[index];
    const BufferLayout::Place& place = buffer_layout.place(static_cast<int>(index));
    Stream stream(seed, kInit, hash_text(entry.name));
    float* const values = full.data() + place.offset;
    for (std::int64_t i = 0; i < place.count; ++i) {
      switch (entry.init.rule) {
        case Init::Rule::zeros:
          values[i] = 0;
          break;
        case Init::Rule::ones:
          values[i] = 1;
          break;
        case Init::Rule::uniform:
          values[i] = static_cast<float>(entry.init.scale * (2 * stream.uniform() - 1));
          break;
        case Init::Rule::normal:
          values[i] = static_cast<float>(entry.init.scale * stream.normal());
          break;
      }
    }
  }
}

}  // namespace espalier
