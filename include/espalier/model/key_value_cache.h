#pragma once
// The keys and values of the places of a text that a model has read, so that the next places cost
// only their own rows. forward() with a cache reads any number of places: a prompt at once or in
// chunks, one token, or several that a truncation takes back. Memory is allocated once for each
// block that has attention, when it first runs, for the stated capacity.

#include <ATen/ATen.h>

#include <cstdint>
#include <map>

#include "espalier/model/row_operations.h"

namespace espalier {

struct Model;
class Submodel;

class KeyValueCache {
 public:
  /// For `batch` texts of equal length, of at most `capacity` places each.
  KeyValueCache(std::int64_t batch, std::int64_t capacity);

  std::int64_t batch() const { return batch_; }
  std::int64_t capacity() const { return capacity_; }
  /// Places that have been read by all blocks.
  std::int64_t length() const { return length_; }
  /// Forgets the places from `length` on.
  void truncate(std::int64_t length);
  /// Bytes of the blocks that have run.
  std::int64_t bytes() const;

  // For forward() and the blocks.

  /// What one block keeps: [batch, heads, capacity, columns].
  struct Entry {
    at::Tensor keys;
    at::Tensor values;
  };
  /// Copies the keys and values of the next `positions` places behind length(), which stays.
  const Entry& append(int block, const HeadRows& keys, const HeadRows& values,
                      std::int64_t positions);
  /// Adds places that all blocks have appended.
  void advance(std::int64_t positions);

 private:
  std::int64_t batch_ = 0;
  std::int64_t capacity_ = 0;
  std::int64_t length_ = 0;
  std::map<int, Entry> entries_;
};

/// Whether a cache can be used: the model predicts next tokens by causal attention, and all of its
/// blocks that look at other places have keys and values.
bool takes_cache(const Model& model);

/// Bytes of a cache after all blocks of the submodel have run.
std::int64_t cache_bytes(const Model& model, const Submodel& submodel, std::int64_t batch,
                         std::int64_t capacity);

}  // namespace espalier
