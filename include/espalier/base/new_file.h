#pragma once
// A file that is there whole or not at all, whatever happens while it is written: a kill, a full
// disk, a machine that fails. It grows under another name and takes its own once it is on the disk.

#include <cstddef>
#include <filesystem>
#include <string_view>

namespace espalier {

/// All errors are OutputErrors that name the file and the operating system's reason.
class NewFile {
 public:
  /// Grows as `path` + ".tmp"; what an earlier, killed writer left there is overwritten.
  explicit NewFile(std::filesystem::path path);
  /// Without put_in_place() nothing is left, and an older file of the name stays; never throws.
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(const void* data, std::size_t bytes);
  /// Waits until all that was written is on the disk, then gives the file its name, on the disk as
  /// well, in place of an older one. The last call.
  void put_in_place();

 private:
  void check(bool fine) const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int file_ = -1;
};

/// One of this content.
void write_file(const std::filesystem::path& path, std::string_view content);

}  // namespace espalier
