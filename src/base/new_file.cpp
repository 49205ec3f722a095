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
             ::open(temporary_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644))) {
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

void NewFile::put_in_place() {
  check(::fsync(file_) == 0);
  check(::rename(temporary_.c_str(), path_.c_str()) == 0);
  const int written = std::exchange(file_, -1);
  check(::close(written) == 0);
  // The file's name is part of the folder's data, so the folder needs its own fsync.
  const auto parent = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
  const int folder = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = folder >= 0 && ::fsync(folder) == 0;
  const int reason = errno;
  if (folder >= 0) ::close(folder);
  errno = reason;
  check(synced);
}

void write_file(const std::filesystem::path& path, std::string_view content) {
  NewFile file(path);
  file.write(content.data(), content.size());
  file.put_in_place();
}

}  // namespace espalier
