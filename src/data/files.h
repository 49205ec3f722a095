#pragma once
// How the loaders get at files: whole and unpacked, or mapped into the address space, where ranks
// on one machine share the pages and nothing is read before it is used.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "espalier/config/config.h"

namespace espalier {

/// The content of a file, unpacked if it is gzipped. DataError if it cannot be read, or is damaged
/// or cut short.
std::vector<std::uint8_t> read_packed(const std::filesystem::path& path);

/// How many bytes a byte order mark of UTF-8 takes at the beginning; 0 without one. DataError where
/// the bytes are text in UTF-16 or UTF-32: by their mark, or by zeros among the first letters.
std::size_t mark_of_utf8(std::span<const std::uint8_t> bytes, const std::filesystem::path& path);

/// A file's bytes, mapped read-only for the life of the object. DataError if it cannot be read.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::uint8_t> bytes() const { return {bytes_, size_}; }

 private:
  const std::uint8_t* bytes_ = nullptr;
  std::size_t size_ = 0;
};

/// Whether there is something under that name; what cannot be looked at is not there.
bool is_available(const std::filesystem::path& path);

/// The file that `key` (data.file, data.test_file) names: in `folder`, else as seen from the
/// working directory; `usual` below `folder` where the key is empty. DataError if there is none.
std::filesystem::path named_file(const Config& config, const std::string& key,
                                 const std::filesystem::path& folder, const std::string& usual);

}  // namespace espalier
