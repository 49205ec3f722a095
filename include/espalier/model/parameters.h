#pragma once
// The values of one submodel: one flat float buffer, tensors as views into it, and on request one
// flat gradient buffer for the trainable range with the gradients as views (autograd accumulates in
// place), so that zeroing, clipping, optimiser steps, packing and merging are single passes over
// flat memory.

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "espalier/model/buffer_layout.h"

namespace espalier {

/// A trained entry and the place of its gradient.
struct Weight {
  at::Tensor value;
  at::Tensor gradient;  // undefined without attach_gradients()
};

/// A handle like a tensor: copies refer to the same buffers; copy() duplicates the values.
class Parameters {
 public:
  Parameters() = default;
  /// Allocates zeros (in the current memory scope). The buffer layout must be `aligned` for
  /// training.
  explicit Parameters(std::shared_ptr<const BufferLayout> buffer_layout);
  /// The same without a part of its own for the frozen entries: these are those of `frozen`, which
  /// has each of them in the same shape. `held` lives as long as these parameters.
  Parameters(std::shared_ptr<const BufferLayout> buffer_layout, const Parameters& frozen,
             std::shared_ptr<const void> held);

  const BufferLayout& buffer_layout() const { return *buffer_layout_; }
  std::shared_ptr<const BufferLayout> buffer_layout_ptr() const { return buffer_layout_; }
  const Submodel& submodel() const { return buffer_layout_->submodel(); }

  /// View of an entry; a broken invariant if the submodel lacks it.
  const at::Tensor& operator[](int entry) const;
  /// A product entry, for an operation that writes its gradient itself: into `gradient`, which it
  /// then makes the value's `.grad`; if `.grad` is defined already, the operation adds to it.
  Weight weight(int entry) const;
  /// The entries from `first` on as those of `own`, whose layout describes them alone: a member of
  /// an ensemble. It has entries and their gradients, but no flat buffers of its own.
  Parameters part(std::shared_ptr<const BufferLayout> own, int first) const;
  /// The same values in new buffers, without gradients. The frozen entries, which never change, are
  /// those of this object.
  Parameters copy() const;
  /// The whole buffer, without the frozen entries if it has none of its own; padding is zero and
  /// stays zero.
  float* data() { return flat_.data_ptr<float>(); }
  const float* data() const { return flat_.const_data_ptr<float>(); }
  const at::Tensor& flat() const { return flat_; }
  /// The trainable range, padding included.
  at::Tensor trainable() const;

  /// Allocates the flat gradient buffer, marks trainable entries as requiring gradients and points
  /// their `.grad` into it. Calling it again on the same buffers changes nothing.
  void attach_gradients();
  /// Flat, over the trainable range, padding included, complete for the operations that have run
  /// backward; undefined before attach_gradients().
  const at::Tensor& gradients() const;
  /// Call it before a step. Gradients of product entries are not zeroed but marked undefined, and
  /// overwritten later.
  void zero_gradients();

 private:
  void allocate(std::int64_t size);

  std::shared_ptr<const BufferLayout> buffer_layout_;
  std::shared_ptr<const void> held_;
  at::Tensor flat_;
  at::Tensor gradients_;
  std::vector<at::Tensor> views_;
  std::vector<at::Tensor> gradient_views_;  // empty before attach_gradients()
};

/// First values of a full model, from streams keyed by entry name (purpose "model.init"): they
/// depend only on the seed and the entry's name, rule and size, not on the order of entries.
/// Entries for which `kept` is true keep their values; none if it is empty.
void initialise(Parameters& full, std::int64_t seed, const std::vector<bool>& kept = {});

}  // namespace espalier
