#include "espalier/model/key_value_cache.h"

#include <algorithm>
#include <cstring>

#include "espalier/base/error.h"
#include "espalier/model/model.h"

namespace espalier {
namespace {

void copy_places(const HeadRows& from, const at::Tensor& to, std::int64_t first,
                 std::int64_t positions) {
  const std::int64_t batch = to.size(0);
  const std::int64_t capacity = to.size(2);
  float* places = to.mutable_data_ptr<float>();
  for (std::int64_t sample = 0; sample < batch; ++sample) {
    for (std::int64_t head = 0; head < from.count; ++head) {
      float* own = places + ((sample * from.count + head) * capacity + first) * from.columns;
      for (std::int64_t i = 0; i < positions; ++i) {
        std::memcpy(own + i * from.columns,
                    from.data + (sample * positions + i) * from.stride + head * from.columns,
                    static_cast<std::size_t>(from.columns) * sizeof(float));
      }
    }
  }
}

}  // namespace

KeyValueCache::KeyValueCache(std::int64_t batch, std::int64_t capacity)
    : batch_(batch), capacity_(capacity) {
  ESPALIER_CHECK(batch > 0 && capacity > 0, "a cache for {} texts of {} places", batch, capacity);
}

void KeyValueCache::truncate(std::int64_t length) {
  ESPALIER_CHECK(0 <= length && length <= length_, "{} of {} places", length, length_);
  length_ = length;
}

std::int64_t KeyValueCache::bytes() const {
  std::int64_t bytes = 0;
  for (const auto& [block, entry] : entries_) {
    bytes += static_cast<std::int64_t>(entry.keys.nbytes() + entry.values.nbytes());
  }
  return bytes;
}

const KeyValueCache::Entry& KeyValueCache::append(int block, const HeadRows& keys,
                                                  const HeadRows& values, std::int64_t positions) {
  ESPALIER_CHECK(length_ + positions <= capacity_, "{} places more than {} of {}", positions,
                 length_, capacity_);
  Entry& entry = entries_[block];
  if (!entry.keys.defined()) {
    entry.keys = at::empty({batch_, keys.count, capacity_, keys.columns}, at::kFloat);
    entry.values = at::empty({batch_, values.count, capacity_, values.columns}, at::kFloat);
  }
  ESPALIER_CHECK(entry.keys.size(1) == keys.count && entry.keys.size(3) == keys.columns &&
                     entry.values.size(3) == values.columns,
                 "a cache is of one submodel");
  copy_places(keys, entry.keys, length_, positions);
  copy_places(values, entry.values, length_, positions);
  return entry;
}

void KeyValueCache::advance(std::int64_t positions) {
  ESPALIER_CHECK(length_ + positions <= capacity_);
  length_ += positions;
}

bool takes_cache(const Model& model) {
  return std::ranges::any_of(model.blocks,
                             [](const Block& block) { return block.cached != nullptr; });
}

std::int64_t cache_bytes(const Model& model, const Submodel& submodel, std::int64_t batch,
                         std::int64_t capacity) {
  std::int64_t numbers = 0;
  for (int i = 0; i < static_cast<int>(model.blocks.size()); ++i) {
    const Block& block = model.blocks[static_cast<std::size_t>(i)];
    if (submodel.has_block(i) && block.cached) numbers += block.cached(submodel);
  }
  return numbers * batch * capacity * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace espalier
