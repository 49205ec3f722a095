#include "files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>

#include "espalier/base/error.h"
#include "espalier/data/dataset.h"

namespace espalier {
namespace {

class Inflater {
 public:
  explicit Inflater(const std::filesystem::path& path) {
    constexpr int kGzip = 15 + 16;
    if (inflateInit2(&stream_, kGzip) != Z_OK) {
      throw DataError(formatted("{} cannot be unpacked: zlib did not start", path.string()));
    }
  }
  ~Inflater() { inflateEnd(&stream_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  z_stream& stream() { return stream_; }

 private:
  z_stream stream_{};
};

// gzread would be shorter, but it ignores bytes after the packed part, and so hides damage.
std::vector<std::uint8_t> unpacked(const std::vector<std::uint8_t>& packed,
                                   const std::filesystem::path& path) {
  ESPALIER_CHECK(packed.size() <= std::numeric_limits<uInt>::max());
  Inflater inflater(path);
  z_stream& stream = inflater.stream();
  stream.next_in =
      const_cast<Bytef*>(packed.data());  // zlib's interface is not const-correct; it only reads
  stream.avail_in = static_cast<uInt>(packed.size());
  std::vector<std::uint8_t> content;
  std::vector<std::uint8_t> chunk(1 << 18);
  int state = Z_OK;
  while (state == Z_OK) {
    stream.next_out = chunk.data();
    stream.avail_out = static_cast<uInt>(chunk.size());
    state = inflate(&stream, Z_NO_FLUSH);
    content.insert(content.end(), chunk.begin(), chunk.end() - stream.avail_out);
  }
  if (state == Z_BUF_ERROR) {
    throw DataError(formatted("{} is cut short: fetch it again", path.string()));
  }
  if (state != Z_STREAM_END || stream.avail_in > 0) {
    throw DataError(formatted("{} is damaged ({}): fetch it again", path.string(),
                              state == Z_STREAM_END ? "bytes after its end" : "gzip data broken"));
  }
  return content;
}

}  // namespace

std::vector<std::uint8_t> read_packed(const std::filesystem::path& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) {
    throw DataError(
        formatted("{} cannot be read: check that it is a file and may be read", path.string()));
  }
  std::vector<std::uint8_t> content(size);
  file.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(size));
  if (!file && size > 0) throw DataError(formatted("{} cannot be read to its end", path.string()));
  const bool gzipped = size >= 2 && content[0] == 0x1f && content[1] == 0x8b;
  if (!gzipped && path.extension() == ".gz") {
    throw DataError(formatted("{} is not a gzip file, though its name ends in .gz: fetch it again",
                              path.string()));
  }
  return gzipped ? unpacked(content, path) : content;
}

std::size_t mark_of_utf8(std::span<const std::uint8_t> bytes, const std::filesystem::path& path) {
  const auto begins_with = [&](std::initializer_list<std::uint8_t> mark) {
    return bytes.size() >= mark.size() && std::equal(mark.begin(), mark.end(), bytes.begin());
  };
  const auto start = bytes.first(std::min<std::size_t>(bytes.size(), 64));
  if (begins_with({0xff, 0xfe}) || begins_with({0xfe, 0xff}) ||
      std::find(start.begin(), start.end(), 0) != start.end()) {
    throw DataError(
        formatted("{} is text in UTF-16 or UTF-32, or not text: convert it to UTF-8, e.g. by "
                  "`iconv -f UTF-16 -t UTF-8 {} > NEW`",
                  path.string(), path.string()));
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return text.size() - without_byte_order_mark(text).size();
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  const int file = error ? -1 : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    throw DataError(formatted("{} cannot be read: {}", path.string(),
                              error ? error.message() : std::strerror(errno)));
  }
  void* start = size > 0 ? mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0) : nullptr;
  const int reason = errno;
  close(file);
  if (start == MAP_FAILED) {
    throw DataError(
        formatted("{} cannot be mapped into memory: {}", path.string(), std::strerror(reason)));
  }
  bytes_ = static_cast<const std::uint8_t*>(start);
  size_ = size;
}

MappedFile::~MappedFile() {
  if (size_ > 0) munmap(const_cast<std::uint8_t*>(bytes_), size_);
}

bool is_available(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

std::filesystem::path named_file(const Config& config, const std::string& key,
                                 const std::filesystem::path& folder, const std::string& usual) {
  std::filesystem::path given = config.text(key);
  std::filesystem::path inside = given.empty() ? folder / usual : folder / given;
  if (is_available(inside)) return inside;
  if (!given.empty() && is_available(given)) return given;
  const bool one_place = given.empty() || given == inside;
  throw MissingDataError(
      formatted("{} is missing{}: set {} to the file, or data.dir to its folder", inside.string(),
                one_place ? "" : formatted(", and so is {}", given.string()), key));
}

}  // namespace espalier
