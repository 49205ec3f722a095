#pragma once
// A new HDF5 file that is never whole in memory. HDF5 hands its bytes to a driver of ours: large
// arrays go straight into the file, or into a copy of bounded size if the caller is to go on at
// once; all else (HDF5's own structures, small values) waits in memory until complete(), which any
// thread may call. So a full disk is an error of ours too, and never one within HDF5.

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "espalier/base/hdf5.h"
#include "espalier/base/new_file.h"

namespace espalier::h5 {

class PiecewiseFile {
 public:
  /// `file` must outlive it. Large arrays are copied up to `copied_bytes` in all.
  PiecewiseFile(NewFile& file, std::int64_t copied_bytes);
  PiecewiseFile(const PiecewiseFile&) = delete;
  PiecewiseFile& operator=(const PiecewiseFile&) = delete;
  ~PiecewiseFile();
  hid_t id() const { return file_; }
  /// Throws what kept an array from being written so far (OutputError).
  void check() const;
  /// Ends the use of HDF5.
  void close();
  /// After close(): writes what waits, and returns the file's length in bytes.
  std::int64_t complete(NewFile& file);

  struct Store;

 private:
  std::unique_ptr<Store> store_;
  H5Handle file_;
};

}  // namespace espalier::h5
