#include "espalier/base/new_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "espalier/base/error.h"

namespace espalier {

NewFile::NewFile(std::filesystem::path path)
    : path_(std::move(path)),
      temporary_(path_.string() + ".tmp"),
      // To open a pipe of this name would wait for its reader.
      file_((::unlink(temporary_.c_str()),
             ::open(temporary_.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0644))) {
  check(file_ >= 0);
}

NewFile::~NewFile() {
  if (file_ < 0) return;
  ::close(file_);
  ::unlink(temporary_.c_str());
}

void NewFile::check(bool fine) const {
  if (!fine) throw OutputError(formatted("cannot write {}: {}", path_.string(), strerror(errno)));
}

void NewFile::write(const void* data, std::size_t bytes) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(file_, from, bytes);
    if (written < 0 && errno == EINTR) continue;
    check(written > 0);
    from += written;
    bytes -= static_cast<std::size_t>(written);
  }
}

void NewFile::write_at(std::int64_t place, const void* data, std::size_t bytes) {
  check(write_whole(file_, place, data, bytes));
}

void NewFile::read_at(std::int64_t place, void* data, std::size_t bytes) const {
  auto* to = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t count = ::pread(file_, to, bytes, place);
    if (count < 0 && errno == EINTR) continue;
    check(count > 0);
    to += count;
    place += count;
    bytes -= static_cast<std::size_t>(count);
  }
}

void NewFile::put_in_place() {
  check(::fsync(file_) == 0);
  check(::rename(temporary_.c_str(), path_.c_str()) == 0);
  const int written = std::exchange(file_, -1);
  check(::close(written) == 0);
  sync_folder(path_);
}

bool write_whole(int file, std::int64_t place, const void* data, std::size_t bytes) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::pwrite(file, from, bytes, place);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    from += written;
    place += written;
    bytes -= static_cast<std::size_t>(written);
  }
  return true;
}

void sync_folder(const std::filesystem::path& path) {
  const auto parent = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  const int folder = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool is_synced = folder >= 0 && ::fsync(folder) == 0;
  const int reason = errno;
  if (folder >= 0) ::close(folder);
  if (!is_synced)
    throw OutputError(formatted("cannot write {}: {}", path.string(), strerror(reason)));
}

void write_file(const std::filesystem::path& path, std::string_view content) {
  NewFile file(path);
  file.write(content.data(), content.size());
  file.put_in_place();
}

}  // namespace espalier
