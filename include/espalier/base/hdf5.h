#pragma once
// HDF5 identifiers that close themselves, and checks that turn a failed call into an OutputError
// with the library's own reason, so that every HDF5 result is checked.

#include <hdf5.h>

#include <cstdint>
#include <string_view>
#include <utility>

#include "espalier/base/error.h"

namespace espalier {

/// Stops HDF5 from printing its error stack to stderr (per thread in thread-safe builds). Call it
/// before the first HDF5 call; h5_check reports the same text through an OutputError.
void h5_quiet();

/// HDF5 cannot do what it was asked for: "cannot <what>: <HDF5's reason>".
struct Hdf5Error final : OutputError {
  using OutputError::OutputError;
};

/// Returns `result` unless it is negative; then throws Hdf5Error. `what` is a phrase such as "open
/// /path/run.h5". Serves hid_t, herr_t, htri_t and hssize_t results.
hid_t h5_check(hid_t result, std::string_view what);

/// Whether a dataset's file has as many bytes as its extents announce; a damaged extent is often
/// larger by orders of magnitude. A part of at most kUnwrittenBytes may never have been written.
bool extents_fit(hid_t dataset);
inline constexpr std::int64_t kUnwrittenBytes = std::int64_t{64} << 20;

/// Owns one HDF5 identifier. Move-only. Example: H5Handle file(h5_check(H5Fopen(...), "open x.h5"),
/// H5Fclose).
class H5Handle {
 public:
  using Close = herr_t (*)(hid_t);

  H5Handle() = default;
  /// Takes ownership of `id`; throws OutputError if it is negative.
  H5Handle(hid_t id, Close closer) : id_(h5_check(id, "use an HDF5 object")), close_(closer) {}
  H5Handle(H5Handle&& other) noexcept
      : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  H5Handle& operator=(H5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  H5Handle(const H5Handle&) = delete;
  H5Handle& operator=(const H5Handle&) = delete;
  /// Silent: a writer that must know whether its data reached the file calls close() first.
  ~H5Handle() {
    if (id_ >= 0) close_(id_);
  }

  /// Closes now; throws OutputError if HDF5 cannot (e.g. a full disk at the last flush).
  void close();

  hid_t get() const { return id_; }
  operator hid_t() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Close close_ = nullptr;
};

}  // namespace espalier
