#pragma once
// A file that only grows, in sealed blocks. Run files keep their rows in it a second time, so that
// a checkpoint need not hold them: it holds a mark, the length of the journal at its time. A kill
// can damage what comes behind the newest mark, and nothing before it.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>

#include "espalier/base/bytes.h"
#include "espalier/record/run_file.h"

namespace espalier {

/// All errors are OutputErrors that name the file and the reason.
class Journal {
 public:
  /// A new, empty journal; replaces an older file.
  explicit Journal(const std::filesystem::path& path);
  /// Goes on at `mark`: what comes behind it is cut off. Call read_journal() first.
  Journal(const std::filesystem::path& path, RecordsMark mark);
  Journal(Journal&& other) noexcept;
  Journal& operator=(Journal&&) = delete;
  ~Journal();

  void append(const Bytes& content);
  RecordsMark mark() const { return mark_; }
  /// Waits until all blocks so far are on the disk. Any thread may call it.
  void sync() const;

 private:
  void check(bool fine) const;

  std::filesystem::path path_;
  int file_ = -1;
  RecordsMark mark_;
};

/// Hands out the blocks up to `mark`. OutputError if one of them is missing or damaged, or if the
/// file is another one than that of the mark.
void read_journal(const std::filesystem::path& path, RecordsMark mark,
                  const std::function<void(Bytes content)>& take);

}  // namespace espalier
