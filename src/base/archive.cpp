#include "espalier/base/archive.h"

#include "espalier/base/error.h"

namespace espalier {

void archive_flags(Archive& archive, const char* name, std::initializer_list<bool*> flags) {
  std::int64_t bits = 0;
  int place = 0;
  for (const bool* flag : flags) bits |= std::int64_t{*flag} << place++;
  archive.value(name, bits);
  place = 0;
  for (bool* flag : flags) *flag = ((bits >> place++) & 1) != 0;
}

void archive_floats(Archive& archive, const std::string& name, std::vector<float>& values) {
  std::int64_t size = std::ssize(values);
  archive.value((name + "_size").c_str(), size);
  values.resize(static_cast<std::size_t>(size));
  archive.value(name.c_str(), std::span<float>(values));
}

void ByteArchive::raw(void* data, std::size_t bytes) {
  if (loading_) {
    ESPALIER_CHECK(bytes <= source_.size() - position_, "{} bytes wanted at {} of {}", bytes,
                   position_, source_.size());
    if (bytes > 0) std::memcpy(data, source_.data() + position_, bytes);
    position_ += bytes;
  } else {
    const auto* first = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), first, first + bytes);
  }
}

template <class List>
void ByteArchive::list(List& values) {
  auto count = static_cast<std::int64_t>(values.size());
  raw(&count, sizeof(count));
  constexpr std::size_t kItem = sizeof(*values.data());
  if (loading_) {
    // Checked before the resize: a wrong count must not allocate the machine's memory first.
    ESPALIER_CHECK(
        count >= 0 && static_cast<std::size_t>(count) <= (source_.size() - position_) / kItem,
        "a list of {} items at {} of {} bytes", count, position_, source_.size());
    values.resize(static_cast<std::size_t>(count));
  }
  raw(values.data(), values.size() * kItem);
}

void ByteArchive::value(const char*, std::int64_t& value) { raw(&value, sizeof(value)); }
void ByteArchive::value(const char*, double& value) { raw(&value, sizeof(value)); }
void ByteArchive::value(const char*, std::string& value) { list(value); }
void ByteArchive::value(const char*, std::vector<std::int64_t>& values) { list(values); }
void ByteArchive::value(const char*, std::vector<double>& values) { list(values); }
void ByteArchive::value(const char*, Bytes& bytes) { list(bytes); }

void ByteArchive::value(const char* name, std::span<float> values) {
  auto count = static_cast<std::int64_t>(values.size());
  raw(&count, sizeof(count));
  ESPALIER_CHECK(count == static_cast<std::int64_t>(values.size()),
                 "{}: {} floats stored, {} wanted", name, count, values.size());
  raw(values.data(), values.size_bytes());
}

}  // namespace espalier
