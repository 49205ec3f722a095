#pragma once
// Files for the loaders: whole and unpacked, or mapped into the address space, so that ranks on one
// machine use the same pages and a page is read only when it is used.

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

/// Number of bytes of a UTF-8 byte order mark at the beginning; 0 without one. DataError if the
/// bytes are text in UTF-16 or UTF-32, which their mark or zeros among the first letters show.
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

/// Whether the path exists; false if it cannot be examined.
bool is_available(const std::filesystem::path& path);

/// The file that `key` (data.file, data.test_file) names: in `folder`, else relative to the working
/// directory; `usual` below `folder` if the key is empty. DataError if there is none.
std::filesystem::path named_file(const Config& config, const std::string& key,
                                 const std::filesystem::path& folder, const std::string& usual);

}  // namespace espalier
