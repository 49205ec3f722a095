#pragma once
// The interface through which every object saves and restores itself. An object has one function
// `void archive(Archive&)` that names its members; the archive decides whether they are saved or
// restored. Implementations: ByteArchive (client state that is sent with a task), and the HDF5
// archives of record/checkpoint.h.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "espalier/base/bytes.h"

namespace espalier {

class Archive {
 public:
  virtual ~Archive() = default;
  /// True when values are being restored.
  virtual bool loading() const = 0;
  virtual void value(const char* name, std::int64_t& value) = 0;
  virtual void value(const char* name, double& value) = 0;
  virtual void value(const char* name, std::string& value) = 0;
  virtual void value(const char* name, std::vector<std::int64_t>& values) = 0;
  virtual void value(const char* name, std::vector<double>& values) = 0;
  virtual void value(const char* name, Bytes& bytes) = 0;
  /// A fixed number of floats, in place (model parameters).
  virtual void value(const char* name, std::span<float> values) = 0;
  /// Names between open and close belong to the group `name`.
  virtual void open(const char* name) = 0;
  virtual void close() = 0;
};

/// Several truth values as one integer, the first in its lowest bit.
void archive_flags(Archive& archive, const char* name, std::initializer_list<bool*> flags);
/// Floats whose number is not known when they are restored; it is stored as `name`_size.
void archive_floats(Archive& archive, const std::string& name, std::vector<float>& values);

/// Appends to, or reads from, a byte string; names are not stored, the order is the format.
class ByteArchive final : public Archive {
 public:
  /// Saving: bytes() grows.
  ByteArchive() = default;
  /// Loading from `bytes`, which must outlive the archive. Reading past the end is an internal
  /// error.
  explicit ByteArchive(std::span<const std::byte> bytes) : source_(bytes), loading_(true) {}
  bool loading() const override { return loading_; }
  void value(const char* name, std::int64_t& value) override;
  void value(const char* name, double& value) override;
  void value(const char* name, std::string& value) override;
  void value(const char* name, std::vector<std::int64_t>& values) override;
  void value(const char* name, std::vector<double>& values) override;
  void value(const char* name, Bytes& bytes) override;
  void value(const char* name, std::span<float> values) override;
  void open(const char*) override {}
  void close() override {}
  Bytes take() { return std::move(bytes_); }
  bool at_end() const { return position_ == source_.size(); }

 private:
  void raw(void* data, std::size_t bytes);
  template <class List>
  void list(List& values);

  Bytes bytes_;
  std::span<const std::byte> source_;
  std::size_t position_ = 0;
  bool loading_ = false;
};

/// A list of items, each archived by `archive_item(archive, item)`, as one byte string: a thousand
/// tasks in flight would be thousands of datasets otherwise.
template <class Item, class ArchiveItem>
void archive_list(Archive& archive, const char* name, std::vector<Item>& items,
                  const ArchiveItem& archive_item) {
  Bytes bytes;
  if (archive.loading()) {
    archive.value(name, bytes);
    ByteArchive in(bytes);
    std::int64_t count = 0;
    in.value("count", count);
    items.resize(static_cast<std::size_t>(count));
    for (Item& item : items) archive_item(in, item);
    return;
  }
  ByteArchive out;
  auto count = std::ssize(items);
  out.value("count", count);
  for (Item& item : items) archive_item(out, item);
  bytes = out.take();
  archive.value(name, bytes);
}

}  // namespace espalier
