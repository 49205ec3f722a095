#pragma once
// A checkpoint, and a run file that was closed, end in a seal: a checksum of all bytes before it.
// HDF5 neither notices a changed byte of the contents nor survives every changed byte of its own
// structure, so a checkpoint is handed to it only once the seal was found right. HDF5 itself does
// not see the seal, and drops it when it writes.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "espalier/base/hdf5.h"

namespace espalier {

struct Seal {
  char magic[8];
  std::uint64_t bytes;     // before the seal
  std::uint64_t checksum;  // of these
};
/// The seal of `bytes` bytes with this checksum (XXH3).
Seal seal_of(std::uint64_t bytes, std::uint64_t checksum);

/// Appends the seal of a file's bytes.
void add_seal(const std::filesystem::path& path);
/// Cuts the seal off, if the file has one.
void drop_seal(const std::filesystem::path& path);

struct Record {
  H5Handle file;
  std::string kind;  // h5::kRunType or h5::kCheckpointType
  bool sealed = false;
};
/// Whether the file has a seal; OutputError where it is not that of the bytes before it.
bool is_sealed(const std::filesystem::path& path);
/// Opens a run file or a checkpoint for reading. OutputError with the reason where the file is
/// neither, or a checkpoint without a seal. Without one it may crash HDF5: call this within
/// read_records.
Record open_record(const std::filesystem::path& path, bool sealed);

/// The text that `work` makes of files, which HDF5 reads in a child process: OutputError where one
/// of them makes it crash, or takes too much time or memory.
std::string read_records(const std::vector<std::filesystem::path>& files,
                         const std::function<std::string()>& work);

}  // namespace espalier
