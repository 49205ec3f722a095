#pragma once
// A checkpoint ends in a seal: a checksum of all bytes before it. HDF5 neither notices a changed
// byte of the contents nor survives every changed byte of its own structure, so a checkpoint is
// handed to it only once the seal was found right.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "espalier/base/hdf5.h"

namespace espalier {

struct Seal {
  char magic[8];
  std::uint64_t bytes;     // before the seal
  std::uint64_t checksum;  // of these
};
/// The seal of `bytes` bytes with this checksum (XXH3).
Seal seal_of(std::uint64_t bytes, std::uint64_t checksum);

struct Record {
  H5Handle file;
  std::string kind;  // h5::kRunType or h5::kCheckpointType
};
/// Opens a run file, or a checkpoint whose bytes were checked, for reading. OutputError with the
/// reason where the file is damaged or neither.
Record open_record(const std::filesystem::path& path);

}  // namespace espalier
