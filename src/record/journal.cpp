#include "journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/hash.h"
#include "espalier/base/new_file.h"

namespace espalier {
namespace {

/// Stands before each block. Its checksum goes on from the one before, so the last one is that of
/// the whole file.
struct BlockHead {
  std::int64_t bytes = 0;
  std::int64_t checksum = 0;
};

std::int64_t checksum_of(const Bytes& content, std::int64_t before) {
  return static_cast<std::int64_t>(
      hash_bytes(content.data(), content.size(), static_cast<std::uint64_t>(before)));
}

[[noreturn]] void refuse(const std::filesystem::path& path) {
  throw OutputError(
      formatted("the records in {} are missing, damaged or those of another run", path.string()));
}

}  // namespace

Journal::Journal(const std::filesystem::path& path)
    : path_(path), file_(::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644)) {
  check(file_ >= 0);
  sync_folder(path_);
}

Journal::Journal(const std::filesystem::path& path, RecordsMark mark)
    : path_(path), file_(::open(path.c_str(), O_WRONLY | O_CLOEXEC)), mark_(mark) {
  check(file_ >= 0);
  check(::ftruncate(file_, mark.bytes) == 0);
}

Journal::Journal(Journal&& other) noexcept
    : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)), mark_(other.mark_) {}

Journal::~Journal() {
  if (file_ >= 0) ::close(file_);
}

void Journal::check(bool fine) const {
  if (!fine)
    throw OutputError(formatted("cannot write {}: {}", path_.string(), std::strerror(errno)));
}

void Journal::append(const Bytes& content) {
  const BlockHead head{std::ssize(content), checksum_of(content, mark_.checksum)};
  Bytes block(sizeof(head) + content.size());
  std::memcpy(block.data(), &head, sizeof(head));
  if (!content.empty()) std::memcpy(block.data() + sizeof(head), content.data(), content.size());
  check(write_whole(file_, mark_.bytes, block.data(), block.size()));
  mark_ = {mark_.bytes + std::ssize(block), head.checksum};
}

void Journal::sync() const { check(::fdatasync(file_) == 0); }

void read_journal(const std::filesystem::path& path, RecordsMark mark,
                  const std::function<void(Bytes content)>& take) {
  std::error_code error;  // a pipe would wait for a writer
  if (!std::filesystem::is_regular_file(path, error)) refuse(path);
  std::ifstream in(path, std::ios::binary);
  RecordsMark at;
  while (at.bytes < mark.bytes) {
    BlockHead head;
    in.read(reinterpret_cast<char*>(&head), sizeof(head));
    const std::int64_t most = mark.bytes - at.bytes - std::int64_t{sizeof(head)};
    // A damaged length must not allocate the machine's memory first.
    if (!in || head.bytes < 0 || head.bytes > most) refuse(path);
    Bytes content(static_cast<std::size_t>(head.bytes));
    in.read(reinterpret_cast<char*>(content.data()), head.bytes);
    if (!in || checksum_of(content, at.checksum) != head.checksum) refuse(path);
    at = {at.bytes + std::int64_t{sizeof(head)} + head.bytes, head.checksum};
    take(std::move(content));
  }
  if (at.bytes != mark.bytes || at.checksum != mark.checksum) refuse(path);
}

}  // namespace espalier
