#pragma once
// A file that exists whole or not at all, even after a kill, a full disk or a power failure. It is
// written under a temporary name and renamed once its content is on the disk.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

namespace espalier {

/// All errors are OutputErrors that name the file and the operating system's reason.
class NewFile {
 public:
  /// Writes to `path` + ".tmp", over the remains of an earlier, killed writer.
  explicit NewFile(std::filesystem::path path);
  /// Without put_in_place() it removes the temporary file, and an older file of the name stays;
  /// never throws.
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(const void* data, std::size_t bytes);
  /// Writes at a place of the file. A place between two that is never written holds zeros.
  void write_at(std::int64_t place, const void* data, std::size_t bytes);
  /// Reads back what was written.
  void read_at(std::int64_t place, void* data, std::size_t bytes) const;
  /// Waits until the content is on the disk, renames the file, which replaces an older one, and
  /// waits until the new name is on the disk. The last call.
  void put_in_place();

 private:
  void check(bool fine) const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int file_ = -1;
};

/// Writes all bytes at a place of an open file; false if it cannot, with the reason in errno.
bool write_whole(int file, std::int64_t place, const void* data, std::size_t bytes);
/// Waits until the name of a new file is on the disk: it is part of the folder's data, which needs
/// an fsync of its own.
void sync_folder(const std::filesystem::path& path);
/// Writes `content` as a whole file.
void write_file(const std::filesystem::path& path, std::string_view content);

}  // namespace espalier
